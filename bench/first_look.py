"""Find roughly where organs lie by a first look with the model's own first network: an experiment.

The body is labelled once, in tiles that hardly overlap: an eighth of one fold's work. What lies
within a margin of anything that was found is the region. There the labels are the body's, to the
last voxel, as every tile that they depend on is computed; elsewhere they are background.
``localiser.py`` measures what it saves. It is no part of the product, as that is too little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from oarseg.imaging.arrays import Labels, Mask
from oarseg.imaging.volume import Shape, Vector
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.ensemble import Ensemble
from oarseg.inference.painting import label_logits
from oarseg.inference.preprocessing import NetworkInput, Placement
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import plan_tiles
from oarseg.inference.tiling import Tiling
from oarseg.model.manifest import Manifest

PASS_STEP = 1.0
MARGIN_MM = 10.0
# Finds closer than this belong together.
LINK_MM = 10.0
# Finds apart from all others are taken for false if they are less than this share of the largest
# group and no label has its larger part there.
SMALL_GROUP = 0.1

Indices = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class OrganRegion:
    """Where organs may lie.

    Attributes:
        mask: the part of the body to label.
        tiles: how many tiles the mask depends on.
        look_tiles: how many were computed to find it.
        left_out: voxels that were found and taken for false, counted in each tile.
    """

    mask: BlockMask
    tiles: int
    look_tiles: int
    left_out: int


@dataclass(frozen=True, eq=False)
class Finds:
    """What a first look found: how many voxels of which label in which block.

    Attributes:
        blocks: numbers of blocks of the image, in C order.
        labels, voxels: of each.
    """

    blocks: Indices
    labels: Indices
    voxels: Indices

    @classmethod
    def together(cls, found: Sequence[Indices]) -> Finds:
        """Count voxels, each given as its block's number times 256 and its label."""
        codes, voxels = np.unique(np.concatenate(found), return_counts=True)
        return cls(codes >> 8, codes & 255, voxels)


def find_organ_region(
    net_input: NetworkInput, engine: Engine, manifest: Manifest, body: BlockMask
) -> OrganRegion | None:
    """Find where organs may lie.

    Args:
        net_input: the preprocessed image.
        engine: of the network that looks; tiles and logits on the host. Where it answers for
            several folds, their sum counts.
        manifest: the model.
        body: the patient.

    Returns:
        The blocks of the body within ``MARGIN_MM`` of what was found; None if nothing was.

    Raises:
        InferenceError: logits are NaN or infinite.
    """
    place = net_input.placement
    work = plan_tiles(place, manifest, mask=body, step=PASS_STEP)
    ensemble = Ensemble(net_input, work.window, [engine], joint=True)
    found = [np.empty(0, np.intp)]
    for answer in ensemble.row(tuple(work.tiles())):
        (logits,) = answer.folds
        labels = label_logits(logits, manifest)
        found.append(list_voxels(labels, answer.start, work.window, place, body))
    finds = Finds.together(found)
    if not len(finds.blocks):
        return None
    sides_mm = block_mm(body, place)
    kept = keep_groups(finds, body.blocks.shape, sides_mm)
    seen = np.zeros_like(body.blocks)
    seen.ravel()[finds.blocks[kept]] = True
    mask = replace(body, blocks=body.blocks & near(seen, sides_mm, MARGIN_MM))
    return OrganRegion(
        mask,
        tiles=plan_tiles(place, manifest, mask=mask).count,
        look_tiles=work.count,
        left_out=int(finds.voxels[~kept].sum()),
    )


def list_voxels(
    labels: Labels, start: Shape, window: Tiling, place: Placement, mask: BlockMask
) -> Indices:
    """List the labelled voxels of a tile, each as its block's number times 256 and its label.

    Args:
        labels: of the tile, along the network's axes.
        start: the tile's first voxel in the padded image.
        window: the tiles.
        place: maps the network's grid to the image's.
        mask: says how large blocks are.
    """
    inside = np.argwhere(labels) + np.subtract(start, window.before)
    values = labels[labels != 0]
    kept = ((inside >= 0) & (inside < place.network_shape)).all(axis=1)
    index: list[Indices] = [np.empty(0, np.intp)] * 3
    for axis, voxels in enumerate(inside[kept].T):
        index[place.transpose[axis]] = block_of(axis, place, mask)[voxels]
    blocks = np.ravel_multi_index(tuple(index), mask.blocks.shape)
    codes: Indices = (blocks << 8) + values[kept]
    return codes


def block_of(axis: int, place: Placement, mask: BlockMask) -> Indices:
    """Return the block in which each voxel of the network's grid lies, along one of its axes."""
    fine, coarse = place.crop_shape[axis], place.network_shape[axis]
    centres = ((np.arange(coarse) + 0.5) * fine / coarse).astype(np.intp)
    found: Indices = mask.index(place.transpose[axis])[place.box[axis][0] + centres]
    return found


def block_mm(mask: BlockMask, place: Placement) -> Vector:
    """Return the size of a block, (z, y, x)."""
    z, y, x = (n * mm for n, mm in zip(mask.size, place.spacing_mm, strict=True))
    return z, y, x


def keep_groups(finds: Finds, shape: Shape, sides_mm: Vector) -> Mask:
    """Tell which finds count: not those of small groups far from all others.

    A network that looks once, without the other folds and without overlapping tiles, finds
    crumbs of organs in other places. A group is kept if it is large, or if most of what was found
    of some label lies in it, as a small organ may lie apart from all others.
    """
    seen = np.zeros(shape, bool)
    seen.ravel()[finds.blocks] = True
    groups, count = ndimage.label(near(seen, sides_mm, LINK_MM))
    group = groups.ravel()[finds.blocks]
    kept = np.zeros(count + 1, bool)
    for label in np.unique(finds.labels):
        own = finds.labels == label
        sizes = np.bincount(group[own], finds.voxels[own], count + 1)
        kept |= 2 * sizes >= sizes.sum()
    sizes = np.bincount(group, finds.voxels, count + 1)
    found: Mask = (kept | (sizes >= SMALL_GROUP * sizes.max()))[group]
    return found


def near(seen: Mask, sides_mm: Vector, margin_mm: float) -> Mask:
    """Select the blocks within a margin of others, by their centres, and one block more."""
    away_mm = ndimage.distance_transform_edt(~seen, sampling=sides_mm)
    found: Mask = away_mm <= margin_mm + max(sides_mm)
    return found
