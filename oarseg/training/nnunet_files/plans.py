"""nnU-Net's plans.json, typed: what inference needs of one configuration.

Plans of today describe the network under ``architecture``; older ones by a handful of keys, which
are converted as nnU-Net's ``ConfigurationManager`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from oarseg.errors import InputError
from oarseg.model.entries.channels import Normalisation
from oarseg.model.entries.networks import Resampling
from oarseg.model.entries.value_types import Axis, Spacing, SplineOrder
from oarseg.training.nnunet_files.architecture import MOST_STAGES, Architecture, check_patch
from oarseg.training.nnunet_files.flat_plans import as_volume, is_flat
from oarseg.training.nnunet_files.json_file import READ, invalid, read_json_object, shown
from oarseg.training.settings import TrainerSettings

SCHEMES: Final = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_0_1",
}
MOST_CONFIGURATIONS: Final = 1000

SEG_RESAMPLING: Final = "resample_data_or_seg_to_shape"

Finite = Annotated[float, Field(allow_inf_nan=False)]
PatchSize = Annotated[int, Field(ge=1, le=4096)]

Identifier = Annotated[str, Field(pattern=r"^[\w.+-]+$", max_length=200)]


@dataclass(frozen=True, config=READ)
class Intensities:
    """The training set's intensities of one channel, for ``CTNormalization``."""

    mean: Finite
    std: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    percentile_00_5: Finite
    percentile_99_5: Finite

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.percentile_00_5 < self.percentile_99_5:
            raise ValueError("expected percentile_00_5 below percentile_99_5")
        return self


@dataclass(frozen=True, config=READ)
class ResamplingOptions:
    """Arguments of nnU-Net's resampling; the defaults are its function's own."""

    order: SplineOrder = 3
    order_z: SplineOrder = 0
    force_separate_z: bool | None = False
    separate_z_anisotropy_threshold: Annotated[float, Field(gt=0, le=1000)] = 3.0

    def recipe(self) -> Resampling:
        """The same in the manifest's words."""
        return Resampling(
            order=self.order,
            order_z=self.order_z,
            force_separate_z=self.force_separate_z,
            separate_z_threshold=self.separate_z_anisotropy_threshold,
        )


@dataclass(frozen=True, config=READ, kw_only=True)
class Configuration:
    """One configuration of the plans, in the network's axes.

    Attributes:
        spacing: None along axis 0 of a 2-D configuration, whose patch is one plane thick.
        data_identifier: name of the folder of its preprocessed cases.
        previous_stage: the configuration whose label map a cascade sees.
        resampling_fn_seg_kwargs: of that map onto the cascade's grid.
    """

    patch_size: tuple[PatchSize, PatchSize, PatchSize]
    spacing: tuple[Spacing | None, Spacing, Spacing]
    normalization_schemes: Annotated[tuple[str, ...], Field(min_length=1, max_length=64)]
    use_mask_for_norm: tuple[bool, ...]
    resampling_fn_data: Literal["resample_data_or_seg_to_shape"]
    resampling_fn_data_kwargs: ResamplingOptions
    resampling_fn_probabilities: Literal["resample_data_or_seg_to_shape"]
    resampling_fn_probabilities_kwargs: ResamplingOptions
    architecture: Architecture
    data_identifier: Identifier
    preprocessor_name: Literal["DefaultPreprocessor"] = "DefaultPreprocessor"
    previous_stage: Identifier | None = None
    resampling_fn_seg: Any = SEG_RESAMPLING
    resampling_fn_seg_kwargs: ResamplingOptions = field(default_factory=ResamplingOptions)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for scheme in self.normalization_schemes:
            if scheme not in SCHEMES:
                raise ValueError(
                    f"normalization_schemes {shown(scheme)}: supported are {', '.join(SCHEMES)}"
                )
        if len(self.use_mask_for_norm) != len(self.normalization_schemes):
            raise ValueError("use_mask_for_norm: expected as many as normalization_schemes")
        logits = self.resampling_fn_probabilities_kwargs
        for order in (logits.order, logits.order_z):
            if order > 1:
                # Finished planes are resampled with their neighbour alone.
                raise ValueError(
                    f"resampling_fn_probabilities_kwargs: expected order 0 or 1, found {order}"
                )
        check_patch(self.architecture, self.patch_size)
        return self

    @model_validator(mode="after")
    def _can_follow_its_stage(self) -> Self:
        if self.previous_stage is None:
            return self
        if self.resampling_fn_seg != SEG_RESAMPLING:
            raise ValueError(f"resampling_fn_seg: expected {SEG_RESAMPLING} in a cascade")
        if any(self.use_mask_for_norm):
            # nnU-Net's mask would be another one, with what the stage before labelled.
            raise ValueError("use_mask_for_norm: expected false in a cascade")
        return self

    @property
    def flat(self) -> bool:
        """Whether it is 2-D in nnU-Net."""
        return self.spacing[0] is None


@dataclass(frozen=True, config=READ, kw_only=True)
class Plans:
    """The plans, with the one configuration that was asked for.

    Attributes:
        settings: that configuration.
        intensities: of each channel, by its number as text.
        oarseg: settings of this project's trainer.
    """

    settings: Configuration
    transpose_forward: tuple[Axis, Axis, Axis]
    intensities: dict[str, Any]
    plans_name: Identifier = "nnUNetPlans"
    label_manager: Literal["LabelManager"] = "LabelManager"
    image_reader_writer: Identifier = "SimpleITKIO"
    oarseg: TrainerSettings | None = None

    @model_validator(mode="after")
    def _permutes(self) -> Self:
        if sorted(self.transpose_forward) != [0, 1, 2]:
            raise ValueError("transpose_forward: expected a permutation of 0, 1, 2")
        return self

    def normalisation(self, channel: int) -> Normalisation:
        """How one channel is normalised.

        Raises:
            ValidationError: the intensities that it needs are missing or wrong.
        """
        scheme = SCHEMES[self.settings.normalization_schemes[channel]]
        if scheme != "ct":
            masked = self.settings.use_mask_for_norm[channel]
            return Normalisation(scheme, use_mask=masked)  # type: ignore[arg-type]
        found = TypeAdapter(Intensities).validate_python(self.intensities.get(str(channel), {}))
        return Normalisation(
            "ct",
            mean=found.mean,
            std=found.std,
            lower=found.percentile_00_5,
            upper=found.percentile_99_5,
        )


def read_plans(path: Path, configuration: str) -> Plans:
    """Read plans and refuse what cannot be exported, or names what is not on the lists.

    Args:
        path: ``plans.json``.
        configuration: its name.

    Raises:
        InputError: says what is wrong, and where.
    """
    document = read_json_object(path)
    chosen = _resolve(path, document, configuration)
    if "architecture" not in chosen:
        chosen = _with_architecture(path, chosen, f"configurations.{shown(configuration)}")
    if is_flat(chosen):
        chosen = as_volume(chosen)
    # The older key is read only where the newer is missing, as nnU-Net does.
    intensities = document.get(
        "foreground_intensity_properties_per_channel",
        document.get("foreground_intensity_properties_by_modality", {}),
    )
    try:
        settings = TypeAdapter(Configuration).validate_python(chosen)
    except ValidationError as error:
        raise invalid(path, error, inside=f"configurations.{shown(configuration)}") from error
    try:
        plans = TypeAdapter(Plans).validate_python(
            {**document, "settings": settings, "intensities": intensities}
        )
    except ValidationError as error:
        raise invalid(path, error) from error
    try:
        for channel in range(len(settings.normalization_schemes)):
            plans.normalisation(channel)
    except ValidationError as error:
        raise invalid(path, error, inside=f"intensities of channel {channel}") from error
    return plans


def _resolve(path: Path, document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits from others."""
    known = document.get("configurations")
    if not isinstance(known, dict) or len(known) > MOST_CONFIGURATIONS:
        raise InputError(f"{path}: configurations: expected an object of them")
    layers: list[dict[str, Any]] = []
    visited: list[str] = []
    parent: Any = name
    while parent is not None:
        if not isinstance(parent, str) or parent not in known:
            listed = ", ".join(shown(key) for key in list(known)[:20])
            raise InputError(
                f"{path}: configuration {shown(parent)} is not in the plans, which have {listed}"
            )
        if parent in visited or not isinstance(known[parent], dict):
            raise InputError(f"{path}: configuration {shown(parent)} cannot be resolved")
        visited.append(parent)
        layers.append(known[parent])
        parent = known[parent].get("inherits_from")
    return {key: value for layer in reversed(layers) for key, value in layer.items()}


@dataclass(frozen=True, config=READ, kw_only=True)
class OldNetwork:
    """The network as plans of nnU-Net before 2.4 describe it."""

    UNet_class_name: Literal["PlainConvUNet", "ResidualEncoderUNet"]
    UNet_base_num_features: Annotated[int, Field(ge=1, le=4096)]
    unet_max_num_features: Annotated[int, Field(ge=1, le=4096)]
    n_conv_per_stage_encoder: Annotated[tuple[int, ...], Field(max_length=MOST_STAGES)]
    n_conv_per_stage_decoder: tuple[int, ...]
    conv_kernel_sizes: Any
    pool_op_kernel_sizes: Any


def _with_architecture(path: Path, old: dict[str, Any], where: str) -> dict[str, Any]:
    """A configuration with its network described as in plans of today."""
    try:
        given = TypeAdapter(OldNetwork).validate_python(old)
    except ValidationError as error:
        raise invalid(path, error, inside=where) from error
    plain = given.UNet_class_name == "PlainConvUNet"
    axes = "2d" if is_flat(old) else "3d"
    module = "unet" if plain else "residual_unet"
    stages = len(given.n_conv_per_stage_encoder)
    widths = (given.UNet_base_num_features * 2**stage for stage in range(stages))
    arguments = {
        "n_stages": stages,
        "features_per_stage": [min(width, given.unet_max_num_features) for width in widths],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}",
        "kernel_sizes": given.conv_kernel_sizes,
        "strides": given.pool_op_kernel_sizes,
        "n_conv_per_stage" if plain else "n_blocks_per_stage": given.n_conv_per_stage_encoder,
        "n_conv_per_stage_decoder": given.n_conv_per_stage_decoder,
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    name = f"dynamic_network_architectures.architectures.{module}.{given.UNet_class_name}"
    return {**old, "architecture": {"network_class_name": name, "arch_kwargs": arguments}}
