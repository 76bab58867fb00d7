"""A challenge as data: inputs, structures, form of the output, rules of scoring.

The facts are in ``challenges/<name>.toml``. Code takes them from here, so that no organ and
no socket is named anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from pydantic.dataclasses import dataclass

from oarseg.challenges.plausibility import Plausibility
from oarseg.challenges.structures import STRICT, Code, Organ, Outline, Structure
from oarseg.challenges.toml_file import rule_error
from oarseg.errors import InputError

__all__ = [
    "Baseline",
    "Challenge",
    "Code",
    "DataSet",
    "Evaluation",
    "LargestImage",
    "Organ",
    "Outline",
    "Output",
    "Pair",
    "Socket",
    "Structure",
]

RankingRule = Literal["significance", "organ_ranks", "weighted_means"]
Text = Annotated[str, Field(min_length=1)]
# Part of a file's or folder's name.
FileName = Annotated[str, Field(pattern=r"^[\w.-]*$")]


@dataclass(frozen=True, config=STRICT)
class LargestImage:
    """The largest image that the challenge has, as far as that is published.

    Attributes:
        shape: number of voxels along (z, y, x).
        spacing_mm: distance between voxel centres along (z, y, x).
    """

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]


@dataclass(frozen=True, config=STRICT)
class Socket:
    """One input image of a case.

    Attributes:
        slug: the platform's folder, ``/input/images/<slug>/``.
        channel: name in manifests and reports ("CT").
        modality: kind of values. "CT" is judged to be in HU and "MR" not to be; any other
            name ("CBCT", "PET") is taken as it is.
        suffixes: endings of file stems that identify this image in the data set and are
            removed for pairing ("_IMG_CT"); the longest match counts.
        file: the image's stem in the data set, if the folder names the case ("data").
        unmarked: take images in a plain folder that match neither for this input.
        reference: outputs are on this image's grid.
        placed: how any other image is brought onto the reference's grid: "registered", or
            already on it ("same_grid").
        largest: the largest of these images, for what a run needs.
    """

    slug: Annotated[FileName, Field(min_length=1)]
    channel: Text
    modality: Text
    suffixes: tuple[str, ...] = ()
    file: FileName | None = None
    unmarked: bool = False
    reference: bool = False
    placed: Literal["registered", "same_grid"] = "registered"
    largest: LargestImage | None = None


@dataclass(frozen=True, config=STRICT)
class Output:
    """The label file that the challenge asks for.

    Attributes:
        slug: the folder below ``images/``.
        replace, by: text of the reference image's file name, and its replacement.
        ending: file name extension; empty for the reference image's.
        path: path below the output folder, with {case} for the case's name; used instead
            of all of the above.
        form: a label map, or a 4-D image with one binary channel per organ.
        identity_frame: leave origin and direction at identity, as some organisers' own
            writers do; only size and spacing then describe the grid.
    """

    slug: FileName = ""
    replace: str = ""
    by: FileName = ""
    ending: Literal["", ".mha", ".nrrd", ".nii.gz"] = ""
    path: Annotated[str, Field(pattern=r"^([\w.{-][\w.{}/-]*)?$")] = ""
    form: Literal["labels", "channels"] = "labels"
    identity_frame: bool = False


@dataclass(frozen=True, config=STRICT)
class DataSet:
    """How the challenge publishes its training cases, one folder per case.

    Attributes:
        digits: digits of the case number, zero-filled, after the challenge's
            ``case_prefix``; together they name the folder.
        ending: file name extension of the images.
        labels: one binary file per organ ("masks"), or one label map ("map").
        mask: file name of an organ's mask, with {case} and {structure}.
        map: file name of the label map.
        missing_mask: meaning of a missing mask: the organ is not present ("absent"), or it
            was not contoured ("unknown") and may be in any unlabelled voxel.
        presence: table at the root of the data set with the organs in each case's field of
            view, against which masks are checked.
        patients: table at the root with each case's sex and age.
        roi_names: organ → other names of it in RT Structure Sets.
    """

    digits: Annotated[int, Field(ge=1, le=8)] = 2
    ending: Literal[".mha", ".nrrd", ".nii.gz"] = ".nii.gz"
    labels: Literal["masks", "map"] = "masks"
    mask: str = "{structure}.nii.gz"
    map: str = "label.nii.gz"
    missing_mask: Literal["absent", "unknown"] = "unknown"
    presence: FileName | None = None
    patients: FileName | None = None
    roi_names: Mapping[str, tuple[Text, ...]] = field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Pair:
    """A left and a right structure that tables also summarise together, under one name."""

    name: str
    left: str
    right: str


@dataclass(frozen=True, config=STRICT)
class Baseline:
    """Published result for a structure or pair: mean and standard deviation."""

    n: int
    dsc_percent: tuple[float, float]
    hd95_mm: tuple[float, float]


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """How results are scored; ``evaluation.scoring`` applies these rules.

    Attributes:
        ranked: metrics that the challenge's ranking aggregates.
        ranking: "significance": number of submissions beaten in Wilcoxon's test of all
            scores; "organ_ranks": mean of the ranks per organ; "weighted_means": rank of
            the weighted mean over organs.
        weights: weights of organs in means over organs; 1 if not named.
        tolerance_mm: tolerance of the normalised surface Dice.
        tolerances_mm: tolerances of structures that differ from it.
        min_kept: with a field of view, a structure is scored only if more than this
            fraction of its reference volume is inside.
        both_empty: neither side has the structure: not scored, or the best score.
        reference_empty: only the prediction has it: not scored, or the worst score.
        missed_distance_mm: worst distance, given where only the reference has the
            structure; Dice are 0 there. If infinite, counted instead of averaged.
        missing_case: a case without a prediction: all missed, or left out.
        pairs: left and right structures to summarise together.
        baseline_source: where the baseline was published.
        baseline: published results by structure or pair.
    """

    ranked: tuple[Literal["dsc", "hd95_mm", "nsd", "msd_mm"], ...] = ("dsc", "hd95_mm")
    ranking: RankingRule = "significance"
    weights: Mapping[str, PositiveFloat] = field(default_factory=dict)
    tolerance_mm: float = 1.0
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    min_kept: float = 0.0
    both_empty: Literal["skip", "best"] = "skip"
    reference_empty: Literal["skip", "worst"] = "skip"
    missed_distance_mm: float = math.inf
    missing_case: Literal["missed", "skip"] = "missed"
    pairs: tuple[Pair, ...] = ()
    baseline_source: str = ""
    baseline: Mapping[str, Baseline] = field(default_factory=dict)

    def tolerance_of(self, structure: str) -> float:
        """Return the tolerance of the normalised surface Dice for a structure, in mm."""
        return self.tolerances_mm.get(structure, self.tolerance_mm)

    def weight_of(self, structure: str) -> float:
        """Return the weight of a structure in means over structures."""
        return self.weights.get(structure, 1.0)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Challenge:
    """All facts of one challenge that code needs.

    Attributes:
        name: identifier, also in file names.
        title: name for people.
        case_prefix: beginning of a case's name, before its number; may be empty.
        sockets: the input images of a case.
        output: the label file asked for.
        structures: values of the label map.
        overlapping: unions of structures that are scored and written instead of them; see
            ``organs``.
        notice: a warning to print and report whenever the challenge is used.
        own_labels: the user brings the label table.
        orientation: axes of the arrays that the networks see. "LPS": x to the left, y to
            the back, z up, whatever the file's axes; "stored": as in the file.
        data_set: how training cases are published.
        evaluation: how results are scored.
        plausibility: what a plausible organ is like.
    """

    name: Annotated[FileName, Field(min_length=1)]
    title: Text
    case_prefix: FileName = ""
    sockets: tuple[Socket, ...]
    output: Output
    structures: tuple[Structure, ...] = ()
    overlapping: tuple[Organ, ...] = ()
    notice: str = ""
    own_labels: bool = False
    orientation: Literal["LPS", "stored"] = "stored"
    data_set: DataSet = field(default_factory=DataSet)
    evaluation: Evaluation = field(default_factory=Evaluation)
    plausibility: Plausibility = field(default_factory=Plausibility)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_structures()
        self._check_sockets()
        self._check_output()
        self._check_organs()
        self._check_evaluation({organ.name for organ in self.organs})
        unknown = sorted(self.plausibility.named - {organ.name for organ in self.organs})
        if unknown:
            raise rule_error(("plausibility",), f"no organ {', '.join(unknown)}")
        return self

    def _check_output(self) -> None:
        output = self.output
        if not (output.slug or "{case}" in output.path):
            raise rule_error(("output",), "needs a slug, or a path with {case}")
        if ".." in output.path.split("/"):
            raise rule_error(
                ("output", "path"), f"must stay below the output folder: {output.path}"
            )
        if output.form == "channels" and (output.ending != ".mha" or output.path):
            raise rule_error(("output", "form"), 'channels need a slug and ending = ".mha"')
        if output.form == "labels" and output.identity_frame:
            raise rule_error(("output", "identity_frame"), 'is known for form = "channels" only')

    def _check_structures(self) -> None:
        if not (self.structures or self.own_labels):
            raise rule_error(("structures",), "needs at least one, or own_labels = true")
        _check_unique("structures", "name", [s.name for s in self.structures])
        labels = [structure.label for structure in self.structures]
        for index, label in enumerate(labels):
            if label > len(labels) or label in labels[:index]:
                raise rule_error(
                    ("structures", index, "label"),
                    f"labels must be 1, 2, … {len(labels)} without gaps or repeats, found {label}",
                )

    def _check_sockets(self) -> None:
        _check_unique("sockets", "slug", [socket.slug for socket in self.sockets])
        _check_unique("sockets", "channel", [socket.channel for socket in self.sockets])
        if sum(socket.reference for socket in self.sockets) != 1:
            raise rule_error(("sockets",), "exactly one must have reference = true")
        for index, socket in enumerate(self.sockets):
            if socket.reference or socket.placed == "same_grid":
                continue
            if socket.modality != "MR" or self.reference.modality != "CT":
                raise rule_error(
                    ("sockets", index, "placed"),
                    "only an MR can be registered, and only to a CT; "
                    f'this {socket.modality} needs placed = "same_grid"',
                )

    def _check_organs(self) -> None:
        known = {structure.label for structure in self.structures}
        _check_unique("overlapping", "name", [organ.name for organ in self.overlapping])
        table = "overlapping" if self.overlapping else "structures"
        _check_unique(table, "rt_name", [organ.dicom_name for organ in self.organs])
        if len(self.overlapping) > 255:
            raise rule_error(("overlapping", 255), "at most 255 organs can be told apart")
        for index, organ in enumerate(self.overlapping):
            if not organ.labels or set(organ.labels) - known:
                raise rule_error(
                    ("overlapping", index, "labels"),
                    f"{organ.name}: must be one or more of 1–{len(known)}",
                )

    def _check_evaluation(self, structures: set[str]) -> None:
        rules = self.evaluation
        members = [name for pair in rules.pairs for name in (pair.left, pair.right)]
        known = structures | {pair.name for pair in rules.pairs}
        for part, used, allowed in (
            ("tolerances_mm", rules.tolerances_mm, structures),
            ("weights", rules.weights, structures),
            ("pairs", members, structures),
            ("baseline", rules.baseline, known),
        ):
            unknown = sorted(set(used) - allowed)
            if unknown:
                raise rule_error(("evaluation", part), f"no structure {', '.join(unknown)}")

    @property
    def organs(self) -> tuple[Organ, ...]:
        """What is scored and written, in the challenge's order; one per label by default."""
        return self.overlapping or tuple(
            Organ(
                name=structure.name,
                snomed=structure.snomed,
                meaning=structure.meaning,
                colour=structure.colour,
                side=structure.side,
                phantom=structure.phantom,
                rt_name=structure.rt_name,
                rt_type=structure.rt_type,
                labels=(structure.label,),
            )
            for structure in sorted(self.structures, key=lambda structure: structure.label)
        )

    @property
    def reference(self) -> Socket:
        """The socket whose grid the outputs are on."""
        return next(socket for socket in self.sockets if socket.reference)

    def socket(self, channel: str) -> Socket:
        """Return the socket of a channel.

        Raises:
            InputError: no channel of that name.
        """
        for socket in self.sockets:
            if socket.channel == channel:
                return socket
        known = ", ".join(socket.channel for socket in self.sockets)
        raise InputError(f"channel {channel!r}: challenge {self.name} has only {known}")

    def structure(self, name: str) -> Structure:
        """Return a structure by name.

        Raises:
            InputError: no structure of that name.
        """
        for structure in self.structures:
            if structure.name == name:
                return structure
        raise InputError(f"structure {name!r}: challenge {self.name} has none of that name")


def _check_unique(table: str, key: str, values: Sequence[str | int]) -> None:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise rule_error(
                (table, index, key), f"every {key} must be unique, {value!r} is there twice"
            )
