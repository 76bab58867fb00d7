"""What fits on which card, by arithmetic: a T4 has 16 GB, an A10G 24."""

from __future__ import annotations

import math

import pytest
from nnunet_oracle import CT, Recipe, manifest_of

from oarseg.inference.device.vram import case_bytes, choose_sums, tile_bytes
from oarseg.inference.preprocessing import Placement
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import Manifest

PATCH, SHAPE = (64, 192, 160), (189, 1024, 1024)
GIB = 2**30
# What the driver leaves of a T4 and of an A10G: 15,360 and 23,028 MiB less a context each.
T4, A10G = 14.5 * GIB, 22 * GIB


def model(classes: int = 31) -> Manifest:
    labels = {"background": 0, **{f"s{k}": k for k in range(1, classes)}}
    recipe = Recipe((2.0, 0.5, 0.5), PATCH, (CT, CT), labels)
    return manifest_of(recipe, (ModelFile("fold_0.onnx", "0" * 64, "0", "fp16"),))


def place(shape: tuple[int, int, int] = SHAPE) -> Placement:
    a, b, c = shape
    spacing_mm = (2.0, 0.5, 0.5)
    return Placement(shape, spacing_mm, (0, 1, 2), ((0, a), (0, b), (0, c)), shape, spacing_mm)


def test_a_case_is_its_sums_planes_and_tile() -> None:
    plane, patch = 1024 * 1024, math.prod(PATCH)
    one_sum = 2 * 31 * 64 * plane  # half precision: 4.2 GB at 31 classes × 64 × 1024²
    assert one_sum == pytest.approx(4.16e9, rel=1e-3)
    weights, planes, labels = 2 * 64 * plane, 2 * 2 * 31 * plane, plane
    tile = 4 * 2 * patch + (2 + 4) * patch
    for folds, joint, sums in ((1, False, 1), (3, False, 3), (3, True, 1)):
        found = case_bytes(place(), model(), folds=folds, joint=joint)
        assert found == sums * one_sum + weights + planes + labels + tile
    mirrored = case_bytes(place(), model(), folds=3, joint=False, mirror=True)
    assert mirrored - case_bytes(place(), model(), folds=3, joint=False) == 3 * 4 * 31 * patch


def test_the_networks_buffers_of_a_tile() -> None:
    assert tile_bytes(model(), answers=5) == 4 * (2 + 5 * 31) * math.prod(PATCH)


@pytest.mark.parametrize(
    ("card", "networks", "folds", "expected"),
    [
        (T4, 3 * GIB, 1, "separate"),
        (T4, 3 * GIB, 3, "joint"),
        (T4, 3 * GIB, 5, "joint"),
        (T4, 10 * GIB, 5, None),  # networks that leave less than one sum
        (A10G, 3 * GIB, 3, "separate"),
        (A10G, 3 * GIB, 5, "joint"),
    ],
)
def test_1024_voxels_square_and_31_classes(
    card: float, networks: int, folds: int, expected: str | None
) -> None:
    found = choose_sums(round(card - networks), place(), model(), folds=folds)
    assert found == expected


def test_five_folds_of_the_median_case_fit_a_t4_apart() -> None:
    """The body's box of a head and neck: 352×307 mm at 0.5 mm would be larger than most."""
    box = place((130, 500, 460))
    assert choose_sums(round(T4 - 4 * GIB), box, model(), folds=5) == "separate"


def test_one_sum_is_taken_where_it_is_enough() -> None:
    assert choose_sums(1 << 40, place(), model(), folds=5, joint=True) == "joint"
    assert choose_sums(1 << 40, place(), model(), folds=1, joint=True) == "separate"
    assert choose_sums(0, place(), model(), folds=5, joint=True) is None
