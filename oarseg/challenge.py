"""A challenge as data: its inputs, its structures and the form of its output.

The facts stand in ``challenges/<name>.toml``; code that needs one asks here, so that
no organ and no socket is named anywhere else.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import field
from importlib import resources
from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, PositiveFloat, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from oarseg.errors import InputError

STRICT = ConfigDict(extra="forbid")
Ranking = Literal["significance", "organ_ranks", "weighted_means"]


@dataclass(frozen=True, config=STRICT)
class Code:
    """One coded concept of a terminology, as DICOM and Slicer write it."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, config=STRICT)
class Socket:
    """One input image of a case.

    Attributes:
        slug: the platform's folder, ``/input/images/<slug>/``.
        channel: the name that manifests and reports use ("CT").
        modality: what kind of values it holds.
        suffixes: endings of file stems that mark this image in the data set and
            that pairing takes off ("_IMG_CT"); the longest match counts.
        reference: the outputs lie on this image's grid.
    """

    slug: str
    channel: str
    modality: Literal["CT", "MR"]
    suffixes: tuple[str, ...]
    reference: bool = False


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Outline:
    """What names, codes and draws one outline.

    Attributes:
        name: its name in files (AAPM TG-263 where that has one).
        snomed: SNOMED CT code and meaning.
        side: laterality, if it has one.
        colour: RGB, 0–255.
    """

    name: str
    snomed: str
    meaning: str
    colour: tuple[int, int, int]
    side: Literal["left", "right"] | None = None

    def code(self) -> Code:
        """The coded type."""
        return Code("SCT", self.snomed, self.meaning)

    def side_code(self) -> Code | None:
        """The coded laterality."""
        codes = {"left": "7771000", "right": "24028007"}
        return Code("SCT", codes[self.side], self.side.capitalize()) if self.side else None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Structure(Outline):
    """One value of the label map.

    Attributes:
        label: its value, 1–255.
        soft_tissue: whether its outline is seen on MR rather than on CT.
    """

    label: int
    soft_tissue: bool = False


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Organ(Outline):
    """What is scored, and written as a mask: the union of one label or more.

    Attributes:
        labels: values of the label map; other organs may share them.
    """

    labels: tuple[int, ...]


@dataclass(frozen=True, config=STRICT)
class Output:
    """The label file that the challenge asks for.

    Attributes:
        slug: the folder below ``images/``.
        replace: text of the reference image's file name that is replaced …
        by: … by this.
        form: one label map, or a 4-D image with a channel of zeros and ones an organ.
        identity_frame: origin and direction are left at identity, as some organisers'
            own writers do; only size and spacing tell the grid.
    """

    slug: str
    replace: str
    by: str
    form: Literal["labels", "channels"] = "labels"
    identity_frame: bool = False


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
    ranking: Ranking = "significance"
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
        structures: what the label map tells apart.
        overlapping: what is scored and written, where that is not the structures
            themselves but unions of them; see ``organs``.
    """

    name: str
    title: str
    case_prefix: str
    sockets: tuple[Socket, ...]
    output: Output
    structures: tuple[Structure, ...]
    overlapping: tuple[Organ, ...] = ()
    evaluation: Evaluation = field(default_factory=Evaluation)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        labels = [structure.label for structure in self.structures]
        names = [structure.name for structure in self.structures]
        if sorted(labels) != list(range(1, len(labels) + 1)):
            raise ValueError("structures: labels must be 1, 2, … without gaps or repeats")
        if len(set(names)) != len(names):
            raise ValueError("structures: every name must be unique")
        if sum(socket.reference for socket in self.sockets) != 1:
            raise ValueError("sockets: exactly one must have reference = true")
        self._check_organs(set(labels))
        self._check_evaluation({organ.name for organ in self.organs})
        return self

    def _check_organs(self, labels: set[int]) -> None:
        names = [organ.name for organ in self.overlapping]
        if len(set(names)) != len(names):
            raise ValueError("overlapping: every name must be unique")
        for organ in self.overlapping:
            if not organ.labels or set(organ.labels) - labels:
                raise ValueError(
                    f"overlapping: {organ.name}: labels must be one or more of 1–{len(labels)}"
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
                raise ValueError(f"evaluation.{part}: no structure {', '.join(unknown)}")

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
                labels=(structure.label,),
            )
            for structure in self.structures
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


def names() -> tuple[str, ...]:
    """The challenges that come with the package."""
    files = resources.files("oarseg").joinpath("challenges").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load(name: str) -> Challenge:
    """Load a challenge that comes with the package, or one from a TOML file's path.

    Raises:
        InputError: no such challenge, or the file breaks a rule, which is named.
    """
    if name.endswith(".toml"):
        return _parse(name, Path(name).read_text(encoding="utf-8"))
    if name not in names():
        raise InputError(f"challenge {name!r}: expected one of {', '.join(names())}")
    source = resources.files("oarseg").joinpath("challenges", f"{name}.toml")
    return _parse(f"{name}.toml", source.read_text(encoding="utf-8"))


def _parse(source: str, text: str) -> Challenge:
    try:
        return TypeAdapter(Challenge).validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"{source}: {where}: {first['msg']}") from error
