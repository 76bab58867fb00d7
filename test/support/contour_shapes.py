"""Masks that are hard to outline, one a label, and the label map of all side by side."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SIDE = 20
Shape = NDArray[np.bool_]


def _disc(radius: float) -> Shape:
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    return np.asarray(x * x + y * y <= radius * radius, np.bool_)


def _ring() -> Shape:
    return _disc(9) & ~_disc(5)


def _island() -> Shape:
    return _ring() | _disc(2.5)


def _nested() -> Shape:
    return (_disc(9.5) & ~_disc(7.5)) | (_disc(5.5) & ~_disc(3)) | _disc(1)


def _single() -> Shape:
    shape = np.zeros((SIDE, SIDE), np.bool_)
    shape[[2, 5, 9, 17], [3, 11, 9, 4]] = True
    return shape


def _diagonals() -> Shape:
    return np.eye(SIDE, dtype=np.bool_) | np.eye(SIDE, dtype=np.bool_)[::-1]


def _borders() -> Shape:
    shape = np.ones((SIDE, SIDE), np.bool_)
    shape[1:-1, 1:-1] = False
    return shape


def _checkerboard() -> Shape:
    return np.indices((SIDE, SIDE)).sum(axis=0) % 2 == 0


def _sieve() -> Shape:
    shape = np.ones((SIDE, SIDE), np.bool_)
    shape[1:-1:2, 1:-1:2] = False
    return shape


def _touching_holes() -> Shape:
    shape = np.ones((SIDE, SIDE), np.bool_)
    shape[[4, 5, 6, 7], [4, 5, 6, 7]] = False
    shape[12:14, 3:17] = False
    shape[14, 3] = shape[11, 17] = False
    return shape


def _noise() -> Shape:
    return np.random.default_rng(7).random((SIDE, SIDE)) < 0.6


def _comb() -> Shape:
    shape = np.zeros((SIDE, SIDE), np.bool_)
    shape[::2] = shape[:, 0] = True
    return shape


SHAPES: dict[str, Callable[[], Shape]] = {
    "disc": lambda: _disc(8),
    "ring": _ring,
    "island": _island,
    "nested": _nested,
    "single": _single,
    "diagonals": _diagonals,
    "borders": _borders,
    "checkerboard": _checkerboard,
    "sieve": _sieve,
    "touching_holes": _touching_holes,
    "noise": _noise,
    "comb": _comb,
}


def label_map() -> NDArray[np.uint8]:
    """Lay the shapes out side by side, label 1 first, on 3 of 5 planes; to the image's border."""
    shapes = list(SHAPES.values())
    columns = 4
    # Square: rt-utils and platipy take rows for columns.
    labels = np.zeros((5, columns * SIDE, columns * SIDE), np.uint8)
    for index, shape in enumerate(shapes):
        row, column = divmod(index, columns)
        tile = labels[1:4, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
        tile[:, shape()] = index + 1
    return labels
