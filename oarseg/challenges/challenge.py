"""A challenge as data: its inputs, its structures and the form of its output.

The facts stand in ``challenges/<name>.toml``; code that needs one asks here, so that
no organ and no socket is named anywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator
from pydantic.dataclasses import dataclass

from oarseg.challenges.outlines import STRICT, Code, Organ, Outline, Structure
from oarseg.challenges.toml_file import rule_error
from oarseg.errors import InputError

__all__ = [
    "Baseline",
    "Challenge",
    "Code",
    "DataSet",
    "Evaluation",
    "Organ",
    "Outline",
    "Output",
    "Pair",
    "Socket",
    "Structure",
]

RankingRule = Literal["significance", "organ_ranks", "weighted_means"]
Text = Annotated[str, Field(min_length=1)]
# What becomes a file's or a folder's name.
FileName = Annotated[str, Field(pattern=r"^[\w.-]*$")]


@dataclass(frozen=True, config=STRICT)
class Socket:
    """One input image of a case.

    Attributes:
        slug: the platform's folder, ``/input/images/<slug>/``.
        channel: the name that manifests and reports use ("CT").
        modality: what kind of values it holds.
        suffixes: endings of file stems that mark this image in the data set and
            that pairing takes off ("_IMG_CT"); the longest match counts.
        file: the image's stem in the data set, where its folder names the case ("data").
        unmarked: in a folder of images that neither names, each is this one.
        reference: the outputs lie on this image's grid.
        placed: how an image that is not the reference comes onto its grid: "registered",
            or lying there already ("same_grid").
    """

    slug: Annotated[FileName, Field(min_length=1)]
    channel: Text
    modality: Literal["CT", "MR"]
    suffixes: tuple[str, ...] = ()
    file: FileName | None = None
    unmarked: bool = False
    reference: bool = False
    placed: Literal["registered", "same_grid"] = "registered"


@dataclass(frozen=True, config=STRICT)
class Output:
    """The label file that the challenge asks for.

    Attributes:
        slug: the folder below ``images/``.
        replace: text of the reference image's file name that is replaced …
        by: … by this.
        ending: of the file's name; empty takes the reference image's.
        path: where the file lies below the output folder, with {case} for the case's
            name, instead of all these.
        form: one label map, or a 4-D image with a channel of zeros and ones an organ.
        identity_frame: origin and direction are left at identity, as some organisers'
            own writers do; only size and spacing tell the grid.
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
    """How the challenge publishes its training cases, a folder each.

    Attributes:
        digits: a case's folder is the challenge's ``case_prefix`` and its number, filled
            with zeros to so many digits.
        ending: of its images.
        labels: a file of zeros and ones an organ ("masks"), or one label map ("map").
        mask: name of an organ's mask; {case} and {structure} are filled in.
        map: name of the label map.
        missing_mask: what it means that a case has no mask of an organ: that the organ
            is not there ("absent"), or that nobody has looked ("unknown"), so that it may
            be anywhere that is not labelled.
        presence: table at the data set's root that tells which organs lie in each case's
            field, against which the masks are checked.
        patients: table at its root with each case's sex and age.
    """

    digits: Annotated[int, Field(ge=1, le=8)] = 2
    ending: Literal[".mha", ".nrrd", ".nii.gz"] = ".nii.gz"
    labels: Literal["masks", "map"] = "masks"
    mask: str = "{structure}.nii.gz"
    map: str = "label.nii.gz"
    missing_mask: Literal["absent", "unknown"] = "unknown"
    presence: FileName | None = None
    patients: FileName | None = None


@dataclass(frozen=True, config=STRICT)
class Pair:
    """Two structures that tables also give together, under a name of their own."""

    name: str
    left: str
    right: str


@dataclass(frozen=True, config=STRICT)
class Baseline:
    """A published result for a structure or pair: mean and standard deviation."""

    n: int
    dsc_percent: tuple[float, float]
    hd95_mm: tuple[float, float]


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """How results are scored.

    Attributes:
        ranked: metrics that the challenge's ranking aggregates.
        ranking: how: "significance", by how many others a submission beats in Wilcoxon's
            test of all scores; "organ_ranks", by the mean of the ranks for each organ;
            "weighted_means", by the rank of the weighted mean over organs.
        weights: of organs in means over organs; 1 for those that are not named.
        tolerance_mm: of the normalised surface Dice …
        tolerances_mm: … and of the structures that have another one.
        min_kept: where a field of view is given, a structure is scored only if more than
            this share of its reference volume lies in it.
        both_empty: neither side has the structure: not scored, or the best there is.
        reference_empty: only the prediction has it: not scored, or the worst there is.
        missed_distance_mm: distances where only the reference has the structure, and the
            worst distance; its Dice are 0. Infinite ones are counted, not averaged.
        missing_case: a case without a prediction: all of it missed, or left out.
        pairs: left and right given together.
        baseline_source: where the baseline was published.
        baseline: by the name of a structure or pair.
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
        """The tolerance of the normalised surface Dice for a structure, in mm."""
        return self.tolerances_mm.get(structure, self.tolerance_mm)

    def weight_of(self, structure: str) -> float:
        """The weight of a structure in means over structures."""
        return self.weights.get(structure, 1.0)


@dataclass(frozen=True, config=STRICT)
class Challenge:
    """All facts of one challenge that code needs.

    Attributes:
        notice: what a user must know who uses it, said whenever it is used.
        own_labels: the label table is not the challenge's but the user's.
        orientation: how the arrays lie that its networks see. "LPS": x to the left, y to
            the back, z up, whatever a file's axes; "stored": as a file has them.
        structures: what the label map tells apart.
        overlapping: what is scored and written, where that is not the structures
            themselves but unions of them; see ``organs``.
    """

    name: Annotated[FileName, Field(min_length=1)]
    title: Text
    case_prefix: FileName
    sockets: tuple[Socket, ...]
    output: Output
    structures: tuple[Structure, ...] = ()
    overlapping: tuple[Organ, ...] = ()
    notice: str = ""
    own_labels: bool = False
    orientation: Literal["LPS", "stored"] = "stored"
    data_set: DataSet = field(default_factory=DataSet)
    evaluation: Evaluation = field(default_factory=Evaluation)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_structures()
        self._check_sockets()
        self._check_output()
        self._check_organs()
        self._check_evaluation({organ.name for organ in self.organs})
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
            if socket.modality == "CT" and not socket.reference and socket.placed != "same_grid":
                raise rule_error(
                    ("sockets", index, "placed"),
                    'only an MR can be registered; a second CT needs placed = "same_grid"',
                )

    def _check_organs(self) -> None:
        known = {structure.label for structure in self.structures}
        _check_unique("overlapping", "name", [organ.name for organ in self.overlapping])
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
        """What is scored and written, in the challenge's order; overlapping where it says so."""
        return self.overlapping or tuple(
            Organ(
                name=structure.name,
                snomed=structure.snomed,
                meaning=structure.meaning,
                colour=structure.colour,
                side=structure.side,
                phantom=structure.phantom,
                labels=(structure.label,),
            )
            for structure in sorted(self.structures, key=lambda structure: structure.label)
        )

    @property
    def reference(self) -> Socket:
        """The socket whose grid the outputs have."""
        return next(socket for socket in self.sockets if socket.reference)

    def socket(self, channel: str) -> Socket:
        """The socket of a channel.

        Raises:
            InputError: there is none of that name.
        """
        for socket in self.sockets:
            if socket.channel == channel:
                return socket
        known = ", ".join(socket.channel for socket in self.sockets)
        raise InputError(f"channel {channel!r}: challenge {self.name} has only {known}")

    def structure(self, name: str) -> Structure:
        """The structure of that name.

        Raises:
            InputError: there is none.
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
