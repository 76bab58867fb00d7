"""Turning arrays: voxels stay where they are, and LPS comes out whatever goes in."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.imaging.orientation import Turn, to_lps
from oarseg.imaging.volume import Grid, Volume, from_sitk, to_sitk

GRID = Grid((4, 5, 6), (2.0, 0.75, 0.5), (-12.5, 100.0, -597.25))
TURNS = [
    Turn(order, flips)
    for order in permutations(range(3))
    for flips in product((False, True), repeat=3)
]


def volume() -> Volume:
    return Volume(np.arange(120).reshape(GRID.shape), GRID)


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_lps_comes_back_from_every_orientation(turn: Turn) -> None:
    stored = turn.volume(volume())
    found = to_lps(stored.grid).volume(stored)
    np.testing.assert_array_equal(found.array, volume().array)
    assert found.grid.matches(GRID, tolerance_mm=1e-9)
    np.testing.assert_array_equal(turn.back(turn.array(volume().array)), volume().array)


@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_every_value_stays_at_its_place(turn: Turn) -> None:
    stored = turn.volume(volume())
    for index in ((0, 0, 0), (3, 4, 5), (1, 2, 3)):
        world = GRID.to_world(np.array([index], float))
        z, y, x = np.rint(stored.grid.to_index(world)[0]).astype(int)
        assert stored.array[z, y, x] == volume().array[index]


@pytest.mark.parametrize("code", ["LPS", "RAS", "RAI", "PIR", "ASL", "SLP"])
def test_as_itk_orients(code: str) -> None:
    stored = from_sitk(sitk.DICOMOrient(to_sitk(volume()), code))
    found = to_lps(stored.grid).volume(stored)
    np.testing.assert_array_equal(found.array, volume().array)
    assert found.grid.matches(GRID, tolerance_mm=1e-9)


def test_an_oblique_image_is_not_turned_if_it_lies_near_enough() -> None:
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(0.5, -0.4, 0.3)
    image = to_sitk(volume())
    image.SetDirection(rotation.GetMatrix())
    grid = from_sitk(image).grid
    turn = to_lps(grid)
    array = volume().array
    assert turn.is_none
    assert turn.array(array) is array
