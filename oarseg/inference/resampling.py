"""nnU-Net's resampling as one small matrix for each axis.

Spline interpolation of any order is linear and separable, so resizing an axis is a
product with a matrix that depends on the two lengths only. Its entries are taken from
``scipy.ndimage.zoom(grid_mode=True, mode="nearest")``, which is what
``skimage.transform.resize`` calls and nnU-Net calls in turn
(``nnunetv2.preprocessing.resampling.default_resampling``). The products run in float32,
in blocks of rows, because the entries fade quickly away from the diagonal.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.errors import InputError
from oarseg.imaging.arrays import Image
from oarseg.imaging.slabs import HeldImage, Planes
from oarseg.imaging.volume import Shape, Vector
from oarseg.model.entries.networks import Resampling

# Entries below this cannot be seen in float32: a cubic spline's influence falls by 0.27 a voxel.
_NEGLIGIBLE = 1e-10
_ROWS = 32


@dataclass(frozen=True)
class Scheme:
    """How a volume is resampled.

    Attributes:
        orders: spline order along each axis.
        separate_axis: the coarse axis of nnU-Net's separate-z branch, whose slices are
            resized (and clipped) one by one; None where that branch does not apply.
    """

    orders: tuple[int, int, int]
    separate_axis: int | None


@dataclass(frozen=True, eq=False)
class Band:
    """Consecutive output rows of an operator: ``out = weights @ x[source]``.

    Whether rows pass ``unchanged`` cannot be told from the slices: where an axis grows by a
    voxel or two, a band has as many inputs as outputs and still moves them.
    """

    target: slice
    source: slice
    weights: Image
    unchanged: bool

    def apply(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The target rows, (…, source rows, columns) → (…, target rows, columns)."""
        if self.unchanged:
            return rows
        product: NDArray[Any] = np.matmul(self.weights, rows)
        return product


@dataclass(frozen=True)
class Tap:
    """The one or two input planes an output plane is blended from."""

    first: int
    last: int
    weight_first: float
    weight_last: float


@dataclass(frozen=True, eq=False)
class VoxelTaps:
    """The two inputs of each output along an axis: indices and float64 weights, (n, 2) each."""

    indices: NDArray[np.intp]
    weights: NDArray[np.float64]

    def at(self, outputs: NDArray[np.intp]) -> VoxelTaps:
        """Select some outputs."""
        return VoxelTaps(self.indices[outputs], self.weights[outputs])


def choose_scheme(settings: Resampling, current_mm: Vector, new_mm: Vector) -> Scheme:
    """nnU-Net's choice of branch, for spacings in the network's axis order."""
    axis = _separate_axis(settings, current_mm, new_mm)
    orders = [settings.order] * 3
    if axis is not None:
        orders[axis] = settings.order_z
    return Scheme((orders[0], orders[1], orders[2]), axis)


def _separate_axis(settings: Resampling, current_mm: Vector, new_mm: Vector) -> int | None:
    if settings.force_separate_z is not None:
        return _coarsest(current_mm) if settings.force_separate_z else None
    for spacing in (current_mm, new_mm):
        if max(spacing) / min(spacing) > settings.separate_z_threshold:
            return _coarsest(spacing)
    return None


def _coarsest(spacing_mm: Vector) -> int | None:
    """The axis of the largest spacing, or None where several share it."""
    axes = [axis for axis, value in enumerate(spacing_mm) if value == max(spacing_mm)]
    return axes[0] if len(axes) == 1 else None


def new_shape(shape: Shape, current_mm: Vector, new_mm: Vector) -> Shape:
    """Voxels after resampling: rounded half to even, as nnU-Net does.

    Raises:
        InputError: an axis would vanish.
    """
    sizes = [round(old / new * n) for old, new, n in zip(current_mm, new_mm, shape, strict=True)]
    if min(sizes) < 1:
        raise InputError(
            f"image of {shape} voxels at {current_mm} mm: expected at least one voxel an axis "
            f"at the model's {new_mm} mm, found {tuple(sizes)}; give a larger image"
        )
    return sizes[0], sizes[1], sizes[2]


@lru_cache(maxsize=16)
def spline_matrix(inputs: int, outputs: int, order: int) -> NDArray[np.float64]:
    """The operator (outputs, inputs) that resizes one axis with splines of an order.

    Column j is the response to a unit impulse at j; the second axis of the zoomed
    identity keeps its size and so passes through unchanged.
    """
    impulses = np.eye(inputs)
    factors = (outputs / inputs, 1.0)
    return np.asarray(
        ndimage.zoom(impulses, factors, order=order, mode="nearest", grid_mode=True), np.float64
    )


@lru_cache(maxsize=16)
def spline_bands(inputs: int, outputs: int, order: int) -> tuple[Band, ...]:
    """The operator in blocks of rows, each with the inputs it needs and no others."""
    if inputs == outputs:
        return tuple(
            Band(rows, rows, np.eye(rows.stop - rows.start, dtype=np.float32), unchanged=True)
            for rows in _row_blocks(inputs)
        )
    entries = spline_matrix(inputs, outputs, order)
    found = []
    for start in range(0, outputs, _ROWS):
        rows = entries[start : start + _ROWS]
        used = np.flatnonzero(np.abs(rows).max(axis=0) > _NEGLIGIBLE)
        source = slice(int(used[0]), int(used[-1]) + 1)
        weights = np.ascontiguousarray(rows[:, source], dtype=np.float32)
        found.append(Band(slice(start, start + len(rows)), source, weights, unchanged=False))
    return tuple(found)


def _row_blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, _ROWS):
        yield slice(start, min(start + _ROWS, length))


def linear_taps(inputs: int, outputs: int, order: int) -> tuple[Tap, ...]:
    """For each output index the inputs it is blended from, for order 0 or 1.

    Raises:
        ValueError: a higher order, which needs more than two inputs.
    """
    if order > 1:
        raise ValueError(f"taps exist for order 0 and 1, not {order}")
    found = []
    for row in spline_matrix(inputs, outputs, order):
        used = np.flatnonzero(np.abs(row) > _NEGLIGIBLE)
        first, last = int(used[0]), int(used[-1])
        found.append(Tap(first, last, float(row[first]), float(row[last])))
    return tuple(found)


def voxel_taps(inputs: int, outputs: int, order: int) -> VoxelTaps:
    """Collect the inputs of each output for order 0 or 1, weighed to the last digit as in SciPy.

    Beyond an edge SciPy takes the edge's voxel twice, and adds two shares of it up.
    """
    if order == 0:
        first = np.array([tap.first for tap in linear_taps(inputs, outputs, 0)], np.intp)
        return VoxelTaps(np.stack([first, first], axis=1), np.tile([1.0, 0.0], (outputs, 1)))
    at = (np.arange(outputs) + 0.5) * (inputs / outputs) - 0.5
    before = np.floor(at)
    share = at - before
    indices = np.clip(np.stack([before, before + 1], axis=1).astype(np.intp), 0, inputs - 1)
    return VoxelTaps(indices, np.stack([1 - share, share], axis=1))


def blend_voxels(
    planes: Sequence[tuple[NDArray[Any], float]], rows: VoxelTaps, columns: VoxelTaps
) -> NDArray[np.float64]:
    """Interpolate at single voxels, in float64 and in the order of SciPy's ``ndimage.zoom``.

    Sums of halves often lie in the middle between two halves. There the last digit decides, so
    products and sums have to follow in the same order.

    Args:
        planes: one or two of logits (classes, rows, columns), with their weights.
        rows, columns: the taps of each voxel.

    Returns:
        (classes, voxels).
    """
    total = np.zeros((len(planes[0][0]), len(rows.indices)))
    for (plane, weight), i, j in itertools.product(planes, range(2), range(2)):
        part = plane[:, rows.indices[:, i], columns.indices[:, j]].astype(np.float64)
        for factor in (weight, rows.weights[:, i], columns.weights[:, j]):
            part *= factor
        total += part
    return total


def resize_columns(x: NDArray[Any], outputs: int, order: int) -> NDArray[Any]:
    """Resize the last axis: (…, n) → (…, outputs), float32."""
    if x.shape[-1] == outputs:
        return x
    return apply_columns(x, spline_bands(x.shape[-1], outputs, order))


def apply_columns(x: NDArray[Any], columns: Sequence[Band]) -> NDArray[Any]:
    """Consecutive bands along the last axis, whose inputs ``x`` holds from the first one's on."""
    first, start = columns[0].target.start, columns[0].source.start
    out = np.empty((*x.shape[:-1], columns[-1].target.stop - first), dtype=np.float32)
    for band in columns:
        source = slice(band.source.start - start, band.source.stop - start)
        target = slice(band.target.start - first, band.target.stop - first)
        np.matmul(x[..., source], band.weights.T, out=out[..., target])
    return out


def resize_rows(x: NDArray[Any], out: NDArray[Any], order: int) -> None:
    """Resize the first axis of (n, …) into ``out`` (m, …); both contiguous float32."""
    if len(x) == len(out):
        np.copyto(out, x)
        return
    flat, flat_out = x.reshape(len(x), -1), out.reshape(len(out), -1)
    for band in spline_bands(len(x), len(out), order):
        np.matmul(band.weights, flat[band.source], out=flat_out[band.target])


def resize_slabs(
    parts: Iterable[Planes],
    shape: tuple[int, ...],
    out: Image,
    how: Scheme,
    *,
    threads: int = 1,
) -> None:
    """Resample an image, which comes a few planes at a time, as nnU-Net resamples images.

    The result is clipped to the range of the input (of each slice, in separate-z), which
    matters for order 3.

    Args:
        parts: the image's planes in their order, float32; they are left as they are.
        shape: the image's.
        out: takes the result, 3-D float32.
        how: orders, and the axis that is resampled apart.
        threads: number of slices to resample concurrently.
    """
    if shape == out.shape:
        for planes, values in parts:
            out[planes] = values
    elif how.separate_axis is None:
        _resize_whole(parts, shape[0], out, how.orders[0], threads)
    elif how.separate_axis == 0:
        _resize_slices(parts, shape[0], out, (how.orders[1], how.orders[0]), threads)
    else:
        # Its slices lie across all planes.
        axis = how.separate_axis
        volume = np.empty(shape, np.float32)
        for planes, values in parts:
            volume[planes] = values
        turned, target = HeldImage(np.moveaxis(volume, axis, 0)), np.moveaxis(out, axis, 0)
        orders = (how.orders[(axis + 1) % 3], how.orders[axis])
        _resize_slices(turned.slabs(), shape[axis], target, orders, threads)


def _resize_whole(
    parts: Iterable[Planes], length: int, out: Image, order: int, threads: int
) -> None:
    middle = np.empty((length, *out.shape[1:]), np.float32)
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for planes, values in parts:
        target = middle[planes]
        _run(partial(_resize_one, values, target, order), range(len(target)), threads)
        low, high = min(low, values.min()), max(high, values.max())
    resize_rows(middle, out, order)
    np.clip(out, low, high, out=out)


def _resize_one(planes: Image, out: Image, order: int, index: int) -> None:
    _resize_plane(planes[index], out[index], order)


def _clip_one(planes: Image, out: Image, order: int, pair: tuple[int, int]) -> None:
    source, target = pair
    _clipped_plane(planes[source], out[target], order)


def _resize_slices(
    parts: Iterable[Planes], length: int, target: Image, orders: tuple[int, int], threads: int
) -> None:
    """Resize slices one by one by the first order, and then across them by the second."""
    order, order_z = orders
    if order_z == 0:
        nearest = [tap.first for tap in linear_taps(length, len(target), 0)]
        out = target
    else:
        nearest = list(range(length))
        out = np.empty((length, *target.shape[1:]), np.float32)
    for planes, values in parts:
        pairs = [
            (source - planes.start, index)
            for index, source in enumerate(nearest)
            if planes.start <= source < planes.stop
        ]
        _run(partial(_clip_one, values, out, order), pairs, threads)
    if order_z != 0:
        blended = np.empty(target.shape, np.float32)
        resize_rows(out, blended, order_z)
        np.copyto(target, blended)


def _clipped_plane(plane: Image, out: Image, order: int) -> None:
    _resize_plane(plane, out, order)
    np.clip(out, plane.min(), plane.max(), out=out)


def _resize_plane(plane: Image, out: Image, order: int) -> None:
    tall = np.empty((out.shape[0], plane.shape[1]), np.float32)
    resize_rows(np.ascontiguousarray(plane), tall, order)
    np.copyto(out, resize_columns(tall, out.shape[1], order))


def _run(task: Callable[[Any], None], items: Sequence[Any], threads: int) -> None:
    if threads <= 1 or len(items) <= 1:
        for item in items:
            task(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(task, items):
            pass
