"""Probabilities of single organs, kept on the disk plane by plane while the planes are painted.

They are nnU-Net's: softmax, or the sigmoid of a region, of logits resampled to the image's grid and
rounded to half precision. The sum over an organ's classes is rounded to half precision again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.challenge import Organ
from oarseg.challenges.plain_names import file_names
from oarseg.errors import InputError, OutputError
from oarseg.imaging.arrays import Half, Image, Mask
from oarseg.imaging.orientation import Turn
from oarseg.inference.preprocessing import Placement
from oarseg.model.manifest import Manifest

HALF_BYTES: Final = 2
# Planes of the image's grid that are read at once, as its axes may run across those painted.
PLANES_READ: Final = 16
_LARGEST_HALF = np.float32(65504.0)


def organ_classes(
    names: Sequence[str], organs: Sequence[Organ], manifest: Manifest
) -> dict[str, tuple[int, ...]]:
    """Tell which classes of the network make up each organ.

    Args:
        names: of the organs.
        organs: of the challenge.
        manifest: the model.

    Raises:
        InputError: no organ of such a name, or one that the network has no class for.
    """
    found: dict[str, tuple[int, ...]] = {}
    if not names:
        return found
    known = {organ.name: organ for organ in organs}
    regions = file_names([label.name for label in manifest.labels])
    for name in dict.fromkeys(names):
        if name not in known:
            raise InputError(
                f"--probabilities {name}: expected one of {', '.join(known)}; correct the name"
            )
        if manifest.regions:
            classes = tuple(k for k, region in enumerate(regions) if region == name)
        else:
            values = known[name].labels
            # Of a class that holds both organs of a pair: of either side.
            classes = tuple(
                k
                for k, label in enumerate(manifest.labels)
                if label.value in values or label.right in values
            )
        if not classes:
            raise InputError(
                f"--probabilities {name}: expected an organ that the model has a class for, "
                "found none; leave it out"
            )
        found[name] = classes
    return found


class Probabilities:
    """Takes logits of blocks and keeps probabilities in a file without a name.

    The file needs 2 bytes a voxel and organ. It lies in the output folder, takes all of its room
    at the beginning, and vanishes with the process.
    """

    def __init__(
        self, place: Placement, manifest: Manifest, classes: Mapping[str, Sequence[int]], at: Path
    ) -> None:
        """Take the room.

        Args:
            place: where planes lie in the image.
            manifest: the model.
            classes: of each organ, by name.
            at: a folder on the disk to use.

        Raises:
            OutputError: the disk has too little room.
        """
        self.organs = tuple(classes)
        self._place = place
        self._regions = manifest.regions
        self._classes = [list(chosen) for chosen in classes.values()]
        self._shape = (len(classes), *place.crop_shape)
        self._plane = np.zeros((len(classes), *place.crop_shape[1:]), np.float16)
        self._plane_bytes = HALF_BYTES * int(np.prod(place.crop_shape[1:]))
        try:
            self._file = tempfile.TemporaryFile(dir=at)  # noqa: SIM115 (closed on exit)
            os.posix_fallocate(self._file.fileno(), 0, HALF_BYTES * int(np.prod(self._shape)))
        except OSError as error:
            raise _no_room(at, error) from error

    def close(self) -> None:
        """Give the room back."""
        self._file.close()

    def begin(self) -> None:
        """Begin a plane, of which blocks that are not kept are 0."""
        self._plane[...] = 0

    def keep(self, where: tuple[slice, slice], logits: Image, inside: Mask | None = None) -> None:
        """Keep a block of the plane; several may be kept at once.

        Args:
            where: its rows and columns.
            logits: (classes, rows, columns) float32, resampled.
            inside: where they count; elsewhere the probability is 0.
        """
        self.store(where, self._chances(logits), inside)

    def store(self, where: tuple[slice, slice], chances: Image, inside: Mask | None = None) -> None:
        """Keep the probabilities (classes, rows, columns) of a block; otherwise as ``keep``."""
        for plane, classes in zip(self._plane, self._classes, strict=True):
            total = chances[classes].sum(axis=0)
            plane[where] = total if inside is None else np.where(inside, total, 0)

    def end(self, index: int) -> None:
        """Write the plane, or the one before once more, as plane ``index`` of those painted.

        Raises:
            OutputError: it cannot be written.
        """
        for number, plane in enumerate(self._plane):
            at = (number * self._shape[1] + index) * self._plane_bytes
            try:
                os.pwrite(self._file.fileno(), plane.tobytes(), at)
            except OSError as error:
                raise _no_room(Path(str(self._file.name)), error) from error

    def planes(self, organ: str, turn: Turn) -> Iterator[Half]:
        """Yield the planes (rows, columns) of an organ on the grid of the file.

        Args:
            organ: its name.
            turn: from the file's axes to those of the placement's image.
        """
        number, place = self.organs.index(organ), self._place
        depth = place.shape[int(np.argsort(turn.order)[0])]
        for first in range(0, depth, PLANES_READ):
            # Mapped anew each time, so that what was read does not stay.
            kept = np.memmap(self._file, np.float16, "r", 0, self._shape)[number]
            for z in range(first, min(first + PLANES_READ, depth)):
                yield _plane_of(kept, z, place, turn)

    def _chances(self, logits: Image) -> NDArray[Any]:
        half = np.clip(logits, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16).astype(np.float32)
        if self._regions:
            with np.errstate(over="ignore"):
                sigmoid: NDArray[Any] = 1 / (1 + np.exp(-half))
            return sigmoid
        half -= half.max(axis=0)
        np.exp(half, out=half)
        half /= half.sum(axis=0)
        return half


def _plane_of(kept: NDArray[Any], z: int, place: Placement, turn: Turn) -> Half:
    """Return one plane on the file's grid of what was kept on the placement's box."""
    shape = place.shape
    # The axes of the image across which and along which the plane lies.
    axis, *columns = (int(k) for k in np.argsort(turn.order))
    index = shape[axis] - 1 - z if turn.reversed[axis] else z
    rest = [k for k in range(3) if k != axis]
    plane = np.zeros([shape[k] for k in rest], np.float16)
    along = place.transpose.index(axis)
    start, stop = place.box[along]
    if start <= index < stop:
        part = np.take(kept, index - start, axis=along)
        others = [k for k in range(3) if k != along]
        order = [others.index(place.transpose.index(k)) for k in rest]
        boxes = [place.box[place.transpose.index(k)] for k in rest]
        plane[tuple(slice(a, b) for a, b in boxes)] = part.transpose(order)
    flips = tuple(slice(None, None, -1 if turn.reversed[k] else 1) for k in rest)
    turned: Half = plane[flips].transpose([rest.index(k) for k in columns])
    return np.ascontiguousarray(turned)


def _no_room(at: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{at}: expected room for the probabilities, found {error.strerror}; free space, ask for "
        "fewer organs with --probabilities, or pass another --output"
    )
