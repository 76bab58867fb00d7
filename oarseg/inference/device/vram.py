"""Forecasts the memory that a case takes on a GPU, and chooses where its sums lie."""

from __future__ import annotations

import math
from typing import Literal

from oarseg.inference.preprocessing import Placement
from oarseg.inference.tiling import lay_tiles
from oarseg.model.manifest import Manifest

Sums = Literal["separate", "joint"]

# Of the GPU's free memory, which is measured when the networks have run and hold what they need:
# the pool cannot use every gap.
USABLE_SHARE = 0.9
_HALF, _FLOAT = 2, 4


def tile_bytes(manifest: Manifest, *, answers: int) -> int:
    """Count the bytes of a tile and of its logits, float32, as the networks' buffers hold them."""
    arrays = manifest.inputs + answers * len(manifest.labels)
    return _FLOAT * arrays * math.prod(manifest.patch_size)


def case_bytes(
    place: Placement, manifest: Manifest, *, folds: int, joint: bool, mirror: bool = False
) -> int:
    """Forecast the bytes that a case takes besides the networks and their buffers.

    Args:
        place: the network's grid and the image's.
        manifest: the model.
        folds: how many are computed.
        joint: they share one sum, of their mean.
        mirror: logits are averaged over flips, in another buffer.
    """
    window = lay_tiles(place.network_shape, manifest.patch_size)
    classes, patch = len(manifest.labels), math.prod(window.patch)
    sums = 1 if joint else folds
    slots = window.patch[0] * window.shape[1] * window.shape[2]
    ring = _HALF * slots * (sums * classes + 1)
    planes = 2 * _HALF * classes * math.prod(place.network_shape[1:])
    labels = math.prod(place.crop_shape[1:])
    tile = _FLOAT * patch * (manifest.inputs + sums * classes * mirror)
    return ring + planes + labels + tile + (_HALF + _FLOAT) * patch


def choose_sums(
    free: int,
    place: Placement,
    manifest: Manifest,
    *,
    folds: int,
    joint: bool = False,
    mirror: bool = False,
) -> Sums | None:
    """Choose the sums that fit into a GPU's free memory: each fold's own, else one of all.

    Args:
        free: bytes.
        joint: one sum is enough.

    Returns:
        None if not even one fits: then they have to lie on the host.
    """
    room = USABLE_SHARE * free
    options: tuple[Sums, ...] = ("joint",) if joint or folds == 1 else ("separate", "joint")
    for found in options:
        need = case_bytes(place, manifest, folds=folds, joint=found == "joint", mirror=mirror)
        if need <= room:
            return found if folds > 1 else "separate"
    return None
