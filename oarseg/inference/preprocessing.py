"""Brings images to the network's input grid, and records the way back.

Follows ``DefaultPreprocessor.run_case_npy`` of nnU-Net 2.8.1: transpose, crop to non-zero,
normalise each channel, resample. All arithmetic is in float32. Images are gone through a few planes
at a time, and a model that takes its statistics from an image goes through it more than once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.errors import InputError
from oarseg.imaging.arrays import Labels, Mask, Triple
from oarseg.imaging.slabs import HeldImage, Planes, SlabImage, crop_slabs, whole_image
from oarseg.imaging.volume import Shape, Vector
from oarseg.inference import resampling
from oarseg.inference.tiling import Tiling, cut_tile
from oarseg.model.entries.channels import Normalisation
from oarseg.model.entries.networks import Stage
from oarseg.model.manifest import Manifest

Interval = tuple[int, int]
IndexBox = tuple[Interval, Interval, Interval]

_EPSILON = 1e-8
# Normalisations that take nothing from the image.
_FIXED = ("ct", "none")


@dataclass(frozen=True)
class Placement:
    """Maps the network's grid to the image's.

    Attributes:
        shape, spacing_mm: the image's grid, (z, y, x).
        transpose: axis i of the network is axis ``transpose[i]`` of the image.
        box: the part that was kept, half-open intervals along the network's axes.
        network_shape, network_spacing_mm: after resampling, along the network's axes.
    """

    shape: Shape
    spacing_mm: Vector
    transpose: Triple
    box: IndexBox
    network_shape: Shape
    network_spacing_mm: Vector

    @property
    def crop_shape(self) -> Shape:
        """Voxels of the box along the network's axes, before resampling."""
        a, b, c = (stop - start for start, stop in self.box)
        return a, b, c

    @property
    def crop_spacing_mm(self) -> Vector:
        """The image's spacing along the network's axes."""
        return permute_axes(self.spacing_mm, self.transpose)

    def view(self, array: NDArray[Any]) -> NDArray[Any]:
        """The box within an array on the image's grid, in the network's axis order."""
        return array.transpose(self.transpose)[_slices(self.box)]


@dataclass(frozen=True)
class Hint:
    """The label map of the stage before, which a cascade sees as one channel for each label.

    Attributes:
        map: on the network's grid; filled once that stage has run.
        labels: the values that have a channel, in order.
        outside: where every image is 0 in the part that was kept, (z, y, x) of the network before
            resampling: nnU-Net's label −1. None if there is no such voxel.
    """

    map: Labels
    labels: tuple[int, ...]
    outside: Mask | None = None


@dataclass(frozen=True)
class NetworkInput:
    """What the network sees: (channels, *network_shape) float32, and its place.

    Attributes:
        hint: more channels, of a cascade.
    """

    data: NDArray[np.float32]
    placement: Placement
    hint: Hint | None = None

    @property
    def channels(self) -> int:
        """Number of channels, with those of the stage before."""
        return len(self.data) + (len(self.hint.labels) if self.hint else 0)

    def cut(self, window: Tiling, start: Shape, out: NDArray[Any]) -> None:
        """Copy one tile into ``out`` (channels, *patch), zeros outside the image."""
        count = len(self.data)
        cut_tile(self.data, window, start, out[:count])
        if self.hint is None:
            return
        labels = np.zeros((1, *window.patch), np.uint8)
        cut_tile(self.hint.map[None], window, start, labels)
        for channel, value in zip(out[count:], self.hint.labels, strict=True):
            np.equal(labels[0], value, out=channel, casting="unsafe")


@dataclass(frozen=True)
class _Map:
    """Intensities: clip to [lower, upper] if given, subtract, divide."""

    subtract: float = 0.0
    divide: float = 1.0
    clip: tuple[float, float] | None = None
    mask: Mask | None = None


def permute_axes(values: tuple[Any, Any, Any], order: Triple) -> tuple[Any, Any, Any]:
    """Reorder values along three axes."""
    return values[order[0]], values[order[1]], values[order[2]]


def preprocess(
    channels: Sequence[NDArray[Any] | SlabImage],
    grid_spacing_mm: Vector,
    manifest: Manifest,
    *,
    box: IndexBox | None = None,
    threads: int = 1,
) -> NetworkInput:
    """Convert a case's images, all on one grid, to the network's input.

    Args:
        channels: one image (z, y, x) for each channel of the manifest, in its order.
        grid_spacing_mm: voxel spacing (z, y, x).
        manifest: the model.
        box: keep this part, half-open intervals along (z, y, x), instead of nnU-Net's
            crop to non-zero. Intensity statistics are still those of nnU-Net's crop, so that
            the values do not depend on the box.
        threads: number of slices to resample concurrently.

    Raises:
        InputError: channels are missing, differ in shape, or cannot be normalised or
            resampled; the box is empty or outside the image.
    """
    _check(channels, manifest, box)
    order = manifest.transpose_forward
    images = [_along_network(channel, order) for channel in channels]
    measured = any(c.normalisation.scheme not in _FIXED for c in manifest.channels)
    found = nonzero_box(images) if box is None or measured else None
    if box is None and found is not None:
        # ``found`` is along the network's axes.
        box = permute_axes(found, (order.index(0), order.index(1), order.index(2)))
    depth, height, width = channels[0].shape
    kept = box or ((0, depth), (0, height), (0, width))
    place = network_placement((depth, height, width), grid_spacing_mm, manifest, kept)
    mask = _filled(images) if any(c.normalisation.use_mask for c in manifest.channels) else None
    how = resampling.choose_scheme(
        manifest.data_resampling, place.crop_spacing_mm, place.network_spacing_mm
    )
    data = np.empty((len(images), *place.network_shape), np.float32)
    for image, channel, out in zip(images, manifest.channels, data, strict=True):
        intensity = _intensity_map(image, channel.normalisation, mask, found or place.box)
        parts = _normalised(image, place.box, intensity)
        resampling.resize_slabs(parts, place.crop_shape, out, how, threads=threads)
    return NetworkInput(data, place)


def make_hint(channels: Sequence[NDArray[Any] | SlabImage], place: Placement, stage: Stage) -> Hint:
    """Make room for the label map of the stage before a cascade.

    Args:
        channels: as for ``preprocess``.
        place: of the cascade's input.
        stage: of the cascade.
    """
    images = [_along_network(channel, place.transpose) for channel in channels]
    empty = np.zeros(place.network_shape, np.uint8)
    return Hint(empty, stage.labels, _outside(images, place.box))


def _outside(images: Sequence[SlabImage], box: IndexBox) -> Mask | None:
    """Find the voxels of a box that are 0 in every image and in no hole; None without any."""
    for image in images:
        if all((part != 0).all() for _, part in crop_slabs(image, box)):
            return None
    outside = ~_filled(images)[_slices(box)]
    return outside if outside.any() else None


def _along_network(channel: NDArray[Any] | SlabImage, order: Triple) -> SlabImage:
    """Order an image's axes as the network's; what is computed in slabs is held if they differ."""
    if isinstance(channel, np.ndarray) or order != (0, 1, 2):
        return HeldImage(whole_image(channel).transpose(order))
    return channel


def _check(
    channels: Sequence[NDArray[Any] | SlabImage], manifest: Manifest, box: IndexBox | None
) -> None:
    expected = ", ".join(channel.name for channel in manifest.channels)
    if len(channels) != len(manifest.channels):
        raise InputError(f"expected the images {expected}, found {len(channels)} image(s)")
    shapes = sorted({channel.shape for channel in channels})
    if len(shapes) > 1 or len(shapes[0]) != 3:
        raise InputError(f"expected {expected} as 3-D images on one grid, found shapes {shapes}")
    if box is not None and any(
        not 0 <= start < stop <= length
        for (start, stop), length in zip(box, shapes[0], strict=True)
    ):
        raise InputError(f"box {box} is empty or outside the image of {shapes[0]} voxels")


def network_placement(
    shape: tuple[int, ...], spacing_mm: Vector, manifest: Manifest, kept: IndexBox
) -> Placement:
    """Place a part of an image on the network's grid.

    Args:
        shape, spacing_mm: the image's, (z, y, x).
        manifest: the model.
        kept: half-open intervals along (z, y, x).

    Raises:
        InputError: an axis has no voxel at the model's spacing.
    """
    order = manifest.transpose_forward
    box = permute_axes(kept, order)
    crop = (box[0][1] - box[0][0], box[1][1] - box[1][0], box[2][1] - box[2][0])
    image_mm = permute_axes(spacing_mm, order)
    network_mm = manifest.network_spacing_mm(image_mm)
    network = resampling.new_shape(crop, image_mm, network_mm)
    return Placement((shape[0], shape[1], shape[2]), spacing_mm, order, box, network, network_mm)


def nonzero_box(images: Sequence[SlabImage]) -> IndexBox:
    """Bound the voxels that are not 0 in at least one image; the whole image if there are none.

    nnU-Net fills holes first, which does not change the bounding box.
    """
    seen = [np.zeros(length, bool) for length in images[0].shape]
    for image in images:
        for planes, values in image.slabs():
            for index, plane in enumerate(values != 0, planes.start):
                seen[0][index] |= plane.any()
                seen[1] |= plane.any(axis=1)
                seen[2] |= plane.any(axis=0)
        if all(axis[0] and axis[-1] for axis in seen):
            # Nothing can enlarge it, and the next image may have to be computed.
            break
    a, b, c = (_extent(axis) for axis in seen)
    return a, b, c


def _extent(seen: Mask) -> Interval:
    used = np.flatnonzero(seen)
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, len(seen))


def _filled(images: Sequence[SlabImage]) -> Mask:
    mask = np.zeros(images[0].shape, bool)
    for image in images:
        for planes, values in image.slabs():
            mask[planes] |= values != 0
    return np.asarray(ndimage.binary_fill_holes(mask), bool)


def _intensity_map(image: SlabImage, how: Normalisation, mask: Mask | None, box: IndexBox) -> _Map:
    """Choose how intensities are mapped; statistics are those of the box."""
    if how.scheme == "ct":
        return _Map(how.mean, max(how.std, _EPSILON), (how.lower, how.upper))
    if how.scheme == "zscore":
        inside = mask[_slices(box)] if how.use_mask and mask is not None else None
        mean, std = _moments(image, box, inside)
        return _Map(mean, max(std, _EPSILON), None, mask if how.use_mask else None)
    if how.scheme == "none":
        return _Map()
    ranges = [(part.min(), part.max()) for _, part in crop_slabs(image, box)]
    low, high = np.float32(min(r[0] for r in ranges)), np.float32(max(r[1] for r in ranges))
    if how.scheme == "rescale_0_1":
        return _Map(float(low), max(float(high - low), _EPSILON))
    if low < 0 or high > 255:
        raise InputError(
            f"expected colour values between 0 and 255, found {low:g} to {high:g}; "
            "give the image the model was trained for"
        )
    return _Map(0.0, 255.0)


def _moments(image: SlabImage, box: IndexBox, mask: Mask | None) -> tuple[float, float]:
    """Compute mean and standard deviation in a box in float64, a plane at a time."""

    def total(power: int, centre: float) -> float:
        result = 0.0
        for planes, part in crop_slabs(image, box):
            for index, plane in enumerate(part, planes.start):
                chosen = plane if mask is None else plane[mask[index]]
                values = chosen.astype(np.float32).astype(np.float64) - centre
                result += float(values.sum() if power == 1 else np.vdot(values, values))
        return result

    size = int(np.prod([stop - start for start, stop in box]))
    count = max(size if mask is None else int(np.count_nonzero(mask)), 1)
    mean = total(1, 0.0) / count
    return mean, float(np.sqrt(total(2, mean) / count))


def _normalised(image: SlabImage, box: IndexBox, how: _Map) -> Iterator[Planes]:
    """Yield the slabs of a box, float32, normalised."""
    mask = None if how.mask is None else how.mask[_slices(box)]
    for planes, part in crop_slabs(image, box):
        out = part.astype(np.float32, order="C")
        if how.clip is not None:
            np.clip(out, *how.clip, out=out)
        inside: Any = True if mask is None else mask[planes]
        np.subtract(out, how.subtract, out=out, where=inside)
        np.divide(out, how.divide, out=out, where=inside)
        yield planes, out


def _slices(box: IndexBox) -> tuple[slice, slice, slice]:
    a, b, c = (slice(start, stop) for start, stop in box)
    return a, b, c
