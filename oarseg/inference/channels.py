"""The network's input channels, built alike for training and for inference."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.cases.case import Case
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError, NonFiniteError
from oarseg.imaging.files import read_scan
from oarseg.imaging.intensities import standardise_mr
from oarseg.imaging.orientation import Turn, for_networks
from oarseg.imaging.regrid import MovedImage
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.slabs import SlabImage, constant_image
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid, Volume
from oarseg.model.conditioning import Conditioning, prepared_conditioning
from oarseg.model.entries.channels import ChannelRecipe

# Stands beyond the field of a CT that is resampled onto the reference's grid.
OUTSIDE_CT_HU = -1000
# Headers round; voxels that lie closer than this lie on one grid.
SAME_GRID_MM = 1e-2

Align = Callable[[ChannelRecipe, Volume, Volume], Transform | None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaseImages:
    """A case's images, with their axes in the order that the challenge's networks know.

    Attributes:
        stored: the reference image's grid as its file has it.
        turn: from the stored reference image to the one in ``volumes``.
        volumes: channel name → image, treated as the model's training images were.
    """

    stored: Grid
    turn: Turn
    volumes: dict[str, Volume]


def read_images(
    case: Case,
    challenge: Challenge,
    channels: Collection[str],
    *,
    optional: Collection[str] = (),
    limits: read_scan.Limits | None = None,
    assume_hu: bool = False,
    conditioning: Conditioning | None = None,
    warn: read_scan.Warn = log.warning,
) -> CaseImages:
    """Read the reference image and the images of some channels; turn their axes.

    Args:
        case: names the files.
        challenge: names the reference and each image's modality.
        channels: names of channels; those that the case lacks are left out.
        optional: channels to leave out, with a warning, where their image holds NaN or
            infinities.
        limits: what the headers may promise.
        assume_hu: take a CT's values for Hounsfield units, whatever they look like.
        conditioning: what to change in the images; None for what ``prepare`` does.
        warn: called with what was changed that a user may not expect.

    Raises:
        InputError: an image cannot be read or used; see ``read_scan``.
        ResourceError: an image would not fit into memory.
    """
    how = conditioning or prepared_conditioning(challenge)
    reader = _Reader(how, _fitting(limits, how, challenge), assume_hu, warn)

    def read(name: str) -> Volume | None:
        try:
            return reader.read(case.source(name), challenge.socket(name).modality)
        except NonFiniteError as error:
            if name not in optional:
                raise
            warn(f"{name} not used: {error}")
            return None

    def turned(image: Volume) -> Volume:
        return for_networks(image.grid, how.axes).volume(image)

    reference = challenge.reference
    ct = reader.read(case.source(reference.channel), reference.modality)
    stored, volumes = ct.grid, {reference.channel: turned(ct)}
    if how.axes == "RAS" and _says_no_orientation(stored):
        warn(
            f"{case.files[reference.channel].name}: its header gives no orientation: x is taken as "
            "left and y as back, as ITK does, where nnU-Net's Nibabel readers take y as front"
        )
    del ct
    for name in channels:
        if name in volumes or name not in case.files or (image := read(name)) is None:
            continue
        volumes[name] = turned(image)
        if (reference.modality, challenge.socket(name).modality) == ("CT", "MR"):
            reader.compare(volumes[reference.channel], volumes[name], case.files[name])
    return CaseImages(stored, for_networks(stored, how.axes), volumes)


def _says_no_orientation(grid: Grid) -> bool:
    header = grid.nifti
    return header is not None and (header.qform, header.sform) == (0, 0)


def _fitting(
    limits: read_scan.Limits | None, how: Conditioning, challenge: Challenge
) -> read_scan.Limits:
    """Allow single slices and empty channels for models that take images as they are.

    A registration needs more to see.
    """
    given = limits or read_scan.Limits()
    if how.clip_hu or any(is_registered(s.channel, challenge) for s in challenge.sockets):
        return given
    return replace(given, shortest=1, flat=True)


@dataclass(frozen=True)
class _Reader:
    """Reads images of any modality, and changes in them what the model wants changed.

    An MR that looks like a CT is refused where images are conditioned. A model that was trained
    on images as they are gets its own as they are, and the user a warning.
    """

    how: Conditioning
    limits: read_scan.Limits | None
    assume_hu: bool
    warn: read_scan.Warn

    def read(self, source: read_scan.ImageSource, modality: str) -> Volume:
        path = read_scan.source_path(source)
        image = read_scan.read_volume(source, limits=self.limits, warn=self.warn)
        if modality == "MR":
            self._doubt(lambda: read_scan.check_mr(image, path))
        if modality != "CT":
            return image
        how, warn = self.how, self.warn
        padded = not how.padding_is_air
        read_scan.judge_ct(image, path, assume_hu=self.assume_hu, zero_is_fill=padded, warn=warn)
        return read_scan.condition_ct(
            image, path, clip=how.clip_hu, padding_is_air=how.padding_is_air, warn=warn
        )

    def compare(self, ct: Volume, mr: Volume, path: Path) -> None:
        self._doubt(lambda: read_scan.check_distinct(ct, mr, path))

    def _doubt(self, check: Callable[[], object]) -> None:
        try:
            check()
        except InputError as error:
            if self.how.clip_hu:
                raise
            self.warn(f"{error}; it is used as it is")


def is_registered(name: str, challenge: Challenge) -> bool:
    """Whether a channel's image has to be registered to the reference image."""
    socket = challenge.socket(name)
    return not socket.reference and socket.placed == "registered"


def build_channels(
    volumes: dict[str, Volume],
    recipes: Sequence[ChannelRecipe],
    challenge: Challenge,
    *,
    files: Mapping[str, Path],
    align: Align,
    resample: bool,
) -> list[NDArray[Any] | SlabImage]:
    """Build the channels, each (z, y, x) on the reference image's grid.

    The reference image keeps its values and its dtype: the network's own normalisation
    clips them. A registered image is float32, and is computed as its slabs are asked for.

    Args:
        volumes: see ``CaseImages``. Emptied, so that each image is freed once it is used.
        recipes: the channels, in the model's order.
        challenge: says how each image comes onto the reference's grid.
        files: channel name → file, for messages.
        align: called with recipe, reference and moving image; returns the transform from
            the reference's world to the other's, or None where that cannot be found and
            the channel is to be absent.
        resample: bring images that should lie on the reference's grid onto it.

    Raises:
        InputError: such an image lies on another grid, and ``resample`` is not set.
    """
    reference = challenge.reference.channel
    ct = volumes.pop(reference)
    channels: list[NDArray[Any] | SlabImage] = []
    for recipe in recipes:
        image = volumes.pop(recipe.name, None)
        if recipe.name == reference:
            channels.append(windowed(ct.array, recipe))
        elif image is None:
            channels.append(constant_image(ct.grid.shape, recipe.absent_value))
        elif is_registered(recipe.name, challenge):
            transform = align(recipe, ct, image)
            channels.append(
                constant_image(ct.grid.shape, recipe.absent_value)
                if transform is None
                else mr_channel(image, transform, ct.grid, recipe)
            )
        else:
            is_ct = challenge.socket(recipe.name).modality == "CT"
            channels.append(
                aligned_channel(
                    image,
                    ct.grid,
                    path=files[recipe.name],
                    outside=OUTSIDE_CT_HU if is_ct else recipe.absent_value,
                    resample=resample,
                )
            )
    return channels


def windowed(ct: NDArray[Any], recipe: ChannelRecipe) -> NDArray[Any]:
    """Clip a CT to a channel's window; the CT itself without one. The dtype stays."""
    if recipe.window_hu is None:
        return ct
    clipped = np.empty_like(ct)
    # Plane by plane: NumPy clips whole numbers to real bounds in 8 bytes each.
    for plane, out in zip(ct, clipped, strict=True):
        out[...] = np.clip(plane, *recipe.window_hu)
    return clipped


def mr_channel(mr: Volume, transform: Transform, grid: Grid, recipe: ChannelRecipe) -> MovedImage:
    """Resample an MR onto the CT's grid, (z, y, x) float32.

    Args:
        mr: as read.
        transform: CT world → MR world.
        grid: the CT's.
        recipe: says how intensities are standardised and what stands outside the MR.
    """
    source = standardise_mr(mr) if recipe.standardise == "mean_one" else mr
    return MovedImage(source, transform, grid, outside=recipe.absent_value)


def aligned_channel(
    image: Volume, grid: Grid, *, path: Path, outside: float, resample: bool
) -> NDArray[Any] | SlabImage:
    """Take an image that should lie on the reference's grid already.

    Args:
        image: as read.
        grid: the reference's.
        path: the image's file, for messages.
        outside: what stands beyond the image's field where it is resampled.
        resample: bring it onto the grid, by linear interpolation, if it lies on another.

    Raises:
        InputError: it lies on another grid, and ``resample`` is not set.
    """
    if image.grid.matches(grid, tolerance_mm=SAME_GRID_MM):
        return image.array
    if not resample:
        raise InputError(
            f"{path}: expected the reference image's grid, {grid.text}, found "
            f"{image.grid.text}; resample it onto that grid, or pass --resample"
        )
    return MovedImage(image, RigidTransform(), grid, outside=outside)
