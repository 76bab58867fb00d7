"""The DICOM objects of a case, from the command's options to the files beside the masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_ct import write_ct

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.cli.main import build_parser
from oarseg.errors import InputError, OutputError, ResourceError
from oarseg.imaging.volume import Grid, Volume
from oarseg.model.bundle import load_bundle
from oarseg.results import write_case
from oarseg.results.dicom import write_objects
from oarseg.system import memory
from oarseg.workflows.dicom_outputs import (
    check_objects,
    check_reference,
    check_segmentation_memory,
    dicom_record,
    dicom_request,
)
from oarseg.workflows.settings import RunDescription, Settings

HAN_SEG = catalogue.load_challenge("han_seg")
GRID = Grid((3, 8, 9), (2.0, 1.0, 1.0), (-4.0, 5.0, 6.0))
SHIPPED = Path(__file__).resolve().parents[2] / "weights"


@pytest.fixture(scope="module")
def run() -> RunDescription:
    settings = Settings(Path("in"), Path("out"), SHIPPED, structure_set=True)
    return RunDescription(settings, load_bundle(SHIPPED), HAN_SEG, threads=1)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    series = write_ct(tmp_path / "ct", GRID)
    return Case("study", {"CT": series.folder / series.series_uid}, {"CT": series})


def labels() -> Volume:
    array = np.zeros(GRID.shape, np.uint8)
    array[1, 2:4, 3:6] = 5
    return Volume(array, GRID)


def stage(output: Path, case: Case, run: RunDescription) -> tuple[Path, ...]:
    request = dicom_request(case, run)
    with write_case.stage_outputs(
        output, case=case, challenge=HAN_SEG, labels=labels(), dicom=request
    ) as staged:
        return staged.commit({})


def test_a_structure_set_lies_beside_the_masks(
    case: Case, run: RunDescription, tmp_path: Path
) -> None:
    files = stage(tmp_path / "out", case, run)
    path = tmp_path / "out/oar_masks/study/study_RTSTRUCT.dcm"
    assert path in files
    found = pydicom.dcmread(path)
    assert [roi.ROIName for roi in found.StructureSetROISequence] == ["Brainstem"]
    assert run.weights.sha256 in found.StructureSetDescription
    assert "NOT FOR CLINICAL USE" in found.StructureSetDescription


def test_a_later_run_without_the_option_leaves_no_older_one(
    case: Case, run: RunDescription, tmp_path: Path
) -> None:
    stage(tmp_path / "out", case, run)
    plain = replace(run, settings=replace(run.settings, structure_set=False))
    stage(tmp_path / "out", case, plain)
    assert not list((tmp_path / "out").rglob("*.dcm"))
    assert dicom_record(case, plain, {}) is None


def test_a_full_disk_leaves_nothing_of_the_case(
    case: Case, run: RunDescription, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write_objects, "write_structure_set", fails)
    with pytest.raises(OutputError):
        stage(tmp_path / "out", case, run)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_the_report_names_objects_and_absent_structures(case: Case, run: RunDescription) -> None:
    volumes = dict.fromkeys((organ.name for organ in HAN_SEG.organs), 0.0)
    nothing = dicom_record(case, run, volumes)
    found = dicom_record(case, run, {**volumes, "Brainstem": 1.0})
    assert nothing is not None
    assert found is not None
    assert (nothing["files"], len(nothing["absent"])) == ([], 30)
    assert found["files"] == ["study_RTSTRUCT.dcm"]
    assert "Brainstem" not in found["absent"]
    assert len(found["absent"]) == 29
    json.dumps(found)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--rtstruct"], "--rtstruct"),
        (["--dicom-seg"], "--dicom-seg"),
        (["--rtstruct", "--dicom-seg", "labelmap"], "--rtstruct and --dicom-seg"),
    ],
)
def test_a_case_that_is_no_dicom_is_refused(options: list[str], named: str) -> None:
    arguments = build_parser().parse_args(["segment", *options])
    settings = Settings(
        Path("in"),
        Path("out"),
        SHIPPED,
        structure_set=arguments.rtstruct,
        segmentation=arguments.dicom_seg,
    )
    plain = Case("a", {"CT": Path("a_CT.nrrd")})
    with pytest.raises(InputError, match=f"a_CT.nrrd: expected a DICOM series for {named}, found"):
        check_reference(plain, HAN_SEG, settings)
    check_objects(settings, HAN_SEG)
    check_reference(plain, HAN_SEG, Settings(Path("in"), Path("out"), SHIPPED))


def test_organs_that_overlap_must_fit_before_the_work(
    run: RunDescription, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty-five bytes and eight more for each voxel; the images are gone by then."""
    room = memory.Room("the free RAM", 53 * GRID.voxels - 1, 0)
    monkeypatch.setattr(memory, "tightest_room", lambda: room)
    segrap = catalogue.load_challenge("segrap_oar")
    settings = replace(run.settings, segmentation="binary")
    overlapping = replace(run, challenge=segrap, settings=settings)
    check_segmentation_memory(GRID, overlapping, freed=1)
    with pytest.raises(ResourceError, match=r"organs that overlap needs .* leave --dicom-seg out"):
        check_segmentation_memory(GRID, overlapping, freed=0)
    check_segmentation_memory(GRID, replace(run, settings=settings), freed=0)
    check_segmentation_memory(GRID, replace(run, challenge=segrap), freed=0)
