"""The interface of an engine, and its checks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from oarseg.errors import WeightsError
from oarseg.imaging.arrays import Image
from oarseg.model.network import INPUT as INPUT
from oarseg.model.network import OUTPUT as OUTPUT


class Engine(Protocol):
    """A network that is ready to run."""

    @property
    def name(self) -> str:
        """The name of its file, for messages."""

    def __call__(self, tile: Image, /) -> Image:
        """Compute the logits (1, classes, *patch) of a tile (1, channels, *patch), float32.

        The caller may modify the result. It is valid until the next call of any engine of the
        ensemble: the folds share one output buffer, so that memory does not grow with their
        number.
        """


def check_interface(path: Path, found: dict[str, str], tile: Any, logits: Any) -> None:
    """Check that a file takes a tile and gives logits, by name, type and shape.

    Args:
        path: the file.
        found: ``array_text`` of its inputs and outputs, by name.
        tile, logits: arrays as the engine binds them, float32.

    Raises:
        WeightsError: its inputs or outputs differ.
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
    """Describe an array's type and shape; unknown lengths are kept as they are."""
    return f"{element} {'×'.join(map(str, shape))}"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception, or its type if it has no text."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
