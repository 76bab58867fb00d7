"""A data set's labels, in whatever form, become one label map a case."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.challenges import catalogue, challenge
from oarseg.errors import InputError
from oarseg.imaging.volume import Grid, Volume, to_sitk
from oarseg.training.preparation.label_sources import (
    TrainingLabels,
    find_sources,
    merged_classes,
    read_training_labels,
)

SEGRAP = catalogue.load_challenge("segrap_oar")
THORAX = catalogue.load_challenge("structseg_thoracic_oar")
GRID = Grid((4, 4, 6), (3.0, 1.0, 1.0))


def put(path: Path, array: NDArray[np.uint8], grid: Grid = GRID) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_sitk(Volume(array, grid)), str(path))


def put_masks(folder: Path, **voxels: list[tuple[int, int, int]]) -> None:
    for name, places in voxels.items():
        array = np.zeros(GRID.shape, np.uint8)
        for place in places:
            array[place] = 1
        put(folder / f"{name}.nii.gz", array)


def read(folder: Path, name: str, rules: challenge.Challenge) -> TrainingLabels:
    sources = find_sources(folder, rules, progress=lambda _: None)
    return read_training_labels(sources[name], rules, GRID)


def test_masks_of_organs_that_overlap_become_labels_that_do_not(tmp_path: Path) -> None:
    put_masks(
        tmp_path / "segrap_0001",
        Brain=[(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3)],
        TemporalLobe_L=[(0, 0, 1), (0, 0, 2)],
        Hippocampus_L=[(0, 0, 2), (0, 0, 3)],
        Lens_R=[(1, 1, 1)],
        Eye_R=[(1, 1, 1), (1, 1, 2)],
    )
    found = read(tmp_path, "segrap_0001", SEGRAP)
    assert found.array[0, 0].tolist() == [1, 4, 6, 8, 0, 0]
    assert found.array[1, 1].tolist() == [0, 13, 11, 0, 0, 0]
    assert found.overlap_voxels == 0
    assert len(found.missing) == 40
    assert "Pituitary" in found.missing


def test_claims_that_no_label_stands_for_are_counted(tmp_path: Path) -> None:
    put_masks(
        tmp_path / "segrap_0001",
        Mandible_L=[(0, 0, 0), (0, 0, 1)],
        TMjoint_L=[(0, 0, 1)],
    )
    found = read(tmp_path, "segrap_0001", SEGRAP)
    assert found.array[0, 0, :2].tolist() == [36, 44]
    assert found.overlap_voxels == 1


def test_the_one_hot_variant_of_segrap_is_a_label_map(tmp_path: Path) -> None:
    labels = (np.arange(GRID.voxels) % 55).astype(np.uint8).reshape(GRID.shape)
    put(tmp_path / "segrap_0001.nii.gz", labels)
    found = read(tmp_path, "segrap_0001", SEGRAP)
    np.testing.assert_array_equal(found.array, labels)
    assert found.missing == ()


def test_masks_of_another_task_are_passed_over_and_named(tmp_path: Path) -> None:
    put_masks(tmp_path / "segrap_0001", Brain=[(0, 0, 0)], GTVp=[(0, 0, 1)])
    lines: list[str] = []
    sources = find_sources(tmp_path, SEGRAP, progress=lines.append)
    assert set(sources) == {"segrap_0001"}
    assert any("GTVp" in line for line in lines)


def test_a_label_that_the_challenge_does_not_have(tmp_path: Path) -> None:
    put(tmp_path / "7/label.nii.gz", np.full(GRID.shape, 9, np.uint8))
    with pytest.raises(InputError, match=r"7/label\.nii\.gz: expected labels 0–6 .* found 9"):
        read(tmp_path, "7", THORAX)


def test_a_table_tells_what_a_label_map_leaves_open(tmp_path: Path) -> None:
    put(tmp_path / "7/label.nii.gz", np.ones(GRID.shape, np.uint8))
    sources = find_sources(tmp_path, THORAX, progress=lambda _: None)
    told = {"Heart": 0.0, "RightLung": 1.0}
    assert read_training_labels(sources["7"], THORAX, GRID, labelled=told).missing == ("Heart",)


def test_labels_on_another_grid(tmp_path: Path) -> None:
    moved = Grid(GRID.shape, GRID.spacing_mm, (0.0, 0.5, 0.0))
    put(tmp_path / "7/label.nii.gz", np.ones(GRID.shape, np.uint8), moved)
    with pytest.raises(InputError, match=r"label\.nii\.gz: expected the reference's grid"):
        read(tmp_path, "7", THORAX)


def test_what_a_case_cannot_tell_apart() -> None:
    assert merged_classes(THORAX, ()) == {}
    assert merged_classes(THORAX, ("Heart", "Trachea")) == {3: 0, 4: 0}
    # Labels 6 (lobe and hippocampus) and 8 (hippocampus in the brain) are 4 and 1 where
    # nobody has outlined the hippocampus.
    assert merged_classes(SEGRAP, ("Hippocampus_L",)) == {6: 4, 8: 1}
    # Without the larynx as a whole, its glottis is still known.
    assert merged_classes(SEGRAP, ("Larynx",)) == {48: 0, 51: 52}
    assert merged_classes(SEGRAP, ("Larynx", "PharynxConst")) == {48: 0, 51: 0, 52: 0}


def test_an_organ_that_nobody_outlined_decides_nothing(tmp_path: Path) -> None:
    put_masks(
        tmp_path / "segrap_0001",
        Brain=[(0, 0, 0), (0, 0, 1)],
        TemporalLobe_L=[(0, 0, 1)],
        PharynxConst=[(1, 0, 0)],
        Larynx_Glottic=[(2, 0, 0)],
    )
    found = read(tmp_path, "segrap_0001", SEGRAP)
    assert found.array[0, 0, :2].tolist() == [1, 4]
    assert (found.array[1, 0, 0], found.array[2, 0, 0]) == (52, 49)
    assert found.overlap_voxels == 0
