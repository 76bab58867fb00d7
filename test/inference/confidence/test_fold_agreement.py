from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from nnunet_oracle import CT, Recipe, images, manifest_of
from numpy.typing import NDArray
from one_fold import OneFold

from oarseg.inference.confidence.agreement import FoldAgreement
from oarseg.inference.preprocessing import NetworkInput, preprocess
from oarseg.inference.region.footprint import BlockMask, Footprint
from oarseg.inference.streaming import segment_streaming
from oarseg.labels.dice import dice_by_label
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import Manifest

PATCH = (6, 8, 10)
FILES = tuple(ModelFile(f"fold_{k}.onnx", "0" * 64, str(k), "fp32") for k in range(3))
SPACING = (2.0, 1.0, 1.0)
LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


class Leaning(OneFold):
    """A fold that draws the borders between classes elsewhere than the others."""

    def __init__(self, classes: int, lean: float) -> None:
        self._levels = np.linspace(-1.2 + lean, 1.2 + lean, classes, dtype=np.float32)

    def __call__(self, patch: NDArray[Any]) -> NDArray[Any]:
        levels = self._levels.reshape(-1, 1, 1, 1)
        return np.asarray(3 - 5 * (patch[0, :1] - levels) ** 2, np.float32)[None]


def labelled() -> Manifest:
    return manifest_of(Recipe(SPACING, patch=PATCH, channels=(CT,), labels=LABELS), FILES)


def regional() -> Manifest:
    recipe = Recipe(SPACING, patch=PATCH, channels=(CT,), labels=REGIONS, region_order=(1, 2))
    return manifest_of(recipe, FILES)


def given(manifest: Manifest, grid: tuple[float, float, float] = SPACING) -> NetworkInput:
    return preprocess(images((15, 19, 21), 1, margin=1), grid, manifest)


def folds(manifest: Manifest) -> list[Leaning]:
    return [Leaning(len(manifest.labels), lean) for lean in (0.0, 0.15, -0.3)]


def expected(maps: list[NDArray[np.uint8]], labels: tuple[int, ...]) -> float:
    """The mean pairwise Dice of whole label maps."""
    unions = [np.isin(one, labels).astype(np.uint8) for one in maps]
    return float(np.mean([dice_by_label(a, b, labels=1)[0] for a, b in combinations(unions, 2)]))


@pytest.mark.parametrize("make", [labelled, regional])
@pytest.mark.parametrize("masked", [False, True])
def test_as_of_the_label_maps_that_the_folds_give_alone(make: Any, masked: bool) -> None:
    manifest = make()
    net_input = given(manifest)
    blocks = np.zeros((4, 5, 6), bool)
    blocks[1:3, 1:4, 0:4] = True
    mask = BlockMask(blocks, (4, 4, 4), (15, 19, 21)) if masked else None
    alone = [
        segment_streaming(net_input, [engine], manifest, mask=mask) for engine in folds(manifest)
    ]
    agreement = FoldAgreement(manifest)
    plain = segment_streaming(net_input, folds(manifest), manifest, mask=mask)
    labels = segment_streaming(
        net_input, folds(manifest), manifest, mask=mask, agreement=agreement, threads=2
    )
    assert np.array_equal(labels, plain)
    assert agreement.pairs == 3
    for union in ((1,), (2,), (1, 2)):
        wanted = expected(alone, union)
        assert 0.1 < wanted < 0.99
        # A quotient that half precision rounds to a tie may fall elsewhere than its sum.
        assert agreement.dice(union) == pytest.approx(wanted, abs=2e-3)


def test_voxels_are_those_of_the_networks_grid() -> None:
    """The image is finer, and what is compared still is the same share of it."""
    manifest = labelled()
    finer = given(manifest, (1.0, 0.5, 0.5))
    assert finer.placement.network_shape != finer.placement.crop_shape
    mask = BlockMask(np.ones((1, 1, 1), bool), (15, 19, 21), (15, 19, 21))
    whole, all_in_mask = FoldAgreement(manifest), FoldAgreement(manifest)
    segment_streaming(finer, folds(manifest), manifest, agreement=whole)
    segment_streaming(finer, folds(manifest), manifest, agreement=all_in_mask, mask=mask)
    assert whole.dice((1,)) == all_in_mask.dice((1,)) is not None
    alone = [segment_streaming(finer, [engine], manifest) for engine in folds(manifest)]
    assert whole.dice((2,)) == pytest.approx(expected(alone, (2,)), abs=0.1)


@pytest.mark.parametrize(("count", "joint"), [(1, False), (3, True)])
def test_one_sum_is_compared_with_nothing(count: int, joint: bool) -> None:
    manifest = labelled()
    agreement = FoldAgreement(manifest)
    segment_streaming(
        given(manifest), folds(manifest)[:count], manifest, joint=joint, agreement=agreement
    )
    assert agreement.pairs == 0
    assert agreement.dice((1,)) is None


def test_counts_by_hand() -> None:
    """Of 4 voxels one fold labels 2 as a, the other 1 of these and another."""
    manifest = labelled()
    net_input = given(manifest)
    agreement = FoldAgreement(manifest)
    sums = np.zeros((2, 4, 1, 4), np.float16)
    sums[0, 1, 0, :2] = 1
    sums[1, 1, 0, 1:3] = -1
    sums[1, 0, 0, 1:3] = -2
    sums[1, 2:, 0, 1:3] = -3
    with ThreadPoolExecutor(1) as pool:
        agreement.watch(net_input.placement, None, pool)(0, sums, slice(0, 1), slice(0, 4))
    assert agreement.dice((1,)) == 0.5
    assert agreement.dice((2,)) is None
    assert agreement.dice((9,)) is None


def test_where_the_body_is_not_nothing_counts() -> None:
    manifest = labelled()
    net_input = given(manifest)
    blocks = np.zeros((15, 1, 1), bool)
    blocks[1] = True  # the image's plane 1 is the crop's first
    seen = Footprint.of(BlockMask(blocks, (1, 19, 21), (15, 19, 21)), net_input.placement)
    sums = np.zeros((2, 4, 17, 19), np.float16)
    sums[:, 2] = 1
    agreement = FoldAgreement(manifest)
    with ThreadPoolExecutor(1) as pool:
        take = agreement.watch(net_input.placement, seen, pool)
        take(0, sums, slice(0, 17), slice(0, 19))
        sums[0, 3] = 2
        take(1, sums, slice(0, 17), slice(0, 19))
    assert agreement.dice((2,)) == 1.0
