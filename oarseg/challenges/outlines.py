"""What names, codes and draws the outlines of a challenge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid")
Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True, config=STRICT)
class Code:
    """One coded concept of a terminology, as DICOM and Slicer write it."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Outline:
    """What names, codes and draws one outline.

    Attributes:
        name: its name in files (AAPM TG-263 where that has one).
        snomed, meaning: SNOMED CT code and its meaning; empty where none is known.
        side: laterality, if it has one.
        colour: RGB, 0–255; a file that names none gets one by the label.
        phantom: what phantoms call it, where they know it by another name.
    """

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")]
    colour: tuple[Byte, Byte, Byte]
    snomed: Annotated[str, Field(pattern=r"^\d*$")] = ""
    meaning: str = ""
    side: Literal["left", "right"] | None = None
    phantom: str = ""

    @property
    def phantom_name(self) -> str:
        """What phantoms call it."""
        return self.phantom or self.name

    def code(self) -> Code | None:
        """The coded type, if it is known."""
        return Code("SCT", self.snomed, self.meaning) if self.snomed else None

    def side_code(self) -> Code | None:
        """The coded laterality."""
        codes = {"left": "7771000", "right": "24028007"}
        return Code("SCT", codes[self.side], self.side.capitalize()) if self.side else None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Structure(Outline):
    """One value of the label map.

    Attributes:
        label: its value, 1–255.
    """

    label: Annotated[int, Field(ge=1, le=255)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Organ(Outline):
    """What is scored, and written as a mask: the union of one label or more.

    Attributes:
        labels: values of the label map; other organs may share them.
    """

    labels: tuple[int, ...]
