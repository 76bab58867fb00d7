"""Structures and organs: names, labels, colours, and SNOMED CT codes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

# Of a DICOM long string (LO).
LONGEST_DICOM_NAME = 64
STRICT = ConfigDict(extra="forbid")
Byte = Annotated[int, Field(ge=0, le=255)]


def _one_tag(text: str) -> str:
    """Accept what a line of a segmentation's header can hold between a code's separators."""
    if not text.isprintable() or set(text) & set("^~|"):
        raise PydanticCustomError("meaning", "must be printable, without ^, ~ and |")
    return text


Meaning = Annotated[str, Field(max_length=200), AfterValidator(_one_tag)]


@dataclass(frozen=True, config=STRICT)
class Code:
    """Coded concept of a terminology, as in DICOM and 3D Slicer."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Outline:
    """Name, colour and codes of a structure or organ.

    Attributes:
        name: name in files (from AAPM TG-263 if it has one).
        colour: RGB, 0–255; ``label_table`` chooses one if the TOML file has none.
        snomed, meaning: SNOMED CT code and its meaning; empty if unknown.
        side: laterality, if any.
        phantom: name of the structure in phantoms, if different.
        rt_name: name in DICOM objects, if different: AAPM TG-263's, where it has one.
        rt_type: RT ROI interpreted type: an organ, or a target volume.
    """

    name: Annotated[str, Field(pattern=r"^[\w.+-]+$")]
    colour: tuple[Byte, Byte, Byte]
    snomed: Annotated[str, Field(pattern=r"^\d*$")] = ""
    meaning: Meaning = ""
    side: Literal["left", "right"] | None = None
    phantom: str = ""
    rt_name: Annotated[str, Field(max_length=LONGEST_DICOM_NAME, pattern=r"^[\w.+~^-]*$")] = ""
    rt_type: Literal["ORGAN", "GTV", "CTV", "PTV"] = "ORGAN"

    @property
    def dicom_name(self) -> str:
        """Name of the structure in DICOM objects."""
        return (self.rt_name or self.name)[:LONGEST_DICOM_NAME]

    @property
    def phantom_name(self) -> str:
        """Name of the structure in phantoms."""
        return self.phantom or self.name

    def code(self) -> Code | None:
        """Return the coded type, if known."""
        return Code("SCT", self.snomed, self.meaning) if self.snomed else None

    def side_code(self) -> Code | None:
        """Return the coded laterality, if any."""
        codes = {"left": "7771000", "right": "24028007"}
        return Code("SCT", codes[self.side], self.side.capitalize()) if self.side else None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Structure(Outline):
    """One value of the label map; structures exclude each other.

    Attributes:
        label: the value, 1–255.
    """

    label: Annotated[int, Field(ge=1, le=255)]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Organ(Outline):
    """What is scored and written as a mask: the union of one or more labels.

    Attributes:
        labels: values of the label map; organs may share labels.
    """

    labels: tuple[int, ...]
