"""Forecast a case's peak memory from its grids.

The forecast adds up the arrays that each step holds; ``test/system/test_memory.py`` compares it
with the measured peak of a process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from oarseg.imaging.grids import FINE_MM
from oarseg.imaging.slabs import SLAB
from oarseg.imaging.volume import Grid
from oarseg.inference.configurations.case_input import see_the_same
from oarseg.inference.preprocessing import IndexBox, Placement, network_placement
from oarseg.inference.resampling import choose_scheme
from oarseg.inference.streaming import buffer_bytes
from oarseg.model.manifest import Manifest
from oarseg.system.memory import Need

FLOAT = 4
# Stacks of threads, memory that allocators keep, temporaries of NumPy.
SLACK = 64 << 20
# Copies of the CT that registration holds at ``FINE_MM`` and coarser, float32.
_FINE_COPIES = 4
# Elastix and what of ITK it needs, from the first registration on.
_ELASTIX = 160 << 20
# Slabs in work: an image's, ITK's answer for it, and the normalised one.
_SLABS = 3


def forecast_memory(
    grid: Grid,
    *,
    manifest: Manifest,
    box: IndexBox,
    mr_voxels: int,
    images_bytes: int,
    activations: int,
    joint: bool = False,
    sums_on_host: bool = True,
) -> Need:
    """Forecast the larger of the peaks before and during the network's run.

    Args:
        grid: the CT's.
        manifest: the model.
        box: the part of the CT that is segmented, (z, y, x).
        mr_voxels: voxels of all MRs as read; 0 without an MR.
        images_bytes: size of the CT and the MRs as read, which are in memory already.
        activations: bytes that a network allocates while it runs and frees afterwards.
        joint: all folds share one sum.
        sums_on_host: sums and planes lie in the host's memory, not in a GPU's.

    Raises:
        InputError: the CT is too small for the model's spacing.
    """
    networks = manifest.networks
    places = [network_placement(grid.shape, grid.spacing_mm, each, box) for each in networks]
    pairs = list(zip(places, networks, strict=True))
    libraries = _ELASTIX if mr_voxels else 0
    inputs = _input_bytes(pairs)
    before = inputs + max(_resizing_bytes(*pair) for pair in pairs) + libraries
    before += FLOAT * mr_voxels + _moved_bytes(grid, manifest)
    registering = 2 * FLOAT * mr_voxels + _fine_bytes(grid) + libraries if mr_voxels else 0
    # The images have been freed by then.
    with_network = inputs + grid.voxels - images_bytes + libraries
    fixed = SLACK + activations
    if sums_on_host:
        fixed += _sums_bytes(pairs, joint=joint)
    scaling = max(SLACK + before - fixed, SLACK + registering - fixed, with_network, 0)
    slices = grid.shape[0]
    return Need("segmenting this CT", fixed, math.ceil(scaling / slices), slices)


Placed = tuple[Placement, Manifest]


def _input_bytes(pairs: Sequence[Placed]) -> int:
    """Size of what the networks see; configurations that see the same share an array."""
    total = 0
    for number, (place, manifest) in enumerate(pairs):
        voxels = math.prod(place.network_shape)
        if not any(see_the_same(other, manifest) for _, other in pairs[:number]):
            total += FLOAT * len(manifest.channels) * voxels
        if manifest.stage is not None:
            # The map of the stage before, on the cascade's grid and on the image's.
            total += voxels + math.prod(place.crop_shape)
    return total


def _sums_bytes(pairs: Sequence[Placed], *, joint: bool) -> int:
    """Size of the sums of the configurations that run together, or of a stage before if larger."""
    sums = [_buffer_bytes(place, manifest, joint=joint) for place, manifest in pairs]
    stages = [manifest.stage is not None for _, manifest in pairs[1:]]
    alone = [size for size, stage in zip(sums, [*stages, False], strict=True) if stage]
    together = sum(sums) - sum(alone)
    return max([together, *alone])


def _buffer_bytes(place: Placement, manifest: Manifest, *, joint: bool) -> int:
    # The engines have their own tile of logits, or of sums, since they were opened and run once.
    folds = len(manifest.folds)
    tiles = 1 if (joint and folds > 1) or manifest.mirror_axes else 0
    sums = 1 if joint else folds
    # A cascade's channels of the stage before, of one tile.
    hints = 0 if manifest.stage is None else len(manifest.stage.labels)
    shown = FLOAT * hints * math.prod(manifest.patch_size)
    return shown + buffer_bytes(place.network_shape, manifest, sums=sums, tiles=tiles)


def _resizing_bytes(place: Placement, manifest: Manifest) -> int:
    """Size of what is held while one channel comes into the network's grid, slab by slab."""
    slabs = _SLABS * FLOAT * min(SLAB, place.shape[0]) * place.shape[1] * place.shape[2]
    if place.crop_shape == place.network_shape:
        return slabs
    how = choose_scheme(manifest.data_resampling, place.crop_spacing_mm, place.network_spacing_mm)
    crop, network = place.crop_shape, place.network_shape
    if how.separate_axis in (1, 2):
        return slabs + FLOAT * (math.prod(crop) + math.prod(network))
    return slabs + FLOAT * crop[0] * network[1] * network[2]


def _moved_bytes(grid: Grid, manifest: Manifest) -> int:
    """Size of channels that are held whole, because their planes are not the network's."""
    if manifest.transpose_forward == (0, 1, 2):
        return 0
    return FLOAT * grid.voxels * (len(manifest.channels) - 1)


def _fine_bytes(grid: Grid) -> int:
    voxel_mm3 = math.prod(max(FINE_MM, mm) for mm in grid.spacing_mm)
    return round(_FINE_COPIES * FLOAT * grid.voxels * grid.voxel_volume_mm3 / voxel_mm3)
