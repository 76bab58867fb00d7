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

from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from oarseg.errors import InputError

STRICT = ConfigDict(extra="forbid")


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


@dataclass(frozen=True, config=STRICT)
class Structure:
    """One structure to outline.

    Attributes:
        label: its value in the label map, 1–255.
        name: its name in files (AAPM TG-263 where that has one).
        snomed: SNOMED CT code and meaning.
        side: laterality, if it has one.
        colour: RGB, 0–255.
        soft_tissue: whether its outline is seen on MR rather than on CT.
    """

    label: int
    name: str
    snomed: str
    meaning: str
    colour: tuple[int, int, int]
    side: Literal["left", "right"] | None = None
    soft_tissue: bool = False

    def code(self) -> Code:
        """The structure's coded type."""
        return Code("SCT", self.snomed, self.meaning)

    def side_code(self) -> Code | None:
        """The coded laterality."""
        codes = {"left": "7771000", "right": "24028007"}
        return Code("SCT", codes[self.side], self.side.capitalize()) if self.side else None


@dataclass(frozen=True, config=STRICT)
class Output:
    """The label file that the challenge asks for.

    Attributes:
        slug: the folder below ``images/``.
        replace: text of the reference image's file name that is replaced …
        by: … by this.
    """

    slug: str
    replace: str
    by: str


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
        tolerance_mm: of the normalised surface Dice …
        tolerances_mm: … and of the structures that have another one.
        min_kept: where a field of view is given, a structure is scored only if more than
            this share of its reference volume lies in it.
        both_empty: neither side has the structure: not scored, or the best there is.
        reference_empty: only the prediction has it: not scored, or the worst there is.
        missed_distance_mm: distances where only the reference has the structure, and the
            worst distance; its Dice are 0. Infinite ones are counted, not averaged.
        pairs: left and right given together.
        baseline_source: where the baseline was published.
        baseline: by the name of a structure or pair.
    """

    ranked: tuple[Literal["dsc", "hd95_mm", "nsd", "msd_mm"], ...] = ("dsc", "hd95_mm")
    tolerance_mm: float = 1.0
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    min_kept: float = 0.0
    both_empty: Literal["skip", "best"] = "skip"
    reference_empty: Literal["skip", "worst"] = "skip"
    missed_distance_mm: float = math.inf
    pairs: tuple[Pair, ...] = ()
    baseline_source: str = ""
    baseline: Mapping[str, Baseline] = field(default_factory=dict)

    def tolerance_of(self, structure: str) -> float:
        """The tolerance of the normalised surface Dice for a structure, in mm."""
        return self.tolerances_mm.get(structure, self.tolerance_mm)


@dataclass(frozen=True, config=STRICT)
class Challenge:
    """All facts of one challenge that code needs."""

    name: str
    title: str
    case_prefix: str
    sockets: tuple[Socket, ...]
    output: Output
    structures: tuple[Structure, ...]
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
        self._check_evaluation(set(names))
        return self

    def _check_evaluation(self, structures: set[str]) -> None:
        rules = self.evaluation
        members = [name for pair in rules.pairs for name in (pair.left, pair.right)]
        known = structures | {pair.name for pair in rules.pairs}
        for part, used, allowed in (
            ("tolerances_mm", rules.tolerances_mm, structures),
            ("pairs", members, structures),
            ("baseline", rules.baseline, known),
        ):
            unknown = sorted(set(used) - allowed)
            if unknown:
                raise ValueError(f"evaluation.{part}: no structure {', '.join(unknown)}")

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
