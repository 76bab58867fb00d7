"""The networks of one configuration: their files, their grid, and what was measured of them."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, FailFast, Field, model_validator
from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.imaging.arrays import Triple
from oarseg.model.entries.channels import Normalisation
from oarseg.model.entries.value_types import (
    Axis,
    OnnxFileName,
    Share,
    ShortName,
    ShortText,
    Spacing,
    SplineOrder,
)

Precision = Literal["fp32", "fp16"]
Arithmetic = Literal["f32", "bf16", "f16", "tf32"]
Runtime = Literal["onnxruntime", "openvino", "cuda"]


@dataclass(frozen=True, config=STRICT)
class Resampling:
    """nnU-Net's resampling of one kind of array.

    Attributes:
        order: spline order in plane (or everywhere, where separate-z does not apply).
        order_z: order along the coarse axis in separate-z.
        force_separate_z: nnU-Net's own setting; None decides by anisotropy.
        separate_z_threshold: ratio of largest to smallest spacing above which
            separate-z applies.
    """

    order: SplineOrder
    order_z: SplineOrder = 0
    force_separate_z: bool | None = None
    separate_z_threshold: Annotated[float, Field(ge=1, le=1e6)] = 3.0


def _linear(how: Resampling) -> Resampling:
    """Refuse splines: a finished plane of logits is resampled with its neighbour alone."""
    if how.order > 1 or how.order_z > 1:
        raise ValueError(
            f"must be of orders 0 or 1, not {how.order} in plane and {how.order_z} along z"
        )
    return how


LogitsResampling = Annotated[Resampling, AfterValidator(_linear)]


@dataclass(frozen=True, config=STRICT)
class ModelFile:
    """One ONNX file: one fold at one precision."""

    file: OnnxFileName
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    fold: ShortName
    precision: Precision


@dataclass(frozen=True, config=STRICT)
class Parity:
    """The agreement of an ONNX file with its checkpoint in torch, measured at export.

    Attributes:
        source: the origin of the patches.
        min_dice: the lowest Dice of all classes of at least 50 voxels, but for one voxel in each.
        arithmetic: of the run; bf16 is measured only on a CPU that supports it. f16 is a file in
            half precision whose normalisations are in half precision too.
        runtime: the library that ran the file.
    """

    file: OnnxFileName
    source: ShortText
    patches: Annotated[int, Field(ge=1, le=1_000_000)]
    max_logit_difference: Annotated[float, Field(ge=0)]
    argmax_agreement: Share
    min_dice: Share
    arithmetic: Arithmetic = "f32"
    runtime: Runtime = "onnxruntime"


ModelFiles = Annotated[tuple[ModelFile, ...], Field(min_length=1, max_length=100), FailFast()]
ParityRows = Annotated[tuple[Parity, ...], Field(max_length=1000), FailFast()]
MirrorAxes = Annotated[tuple[Axis, ...], Field(max_length=3), FailFast()]
NetworkSpacing = tuple[Spacing | None, Spacing, Spacing]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Network:
    """The networks of one configuration beside a model's first; attributes as of ``Manifest``.

    Attributes:
        normalisations: of the model's channels, in their order.
    """

    configuration: ShortName
    normalisations: Annotated[tuple[Normalisation, ...], Field(max_length=64), FailFast()]
    spacing_mm: NetworkSpacing
    patch_size: Triple
    transpose_forward: tuple[Axis, Axis, Axis]
    data_resampling: Resampling
    logits_resampling: LogitsResampling
    mirror_axes: MirrorAxes
    models: ModelFiles
    parity: ParityRows


@dataclass(frozen=True, config=STRICT)
class Stage:
    """The stage before a cascade, whose label map the cascade sees.

    Attributes:
        network: gives the label map.
        labels: a channel of the cascade for each, 1 where the map has that value.
        resampling: of the map onto the cascade's grid.
    """

    network: Network
    labels: Annotated[
        tuple[Annotated[int, Field(ge=1, le=255)], ...], Field(min_length=1, max_length=255)
    ]
    resampling: Resampling

    @model_validator(mode="after")
    def _can_be_applied(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ from each other")
        if self.resampling.order > 1 or self.resampling.order_z > 0:
            raise ValueError("resampling must be of order 0 or 1, and 0 along z")
        return self


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Member(Network):
    """Networks whose probabilities are averaged with those of a model's first.

    Attributes:
        stage: of a cascade; None for any other configuration.
    """

    stage: Stage | None = None
