from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import instruction_sets
import numpy as np
import pytest
from numpy.typing import NDArray

from oarseg.imaging.arrays import Half
from oarseg.inference import half_precision
from oarseg.inference.half_precision import (
    HalfArithmetic,
    OpenVinoArithmetic,
    PlainArithmetic,
    half_arithmetic,
)
from oarseg.inference.ring import Ring
from oarseg.inference.tiling import gaussian_weights, lay_tiles

Image = NDArray[np.float32]


def values(shape: tuple[int, ...], scale: float, seed: int) -> Image:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-6, 0.1, 20.0, 3000.0])
def test_the_arithmetic_is_numpys_to_the_last_bit(scale: float) -> None:
    shape = (5, 6, 32, 33)
    tile_values, weights = values(shape, scale, 0), np.abs(values(shape[1:], 5, 1))
    start = values(shape, scale, 2).astype(np.float16)
    found = []
    for how in (PlainArithmetic(), half_arithmetic()):
        totals = start.copy()
        how.add([totals[:, :4], totals[:, 4:]], tile_values, weights)
        quotient = np.empty(totals.shape[1:], np.float32)
        how.divide([totals[0]], (weights[0] + 1).astype(np.float16), quotient)
        found.append((totals, quotient))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("folds", [2, 3, 5, 6])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 20.0, 9000.0])
def test_the_mean_of_folds_is_rounded_at_each_step(folds: int, scale: float) -> None:
    totals = [values((6, 32, 33), scale, seed).astype(np.float16) for seed in range(folds)]
    weights = (np.abs(values((32, 33), 5, 9)) + 1).astype(np.float16)
    # Torch's own steps, by hand: each fold is rounded, each sum is, and the mean is.
    with np.errstate(over="ignore"):
        mean = (totals[0].astype(np.float32) / weights).astype(np.float16)
        for total in totals[1:]:
            quotient = (total.astype(np.float32) / weights).astype(np.float16)
            mean = (mean.astype(np.float32) + quotient).astype(np.float16)
        expected = (mean.astype(np.float32) / folds).astype(np.float16).astype(np.float32)
    for how in (PlainArithmetic(), half_arithmetic()):
        quotient = np.empty((6, 32, 33), np.float32)
        how.divide(totals, weights, quotient)
        assert np.array_equal(quotient, expected)


def test_the_fast_arithmetic_is_taken_where_it_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    if "ONEDNN_MAX_CPU_ISA" not in os.environ and "avx2" in instruction_sets.cpu_flags():
        assert half_precision.openvino_rounds()
    for rounds, expected in ((True, OpenVinoArithmetic), (False, PlainArithmetic)):
        monkeypatch.setattr(half_precision, "openvino_rounds", lambda rounds=rounds: rounds)
        assert isinstance(half_arithmetic(), expected)


def test_a_doubled_half_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubles_powers(_: object, totals: list[Half], tile: Image, __: Image) -> None:
        totals[0][...] = tile
        totals[0][totals[0] == np.float16(2**-16)] *= 2

    monkeypatch.setattr(OpenVinoArithmetic, "add", doubles_powers)
    assert not half_precision.openvino_rounds.__wrapped__()  # not what is remembered


@pytest.mark.parametrize("how", [PlainArithmetic(), OpenVinoArithmetic()])
def test_the_ring_holds_what_a_whole_volume_would(how: HalfArithmetic) -> None:
    window = lay_tiles((11, 9, 5), (4, 6, 8))
    depth, height, width = window.patch
    total = np.zeros((3, *window.shape), np.float16)
    norm = np.zeros(window.shape, np.float16)
    weights = gaussian_weights(window.patch)
    with ThreadPoolExecutor(2) as pool:
        ring = Ring(window, 3, 1, pool=pool, how=how)
        rows = window.starts[0]
        planes: list[Image] = []
        for first, following in zip(rows, (*rows[1:], window.shape[0]), strict=True):
            for z, y, x in window.row(first):
                logits = values((3, depth, height, width), 4, 100 * z + 10 * y + x)
                place = np.s_[..., z : z + depth, y : y + height, x : x + width]
                total[place] += logits * weights.astype(np.float32)
                norm[place] += weights
                ring.add([logits], (z, y, x))
            for plane in ring.finish(range(first, following)):
                assert plane.index == len(planes)
                assert (plane.rows, plane.columns) == (slice(0, 9), slice(0, 5))
                planes.append(plane.logits.copy())
    whole = (total / norm)[(slice(None), *window.inside)]
    assert np.array_equal(np.stack(planes, axis=1), whole.astype(np.float32))


def test_a_joint_sum_holds_the_mean_of_the_folds() -> None:
    window = lay_tiles((4, 6, 8), (4, 6, 8))
    folds = [values((3, 4, 6, 8), 4, seed) for seed in range(3)]
    found = []
    with ThreadPoolExecutor(1) as pool:
        for joint in (False, True):
            ring = Ring(window, 3, 3, joint=joint, pool=pool, how=PlainArithmetic())
            ring.add([sum(folds)] if joint else folds, (0, 0, 0))
            found.append(np.stack([plane.logits.copy() for plane in ring.finish(range(4))], 1))
    assert not np.array_equal(found[0], found[1])
    # In the corners the weights are the smallest halves, and little is left of the logits.
    inner = gaussian_weights(window.patch) > 0.1
    for mean in found:
        assert np.allclose(mean[:, inner], np.mean(folds, axis=0)[:, inner], rtol=2e-3, atol=1e-2)


def test_the_ring_hands_out_what_its_tiles_cover_and_nothing_else() -> None:
    """Two tiles in one corner of a 12×12×12 image: planes 2–5 and 8–11 have nothing."""
    window = lay_tiles((12, 12, 12), (2, 4, 4))
    with ThreadPoolExecutor(1) as pool:
        ring = Ring(window, 1, 1, pool=pool, how=PlainArithmetic())
        found = {}
        for first, following in ((0, 6), (6, 12)):
            ring.add([np.full((1, 2, 4, 4), first + 1.0, np.float32)], (first, 8, 0))
            ring.add([np.full((1, 2, 4, 4), first + 1.0, np.float32)], (first, 4, 2))
            for plane in ring.finish(range(first, following)):
                found[plane.index] = plane.logits[0, plane.rows, plane.columns].copy()
                assert (plane.rows, plane.columns) == (slice(4, 12), slice(0, 6))
    assert list(found) == [0, 1, 6, 7]
    expected = np.zeros((8, 6), np.float32)
    expected[4:, :4] = expected[:4, 2:] = 1
    for index, logits in found.items():
        # A quotient of halves is within their rounding of the tile's own value.
        assert np.allclose(logits, expected * (1 if index < 2 else 7), rtol=2e-3)
