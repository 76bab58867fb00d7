"""What a case will take in memory at its peak, from its grid alone.

Arithmetic over the arrays that each step holds; ``test/test_memory.py`` compares it with
what a process really took.
"""

from __future__ import annotations

import math

from oarseg.imaging.grids import FINE_MM
from oarseg.imaging.volume import Grid
from oarseg.inference.preprocessing import IndexBox, Placement, network_placement
from oarseg.inference.streaming import buffer_bytes
from oarseg.model.manifest import Manifest
from oarseg.system.memory import Need

FLOAT = 4
# Threads' stacks, allocators that keep what they had, NumPy's temporaries.
SLACK = 64 << 20
# Copies of the CT at ``FINE_MM`` and coarser that registration holds, in float32.
_FINE_COPIES = 4


def forecast_memory(
    grid: Grid,
    *,
    manifest: Manifest,
    box: IndexBox,
    mr_voxels: int,
    images_bytes: int,
    activations: int,
) -> Need:
    """The larger of what comes before the network and what comes with it.

    Args:
        grid: the CT's.
        manifest: the model.
        box: what of the CT is kept, (z, y, x).
        mr_voxels: of all MRs, as read; 0 without any.
        images_bytes: of CT and MRs as read, which the process holds already.
        activations: bytes that a network takes while it runs and gives back.

    Raises:
        InputError: the CT is too small for the model's spacing.
    """
    place = network_placement(grid.shape, grid.spacing_mm, manifest, box)
    moved = FLOAT * grid.voxels * (len(manifest.channels) - 1)
    before = moved + _input_bytes(place, manifest) + _crop_bytes(place)
    registering = moved + 2 * FLOAT * mr_voxels + _fine_bytes(grid) if mr_voxels else 0
    # By then the images are gone.
    with_network = _input_bytes(place, manifest) + grid.voxels - images_bytes
    # The engines' own tile of logits is there since they were opened.
    tiles = 1 if len(manifest.folds) > 1 or manifest.mirror_axes else 0
    fixed = SLACK + buffer_bytes(place.network_shape, manifest, tiles=tiles) + activations
    scaling = max(before - fixed, registering - fixed, with_network, 0)
    slices = grid.shape[0]
    return Need("segmenting this CT", fixed, math.ceil(scaling / slices), slices)


def _input_bytes(place: Placement, manifest: Manifest) -> int:
    return FLOAT * len(manifest.channels) * math.prod(place.network_shape)


def _crop_bytes(place: Placement) -> int:
    """One channel before resampling, and half way through it."""
    if place.crop_shape == place.network_shape:
        return 0
    middle = place.crop_shape[0] * place.network_shape[1] * place.network_shape[2]
    return FLOAT * (math.prod(place.crop_shape) + middle)


def _fine_bytes(grid: Grid) -> int:
    voxel_mm3 = math.prod(max(FINE_MM, mm) for mm in grid.spacing_mm)
    return round(_FINE_COPIES * FLOAT * grid.voxels * grid.voxel_volume_mm3 / voxel_mm3)
