"""Exhaustive search for starting poses: every translation, for a few rotations.

Each entry of the joint histogram of CT and MR classes, as a function of the shift, is the
cross-correlation of two class masks. One FFT per pair of classes therefore gives the exact
histogram, and so the score, at all shifts of the grid. Of the headers only the orientation
of the axes is trusted.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from oarseg.imaging.grids import block_mean
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Vector, Volume
from oarseg.registration.coarse import CoarseCt, CoarseMr
from oarseg.registration.information import mr_edges, sample_at, symmetric_uncertainty

SEARCH_MM = 8.0
COARSE_CT_EDGES_HU = (-400, -60, 10, 70, 250)
COARSE_MR_CLASSES = 6
PITCHES_DEG = (0.0, -7.0, 7.0)
MIN_SEARCH_OVERLAP = 0.5
STARTS = 4
APART_MM = 24.0
SHIFTS_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Start:
    """A candidate pose (CT world → MR world) and its score on the search grid."""

    transform: RigidTransform
    score: float


def find_starts(ct: CoarseCt, mr: CoarseMr, *, workers: int) -> tuple[Start, ...]:
    """Find the best distinct poses, best first; none if no shift overlaps enough.

    Two poses are distinct if they place the MR's centre more than ``APART_MM`` apart.
    """
    fixed = block_mean(ct.body, spacing_mm=SEARCH_MM)
    moving = _smooth_with_gaps(mr)
    edges = mr_edges(mr, COARSE_MR_CLASSES)
    centre = _foreground_centre(mr)

    found: list[Start] = []
    # One after the other: each holds a spectrum of every class.
    for pitch in PITCHES_DEG:
        turn = RigidTransform.about(centre, angles_deg=(pitch, 0.0, 0.0))
        turned = _resample_turned(moving, turn)
        scores = shift_scores(fixed.array, turned.array, edges, workers=workers)
        found += _find_peaks(scores, fixed.grid, turned.grid, turn)
    found.sort(key=lambda start: -start.score)
    return _select_distinct(found, centre)


def _foreground_centre(mr: CoarseMr) -> Vector:
    where = np.argwhere(mr.foreground).mean(0, keepdims=True)
    return cast(Vector, tuple(mr.field.grid.to_world(where)[0].tolist()))


def _smooth_with_gaps(mr: CoarseMr) -> Volume:
    """Smooth the MR to the search grid's spacing, keeping NaN outside its field of view."""
    values = mr.field.array
    gaps = np.isnan(values)
    smooth = ndimage.gaussian_filter(np.where(gaps, np.float32(0), values), 0.8)
    return mr.field.with_array(np.where(gaps, np.float32(np.nan), smooth))


def _resample_turned(moving: Volume, turn: RigidTransform) -> Volume:
    """Sample the MR at ``turn`` of the search grid's points: p ↦ MR(turn(p))."""
    factor = SEARCH_MM / moving.grid.spacing_mm[0]
    shape = tuple(int(np.ceil(n / factor)) + 2 for n in moving.grid.shape)
    first = moving.grid.to_world(np.full((1, 3), -factor / 2))[0]
    grid = Grid(
        cast(tuple[int, int, int], shape), (SEARCH_MM,) * 3, cast(Vector, tuple(first.tolist()))
    )
    return Volume(sample_at(moving, grid, turn), grid)


def _find_peaks(
    scores: NDArray[np.float64], fixed: Grid, moving: Grid, turn: RigidTransform
) -> list[Start]:
    size = 2 * int(APART_MM / SEARCH_MM) - 1
    top = (scores == ndimage.maximum_filter(scores, size=size, mode="wrap")) & (scores > 0)
    best = sorted(np.argwhere(top).tolist(), key=lambda at: -float(scores[tuple(at)]))
    return [
        Start(turn.after(_shift_to_transform(fixed, moving, at, scores.shape)),
              float(scores[tuple(at)]))
        for at in best[: 2 * STARTS]
    ]  # fmt: skip


def _shift_to_transform(
    fixed: Grid, moving: Grid, at: list[int], shape: tuple[int, ...]
) -> RigidTransform:
    """Return CT world → MR world with MR voxel 0 on CT voxel ``at`` (wrapped at ``shape``)."""
    wrapped = [a - n if a >= f else a for a, n, f in zip(at, shape, fixed.shape, strict=True)]
    here = fixed.to_world(np.array([wrapped], float))[0]
    offset = np.asarray(moving.origin_mm) - here
    return RigidTransform(translation_mm=cast(Vector, tuple(offset.tolist())))


def shift_scores(
    ct: NDArray[np.floating[Any]],
    mr: NDArray[np.floating[Any]],
    edges: NDArray[np.float64],
    *,
    workers: int = 1,
) -> NDArray[np.float64]:
    """Compute the score (see ``information``) at every shift; 0 without enough overlap.

    Args:
        ct: HU (z, y, x), NaN outside the field of view.
        mr: (z, y, x) with the same spacing, NaN outside the field of view.
        edges: edges of the MR's classes.
        workers: threads; the result does not depend on them.

    Returns:
        Scores over shifts (z, y, x). Entry ``s`` places MR voxel 0 on CT voxel ``s``; an
        index at or past the CT's end is negative, less the array's length.
    """
    size = [fft.next_fast_len(a + b, real=True) for a, b in zip(ct.shape, mr.shape, strict=True)]
    with ThreadPoolExecutor(workers) as pool:
        return _shift_scores(ct, mr, edges, size, pool)


def _shift_scores(
    ct: NDArray[np.floating[Any]],
    mr: NDArray[np.floating[Any]],
    edges: NDArray[np.float64],
    size: list[int],
    pool: ThreadPoolExecutor,
) -> NDArray[np.float64]:
    """See ``shift_scores``; ``size`` is the shape of the scores."""
    ct_spectra = _class_spectra(ct, np.asarray(COARSE_CT_EDGES_HU, float), size, pool)
    mr_spectra = np.conj(_class_spectra(mr, edges, size, pool))
    patient = _correlate(ct_spectra.sum(0) * mr_spectra[1:].sum(0), size)
    overlap = patient / max(float((mr >= edges[0]).sum()), 1.0)
    allowed = overlap >= MIN_SEARCH_OVERLAP
    pairs = list(itertools.product(ct_spectra, mr_spectra))
    # Counts, which are exact; a pair of classes lies together, as each comes from one FFT.
    joint = np.empty((len(pairs), int(allowed.sum())), np.float32)
    uncertainty = np.empty(joint.shape[1])

    def count(number: int) -> None:
        a, b = pairs[number]
        joint[number] = _correlate(a * b, size)[allowed]

    def score(first: int) -> None:
        some = slice(first, first + SHIFTS_AT_ONCE)
        counts = np.maximum(joint[:, some].T, 0).astype(np.float64, order="C")
        classes = counts.reshape(-1, len(ct_spectra), len(mr_spectra))
        uncertainty[some] = symmetric_uncertainty(classes)

    list(pool.map(count, range(len(pairs))))
    list(pool.map(score, range(0, len(uncertainty), SHIFTS_AT_ONCE)))
    scores = np.zeros(size)
    scores[allowed] = overlap[allowed] * uncertainty
    return scores


def _class_spectra(
    values: NDArray[np.floating[Any]],
    edges: NDArray[np.float64],
    size: list[int],
    pool: ThreadPoolExecutor,
) -> NDArray[np.complex64]:
    classes = np.where(np.isnan(values), -1, np.digitize(values, edges))

    def spectrum(number: int) -> NDArray[np.complex64]:
        mask = (classes == number).astype(np.float32)
        return cast(NDArray[np.complex64], fft.rfftn(mask, size))

    return np.stack(list(pool.map(spectrum, range(len(edges) + 1))))


def _correlate(
    product: NDArray[np.complexfloating[Any, Any]], size: list[int]
) -> NDArray[np.float32]:
    # Counts are integers: rounding removes the FFT's rounding error.
    return cast(NDArray[np.float32], np.rint(fft.irfftn(product, size)))


def _select_distinct(starts: list[Start], centre: Vector) -> tuple[Start, ...]:
    kept: list[Start] = []
    places: list[NDArray[np.float64]] = []
    for start in starts:
        place = start.transform.inverse().apply(np.array([centre]))[0]
        if all(float(np.linalg.norm(place - other)) > APART_MM for other in places):
            kept.append(start)
            places.append(place)
        if len(kept) == STARTS:
            break
    return tuple(kept)
