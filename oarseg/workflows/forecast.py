"""Forecast a case's peak memory from its grids.

The forecast adds up the arrays that each step holds; ``test/system/test_memory.py`` compares it
with the measured peak of a process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from oarseg.imaging.grids import FINE_MM
from oarseg.imaging.volume import Grid
from oarseg.inference.configurations.case_input import see_the_same
from oarseg.inference.preprocessing import IndexBox, Placement, network_placement
from oarseg.inference.streaming import buffer_bytes
from oarseg.model.manifest import Manifest
from oarseg.system.memory import Need

FLOAT = 4
# Stacks of threads, memory that allocators keep, temporaries of NumPy.
SLACK = 64 << 20
# Copies of the CT that registration holds at ``FINE_MM`` and coarser, float32.
_FINE_COPIES = 4


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
    inputs = _input_bytes(pairs)
    moved = FLOAT * grid.voxels * (len(manifest.channels) - 1)
    before = moved + inputs + max(_crop_bytes(place) for place in places)
    registering = moved + 2 * FLOAT * mr_voxels + _fine_bytes(grid) if mr_voxels else 0
    # The images have been freed by then.
    with_network = inputs + grid.voxels - images_bytes
    fixed = SLACK + activations
    if sums_on_host:
        fixed += _sums_bytes(pairs, joint=joint)
    scaling = max(before - fixed, registering - fixed, with_network, 0)
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
    # The engines allocated their own tile of logits when they were opened.
    folds = len(manifest.folds)
    tiles = 1 if (joint and folds > 1) or manifest.mirror_axes else 0
    sums = 1 if joint else folds
    # A cascade's channels of the stage before, of one tile.
    hints = 0 if manifest.stage is None else len(manifest.stage.labels)
    shown = FLOAT * hints * math.prod(manifest.patch_size)
    return shown + buffer_bytes(place.network_shape, manifest, sums=sums, tiles=tiles)


def _crop_bytes(place: Placement) -> int:
    """Size of one channel before resampling, and after its first axis."""
    if place.crop_shape == place.network_shape:
        return 0
    middle = place.crop_shape[0] * place.network_shape[1] * place.network_shape[2]
    return FLOAT * (math.prod(place.crop_shape) + middle)


def _fine_bytes(grid: Grid) -> int:
    voxel_mm3 = math.prod(max(FINE_MM, mm) for mm in grid.spacing_mm)
    return round(_FINE_COPIES * FLOAT * grid.voxels * grid.voxel_volume_mm3 / voxel_mm3)
