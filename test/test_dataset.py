"""From a data set in the published layout to a raw nnU-Net dataset."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg import challenge, reading
from oarseg.errors import InputError
from oarseg.phantom import write_cases
from oarseg.training.dataset import mask_files, merge_masks, prepare
from oarseg.volume import Grid, Volume, to_sitk

HAN_SEG = challenge.load("han_seg")
GRID = Grid((2, 2, 3), (3.0, 1.0, 1.0))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_cases(folder, seeds=[3, 4], size="tiny")
    return folder


@pytest.fixture
def data(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "data"))


def read(path: Path) -> Volume:
    return reading.read_volume(path)


def write_mask(folder: Path, name: str, voxels: list[tuple[int, int, int]]) -> Path:
    array = np.zeros(GRID.shape, np.uint8)
    for voxel in voxels:
        array[voxel] = 1
    path = folder / f"case_01_OAR_{name}.seg.nrrd"
    sitk.WriteImage(to_sitk(Volume(array, GRID)), str(path))
    return path


def test_the_smaller_structure_wins_an_overlap(tmp_path: Path) -> None:
    # Mandible (label 4) has 3 voxels, chiasm (24) 2; they share one.
    files = {
        "Bone_Mandible": write_mask(tmp_path, "Bone_Mandible", [(0, 0, 0), (0, 0, 1), (0, 0, 2)]),
        "OpticChiasm": write_mask(tmp_path, "OpticChiasm", [(0, 0, 2), (1, 1, 1)]),
    }
    assert mask_files(tmp_path, HAN_SEG) == files
    labels, overlap, missing = merge_masks(files, HAN_SEG, GRID)
    assert labels[0, 0].tolist() == [4, 4, 24]
    assert labels[1, 1, 1] == 24
    assert np.count_nonzero(labels) == 4
    assert overlap == 1
    assert len(missing) == 28
    assert "Brainstem" in missing


def test_mask_on_another_grid(tmp_path: Path) -> None:
    path = write_mask(tmp_path, "Bone_Mandible", [(0, 0, 0)])
    moved = Grid(GRID.shape, GRID.spacing_mm, (0.0, 0.5, 0.0))
    with pytest.raises(InputError, match=r"Bone_Mandible.*expected the CT's grid"):
        merge_masks({"Bone_Mandible": path}, HAN_SEG, moved)


def test_unknown_structure(tmp_path: Path) -> None:
    write_mask(tmp_path, "Tongue", [(0, 0, 0)])
    with pytest.raises(InputError, match="structure 'Tongue' is not one of han_seg's 30"):
        mask_files(tmp_path, HAN_SEG)


def test_dataset_as_nnunet_wants_it(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    done = prepare(data, out, challenge=HAN_SEG, transforms="files", progress=lambda _: None)
    assert [case.name for case in done] == ["case_03", "case_04"]
    document = json.loads((out / "dataset.json").read_text())
    assert document["numTraining"] == 2
    assert document["channel_names"] == {"0": "CT", "1": "noNorm"}
    assert document["labels"]["SpinalCord"] == 30
    ct = read(data / "case_03/case_03_IMG_CT.nrrd")
    image = read(out / "imagesTr/case_03_0000.nrrd")
    assert image.grid == ct.grid
    assert np.array_equal(image.array, np.clip(ct.array, -1000, 3000))
    labels = read(out / "labelsTr/case_03.nrrd")
    mandible = read(data / "case_03/case_03_OAR_Bone_Mandible.seg.nrrd")
    assert labels.grid == ct.grid
    assert ((labels.array == 4) == (mandible.array > 0)).mean() > 0.999


def test_mr_is_present_where_its_field_is_and_absent_elsewhere(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    prepare(data, out, challenge=HAN_SEG, transforms="files", progress=lambda _: None)
    mr = read(out / "imagesTr/case_03_0001.nrrd").array
    assert mr.dtype == np.float32
    outside = np.mean(mr == 0)
    assert 0.2 < outside < 0.98
    brainstem = read(data / "case_03/case_03_OAR_Brainstem.seg.nrrd").array > 0
    assert 0.2 < mr[brainstem].mean() < 5  # in units of the patient's mean


def test_case_without_mr_is_trained_as_absent(data: Path, tmp_path: Path) -> None:
    (data / "case_03/case_03_IMG_MR_T1.nrrd").unlink()
    out = tmp_path / "Dataset101_Test"
    lines: list[str] = []
    prepare(data, out, challenge=HAN_SEG, transforms="files", progress=lines.append)
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "imagesTr/case_03_0001.nrrd")))
    assert not image.any()
    assert any(line.startswith("case_03:") and "no MR" in line for line in lines)


def test_bad_case_is_named_and_left_out(data: Path, tmp_path: Path) -> None:
    path = data / "case_04/case_04_IMG_CT.nrrd"
    path.write_bytes(path.read_bytes()[:-100])
    lines: list[str] = []
    done = prepare(
        data,
        tmp_path / "Dataset101_Test",
        challenge=HAN_SEG,
        transforms="files",
        progress=lines.append,
    )
    assert [case.name for case in done] == ["case_03"]
    assert any(line.startswith("case_04: left out:") and "_IMG_CT" in line for line in lines)


def test_finished_cases_are_not_made_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    prepare(data, out, challenge=HAN_SEG, transforms="files", progress=lambda _: None)
    kept = out / "imagesTr/case_03_0000.nrrd"
    stamp = kept.stat().st_mtime_ns
    # What a killed run leaves: images without their record.
    (out / "oarseg_cases/case_04.json").unlink()
    (out / "imagesTr/case_04_0000.nrrd").write_bytes(b"half")
    prepare(data, out, challenge=HAN_SEG, transforms="files", progress=lambda _: None)
    assert kept.stat().st_mtime_ns == stamp
    assert read(out / "imagesTr/case_04_0000.nrrd").array.size
    assert not list(out.rglob("tmp-*"))


def test_name_that_nnunet_would_not_find(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder named Dataset<nnn>_<name>"):
        prepare(data, tmp_path / "raw", challenge=HAN_SEG)


def test_a_structure_without_mask_is_unlabelled_not_background(data: Path, tmp_path: Path) -> None:
    (data / "case_04/case_04_OAR_Lips.seg.nrrd").unlink()
    out = tmp_path / "Dataset101_Test"
    lines: list[str] = []
    prepare(data, out, challenge=HAN_SEG, transforms="files", progress=lines.append)
    document = json.loads((out / "dataset.json").read_text())
    assert 23 in document["oarseg"]["unlabelled"]["case_04"]
    assert 23 not in document["oarseg"]["unlabelled"].get("case_03", [])
    # The phantom's table has it in the field.
    assert any(
        line.startswith("case_04:") and "no mask though the table has it in the field: Lips" in line
        for line in lines
    )
