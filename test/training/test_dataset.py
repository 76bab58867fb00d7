"""From a data set in the published layout to a raw nnU-Net dataset."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.challenges import catalogue, challenge
from oarseg.cli import main
from oarseg.errors import InputError
from oarseg.imaging.files import read_scan
from oarseg.imaging.volume import Grid, Volume, to_sitk
from oarseg.phantom import PhantomSpec, make_phantom, write_cases
from oarseg.training.nnunet_files.own_challenge import challenge_of_file
from oarseg.training.preparation import dataset
from oarseg.training.preparation.dataset import (
    CaseJob,
    PreparedCase,
    PreparedDataset,
    prepare_dataset,
)
from oarseg.training.preparation.label_sources import (
    TrainingLabels,
    find_sources,
    read_training_labels,
)

ROOT = Path(__file__).resolve().parents[2]
HAN_SEG = catalogue.load_challenge("han_seg")
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
    return read_scan.read_volume(path)


def write_mask(folder: Path, name: str, voxels: list[tuple[int, int, int]]) -> Path:
    array = np.zeros(GRID.shape, np.uint8)
    for voxel in voxels:
        array[voxel] = 1
    path = folder / f"case_01_OAR_{name}.seg.nrrd"
    sitk.WriteImage(to_sitk(Volume(array, GRID)), str(path))
    return path


def labels_of(folder: Path) -> TrainingLabels:
    sources = find_sources(folder, HAN_SEG, progress=lambda _: None)
    return read_training_labels(sources["case_01"], HAN_SEG, GRID)


def test_the_smaller_structure_wins_an_overlap(tmp_path: Path) -> None:
    # Mandible (label 4) has 3 voxels, chiasm (24) 2; they share one.
    write_mask(tmp_path, "Bone_Mandible", [(0, 0, 0), (0, 0, 1), (0, 0, 2)])
    write_mask(tmp_path, "OpticChiasm", [(0, 0, 2), (1, 1, 1)])
    found = labels_of(tmp_path)
    assert found.array[0, 0].tolist() == [4, 4, 24]
    assert found.array[1, 1, 1] == 24
    assert np.count_nonzero(found.array) == 4
    assert found.overlap_voxels == 1
    assert len(found.missing) == 28
    assert "Brainstem" in found.missing


def test_mask_on_another_grid(tmp_path: Path) -> None:
    write_mask(tmp_path, "Bone_Mandible", [(0, 0, 0)])
    moved = Grid(GRID.shape, GRID.spacing_mm, (0.0, 0.5, 0.0))
    sources = find_sources(tmp_path, HAN_SEG, progress=lambda _: None)
    with pytest.raises(InputError, match=r"Bone_Mandible.*expected the reference's grid"):
        read_training_labels(sources["case_01"], HAN_SEG, moved)


def test_unknown_structure_is_named_and_passed_over(tmp_path: Path) -> None:
    write_mask(tmp_path, "Bone_Mandible", [(0, 0, 0)])
    write_mask(tmp_path, "Tongue", [(0, 0, 0)])
    lines: list[str] = []
    find_sources(tmp_path, HAN_SEG, progress=lines.append)
    assert any("passed over" in line and "'Tongue'" in line for line in lines)


def test_dataset_as_nnunet_wants_it(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    done = prepare_dataset(
        data, out, challenge=HAN_SEG, transforms="files", progress=lambda _: None
    )
    assert [case.name for case in done.cases] == ["case_03", "case_04"]
    document = json.loads((out / "dataset.json").read_text())
    assert document["numTraining"] == 2
    assert document["channel_names"] == {"0": "CT", "1": "noNorm"}
    assert document["labels"]["SpinalCord"] == 30
    ct = read(data / "case_03/case_03_IMG_CT.nrrd")
    image = read(out / "imagesTr/case_03_0000.nrrd")
    assert image.grid == ct.grid
    # As inference reads it; the network's own normalisation clips further.
    assert np.array_equal(image.array, np.clip(ct.array, -1024, 3000))
    labels = read(out / "labelsTr/case_03.nrrd")
    mandible = read(data / "case_03/case_03_OAR_Bone_Mandible.seg.nrrd")
    assert labels.grid == ct.grid
    assert ((labels.array == 4) == (mandible.array > 0)).mean() > 0.999


def test_mr_is_present_where_its_field_is_and_absent_elsewhere(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    prepare_dataset(data, out, challenge=HAN_SEG, transforms="files", progress=lambda _: None)
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
    prepare_dataset(data, out, challenge=HAN_SEG, transforms="files", progress=lines.append)
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "imagesTr/case_03_0001.nrrd")))
    assert not image.any()
    assert any(line.startswith("case_03:") and "no MR" in line for line in lines)


def test_bad_case_is_named_and_left_out(data: Path, tmp_path: Path) -> None:
    path = data / "case_04/case_04_IMG_CT.nrrd"
    path.write_bytes(path.read_bytes()[:-100])
    lines: list[str] = []
    done = prepare_dataset(
        data,
        tmp_path / "Dataset101_Test",
        challenge=HAN_SEG,
        transforms="files",
        warn=lines.append,
    )
    assert [case.name for case in done.cases] == ["case_03"]
    assert any(line.startswith("case_04: left out:") and "_IMG_CT" in line for line in lines)


def test_finished_cases_are_not_made_again(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    prepare_dataset(data, out, challenge=HAN_SEG, transforms="files", progress=lambda _: None)
    kept = out / "imagesTr/case_03_0000.nrrd"
    stamp = kept.stat().st_mtime_ns
    # What a killed run leaves: images without their record.
    (out / "oarseg_cases/case_04.json").unlink()
    (out / "imagesTr/case_04_0000.nrrd").write_bytes(b"half")
    prepare_dataset(data, out, challenge=HAN_SEG, transforms="files", progress=lambda _: None)
    assert kept.stat().st_mtime_ns == stamp
    assert read(out / "imagesTr/case_04_0000.nrrd").array.size
    assert not list(out.rglob("tmp-*"))


def test_name_that_nnunet_would_not_find(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder named Dataset<nnn>_<name>"):
        prepare_dataset(data, tmp_path / "raw", challenge=HAN_SEG)


def test_a_structure_without_mask_is_unlabelled_not_background(data: Path, tmp_path: Path) -> None:
    (data / "case_04/case_04_OAR_Lips.seg.nrrd").unlink()
    out = tmp_path / "Dataset101_Test"
    lines: list[str] = []
    prepare_dataset(data, out, challenge=HAN_SEG, transforms="files", progress=lines.append)
    document = json.loads((out / "dataset.json").read_text())
    assert document["oarseg"]["unlabelled"]["case_04"]["23"] == 0
    assert "23" not in document["oarseg"]["unlabelled"].get("case_03", {})
    # The phantom's table has it in the field.
    assert any(
        line.startswith("case_04:") and "no mask though the table has it in the field: Lips" in line
        for line in lines
    )


# --- a dataset that is begun and continued


def prepare(data: Path, out: Path, **options: Any) -> PreparedDataset:
    chosen = {"challenge": HAN_SEG, "transforms": "files", "progress": lambda _: None} | options
    return prepare_dataset(data, out, **chosen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transforms": "register"}, "found transforms register in place of files"),
        ({"method": "bspline"}, "found registration bspline in place of rigid"),
        ({"resample": True}, "found resample true in place of false"),
    ],
)
def test_a_dataset_is_continued_with_its_own_options(
    data: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    out = tmp_path / "Dataset101_Test"
    shutil.rmtree(data / "case_04")
    prepare(data, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        prepare(data, out, **options)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_dataset_of_unknown_options_is_not_continued(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    (out / "labelsTr").mkdir(parents=True)
    (out / "labelsTr/case_99.nrrd").touch()
    with pytest.raises(InputError, match=r"says in oarseg_prepare\.json how it was prepared"):
        prepare(data, out)


def test_files_that_have_changed_since_are_named(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    shutil.rmtree(data / "case_04")
    prepare(data, out)
    mask = data / "case_03/case_03_OAR_Lips.seg.nrrd"
    empty = sitk.ReadImage(str(mask)) * 0
    sitk.WriteImage(empty, str(mask))
    (data / "case_03/case_03_OAR_Brainstem.seg.nrrd").unlink()
    with pytest.raises(InputError) as caught:
        prepare(data, out)
    assert "case case_03: expected the files that it was prepared from" in str(caught.value)
    assert "label case_03_OAR_Lips.seg.nrrd (changed)" in str(caught.value)
    assert "label case_03_OAR_Brainstem.seg.nrrd (gone)" in str(caught.value)


def test_another_data_set_is_not_mixed_in(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    other = tmp_path / "other"
    shutil.copytree(data / "case_03", other / "case_03")
    shutil.rmtree(data / "case_03")
    prepare(data, out)
    with pytest.raises(InputError, match="found also case_04, which is not among its usable"):
        prepare(other, out)
    assert not (out / "imagesTr/case_03_0000.nrrd").exists()
    # More cases of the same data set are welcome.
    shutil.copytree(other / "case_03", data / "case_03")
    assert [case.name for case in prepare(data, out).cases] == ["case_03", "case_04"]


def test_nan_costs_an_optional_mr_and_no_more(data: Path, tmp_path: Path) -> None:
    path = data / "case_03/case_03_IMG_MR_T1.nrrd"
    mr = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
    mr[3, 3, 3] = float("nan")
    sitk.WriteImage(mr, str(path))
    lines: list[str] = []
    done = prepare(data, tmp_path / "Dataset101_Test", progress=lines.append)
    assert [case.registration for case in done.cases] == [None, "taken from file"]
    assert any(line.startswith("case_03:") and "MR_T1 not used" in line for line in lines)


def prepare_with_fault(fault: Callable[[], None], job: CaseJob) -> PreparedCase:
    """Prepare a case in a worker, where one case goes wrong once its images are written."""
    real = dataset._unknown

    def faulty(job: CaseJob, missing: tuple[str, ...]) -> tuple[str, ...]:
        if job.case.name == "case_03":
            fault()
        return real(job, missing)

    dataset._unknown = faulty
    try:
        return dataset.prepare_case(job)
    finally:
        dataset._unknown = real


def fail() -> None:
    raise ZeroDivisionError("by hand")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (fail, "internal error (ZeroDivisionError: by hand)"),
        (die, "its process was killed, as happens where memory runs out"),
    ],
)
def test_what_ends_one_case_costs_no_other(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[], None],
    message: str,
) -> None:
    monkeypatch.setattr(dataset, "prepare_case", partial(prepare_with_fault, fault))
    lines: list[str] = []
    out = tmp_path / "Dataset101_Test"
    done = prepare(data, out, warn=lines.append)
    assert [case.name for case in done.cases] == ["case_04"]
    assert [problem.name for problem in done.left_out] == ["case_03"]
    assert lines[0].startswith(f"case_03: left out: {message}")
    # Nor does nnU-Net find what there was of it already.
    assert not list(out.glob("*Tr/case_03*"))


def test_the_status_tells_of_lost_cases(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data / "case_04/case_04_IMG_CT.nrrd"
    path.write_bytes(path.read_bytes()[:-100])
    out = tmp_path / "Dataset101_Test"
    arguments = ["prepare", str(data), "--out", str(out), "--transforms", "files"]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert shown.out == f"1 cases in {out}\n"
    assert "WARNING case_04: left out: " in shown.err
    assert shown.err.splitlines()[-1].endswith("WARNING 1 of 2 cases left out: case_04")
    shutil.rmtree(data / "case_04")
    assert main(arguments) == 0


def test_ctrl_c_ends_in_one_line(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "Dataset101_Test"
    process = subprocess.Popen(
        [sys.executable, "-m", "oarseg.cli", "prepare", str(data), "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    while not (out / "oarseg_prepare.json").exists() and process.poll() is None:
        time.sleep(0.01)
    # As a terminal does, to all processes at once.
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert told.splitlines()[-1].endswith("ERROR interrupted")


# --- other challenges


def prepared(folder: Path, rules: challenge.Challenge, share: float = 1.0) -> dict[str, Any]:
    """Two tiny phantoms of a challenge, prepared; the dataset.json."""
    write_cases(folder / "data", seeds=[3, 4], size="tiny", challenge=rules, share=share)
    out = folder / "Dataset109_Test"
    prepare_dataset(folder / "data", out, challenge=rules, progress=lambda _: None)
    document: dict[str, Any] = json.loads((out / "dataset.json").read_text())
    return document


def test_segrap_has_two_cts_and_54_labels(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("segrap_oar")
    document = prepared(tmp_path, rules)
    assert document["channel_names"] == {"0": "CT", "1": "CT"}
    assert len(document["labels"]) == 55
    assert document["oarseg"]["challenge"] == "segrap_oar"
    assert document["oarseg"]["unlabelled"] == {}
    labels = read(tmp_path / "Dataset109_Test/labelsTr/segrap_0003.nrrd").array
    truth = make_phantom(PhantomSpec(3, "tiny"), rules).labels.array
    assert np.array_equal(labels, truth)


def test_structseg_has_a_label_map(tmp_path: Path) -> None:
    document = prepared(tmp_path, catalogue.load_challenge("structseg_thoracic_oar"))
    assert document["channel_names"] == {"0": "CT"}
    assert np.array_equal(
        read(tmp_path / "Dataset109_Test/labelsTr/4.nrrd").array,
        read(tmp_path / "data/4/label.nii.gz").array,
    )


def test_han5k_keeps_the_users_labels_and_what_is_not_labelled(tmp_path: Path) -> None:
    table = tmp_path / "dataset.json"
    names = ["background", "Brain", "Brainstem", "Parotid_L", "Parotid_R", "Larynx"]
    table.write_text(json.dumps({"labels": {name: i for i, name in enumerate(names)}}))
    rules = catalogue.load_challenge("han5k", table=table)
    document = prepared(tmp_path, rules, share=0.5)
    assert challenge_of_file(tmp_path / "Dataset109_Test/dataset.json") == rules
    for case, merged in document["oarseg"]["unlabelled"].items():
        masks = {p.name.removesuffix(".nii.gz") for p in (tmp_path / "data" / case).iterdir()}
        assert merged == {str(i): 0 for i, n in enumerate(names) if i and n not in masks}
    assert document["oarseg"]["unlabelled"]


def test_a_second_ct_on_another_grid_is_left_out_unless_asked(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("segrap_gtv")
    write_cases(tmp_path / "data", seeds=[3], size="tiny", challenge=rules)
    path = tmp_path / "data/segrap_0003/image_contrast.nii.gz"
    moved = sitk.ReadImage(str(path))
    moved.SetOrigin([value + 2 for value in moved.GetOrigin()])
    sitk.WriteImage(moved, str(path))
    lines: list[str] = []
    with pytest.raises(InputError, match="expected at least one usable case"):
        prepare_dataset(
            tmp_path / "data", tmp_path / "Dataset109_T", challenge=rules, warn=lines.append
        )
    assert any("image_contrast.nii.gz: expected the reference image's grid" in x for x in lines)
    done = prepare_dataset(
        tmp_path / "data",
        tmp_path / "Dataset109_T",
        challenge=rules,
        resample=True,
        progress=lines.append,
    )
    assert len(done.cases) == 1
