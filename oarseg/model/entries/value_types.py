"""The kinds of value that a manifest may hold, each with its range."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

# The spacings of the scans that are read (``imaging.files.read_scan.Limits``).
SPACING_RANGE_MM = (0.05, 50.0)
# No scanner gives intensities beyond this.
LARGEST_INTENSITY = 1e9
LONGEST_FILE_NAME = 200


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable")
    return text


def _plain_file_name(name: str) -> str:
    """Accept a name without a path, with the ending by which runtimes recognise ONNX."""
    if not name.endswith(".onnx") or name.startswith(".") or set(name) & set("/\\"):
        raise ValueError("must be the plain name of a file that ends in .onnx")
    return name


def _rising(window: tuple[float, float]) -> tuple[float, float]:
    if window[0] >= window[1]:
        raise ValueError("must rise")
    return window


ShortName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_printable)]
ShortText = Annotated[str, Field(max_length=1000), AfterValidator(_printable)]
LongText = Annotated[str, Field(max_length=10_000)]
OnnxFileName = Annotated[
    str,
    Field(min_length=1, max_length=LONGEST_FILE_NAME),
    AfterValidator(_printable),
    AfterValidator(_plain_file_name),
]
Intensity = Annotated[float, Field(ge=-LARGEST_INTENSITY, le=LARGEST_INTENSITY)]
WindowHu = Annotated[tuple[Intensity, Intensity], AfterValidator(_rising)]
Spacing = Annotated[float, Field(ge=SPACING_RANGE_MM[0], le=SPACING_RANGE_MM[1])]
SplineOrder = Annotated[int, Field(ge=0, le=5)]
Axis = Annotated[int, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
