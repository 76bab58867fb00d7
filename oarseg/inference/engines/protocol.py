"""The interface of an engine, and its checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from oarseg.errors import WeightsError
from oarseg.imaging.arrays import Half, Image
from oarseg.model.network import INPUT as INPUT
from oarseg.model.network import OUTPUT as OUTPUT


class Engine(Protocol):
    """One network that is ready to run, or several in one graph."""

    @property
    def name(self) -> str:
        """The names of its files, for messages."""

    @property
    def answers(self) -> int:
        """The number of arrays of logits that a call gives: one a fold, or the folds' one mean."""

    def __call__(self, tile: Image, /) -> Image:
        """Compute the logits (answers, classes, *patch) of a tile (1, channels, *patch), float32.

        The caller may modify the result. It is valid until the next call of any engine of the
        ensemble: engines share one output buffer, so that memory does not grow with their
        number.
        """

    def rest(self) -> None:
        """Free what the network needs only while it runs, as another engine runs next."""


@runtime_checkable
class AddsTiles(Engine, Protocol):
    """An engine that can add its logits to sums itself."""

    def run(self, tile: Image) -> None:
        """Compute what ``add`` does, for its time and memory, and add it to nothing."""

    def add(self, tile: Image, totals: Sequence[Half], weights: Image, pool: Executor) -> bool:
        """Compute ``totals = half(float(totals) + logits · weights)``, rounded as in nnU-Net.

        Args:
            tile: (1, channels, *patch).
            totals: (classes, planes, rows, columns) each, which follow one another along the
                planes.
            weights: (*patch), float32.
            pool: copies pieces concurrently.

        Returns:
            Whether all logits are finite. If not, the totals are spoilt.
        """


def run_once(engine: Engine, tile: Any) -> None:
    """Run an engine as a case would, and forget the answer."""
    if isinstance(engine, AddsTiles):
        engine.run(tile)
    else:
        engine(tile)


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


def names_of(paths: Sequence[Path]) -> str:
    """Name files in a message, without their folder."""
    return ", ".join(path.name for path in paths)


def unusable(file: Path | str, error: BaseException) -> WeightsError:
    """Make the error of a file that a library cannot load."""
    return WeightsError(f"{file}: not a usable ONNX file: {first_line(error)}")
