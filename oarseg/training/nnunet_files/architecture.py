"""The network that nnU-Net's plans describe, from exact lists of what may be named.

nnU-Net imports whatever class its plans name. Here a name is looked up in a table, every
argument has a type and a range, and nothing is imported because a file says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Annotated, Any, Final, Self

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from oarseg.model.entries.value_types import Share

# A kwarg that is not listed is refused: it would change the network.
EXACT: Final = ConfigDict(extra="forbid")
_UNETS = "dynamic_network_architectures.architectures"
_BLOCKS = "dynamic_network_architectures.building_blocks.residual"
NETWORKS: Final[Mapping[str, Any]] = {
    f"{_UNETS}.unet.PlainConvUNet": PlainConvUNet,
    f"{_UNETS}.unet.ResidualEncoderUNet": ResidualEncoderUNet,
    # Where nnU-Net's own conversion of old plans looks for it; it has moved since.
    f"{_UNETS}.residual_unet.ResidualEncoderUNet": ResidualEncoderUNet,
}
CONVOLUTIONS: Final[Mapping[str, Any]] = {
    "torch.nn.modules.conv.Conv3d": torch.nn.Conv3d,
    "torch.nn.Conv3d": torch.nn.Conv3d,
}
NORMS: Final[Mapping[str, Any]] = {
    "torch.nn.modules.instancenorm.InstanceNorm3d": torch.nn.InstanceNorm3d,
    "torch.nn.InstanceNorm3d": torch.nn.InstanceNorm3d,
    "torch.nn.modules.batchnorm.BatchNorm3d": torch.nn.BatchNorm3d,
    "torch.nn.BatchNorm3d": torch.nn.BatchNorm3d,
}
DROPOUTS: Final[Mapping[str, Any]] = {
    "torch.nn.modules.dropout.Dropout3d": torch.nn.Dropout3d,
    "torch.nn.Dropout3d": torch.nn.Dropout3d,
}
NONLINEARITIES: Final[Mapping[str, Any]] = {
    "torch.nn.modules.activation.LeakyReLU": torch.nn.LeakyReLU,
    "torch.nn.LeakyReLU": torch.nn.LeakyReLU,
    "torch.nn.modules.activation.ReLU": torch.nn.ReLU,
    "torch.nn.ReLU": torch.nn.ReLU,
}
BLOCKS: Final[Mapping[str, Any]] = {
    f"{_BLOCKS}.BasicBlockD": BasicBlockD,
    f"{_BLOCKS}.BottleneckD": BottleneckD,
}
MOST_STAGES: Final = 12
# nnU-Net's largest, ResEnc XL, has about 0.5 · 10⁹.
MOST_PARAMETERS: Final = 2_000_000_000
LARGEST_FEATURE_MAP: Final = 1 << 30

Features = Annotated[int, Field(ge=1, le=4096)]
Repeats = Annotated[int, Field(ge=1, le=64)]
Kernel = Annotated[int, Field(ge=1, le=15)]
Stride = Annotated[int, Field(ge=1, le=8)]
Kernels = Kernel | tuple[Kernel | tuple[Kernel, Kernel, Kernel], ...]
Strides = Stride | tuple[Stride | tuple[Stride, Stride, Stride], ...]


@dataclass(frozen=True, config=EXACT)
class NormOptions:
    """Arguments of a normalisation layer; None is torch's default."""

    eps: Annotated[float, Field(gt=0, le=1)] | None = None
    momentum: Share | None = None
    affine: bool | None = None
    track_running_stats: bool | None = None


@dataclass(frozen=True, config=EXACT)
class DropoutOptions:
    """Arguments of a dropout layer; None is torch's default."""

    p: Share | None = None
    inplace: bool | None = None


@dataclass(frozen=True, config=EXACT)
class NonlinearityOptions:
    """Arguments of a nonlinearity; None is torch's default."""

    negative_slope: Share | None = None
    inplace: bool | None = None


@dataclass(frozen=True, config=EXACT, kw_only=True)
class NetworkArguments:
    """Every argument that a network of ``NETWORKS`` may be given by plans.

    Attributes:
        n_conv_per_stage: of ``PlainConvUNet``.
        n_blocks_per_stage, block, bottleneck_channels, stem_channels: of
            ``ResidualEncoderUNet``.
    """

    n_stages: Annotated[int, Field(ge=2, le=MOST_STAGES)]
    features_per_stage: Features | tuple[Features, ...]
    conv_op: str
    kernel_sizes: Kernels
    strides: Strides
    n_conv_per_stage_decoder: Repeats | tuple[Repeats, ...]
    n_conv_per_stage: Repeats | tuple[Repeats, ...] | None = None
    n_blocks_per_stage: Repeats | tuple[Repeats, ...] | None = None
    conv_bias: bool = False
    norm_op: str | None = None
    norm_op_kwargs: NormOptions | None = None
    dropout_op: str | None = None
    dropout_op_kwargs: DropoutOptions | None = None
    nonlin: str | None = None
    nonlin_kwargs: NonlinearityOptions | None = None
    nonlin_first: bool = False
    deep_supervision: bool = False
    block: str | None = None
    bottleneck_channels: Features | tuple[Features | None, ...] | None = None
    stem_channels: Features | None = None

    @model_validator(mode="after")
    def _listed(self) -> Self:
        for key, table in CLASS_TABLES.items():
            name = getattr(self, key)
            if name is not None and name not in table:
                kinds = sorted({known.rsplit(".", 1)[-1] for known in table})
                raise ValueError(f"{key} {name[:80]!a}: supported are torch's {', '.join(kinds)}")
        return self

    @model_validator(mode="after")
    def _as_many_as_stages(self) -> Self:
        for key, wanted in (
            ("features_per_stage", self.n_stages),
            ("kernel_sizes", self.n_stages),
            ("strides", self.n_stages),
            ("n_conv_per_stage", self.n_stages),
            ("n_blocks_per_stage", self.n_stages),
            ("bottleneck_channels", self.n_stages),
            ("n_conv_per_stage_decoder", self.n_stages - 1),
        ):
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != wanted:
                raise ValueError(f"{key}: expected {wanted} entries, found {len(value)}")
        return self

    @model_validator(mode="after")
    def _keeps_the_patch(self) -> Self:
        if any(size % 2 == 0 for size in _flat(self.kernel_sizes)):
            raise ValueError("kernel_sizes: expected odd ones, which keep the size of a patch")
        if self.stride(0) != (1, 1, 1):
            raise ValueError("strides: expected 1 in the first stage, which keeps the patch")
        return self

    @model_validator(mode="after")
    def _layers_fit_their_options(self) -> Self:
        if self.dropout_op is not None and self.dropout_op_kwargs is None:
            raise ValueError("dropout_op_kwargs: expected beside dropout_op, found none")
        slope = self.nonlin_kwargs and self.nonlin_kwargs.negative_slope
        if slope is not None and NONLINEARITIES.get(self.nonlin or "") is not torch.nn.LeakyReLU:
            raise ValueError("nonlin_kwargs: negative_slope is of LeakyReLU only")
        return self

    def stride(self, stage: int) -> tuple[int, int, int]:
        """A stage's stride along each axis."""
        return _triple(self.strides, stage)

    def features(self, stage: int) -> int:
        """A stage's channels."""
        given = self.features_per_stage
        return given if isinstance(given, int) else given[stage]

    def feature_shapes(self, patch: tuple[int, int, int]) -> list[tuple[int, ...]]:
        """(features, z, y, x) of each stage for a patch.

        Raises:
            ValueError: a stage does not halve, third … the patch without a rest.
        """
        shapes: list[tuple[int, ...]] = []
        size = patch
        for stage in range(self.n_stages):
            stride = self.stride(stage)
            if any(n % step for n, step in zip(size, stride, strict=True)):
                raise ValueError(f"strides: stage {stage} does not divide the patch {patch}")
            z, y, x = (n // step for n, step in zip(size, stride, strict=True))
            size = (z, y, x)
            shapes.append((self.features(stage), *size))
        return shapes


def _listed_network(name: str) -> str:
    if name not in NETWORKS:
        raise ValueError(
            f"uses {name.rsplit('.', 1)[-1][:80]} ({name[:80]!a}); supported are PlainConvUNet "
            "and ResidualEncoderUNet of dynamic_network_architectures"
        )
    return name


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Architecture:
    """A network and its arguments, as plans of today write them."""

    network_class_name: Annotated[str, AfterValidator(_listed_network)]
    arch_kwargs: NetworkArguments

    @model_validator(mode="after")
    def _has_its_own_arguments(self) -> Self:
        name = self.network_class_name
        plain = NETWORKS[name] is PlainConvUNet
        needed, foreign = ("n_conv_per_stage", RESIDUAL) if plain else ("n_blocks_per_stage", PLAIN)
        if getattr(self.arch_kwargs, needed) is None:
            raise ValueError(f"arch_kwargs.{needed}: expected for {name}, found none")
        for key in foreign:
            if getattr(self.arch_kwargs, key):
                raise ValueError(f"arch_kwargs.{key}: is no argument of {name}")
        return self


def with_batch_norm(architecture: Architecture) -> Architecture:
    """Return the network with batch normalisation, as ``nnUNetTrainerBN`` makes it of any plans."""
    arguments = replace(
        architecture.arch_kwargs,
        norm_op="torch.nn.modules.batchnorm.BatchNorm3d",
        norm_op_kwargs=NormOptions(eps=1e-5, affine=True),
    )
    return replace(architecture, arch_kwargs=arguments)


PLAIN: Final = ("n_conv_per_stage", "nonlin_first")
RESIDUAL: Final = ("n_blocks_per_stage", "block", "bottleneck_channels", "stem_channels")
CLASS_TABLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "conv_op": CONVOLUTIONS,
    "norm_op": NORMS,
    "dropout_op": DROPOUTS,
    "nonlin": NONLINEARITIES,
    "block": BLOCKS,
}


def _flat(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else [n for part in value for n in _flat(part)]


def _triple(value: Any, stage: int) -> tuple[int, int, int]:
    step = value if isinstance(value, int) else value[stage]
    return (step, step, step) if isinstance(step, int) else step


def check_patch(architecture: Architecture, patch: tuple[int, int, int]) -> None:
    """Make sure that a network takes a patch, and with a sane amount of memory.

    Raises:
        ValueError: says why not.
    """
    shapes = architecture.arch_kwargs.feature_shapes(patch)
    if max(math.prod(shape) for shape in shapes) > LARGEST_FEATURE_MAP:
        raise ValueError(f"patch_size: {patch} voxels are too many for so many features")
    if math.prod(shapes[-1][1:]) < 2:
        raise ValueError(
            f"strides: leave one voxel of the patch {patch}, which cannot be normalised"
        )


def create_network(architecture: Architecture, *, channels: int, classes: int) -> torch.nn.Module:
    """Lay out a network without memory for its weights (on torch's device ``meta``).

    Raises:
        ValueError: it would have more parameters than any network of nnU-Net.
    """
    network_class = NETWORKS[architecture.network_class_name]
    with torch.device("meta"):
        network: torch.nn.Module = network_class(
            input_channels=channels, num_classes=classes, **_arguments(architecture)
        )
    if sum(weight.numel() for weight in network.parameters()) > MOST_PARAMETERS:
        raise ValueError(f"expected a network of at most {MOST_PARAMETERS} parameters")
    return network


def _arguments(architecture: Architecture) -> dict[str, Any]:
    """The constructor's arguments, with torch's classes for their names."""
    given = vars(architecture.arch_kwargs)
    plain = NETWORKS[architecture.network_class_name] is PlainConvUNet
    foreign = RESIDUAL if plain else PLAIN
    known = (key for key in NetworkArguments.__dataclass_fields__ if key not in foreign)
    arguments = {key: _plain(key, given[key]) for key in known if given[key] is not None}
    # nnU-Net's decoder keeps its deep-supervision heads in every mode.
    return arguments | {"deep_supervision": False}


def _plain(key: str, value: Any) -> Any:
    """An argument as the networks take it: classes, lists and dictionaries."""
    if key in CLASS_TABLES:
        return CLASS_TABLES[key][value]
    if is_dataclass(value) and not isinstance(value, type):
        return {option: v for option, v in vars(value).items() if v is not None}
    return [_plain("", part) for part in value] if isinstance(value, tuple) else value
