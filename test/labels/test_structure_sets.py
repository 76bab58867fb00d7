"""RT Structure Sets as labels: contours filled by hand-derived rules, names, and whose they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import dicom_fuzzing
import numpy as np
import pydicom
import pytest
from dicom_files import Form, small_volume, turned, uid, write_series, write_structure_set
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.errors import InputError
from oarseg.imaging.files.dicom.choose import find_series
from oarseg.imaging.files.dicom.series import DicomSeries, study_name
from oarseg.imaging.files.dicom.structure_set import read_references
from oarseg.imaging.files.read_scan import read_volume
from oarseg.imaging.volume import Grid
from oarseg.labels.structure_sets import find_structure_sets, read_structures, structure_set_of
from oarseg.training.preparation.dataset import prepare_dataset
from oarseg.training.preparation.label_sources import find_structure_sources

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


def whose(series: DicomSeries, *files: Path) -> Path | None:
    references = [one for file in files if (one := read_references(file)) is not None]
    assert len(references) == len(files)
    return structure_set_of(series, references)


def test_the_structure_set_of_a_series(tmp_path: Path) -> None:
    grid = small_volume().grid
    write_series(tmp_path / "ct", small_volume())
    series = find_series(tmp_path / "ct", "CT")
    shapes = {"Brainstem": [contour(grid, 1, SQUARE)]}
    other = write_structure_set(tmp_path / "other", shapes, series="2")
    assert whose(series, *find_structure_sets(tmp_path)) is None
    by_frame = write_structure_set(tmp_path / "frame", shapes, series="")
    assert whose(series, other, by_frame) == by_frame
    mine = write_structure_set(tmp_path / "mine", shapes)
    assert whose(series, *find_structure_sets(tmp_path)) == mine
    write_structure_set(tmp_path / "again", shapes)
    with pytest.raises(InputError, match=r"expected one RT Structure Set of series .* another in"):
        whose(series, *find_structure_sets(tmp_path))


def test_structures_in_another_frame_of_reference(tmp_path: Path) -> None:
    """They name the series, but their millimetres are others."""
    write_series(tmp_path / "ct", small_volume())
    shapes = {"Brainstem": [contour(small_volume().grid, 1, SQUARE)]}
    path = write_structure_set(tmp_path / "rs", shapes)

    def move(data: FileDataset) -> None:
        data.StructureSetROISequence[0].add_new("ReferencedFrameOfReferenceUID", "UI", "1.2.3")

    changed(path, move)
    with pytest.raises(InputError, match="expected structures in the frame of reference of series"):
        whose(find_series(tmp_path / "ct", "CT"), path)


def changed(path: Path, change: Callable[[FileDataset], None]) -> Path:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path, enforce_file_format=True)
    return path


def kinds(*names: str, roi: int = 0) -> Callable[[FileDataset], None]:
    """Give the contours of a structure these kinds."""

    def change(data: FileDataset) -> None:
        for item, name in zip(data.ROIContourSequence[roi].ContourSequence, names, strict=True):
            item.ContourGeometricType = name

    return change


@pytest.mark.parametrize("kind", ["OPEN_PLANAR", "OPEN_NONPLANAR", "POINT", ""])
def test_contours_that_enclose_nothing(tmp_path: Path, kind: str) -> None:
    grid = small_volume().grid
    shapes = [contour(grid, 1, SQUARE)]
    path = write_structure_set(tmp_path / "rs", {"Brainstem": shapes, "Parotid_L": shapes})
    changed(path, kinds(kind))
    found = f"'{kind}'" if kind else "no ContourGeometricType"
    expected = f"rs: expected closed contours of 'Brainstem', found {found}; close them, or remove"
    with pytest.raises(InputError, match=expected):
        read_structures(path, HAN_SEG, grid)


def test_an_open_contour_among_closed_ones(tmp_path: Path) -> None:
    grid = small_volume().grid
    shapes = [contour(grid, 1, SQUARE), contour(grid, 2, SQUARE)]
    path = write_structure_set(tmp_path / "rs", {"Brainstem": shapes})
    changed(path, kinds("CLOSED_PLANAR", "OPEN_PLANAR"))
    with pytest.raises(InputError, match="closed contours of 'Brainstem', found 'OPEN_PLANAR'"):
        read_structures(path, HAN_SEG, grid)


def test_points_beside_closed_contours_are_passed_over(tmp_path: Path) -> None:
    """A marker, and the specks of one or two points that planning systems leave."""
    grid = small_volume().grid
    shapes = [contour(grid, 1, SQUARE), contour(grid, 2, SQUARE[:1]), contour(grid, 3, SQUARE[:2])]
    path = write_structure_set(tmp_path / "rs", {"Brainstem": shapes})
    changed(path, kinds("CLOSED_PLANAR", "POINT", "CLOSED_PLANAR"))
    found = mask(path, grid)
    assert found.sum() == found[1].sum() == 8


def test_holes_that_are_contours_by_name(tmp_path: Path) -> None:
    grid = small_volume().grid
    shapes = [contour(grid, 2, SQUARE), contour(grid, 2, HOLE)]
    path = write_structure_set(tmp_path / "rs", {"Brainstem": shapes})
    assert mask(changed(path, kinds("CLOSEDPLANAR_XOR", "CLOSEDPLANAR_XOR")), grid).sum() == 7


def test_damage_in_a_structure_of_no_interest(tmp_path: Path) -> None:
    grid = small_volume().grid
    shapes = [contour(grid, 1, SQUARE)]
    path = write_structure_set(tmp_path / "rs", {"Bolus": shapes, "Brainstem": shapes})

    def damage(roi: int) -> Callable[[FileDataset], None]:
        def change(data: FileDataset) -> None:
            data.ROIContourSequence[roi].ContourSequence[0].ContourData = [1, 2, 3, 4]

        return change

    assert mask(changed(path, damage(0)), grid).sum() == 8
    with pytest.raises(InputError, match="expected contours of 'Brainstem' with x y z for each"):
        read_structures(changed(path, damage(1)), HAN_SEG, grid)


def test_two_structures_of_one_number(tmp_path: Path) -> None:
    """Whose contours are whose nobody can tell."""
    grid = small_volume().grid
    shapes = [contour(grid, 1, SQUARE)]
    path = write_structure_set(tmp_path / "rs", {"Brainstem": shapes, "Bolus": shapes})

    def same(data: FileDataset) -> None:
        data.StructureSetROISequence[1].ROINumber = 1

    with pytest.raises(InputError, match="found 'Brainstem' and 'Bolus' with the ROINumber 1"):
        read_structures(changed(path, same), HAN_SEG, grid)


def test_a_structure_without_contours_is_not_drawn(tmp_path: Path) -> None:
    grid = small_volume().grid
    path = write_structure_set(
        tmp_path / "rs", {"Brainstem": [contour(grid, 1, SQUARE)], "Parotid_L": []}
    )
    assert set(read_structures(path, HAN_SEG, grid)[0]) == {"Brainstem"}


def test_names_in_another_character_set(tmp_path: Path) -> None:
    grid = small_volume().grid
    path = write_structure_set(tmp_path / "rs", {"Rückenmark": [contour(grid, 1, SQUARE)]})

    def latin(data: FileDataset) -> None:
        data.decode()
        data.SpecificCharacterSet = "ISO_IR 100"

    changed(path, latin)
    assert "Rückenmark".encode("latin-1") in path.read_bytes()
    names = {"SpinalCord": ("rückenmark",)}
    rules = replace(HAN_SEG, data_set=replace(HAN_SEG.data_set, roi_names=names))
    assert set(read_structures(path, rules, grid)[0]) == {"SpinalCord"}


def test_damaged(tmp_path: Path) -> None:
    grid = small_volume().grid
    path = write_structure_set(tmp_path / "rs", {"Brainstem": [contour(grid, 1, SQUARE)[:2]]})
    with pytest.raises(InputError, match="expected closed contours of 'Brainstem', found fewer"):
        read_structures(path, HAN_SEG, grid)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(InputError, match=r"rs: expected "):
        read_structures(path, HAN_SEG, grid)


CONTOUR_TAGS = (
    *((0x0008, 0x0005), (0x3006, 0x0010), (0x3006, 0x0020), (0x3006, 0x0022), (0x3006, 0x0024)),
    *((0x3006, 0x0026), (0x3006, 0x0039), (0x3006, 0x0040), (0x3006, 0x0042), (0x3006, 0x0050)),
    *((0x3006, 0x0084), (0x0020, 0x0052), (0x0020, 0x000E), (0x0002, 0x0010)),
)


def test_any_structure_set_is_read_or_refused(tmp_path: Path) -> None:
    grid = small_volume().grid
    shapes = [contour(grid, 1, SQUARE), contour(grid, 2, HOLE)]
    seed = write_structure_set(tmp_path / "seed", {"Brainstem": shapes, "Bolus": shapes})
    outcomes = set()
    for number in range(120):
        random = Random(number)
        data = seed.read_bytes()
        for _ in range(random.randint(1, 3)):
            data = dicom_fuzzing.mutated(data, random, CONTOUR_TAGS)
        path = tmp_path / "rs"
        path.write_bytes(data)
        try:
            read_references(path)
            read_structures(path, HAN_SEG, grid)
            outcomes.add("read")
        except InputError as error:
            message = str(error)
            assert message.startswith(f"{path}: expected "), message
            assert message.isprintable()
            outcomes.add(message.partition(": expected ")[2][:20])
    assert "read" in outcomes
    assert len(outcomes) > 4, outcomes


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


def test_a_damaged_structure_set_costs_no_other_case(tmp_path: Path) -> None:
    shapes = {"Brainstem": [contour(small_volume().grid, 1, SQUARE)]}
    write_series(tmp_path / "ct", small_volume())
    series = find_series(tmp_path / "ct", "CT")
    case = Case("a", {"CT": series.folder}, {"CT": series})
    mine = write_structure_set(tmp_path / "mine", shapes)
    broken = write_structure_set(tmp_path / "other", shapes, series="2")
    syntax = b"1.2.840.10008.1.2.1\0"
    broken.write_bytes(broken.read_bytes().replace(syntax, b"1.2.840.10008.1.2.2\0"))
    found, problems = find_structure_sources(tmp_path, [case], HAN_SEG)
    assert found["a"].label_map == mine
    assert [problem.name for problem in problems] == ["other"]
    write_structure_set(tmp_path / "again", shapes)
    found, problems = find_structure_sources(tmp_path, [case], HAN_SEG)
    assert found == {}
    assert [problem.name for problem in problems] == ["other", "a"]
