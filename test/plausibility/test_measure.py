"""Measures of small label maps, derived by hand."""

from dataclasses import replace

import numpy as np
import pytest

from oarseg.challenges.challenge import Organ
from oarseg.challenges.plausibility import Plausibility
from oarseg.imaging.volume import Grid, Volume
from oarseg.plausibility import measure
from oarseg.plausibility.measure import Measured, measure_organs

GRID = Grid((12, 10, 10), (2.0, 1.0, 1.0), (100.0, 200.0, 300.0))
ORGAN = Organ(name="Organ", colour=(1, 2, 3), labels=(1, 2))
FEET_FIRST = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))


def measured(array: np.ndarray, grid: Grid = GRID, limits: Plausibility | None = None) -> Measured:
    image = Volume(np.arange(array.size, dtype=np.int16).reshape(array.shape), grid)
    found = measure_organs(Volume(array, grid), [ORGAN], limits or Plausibility(), image=image)
    assert found is not None
    return found[0]


def cube() -> np.ndarray:
    array = np.zeros(GRID.shape, np.uint8)
    array[2:8, 2:8, 2:8] = 1
    array[5:8, 2:8, 2:8] = 2
    return array


def test_a_cube_of_two_labels() -> None:
    found = measured(cube())
    assert found.volume_cm3 == pytest.approx(6 * 6 * 6 * 2 / 1000)
    assert found.centroid_mm == pytest.approx((104.5, 204.5, 309.0))
    assert (found.parts, found.stray_parts, found.holes, found.empty_slices) == (1, 0, 0, 0)
    assert found.edges == ()
    assert found.mean == pytest.approx(4.5 * 100 + 4.5 * 10 + 4.5)


def test_an_organ_without_a_voxel() -> None:
    assert measured(np.zeros(GRID.shape, np.uint8)) == Measured("Organ")


def test_a_hole_and_an_empty_slice() -> None:
    array = cube()
    array[3, 4, 4] = 0
    array[6] = 0
    found = measured(array)
    assert (found.holes, found.holes_cm3) == (1, pytest.approx(0.002))
    assert (found.empty_slices, found.parts, found.stray_parts) == (1, 1, 0)


@pytest.mark.parametrize(("voxels", "stray"), [(4, 0), (5, 1)])
def test_a_speck_beside_an_organ_is_not_stray(voxels: int, stray: int) -> None:
    array = cube()
    array[4, 2 : 2 + voxels, 9] = 1
    found = measured(array)
    assert (found.parts, found.stray_parts) == (2, stray)


def test_a_stray_part_moves_nothing_else() -> None:
    array = cube()
    array[11, 9, 9] = 1
    limits = Plausibility(speck_voxels=1)
    found, alone = measured(array, limits=limits), measured(cube())
    assert (found.parts, found.stray_parts) == (2, 1)
    assert found.stray_cm3 == pytest.approx(0.002)
    assert found.stray_farthest_mm == pytest.approx(np.sqrt((4 * 2) ** 2 + 2**2 + 2**2))
    assert found.centroid_mm == alone.centroid_mm
    assert (found.edges, found.empty_slices) == ((), 0)


def test_a_large_part_is_stray_only_if_it_is_far() -> None:
    array = np.zeros((12, 10, 30), np.uint8)
    array[2:8, 2:8, 2:8] = 1
    array[2:8, 2:8, 12:16] = 1
    grid = replace(GRID, shape=array.shape)
    assert measured(array, grid).stray_parts == 0
    near = Plausibility(stray_mm=4.9)
    assert measured(array, grid, near).stray_parts == 1
    by_nature = Plausibility(stray_mm=4.9, parts={"Organ": 2})
    assert measured(array, grid, by_nature).stray_parts == 0


def test_a_target_volume_may_have_any_number_of_parts() -> None:
    array = cube()
    array[11, 9, 9] = 1
    target = replace(ORGAN, rt_type="GTV")
    found = measure_organs(Volume(array, GRID), [target], Plausibility())
    assert found is not None
    assert (found[0].parts, found[0].stray_parts, found[0].empty_slices) == (2, 0, 0)


@pytest.mark.parametrize(
    ("part", "edge"),
    [
        (np.s_[0, 4, 4], "inferior"),
        (np.s_[-1, 4, 4], "superior"),
        (np.s_[4, 0, 4], "anterior"),
        (np.s_[4, -1, 4], "posterior"),
        (np.s_[4, 4, 0], "right"),
        (np.s_[4, 4, -1], "left"),
    ],
)
def test_edges_are_the_patients(part: tuple[int, int, int], edge: str) -> None:
    array = np.zeros(GRID.shape, np.uint8)
    array[part] = 1
    assert measured(array).edges == (edge,)
    turned = replace(GRID, direction=FEET_FIRST)
    opposite = {"inferior": "superior", "superior": "inferior", "left": "right", "right": "left"}
    assert measured(array, turned).edges == (opposite.get(edge, edge),)


def test_labels_too_ragged_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure.LabelRuns.__init__, "__kwdefaults__", {"most": 10})
    assert measure_organs(Volume(cube(), GRID), [ORGAN], Plausibility()) is None
