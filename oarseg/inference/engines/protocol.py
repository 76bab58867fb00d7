"""What an engine is: one network behind one call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from oarseg.errors import WeightsError
from oarseg.imaging.arrays import Image
from oarseg.model.network import INPUT as INPUT
from oarseg.model.network import OUTPUT as OUTPUT


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


def check_interface(path: Path, found: dict[str, str], tile: Any, logits: Any) -> None:
    """Make sure that a loaded file takes a tile and gives logits, by name, type and shape.

    Args:
        path: the file.
        found: ``array_text`` of its inputs and outputs, by name.
        tile, logits: arrays as the engine binds them, float32.

    Raises:
        WeightsError: it has others.
    """
    expected = {
        INPUT: array_text("float32", tile.shape),
        OUTPUT: array_text("float32", logits.shape),
    }
    if found != expected:
        raise WeightsError(
            f"{path}: expected the static shapes {expected}, found {found}; export it again"
        )


def array_text(element: str, shape: Iterable[object]) -> str:
    """An array's type and shape in words; lengths that are not known stand as they are."""
    return f"{element} {'×'.join(map(str, shape))}"


def first_line(error: BaseException) -> str:
    """An exception's first line, or its kind if it says nothing."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
