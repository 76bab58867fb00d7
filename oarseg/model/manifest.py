"""The manifest of a weights folder.

It holds everything that inference needs of the nnU-Net plan, so that no part of nnU-Net is needed
to run a model. It may come from a stranger: every key has a range.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import FailFast, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from oarseg.challenges.challenge import Challenge
from oarseg.challenges.structures import STRICT
from oarseg.errors import WeightsError
from oarseg.imaging.arrays import Triple
from oarseg.imaging.volume import Vector
from oarseg.model.conditioning import Conditioning
from oarseg.model.entries.channels import Channel
from oarseg.model.entries.cross_validation import CrossValidation
from oarseg.model.entries.networks import (
    LogitsResampling,
    Member,
    MirrorAxes,
    ModelFile,
    ModelFiles,
    Network,
    NetworkSpacing,
    ParityRows,
    Precision,
    Resampling,
    Stage,
)
from oarseg.model.entries.refusal import first_problem
from oarseg.model.entries.value_types import (
    Axis,
    LongText,
    ShortName,
    ShortText,
)
from oarseg.model.model_folder import LARGEST_MANIFEST_BYTES, LONGEST_RUN_S, MANIFEST

FORMAT_VERSION: Final = 1
# Sixteen times nnU-Net's largest default patch; a damaged number is beyond it.
LARGEST_PATCH = 1 << 25

Region = Literal["body", "full", "all"]
Exactness = Literal["exact", "fast"]


@dataclass(frozen=True, config=STRICT)
class Label:
    """A class of the network and its structure.

    Attributes:
        value: what the label map holds where it is painted.
        members: of a region, the values in the training labels that it is made of; empty for
            a plain label, and where an older export did not note them.
        right: of a class that holds both organs of a pair, the right one's value; ``value`` is
            the left one's, and the name is both names with a ``+`` between.
    """

    value: Annotated[int, Field(ge=0, le=255)]
    name: ShortName
    members: Annotated[
        tuple[Annotated[int, Field(ge=0, le=255)], ...], Field(max_length=256), FailFast()
    ] = ()
    right: Annotated[int, Field(ge=1, le=255)] | None = None


@dataclass(frozen=True, config=STRICT)
class RunDefaults:
    """What a run of the model does where the user says nothing, as on a challenge platform.

    Attributes are options of ``oarseg segment``; None leaves the program's own default.
    """

    region: Region | None = None
    precision: Exactness | None = None
    # Strict, as the supervisor reads the time limit by itself and knows numbers only.
    mirroring: Annotated[bool, Field(strict=True)] | None = None
    time_limit_s: Annotated[float, Field(gt=0, le=LONGEST_RUN_S, strict=True)] | None = None


@dataclass(frozen=True, config=STRICT)
class KeepLargest:
    """A step of nnU-Net's postprocessing: of what some labels make up, keep the largest part.

    Attributes:
        labels: values of the label map whose union is divided into connected parts.
    """

    labels: Annotated[
        tuple[Annotated[int, Field(ge=1, le=255, strict=True)], ...],
        Field(min_length=1, max_length=255),
        FailFast(),
    ]


PostprocessingSteps = Annotated[tuple[KeepLargest, ...], Field(max_length=512), FailFast()]


@dataclass(frozen=True, config=STRICT)
class Manifest:
    """Everything that inference needs of a trained model.

    A model has the networks of one configuration of nnU-Net, or of several, whose probabilities
    are averaged. The first's are described by the manifest itself, the others' by ``further``.

    Attributes:
        spacing_mm, patch_size, mirror_axes: in the network's axes, that is after
            ``transpose_forward`` of (z, y, x). nnU-Net's 2d has a patch of one plane, and no
            spacing along axis 0: images keep their own there.
        own_challenge: the challenge itself, if it is not one of the package's: a user's own, or
            one with a user's label table.
        labels: class k of the network is ``labels[k]``; without regions class 0 is
            background. With regions, class k is painted with ``labels[k].value`` in order.
        regions: classes are independent, each with a probability of its own.
        mirror_axes: axes that test-time mirroring may use; empty means none.
        run: defaults of a run.
        conditioning: what was done to the training images before nnU-Net; None, in manifests
            that do not say, means what ``oarseg prepare`` does.
        configuration: nnU-Net's name of the first networks' configuration; None in manifests
            that do not say.
        stage: the one before, if the first networks are a cascade.
        further: networks of other configurations.
        postprocessing: what nnU-Net found to improve its label maps, in order.
        cross_validation: what training knew of the organs' Dice; None in manifests that do not say.
    """

    format_version: Literal[1]
    challenge: ShortName
    title: ShortText
    warning: ShortText
    channels: Annotated[tuple[Channel, ...], Field(min_length=1, max_length=64), FailFast()]
    spacing_mm: NetworkSpacing
    patch_size: Triple
    transpose_forward: tuple[Axis, Axis, Axis]
    data_resampling: Resampling
    logits_resampling: LogitsResampling
    labels: Annotated[tuple[Label, ...], Field(min_length=1, max_length=256), FailFast()]
    regions: bool
    mirror_axes: MirrorAxes
    models: ModelFiles
    parity: ParityRows
    training: LongText
    licence: LongText
    versions: Annotated[dict[ShortName, ShortName], Field(max_length=100)]
    own_challenge: Challenge | None = None
    run: RunDefaults = Field(default_factory=RunDefaults)
    conditioning: Conditioning | None = None
    configuration: ShortName | None = None
    stage: Stage | None = None
    further: Annotated[tuple[Member, ...], Field(max_length=15), FailFast()] = ()
    postprocessing: PostprocessingSteps = ()
    cross_validation: CrossValidation | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sorted(self.transpose_forward) != [0, 1, 2]:
            raise ValueError("transpose_forward must be a permutation of 0, 1, 2")
        if min(self.patch_size) < 1 or math.prod(self.patch_size) > LARGEST_PATCH:
            raise ValueError(f"patch_size must be positive, and {LARGEST_PATCH} voxels at most")
        if self.spacing_mm[0] is None and self.patch_size[0] != 1:
            raise ValueError("patch_size must be 1 along axis 0 where spacing_mm is not given")
        values = [label.value for label in self.labels]
        if self.regions and 0 in values:
            raise ValueError("labels of regions must be above 0, which is the background")
        if not self.regions and len(values) < 2:
            raise ValueError("labels must be two at least, the background and another")
        if not self.regions and values[0] != 0:
            raise ValueError("labels must begin with the background, value 0")
        if self.pairs and (self.regions or any(left == 0 for left, _ in self.pairs)):
            raise ValueError("labels of pairs must be above 0, and no regions")
        if self.own_challenge is not None and self.own_challenge.name != self.challenge:
            raise ValueError(f"own_challenge must be named {self.challenge!r}, as challenge says")
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        """Refuse names and values that occur twice, as one of the two would be lost."""
        lists: dict[str, list[object]] = {
            "mirror_axes": list(self.mirror_axes),
            "names of channels": [(c.name, c.window_hu) for c in self.channels],
            "names of labels": [label.name for label in self.labels],
            # Two regions may be painted alike.
            "values of labels": [] if self.regions else self._painted_values,
            "files of models": [model.file for model in self.models],
            "folds of one precision": [(model.fold, model.precision) for model in self.models],
        }
        for what, entries in lists.items():
            if len(set(entries)) != len(entries):
                raise ValueError(f"{what} must differ from each other")
        return self

    @model_validator(mode="after")
    def _names_known_labels(self) -> Self:
        """Refuse a stage or a postprocessing of labels that the model does not have."""
        known = self._known_values
        if known is None:
            return self
        stages = [("stage", self.stage)]
        stages += [(f"further.{k}.stage", m.stage) for k, m in enumerate(self.further)]
        steps = [(f"postprocessing.{k}", step) for k, step in enumerate(self.postprocessing)]
        for where, naming in (*stages, *steps):
            for value in () if naming is None else naming.labels:
                if value not in known:
                    raise ValueError(
                        f"{where}.labels must be labels of the model, which {value} is not"
                    )
        return self

    @model_validator(mode="after")
    def _networks_fit(self) -> Self:
        """Refuse further networks that are none of this model; each is checked as its manifest."""
        if not self.further and self.stage is None:
            return self
        hashes: dict[str, str] = {}
        for network in self.networks:
            if network.transpose_forward != self.transpose_forward:
                raise ValueError("transpose_forward of all networks must be the same")
            for model in network.models:
                if hashes.setdefault(model.file, model.sha256) != model.sha256:
                    raise ValueError(f"file {model.file} must have one sha256")
        return self

    @property
    def members(self) -> tuple[Manifest, ...]:
        """The networks whose probabilities are averaged, each as a manifest of its own."""
        own = replace(self, further=()) if self.further else self
        return (own, *(self._of(member, member.stage) for member in self.further))

    @property
    def before(self) -> Manifest | None:
        """The networks of the first configuration's stage before, as a manifest of its own."""
        return None if self.stage is None else self._of(self.stage.network, None)

    @property
    def networks(self) -> tuple[Manifest, ...]:
        """All networks in the order in which they run: members, each behind its stage."""
        pairs = ((member.before, member) for member in self.members)
        return tuple(network for pair in pairs for network in pair if network is not None)

    @property
    def inputs(self) -> int:
        """The number of channels that the first networks take, with those of the stage before."""
        return len(self.channels) + (len(self.stage.labels) if self.stage else 0)

    def _of(self, network: Network, stage: Stage | None) -> Manifest:
        if len(network.normalisations) != len(self.channels):
            raise ValueError("normalisations must be as many as channels")
        return replace(
            self,
            channels=tuple(
                replace(channel, normalisation=how)
                for channel, how in zip(self.channels, network.normalisations, strict=True)
            ),
            spacing_mm=network.spacing_mm,
            patch_size=network.patch_size,
            transpose_forward=network.transpose_forward,
            data_resampling=network.data_resampling,
            logits_resampling=network.logits_resampling,
            mirror_axes=network.mirror_axes,
            models=network.models,
            parity=network.parity,
            configuration=network.configuration,
            stage=stage,
            further=(),
            cross_validation=None,
        )

    def network_spacing_mm(self, image_mm: Vector) -> Vector:
        """Complete the network's spacing for an image.

        Args:
            image_mm: the image's, in the network's axes.
        """
        along, *in_plane = self.spacing_mm
        return (image_mm[0] if along is None else along, in_plane[0], in_plane[1])

    @property
    def _painted_values(self) -> list[object]:
        rights = [label.right for label in self.labels if label.right is not None]
        return [*(label.value for label in self.labels), *rights]

    @property
    def _known_values(self) -> set[int] | None:
        """The values of label maps and training labels; None where an older export noted none."""
        if self.regions and not all(label.members for label in self.labels):
            return None
        painted = {label.value for label in self.labels}
        members = {value for label in self.labels for value in label.members}
        return painted | members | {right for _, right in self.pairs}

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Labels (left, right) of the classes that hold both organs of a pair."""
        return tuple((label.value, label.right) for label in self.labels if label.right is not None)

    @property
    def folds(self) -> tuple[str, ...]:
        """The folds of the ensemble, in the manifest's order."""
        return tuple(dict.fromkeys(model.fold for model in self.models))

    def files(self, precision: Precision) -> tuple[ModelFile, ...]:
        """List the files of one precision, one for each fold.

        Raises:
            WeightsError: a fold has no file of that precision.
        """
        found = tuple(model for model in self.models if model.precision == precision)
        missing = [fold for fold in self.folds if fold not in {model.fold for model in found}]
        if missing:
            raise WeightsError(f"{MANIFEST}: fold {missing[0]} has no {precision} file")
        return found


def parse_manifest(text: str | bytes, *, source: str) -> Manifest:
    """Read a manifest.

    Raises:
        WeightsError: too long, not JSON, or a key is missing, unknown, of the wrong kind or
            out of its range.
    """
    if len(text) > LARGEST_MANIFEST_BYTES:
        raise WeightsError(
            f"{source}: file: expected at most {LARGEST_MANIFEST_BYTES} bytes, found {len(text)}; "
            "export the model again"
        )
    try:
        return TypeAdapter(Manifest).validate_json(text)
    except ValidationError as error:
        raise WeightsError(f"{source}: {first_problem(error)}; export the model again") from error


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``manifest.json`` into a folder."""
    document: Any = TypeAdapter(Manifest).dump_python(manifest, mode="json")
    for key in (
        "own_challenge",
        "conditioning",
        "configuration",
        "stage",
        "cross_validation",
    ):
        if document[key] is None:
            del document[key]
    for member in document["further"]:
        if member["stage"] is None:
            del member["stage"]
    if not document["further"]:
        del document["further"]
    if manifest.run == RunDefaults():
        del document["run"]
    if not manifest.postprocessing:
        del document["postprocessing"]
    for channel in document["channels"]:
        if channel["window_hu"] is None:
            del channel["window_hu"]
    for label in document["labels"]:
        if not label["members"]:
            del label["members"]
        if label["right"] is None:
            del label["right"]
    (folder / MANIFEST).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def describe_network(manifest: Manifest) -> Network:
    """Describe a manifest's first networks as those of a stage."""
    return Network(**_network_facts(manifest))


def describe_member(manifest: Manifest) -> Member:
    """Describe a manifest's first networks as a further member of another manifest."""
    return Member(**_network_facts(manifest), stage=manifest.stage)


def _network_facts(manifest: Manifest) -> dict[str, Any]:
    same = (
        "spacing_mm",
        "patch_size",
        "transpose_forward",
        "data_resampling",
        "logits_resampling",
        "mirror_axes",
        "models",
        "parity",
    )
    return {
        "configuration": manifest.configuration or "3d_fullres",
        "normalisations": tuple(channel.normalisation for channel in manifest.channels),
        **{name: getattr(manifest, name) for name in same},
    }


def class_labels(manifest: Manifest) -> NDArray[np.uint8]:
    """Make the look-up table (classes,) from class index to label value."""
    return np.array([label.value for label in manifest.labels], dtype=np.uint8)
