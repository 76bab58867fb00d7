from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.challenges import catalogue
from oarseg.imaging.volume import Grid, Volume
from oarseg.results import case_picture

STRUCTURES = catalogue.load_challenge("han_seg").structures
GRID = Grid((10, 12, 14), (3.0, 1.0, 2.0))


def labels_with(label: int) -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    array[4:7, 5:9, 6:11] = label
    return Volume(array, GRID)


def test_structure_is_outlined_in_its_colour_on_every_plane() -> None:
    ct = case_picture.ct_row(Volume(np.full(GRID.shape, -1000, np.int16), GRID))
    image = case_picture.draw_planes([ct], labels_with(4), STRUCTURES)
    colour = np.array(catalogue.load_challenge("han_seg").structure("Bone_Mandible").colour)
    found = (image == colour).all(-1)
    columns = np.flatnonzero(found.any(0))
    assert np.count_nonzero(np.diff(columns) > case_picture.GAP) == 2
    # 3 slices of 3 mm, 4 rows of 1 mm, 5 columns of 2 mm in pixels of 1 mm, three panels.
    assert np.ptp(np.flatnonzero(found.any(1))) + 1 == 9


def test_orientation_does_not_matter() -> None:
    labels = labels_with(4)
    flipped_grid = Grid(
        GRID.shape,
        GRID.spacing_mm,
        (26.0, 11.0, 0.0),
        ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)),
    )
    flipped = Volume(labels.array[:, ::-1, ::-1].copy(), flipped_grid)
    ramp = np.arange(np.prod(GRID.shape), dtype=np.float32).reshape(GRID.shape)
    one = case_picture.draw_planes([case_picture.mr_row(Volume(ramp, GRID))], labels, STRUCTURES)
    row = case_picture.mr_row(Volume(ramp[:, ::-1, ::-1].copy(), flipped_grid))
    assert np.array_equal(case_picture.draw_planes([row], flipped, STRUCTURES), one)


def test_grids_must_agree() -> None:
    other = Volume(np.zeros((2, 2, 2), np.int16), Grid((2, 2, 2), (1.0, 1.0, 1.0)))
    with pytest.raises(ValueError, match="one grid"):
        case_picture.draw_planes([case_picture.ct_row(other)], labels_with(1), STRUCTURES)


def test_png_reads_back(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    case_picture.write_png(image, tmp_path / "p.png")
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "p.png"))), image)
