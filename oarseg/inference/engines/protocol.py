"""What an engine is: one network behind one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from oarseg.errors import WeightsError
from oarseg.imaging.arrays import Image

INPUT, OUTPUT = "image", "logits"


class Engine(Protocol):
    """One network, ready to run."""

    @property
    def name(self) -> str:
        """The file it was made of, for messages."""

    def __call__(self, tile: Image, /) -> Image:
        """Logits (1, classes, *patch) of a tile (1, channels, *patch), float32.

        The result may be written into. It is valid until the next call of this engine or
        of another one of the same ensemble: they share one output buffer, so that memory
        does not grow with the number of folds.
        """


def check_interface(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Make sure that a file has the inputs and outputs, by name and shape, that it should.

    Raises:
        WeightsError: it has others.
    """
    if found != expected:
        raise WeightsError(
            f"{path}: expected the static shapes {expected}, found {found}; export it again"
        )


def first_line(error: BaseException) -> str:
    """An exception's first line, or its kind if it says nothing."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
