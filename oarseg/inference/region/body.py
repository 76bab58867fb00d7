"""Finds the body in a CT, so that no network is run on air.

The mask must hold the whole patient but need not be tight. Couch and mask shell are thin and are
removed by opening. Every component as large as a hand is kept, as arms beside the trunk are
components of their own. Enclosed air is filled, and the result is dilated by a margin.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from scipy import ndimage

from oarseg.imaging.arrays import Mask
from oarseg.imaging.grids import COARSE_MM, block_mean
from oarseg.imaging.intensities import AIR_HU, BODY_HU
from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.preprocessing import IndexBox
from oarseg.inference.region.footprint import BlockMask

BOX_MARGIN_MM = 20.0
MASK_MARGIN_MM = 12.0
# Opening removes shells and boards thinner than twice this.
THIN_MM = 8.0
SMALLEST_PIECE_MM3 = 2e4
SMALLEST_BODY_MM3 = 1e5


def find_body(ct: Volume) -> BlockMask | None:
    """Find the patient.

    Args:
        ct: in HU.

    Returns:
        The patient dilated by ``MASK_MARGIN_MM``; None if no body was found.
    """
    coarse = block_mean(ct, spacing_mm=COARSE_MM)
    pieces = _large_components(np.nan_to_num(coarse.array, nan=AIR_HU) > BODY_HU, coarse.grid)
    if pieces is None:
        return None
    size = tuple(
        round(large / small)
        for large, small in zip(coarse.grid.spacing_mm, ct.grid.spacing_mm, strict=True)
    )
    blocks = _dilate(pieces, coarse.grid, MASK_MARGIN_MM)
    return BlockMask(blocks, (size[0], size[1], size[2]), ct.grid.shape)


def _large_components(tissue: Mask, grid: Grid) -> Mask | None:
    """Keep the large components of tissue, without thin structures and with holes filled."""
    thin = max(1, round(THIN_MM / max(grid.spacing_mm[1:])))
    # The body continues beyond the field of view, so the image is padded with its edge.
    padded = np.pad(tissue, thin, mode="edge")
    inner = (slice(thin, -thin),) * 3
    opened = ndimage.binary_opening(padded, iterations=thin)[inner]
    labels, _ = ndimage.label(opened)
    volumes = np.bincount(labels.ravel()) * grid.voxel_volume_mm3
    volumes[0] = 0
    if volumes.max() < SMALLEST_BODY_MM3:
        return None
    large = (volumes >= SMALLEST_PIECE_MM3)[labels]
    body = large | (ndimage.binary_dilation(large) & tissue)
    for index, plane in enumerate(body):
        body[index] = ndimage.binary_fill_holes(plane)
    return cast(Mask, body)


def _dilate(mask: Mask, grid: Grid, margin_mm: float) -> Mask:
    """Dilate a mask by at least ``margin_mm`` along each axis."""
    for axis, spacing in enumerate(grid.spacing_mm):
        width = 2 * math.ceil(margin_mm / spacing) + 1
        mask = ndimage.maximum_filter1d(mask.astype(np.uint8), width, axis=axis) > 0
    return mask


def body_box(body: BlockMask | None, grid: Grid) -> IndexBox:
    """Bound the body, with ``BOX_MARGIN_MM`` around it in plane and all slices kept.

    Args:
        body: from ``find_body``.
        grid: the CT's.

    Returns:
        Half-open intervals along (z, y, x); the whole image without a body.
    """
    depth, height, width = grid.shape
    if body is None:
        return (0, depth), (0, height), (0, width)
    return (0, depth), _interval(body, grid, axis=1), _interval(body, grid, axis=2)


def _interval(body: BlockMask, grid: Grid, *, axis: int) -> tuple[int, int]:
    margin = math.ceil((BOX_MARGIN_MM - MASK_MARGIN_MM) / grid.spacing_mm[axis])
    others = tuple(other for other in range(3) if other != axis)
    occupied: Mask = np.any(body.blocks, axis=others)
    found = np.flatnonzero(occupied[body.index(axis)])
    return max(0, int(found[0]) - margin), min(grid.shape[axis], int(found[-1]) + 1 + margin)
