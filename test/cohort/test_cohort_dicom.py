"""Cohorts of DICOM studies: paired as segment pairs them, changed where a slice has changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nnunet_oracle as oracle
import pydicom
import pytest
from dicom_files import PATIENT_NAME, Form, uid, write_series
from test_cohort import cohort, files_of, objects, run

from oarseg.cohort.inputs import InputSeries, case_of
from oarseg.cohort.plan import Plan, read_plan
from oarseg.imaging.files.dicom import slice_pixels
from oarseg.imaging.files.dicom.series import study_name
from oarseg.imaging.files.read_scan import read_volume
from oarseg.phantom import write_cases
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

pytestmark = pytest.mark.dicom
NAMES = tuple(study_name(uid("study", study)) for study in ("1", "2"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oracle.write_han_seg_weights(tmp_path_factory.mktemp("weights"), folds=1)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two studies: one in folders of its own, one whose slices lie at the top."""
    write_cases(tmp_path / "made", seeds=[3], size="tiny", layout="platform")
    (ct,) = (tmp_path / "made").rglob("ct/*.mha")
    image = read_volume(ct)
    source = tmp_path / "input"
    write_series(source / PATIENT_NAME / "ct", image, Form(study="1"))
    write_series(source, image, Form(study="2", patient="PAT-0002"))
    (source / "notes.txt").write_text("no slice")
    return source


def plan(source: Path, output: Path, weights: Path, *more: object) -> Plan:
    told = ("--input", source, "--output", output, "--weights", weights, *more)
    assert cohort("plan", "--registration", "none", *told) == 0
    return read_plan(output)


def test_studies_are_planned_as_segment_pairs_them_and_no_pixel_is_read(
    source: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a plan reads no pixels")

    with monkeypatch.context() as patch:
        patch.setattr(slice_pixels, "_read_native", refuse)
        made = plan(source, tmp_path / "out", weights)
    assert sorted(case.name for case in made.cases) == sorted(NAMES)
    for case in made.cases:
        series = case.files["CT"]
        assert isinstance(series, InputSeries)
        rebuilt = case_of(case.name, case.files, source)
        assert rebuilt.series["CT"].files == tuple(series.paths(source))
        assert rebuilt.files["CT"].name == series.uid


def test_a_cohort_of_studies_writes_what_segment_writes_and_sees_changed_slices(
    source: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    made = plan(source, output, weights, "--rtstruct")
    assert run(output).returncode == 0
    alone = tmp_path / "alone"
    told = Settings(
        source, alone, weights, device="cpu", threads=2, registration="none", structure_set=True
    )
    assert segment_folder(told) == ()
    ours, others = files_of(output), files_of(alone)
    assert set(ours) == set(others)
    assert sum(name.endswith("_RTSTRUCT.dcm") for name in ours) == len(NAMES)
    # The objects of DICOM have UIDs and times of their own.
    plain = {name for name in ours if not name.endswith(".dcm")}
    assert {n: ours[n] for n in plain} == {n: others[n] for n in plain}
    assert json.loads((output / "results.json").read_text()) == json.loads(
        (alone / "results.json").read_text()
    )
    assert attempts(output, capsys) == {NAMES[0]: 1, NAMES[1]: 1}

    slices = {case.name: case.files["CT"].paths(source) for case in made.cases}
    os.utime(slices[NAMES[0]][2])
    assert run(output).returncode == 0
    assert aside(output) == []

    data = pydicom.dcmread(slices[NAMES[0]][2])
    data.PixelData = bytes(len(data.PixelData))
    data.save_as(slices[NAMES[0]][2])
    slices[NAMES[1]][3].unlink()  # which leaves a gap
    assert run(output).returncode == 1
    states = {found["case"]: found["state"] for found in objects(output, capsys)}
    assert states == {NAMES[0]: "done", NAMES[1]: "failed"}
    assert aside(output) == sorted(NAMES)
    assert not (output / "oar_masks" / NAMES[1]).exists()


def attempts(output: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    return {found["case"]: found["attempts"] for found in objects(output, capsys)}


def aside(output: Path) -> list[str]:
    """Cases that were opened again."""
    folder = output / "cohort" / "reopened"
    return sorted(path.name.rpartition(".")[0] for path in folder.glob("*"))


def test_series_are_chosen_and_belong_to_the_run(
    source: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--series", uid("series", "1", "1"))
    made = plan(source, tmp_path / "out", weights, *chosen)
    assert [case.name for case in made.cases] == [NAMES[0]]
    told = ("--input", source, "--output", tmp_path / "out", "--weights", weights)
    assert cohort("plan", "--registration", "none", *map(str, told)) == 1
    assert "expected the settings of the cohort in it, found series ()" in capsys.readouterr().err
