"""DICOM Segmentations, read back by highdicom."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from contour_shapes import SHAPES, label_map
from dicom_ct import write_ct
from numpy.typing import NDArray

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Organ
from oarseg.errors import InputError, OutputError, ResourceError
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.volume import Grid
from oarseg.labels.boxes import enclosing_box, label_boxes
from oarseg.results.dicom import segmentation
from oarseg.results.dicom.segmentation import SegmentationForm
from oarseg.results.dicom.structure_set import Roi
from oarseg.results.dicom.write_objects import DicomRequest, write_objects
from oarseg.system import memory

HAN_SEG = catalogue.load_challenge("han_seg")
GRID = Grid((5, 80, 80), (2.5, 1.3, 0.9), (-20.3, -115.25, 1000.7))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> DicomSeries:
    return write_ct(tmp_path_factory.mktemp("ct"), GRID)


def written(
    folder: Path,
    labels: NDArray[np.uint8],
    series: DicomSeries,
    *,
    organs: Sequence[Organ] = HAN_SEG.organs,
    form: SegmentationForm = "binary",
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    by_label = label_boxes(labels, 255)
    (name,) = write_objects(
        folder,
        "case",
        labels=labels,
        organs=organs,
        boxes=[enclosing_box(by_label[label - 1] for label in o.labels) for o in organs],
        request=DicomRequest(series, "HaN phantoms", "ab" * 32, "", False, form),
    )
    return folder / name


def masks(path: Path, series: DicomSeries) -> dict[str, NDArray[np.bool_]]:
    """Read each segment as a mask on the series' slices, by its label."""
    found = highdicom.seg.segread(path)
    names = {
        number: found.get_segment_description(number).segment_label
        for number in found.segment_numbers
    }
    array = found.get_pixels_by_source_instance(
        list(series.sop_instance_uids),
        segment_numbers=list(names),
        assert_missing_frames_are_empty=True,
    )
    return {name: array[..., index] > 0 for index, name in enumerate(names.values())}


@pytest.mark.parametrize("form", ["binary", "labelmap"])
def test_every_voxel_comes_back(
    form: SegmentationForm, series: DicomSeries, tmp_path: Path
) -> None:
    labels = label_map()
    path = written(tmp_path, labels, series, form=form)
    found = masks(path, series)
    assert list(found) == [organ.dicom_name for organ in HAN_SEG.organs[: len(SHAPES)]]
    for label, mask in enumerate(found.values(), 1):
        assert np.array_equal(mask, labels == label)
    kind = pydicom.dcmread(path).SegmentationType
    assert kind == form.upper()


def test_organs_that_overlap(series: DicomSeries, tmp_path: Path) -> None:
    labels = label_map()
    organs = (
        Organ(name="Both", colour=(1, 2, 3), labels=(1, 2)),
        Organ(name="One", colour=(4, 5, 6), labels=(2,)),
    )
    found = masks(written(tmp_path, labels, series, organs=organs), series)
    assert np.array_equal(found["Both"], (labels == 1) | (labels == 2))
    assert np.array_equal(found["One"], labels == 2)
    with pytest.raises(InputError, match="use --dicom-seg binary"):
        segmentation.check_form("labelmap", organs)


def test_codes_are_kept(series: DicomSeries, tmp_path: Path) -> None:
    organs = (
        Organ(
            name="A",
            colour=(1, 2, 3),
            labels=(1,),
            snomed="45289007",
            meaning="Parotid gland",
            side="left",
        ),
        Organ(name="B", colour=(1, 2, 3), labels=(2,)),
        Organ(name="GTV", colour=(1, 2, 3), labels=(3,), rt_type="GTV"),
    )
    found = pydicom.dcmread(written(tmp_path, label_map(), series, organs=organs))
    kinds = [item.SegmentedPropertyTypeCodeSequence[0] for item in found.SegmentSequence]
    assert [kind.CodeValue for kind in kinds] == ["45289007", "113343008", "108369006"]
    assert kinds[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    categories = [item.SegmentedPropertyCategoryCodeSequence[0] for item in found.SegmentSequence]
    assert [code.CodeValue for code in categories] == ["123037004", "123037004", "49755003"]


def test_a_rerun_gives_the_same_bytes(
    series: DicomSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [written(tmp_path / name, label_map(), series) for name in "ab"]
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths}) == 1
    assert "Contribution" not in str(pydicom.dcmread(paths[0]).dir())


def test_without_highdicom(monkeypatch: pytest.MonkeyPatch) -> None:
    segmentation.check_available()
    monkeypatch.setattr(segmentation, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'oarseg\[dicom-seg\]'"):
        segmentation.check_available()


def test_what_highdicom_refuses_quotes_no_patient(
    series: DicomSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise ValueError("Unable to convert 'Müller' to 'DA' object")

    monkeypatch.setattr(segmentation, "_made", refuses)
    with pytest.raises(OutputError, match=r"that it cannot \(ValueError\); leave --dicom-seg out"):
        written(tmp_path / "out", label_map(), series)


ODD_PATIENTS = {
    "nothing known": {},
    "dates that are none": {"StudyDate": "12.03.2024", "PatientBirthDate": "about 1950"},
    "sex in words": {"PatientSex": "female", "StudyTime": "noon"},
    "long": {"PatientName": "Muster" * 30, "PatientID": "7" * 90},
    "several": {"PatientID": "a\\b", "PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"},
}


@pytest.mark.parametrize("what", ODD_PATIENTS)
def test_odd_patients(
    what: str, series: DicomSeries, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Highdicom is not given what it would refuse, and no warning quotes the rest."""
    odd = replace(series, patient_attributes=ODD_PATIENTS[what])
    path = written(tmp_path, label_map(), odd)
    assert not recwarn.list
    assert len(masks(path, odd)) == len(SHAPES)
    found = pydicom.dcmread(path)
    assert str(found.PatientName) == odd.patient_attributes.get("PatientName", "")
    assert found.StudyDate == ""


def test_the_files_of_the_slices_are_not_read_again(series: DicomSeries, tmp_path: Path) -> None:
    """They may be gone by then, or be what pydicom should not be given whole."""
    gone = replace(series, files=tuple(tmp_path / path.name for path in series.files))
    path = written(tmp_path, label_map(), gone)
    assert len(masks(path, series)) == len(SHAPES)
    assert not any(element.tag.is_private for element in pydicom.dcmread(path).iterall())


OVERLAPPING = tuple(
    Organ(name=f"O{number}", colour=(1, 2, 3), labels=(1, number)) for number in range(2, 12)
)


def test_memory_is_as_forecast(series: DicomSeries, tmp_path: Path) -> None:
    """An organ's byte and eight more for each voxel, and each frame twice with its data set."""
    labels = label_map()
    shape = (5, 80, 80)
    written(tmp_path / "warm", labels, series, organs=OVERLAPPING)
    tracemalloc.start()
    written(tmp_path / "measured", labels, series, organs=OVERLAPPING)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    box = (slice(1, 4), slice(0, 80), slice(0, 80))
    rois = [Roi(number, organ, box) for number, organ in enumerate(OVERLAPPING, 1)]
    forecast = segmentation.memory_need(shape, rois).bytes
    assert forecast == labels.size * 18 + 30 * (2 * 800 + 10_000)
    assert 0.5 * forecast < peak < forecast, peak


def test_a_segmentation_that_would_not_fit(
    series: DicomSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = memory.Room("the free RAM", 200_000, 0)
    monkeypatch.setattr(memory, "tightest_room", lambda: room)
    expected = "writing the Segmentation needs about .* give it more, leave --dicom-seg out"
    with pytest.raises(ResourceError, match=expected):
        written(tmp_path, label_map(), series, organs=OVERLAPPING)
