"""Studies, sockets and single series: which DICOM makes which case, and what it is called."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import PATIENT_NAME, Form, new_dataset, small_volume, uid, write_series
from pydicom.uid import RTStructureSetStorage

from oarseg.cases.case import label_path
from oarseg.cases.dicom_cases import WantedSeries
from oarseg.cases.find_cases import Found, find_cases
from oarseg.challenges import catalogue
from oarseg.errors import InputError
from oarseg.imaging.files.dicom.series import study_name
from oarseg.imaging.files.read_scan import read_volume
from oarseg.imaging.volume import to_sitk

pytestmark = pytest.mark.dicom
HAN_SEG = catalogue.load_challenge("han_seg")
CT = frozenset({"CT"})
MR = Form(modality="MR", series="mr", reference="2", intercept=None, signed=True)


def find(folder: Path, wanted: WantedSeries | None = None) -> Found:
    return find_cases(folder, HAN_SEG, required=CT, wanted=wanted)


def names(found: Found) -> list[str]:
    return [case.name for case in found.cases]


def name_of(study: str) -> str:
    return study_name(uid("study", study))


def test_each_study_is_a_case(tmp_path: Path) -> None:
    write_series(tmp_path / "x" / "1", small_volume(), Form(study="1"))
    write_series(tmp_path / "x" / "2", small_volume(), Form(study="2", patient="PAT-2"))
    write_series(tmp_path / "y", small_volume((6, 5, 4)), MR.but(study="1"))
    found = find(tmp_path)
    assert found.problems == ()
    cases = {case.name: case for case in found.cases}
    assert set(cases) == {name_of("1"), name_of("2")}
    first = cases[name_of("1")]
    assert set(first.files) == {"CT", "MR_T1"}
    assert first.files["CT"].name == uid("series", "1", "1")
    np.testing.assert_array_equal(read_volume(first.source("CT")).array, small_volume().array)
    assert label_path(first, HAN_SEG) == Path(f"images/head_neck_oar/{first.name}.mha")


def test_a_socket_of_slices_is_one_case(tmp_path: Path) -> None:
    write_series(tmp_path / "images" / "ct", small_volume(), Form(names="{}".format))
    write_series(tmp_path / "images" / "t1-mri", small_volume((6, 5, 4)), MR)
    (case,) = find(tmp_path).cases
    assert case.name == name_of("1")
    assert set(case.series) == {"CT", "MR_T1"}


def test_a_socket_of_slices_beside_one_of_an_image(tmp_path: Path) -> None:
    write_series(tmp_path / "images" / "ct", small_volume())
    mr = tmp_path / "images" / "t1-mri" / "9b1d.mha"
    mr.parent.mkdir()
    sitk.WriteImage(to_sitk(small_volume()), str(mr))
    (case,) = find(tmp_path).cases
    assert case.source("MR_T1") == mr
    assert set(case.series) == {"CT"}


def test_two_cts_of_a_case_lie_in_two_sockets(tmp_path: Path) -> None:
    """Which series of a study is which of SegRap's CTs, no header tells."""
    plain, contrast = (Form(series=name) for name in ("plain", "contrast"))
    write_series(tmp_path / "a" / "images" / "head-neck-ct", small_volume(), plain)
    second = tmp_path / "a" / "images" / "head-neck-contrast-enhanced-ct"
    write_series(second, small_volume(), contrast)
    segrap = catalogue.load_challenge("segrap_oar")
    (case,) = find_cases(tmp_path / "a", segrap).cases
    assert case.series["CT"].series_uid == uid("series", "1", "plain")
    assert case.series["CT_contrast"].series_uid == uid("series", "1", "contrast")
    write_series(tmp_path / "b" / "1", small_volume(), plain)
    write_series(tmp_path / "b" / "2", small_volume(), contrast)
    named = WantedSeries((uid("series", "1", "plain"),))
    (problem,) = find_cases(tmp_path / "b", segrap, wanted=named).problems
    assert f"expected the CT_contrast of {name_of('1')} with its CT, found none" in problem.message
    assert problem.message.endswith("give each image as a folder images/<socket>/")


def test_two_series_of_a_study_are_a_problem_with_a_list(tmp_path: Path) -> None:
    write_series(tmp_path / "1", small_volume(), Form(series="a"))
    write_series(tmp_path / "2", small_volume(), Form(series="b"))
    write_series(tmp_path / "3", small_volume(), Form(study="2"))
    found = find(tmp_path)
    assert names(found) == [name_of("2")]
    (problem,) = found.problems
    assert problem.name == name_of("1")
    assert "expected one CT series, found 2 of " in problem.message
    assert uid("series", "1", "a") in problem.message


def test_a_named_series_leaves_the_other_studies_out(tmp_path: Path) -> None:
    write_series(tmp_path / "1", small_volume(), Form(series="a"))
    write_series(tmp_path / "2", small_volume(), Form(series="b"))
    write_series(tmp_path / "3", small_volume(), Form(study="2"))
    found = find(tmp_path, WantedSeries((uid("series", "1", "b"),)))
    assert names(found) == [name_of("1")]
    assert found.cases[0].series["CT"].series_uid == uid("series", "1", "b")


def test_a_named_series_that_is_not_there(tmp_path: Path) -> None:
    write_series(tmp_path / "1", small_volume())
    with pytest.raises(InputError, match=r"expected the series 1\.2\.3 of --series, found 2\.25\."):
        find(tmp_path, WantedSeries(("1.2.3",)))


def test_an_mr_of_another_study_is_named(tmp_path: Path) -> None:
    write_series(tmp_path / "1", small_volume(), Form(study="1"))
    write_series(tmp_path / "2", small_volume((6, 5, 4)), MR.but(study="2"))
    assert set(find(tmp_path).cases[0].series) == {"CT"}
    assert [problem.name for problem in find(tmp_path).problems] == [name_of("2")]
    found = find(tmp_path, WantedSeries(mr_series=(uid("series", "2", "mr"),)))
    assert set(found.cases[0].series) == {"CT", "MR_T1"}
    assert found.problems == ()


def test_the_mr_of_another_patient_is_never_taken(tmp_path: Path) -> None:
    write_series(tmp_path / "1", small_volume(), Form(study="1"))
    write_series(tmp_path / "2", small_volume((6, 5, 4)), MR.but(study="2", patient="OTHER-17"))
    found = find(tmp_path, WantedSeries(mr_series=(uid("series", "2", "mr"),)))
    assert set(found.cases[0].series) == {"CT"}
    write_series(tmp_path / "3", small_volume((6, 5, 4)), MR.but(patient="OTHER-17"))
    problem = next(p for p in find(tmp_path).problems if p.name == name_of("1"))
    assert "found the patient IDs O…7 and P…1" in problem.message


def test_no_mr_is_wanted(tmp_path: Path) -> None:
    write_series(tmp_path / "1", small_volume(), Form())
    for number in "12":
        write_series(tmp_path / f"m{number}", small_volume(), MR.but(series=number * 2))
    (problem,) = find(tmp_path).problems
    assert "choose one with --mr-series UID" in problem.message
    assert set(find(tmp_path, WantedSeries(mr_series=("none",))).cases[0].series) == {"CT"}


def test_a_required_mr_is_missed(tmp_path: Path) -> None:
    write_series(tmp_path, small_volume())
    (problem,) = find_cases(tmp_path, HAN_SEG).problems
    assert f"expected the MR_T1 of {name_of('1')} with its CT, found none" in problem.message


def test_a_socket_of_data_sets_without_a_preamble(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "images" / "ct", small_volume()):
        path.write_bytes(path.read_bytes()[132:])
    (problem,) = find(tmp_path).problems
    assert "expected a DICOM file with DICM at byte 128, found a data set" in problem.message


def test_structures_alone_are_no_case(tmp_path: Path) -> None:
    data = new_dataset(RTStructureSetStorage, "1.2.3")
    data.save_as(tmp_path / "rs", enforce_file_format=True)
    with pytest.raises(InputError, match=r"rs: expected a CT series in DICOM, found RT Structure"):
        find(tmp_path)


def test_a_damaged_slice_costs_its_case_only(tmp_path: Path) -> None:
    files = write_series(tmp_path / "1", small_volume(), Form(study="1"))
    files[0].write_bytes(files[0].read_bytes()[:500])
    write_series(tmp_path / "2", small_volume(), Form(study="2"))
    found = find(tmp_path)
    assert names(found) == [name_of("2")]
    assert [problem.name for problem in found.problems] == [name_of("1")]
    assert str(files[0]) in found.problems[0].message


def test_cases_in_other_formats_come_first(tmp_path: Path) -> None:
    image = tmp_path / "case_01" / "case_01_IMG_CT.nrrd"
    image.parent.mkdir()
    sitk.WriteImage(to_sitk(small_volume()), str(image))
    write_series(tmp_path / "dicom", small_volume())
    assert names(find(tmp_path)) == ["case_01"]


def test_no_name_of_a_patient_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(tmp_path / "1", small_volume(), Form(study="1"))
    write_series(tmp_path / "2", small_volume((3, 4, 5)), Form(study="2"))
    (tmp_path / "x").write_bytes(os.urandom(300))
    with caplog.at_level(logging.DEBUG):
        found = find(tmp_path)
    said = caplog.text + repr(found)
    assert PATIENT_NAME.split("^")[0] not in said
    assert "PAT-0001" not in said
    assert "1 files are not DICOM, left out" in caplog.text
