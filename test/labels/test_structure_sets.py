"""RT Structure Sets as labels: contours filled by hand-derived rules, names, and whose they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_files import Form, small_volume, turned, uid, write_series, write_structure_set
from numpy.typing import NDArray

from oarseg.challenges import catalogue
from oarseg.errors import InputError
from oarseg.imaging.files.dicom.choose import find_series
from oarseg.imaging.files.dicom.series import study_name
from oarseg.imaging.files.read_scan import read_volume
from oarseg.imaging.volume import Grid
from oarseg.labels.structure_sets import find_structure_sets, read_structures, structure_set_of
from oarseg.training.preparation.dataset import prepare_dataset

pytestmark = pytest.mark.dicom
HAN_SEG = catalogue.load_challenge("han_seg")
SQUARE = ((1.5, 0.5), (1.5, 4.5), (3.5, 4.5), (3.5, 0.5))
HOLE = ((1.9, 1.5), (1.9, 2.5), (2.5, 2.5), (2.5, 1.5))


def contour(grid: Grid, z: float, corners: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """Corners (y, x) in voxels, as points in mm."""
    return grid.to_world(np.array([(z, y, x) for y, x in corners]))


def mask(path: Path, grid: Grid, name: str = "Brainstem") -> NDArray[np.bool_]:
    pieces, _ = read_structures(path, HAN_SEG, grid)
    found = pieces[name].mask()
    assert found is not None
    whole = np.zeros(grid.shape, bool)
    z, y, x = (slice(a, a + n) for a, n in zip(found.start, found.array.shape, strict=True))
    whole[z, y, x] = found.array
    return whole


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, -1, -1), (-1, 1, -1)])
def test_voxels_whose_centres_lie_inside(tmp_path: Path, axes: tuple[int, int, int]) -> None:
    """Rows 2 and 3, columns 1 to 4 of slice 2, without the hole at row 2, column 2."""
    grid = turned(small_volume(), axes).grid
    shapes = [contour(grid, 2, SQUARE), contour(grid, 2, HOLE)]
    found = mask(write_structure_set(tmp_path / "rs", {"Brainstem": shapes}), grid)
    expected = np.zeros(grid.shape, bool)
    expected[2, 2:4, 1:5] = True
    expected[2, 2, 2] = False
    np.testing.assert_array_equal(found, expected)


def test_a_keyhole_is_a_hole(tmp_path: Path) -> None:
    grid = small_volume().grid
    joined = (*SQUARE, SQUARE[0], HOLE[0], *HOLE[:0:-1], HOLE[0], SQUARE[0])
    found = mask(
        write_structure_set(tmp_path / "rs", {"Brainstem": [contour(grid, 2, joined)]}), grid
    )
    assert found.sum() == 7
    assert not found[2, 2, 2]


def test_a_contour_may_leave_the_image(tmp_path: Path) -> None:
    grid = small_volume().grid
    wide = ((-50.0, -50.0), (-50.0, 3.5), (90.0, 3.5), (90.0, -50.0))
    found = mask(
        write_structure_set(tmp_path / "rs", {"Brainstem": [contour(grid, 0, wide)]}), grid
    )
    assert found[0, :, :4].all()
    assert found.sum() == 6 * 4


def test_names_in_any_case_and_order(tmp_path: Path) -> None:
    grid = small_volume().grid
    shapes = [contour(grid, 1, SQUARE)]
    named = {"L parotid": shapes, "BRAINSTEM": shapes, "Bolus": shapes}
    path = write_structure_set(tmp_path / "rs", named)
    pieces, unknown = read_structures(path, HAN_SEG, grid)
    assert set(pieces) == {"Parotid_L", "Brainstem"}
    assert unknown == ("Bolus",)


def test_names_of_the_challenge_s_table(tmp_path: Path) -> None:
    grid = small_volume().grid
    path = write_structure_set(tmp_path / "rs", {"Hirnstamm": [contour(grid, 1, SQUARE)]})
    names = {"Brainstem": ("Hirnstamm",)}
    rules = replace(HAN_SEG, data_set=replace(HAN_SEG.data_set, roi_names=names))
    assert set(read_structures(path, rules, grid)[0]) == {"Brainstem"}
    with pytest.raises(InputError, match="expected structures named as those of han_seg, found 'H"):
        read_structures(path, HAN_SEG, grid)


def test_two_structures_of_one_organ(tmp_path: Path) -> None:
    grid = small_volume().grid
    shapes = [contour(grid, 1, SQUARE)]
    path = write_structure_set(tmp_path / "rs", {"brainstem": shapes, "Brainstem": shapes})
    with pytest.raises(InputError, match="expected one structure for Brainstem, found 'br"):
        read_structures(path, HAN_SEG, grid)


@pytest.mark.parametrize("z", [1.5, -1.0, 5.0, 1e9])
def test_contours_off_the_slices(tmp_path: Path, z: float) -> None:
    grid = small_volume().grid
    path = write_structure_set(tmp_path / "rs", {"Brainstem": [contour(grid, z, SQUARE)]})
    with pytest.raises(InputError, match=r"rs: expected contours on the slices of the scan, found"):
        read_structures(path, HAN_SEG, grid)


def test_the_structure_set_of_a_series(tmp_path: Path) -> None:
    grid = small_volume().grid
    write_series(tmp_path / "ct", small_volume())
    series = find_series(tmp_path / "ct", "CT")
    shapes = {"Brainstem": [contour(grid, 1, SQUARE)]}
    other = write_structure_set(tmp_path / "other", shapes, series="2")
    assert structure_set_of(series, find_structure_sets(tmp_path)) is None
    by_frame = write_structure_set(tmp_path / "frame", shapes, series="")
    assert structure_set_of(series, [other, by_frame]) == by_frame
    mine = write_structure_set(tmp_path / "mine", shapes)
    assert structure_set_of(series, find_structure_sets(tmp_path)) == mine
    write_structure_set(tmp_path / "again", shapes)
    with pytest.raises(InputError, match=r"expected one RT Structure Set of series .* another in"):
        structure_set_of(series, find_structure_sets(tmp_path))


def test_damaged(tmp_path: Path) -> None:
    grid = small_volume().grid
    path = write_structure_set(tmp_path / "rs", {"Brainstem": [contour(grid, 1, SQUARE)[:2]]})
    with pytest.raises(InputError, match="expected contours of three points or more"):
        read_structures(path, HAN_SEG, grid)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"rs: expected "):
        read_structures(path, HAN_SEG, grid)


def test_prepare_reads_them(tmp_path: Path) -> None:
    volume = small_volume((6, 40, 40))
    volume.array[:] = -1000
    volume.array[:, 8:32, 8:32] = np.arange(24) * 3
    write_series(tmp_path / "in" / "ct", volume, Form(names="{}".format))
    shapes = {"Brainstem": [contour(volume.grid, 2, SQUARE)], "Bolus": []}
    write_structure_set(tmp_path / "in" / "rs", shapes)
    prepared = prepare_dataset(
        tmp_path / "in", tmp_path / "Dataset007_RT", challenge=HAN_SEG, warn=print
    )
    (case,) = prepared.cases
    assert case.name == study_name(uid("study", "1"))
    assert len([name for name in case.sources if name.startswith("CT ")]) == 6
    label = next((tmp_path / "Dataset007_RT" / "labelsTr").iterdir())
    array = read_volume(label).array
    assert (array[2, 2:4, 1:5] > 0).all()
    assert np.count_nonzero(array) == 8
