"""Our DICOM objects in other people's hands; ``make dicom-test`` sets up what this needs.

rt-utils and platipy round points to voxels. rt-utils takes the rows' spacing for the columns',
and platipy the number of rows for that of columns, so the images here are square.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from contour_shapes import SHAPES, label_map
from dicom_ct import write_ct
from dicom_readers import Masks, read_masks
from raters import mask_of, read_raters

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Organ
from oarseg.imaging.volume import Grid, Volume
from oarseg.labels.boxes import enclosing_box, label_boxes
from oarseg.results.dicom.write_objects import DicomRequest, write_objects

pytestmark = pytest.mark.dicom_tools

# Any voxels will do for the first two; the others need square ones.
SQUARE = ("rt-utils", "platipy")
READERS = ("plastimatch", "dcmrtstruct2nii", *SQUARE)
ORGANS = catalogue.load_challenge("han_seg").organs
RATERS = ("case_1/oncologist", "case_2/radiographer", "case_3/oncologist")


def written(
    folder: Path, labels: Volume, organs: Sequence[Organ], *, segmentation: bool = False
) -> tuple[Path, ...]:
    """Write slices to ``ct`` and the objects beside it."""
    by_label = label_boxes(labels.array, 255)
    names = write_objects(
        folder,
        "case",
        labels=labels.array,
        organs=organs,
        boxes=[enclosing_box(by_label[label - 1] for label in o.labels) for o in organs],
        request=DicomRequest(
            write_ct(folder / "ct", labels.grid),
            "HaN phantoms",
            "ab" * 32,
            "NOT FOR CLINICAL USE",
            True,
            "binary" if segmentation else None,
        ),
    )
    return tuple(folder / name for name in names)


def shapes(spacing_mm: tuple[float, float]) -> Volume:
    labels = label_map()
    return Volume(labels, Grid(labels.shape, (2.5, *spacing_mm), (-20.3, -115.25, 1000.7)))


def square_round_organs(labels: Volume) -> Volume:
    """Crop to a square of the same grid that holds all organs."""
    box = enclosing_box(label_boxes(labels.array, 255))
    assert box is not None
    side = max(box[1].stop - box[1].start, box[2].stop - box[2].start)
    y, x = (min(axis.start, labels.grid.shape[1] - side) for axis in box[1:])
    array = labels.array[box[0], y : y + side, x : x + side]
    origin_mm = labels.grid.to_world(np.array([[box[0].start, y, x]]))[0]
    grid = Grid(array.shape, labels.grid.spacing_mm, tuple(origin_mm), labels.grid.direction)
    return Volume(array, grid)


def dice(labels: Volume, organs: Sequence[Organ], found: Masks) -> dict[str, float]:
    """Dice of each organ that has voxels; a reader's missing mask is an error."""
    scores = {}
    for organ in organs:
        mask = mask_of(labels.array, organ)
        if mask.any():
            other = found[organ.dicom_name]
            assert other.shape == mask.shape
            common = np.count_nonzero(mask & other)
            scores[organ.name] = 2 * common / (np.count_nonzero(mask) + np.count_nonzero(other))
    return scores


@pytest.mark.parametrize("reader", READERS)
def test_shapes_are_exact(reader: str, tmp_path: Path) -> None:
    labels = shapes((0.9, 0.9) if reader in SQUARE else (1.3, 0.9))
    (file,) = written(tmp_path, labels, ORGANS)
    scores = dice(labels, ORGANS, read_masks(reader, file, tmp_path / "ct", tmp_path / "out"))
    assert scores == {organ.name: 1.0 for organ in ORGANS[: len(SHAPES)]}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("rater", RATERS)
def test_raters_masks_are_exact(rater: str, reader: str, tmp_path: Path) -> None:
    """Round their organs, in a square."""
    labels, organs = read_raters(rater)
    labels = square_round_organs(labels)
    (file,) = written(tmp_path, labels, organs)
    scores = dice(labels, organs, read_masks(reader, file, tmp_path / "ct", tmp_path / "out"))
    assert scores == {organ.name: 1.0 for organ in organs}
    assert len(scores) == 21


@pytest.mark.parametrize("challenge", ["han_seg", "segrap_oar"])
def test_the_standard_is_kept(challenge: str, tmp_path: Path) -> None:
    """Organs of SegRap overlap."""
    organs = catalogue.load_challenge(challenge).organs
    for file in written(tmp_path, shapes((1.3, 0.9)), organs, segmentation=True):
        done = subprocess.run(
            ["dciodvfy", "-new", str(file)], capture_output=True, text=True, timeout=60, check=False
        )
        said = done.stdout + done.stderr
        kind = "RTStructureSet" if "RTSTRUCT" in file.name else "Segmentation"
        assert kind in said
        assert "Error" not in said, said
