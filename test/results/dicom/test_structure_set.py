"""RT Structure Sets: what pydicom reads of them, and every voxel of the masks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from contour_shapes import SHAPES, label_map
from dicom_ct import PATIENT_NAME, write_ct
from even_odd import fill_roi
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from raters import mask_of, read_raters

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Organ
from oarseg.errors import OutputError
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.volume import Grid
from oarseg.labels.boxes import enclosing_box, label_boxes
from oarseg.results.dicom.structure_set import decimal_text
from oarseg.results.dicom.write_objects import DicomRequest, write_objects

HAN_SEG = catalogue.load_challenge("han_seg")
GRID = Grid((5, 80, 80), (2.5, 1.3, 0.9), (-20.3, -115.25, 1000.7))
# Rotations about two axes by angles whose sines are 0.6 and 0.28.
OBLIQUE = replace(GRID, direction=((0.96, -0.168, 0.224), (0.28, 0.576, -0.768), (0.0, 0.8, 0.6)))
WARNING = "NOT FOR CLINICAL USE: trained on phantoms."


def written(
    folder: Path,
    labels: NDArray[np.uint8],
    series: DicomSeries,
    organs: Sequence[Organ] = HAN_SEG.organs,
    model: str = "HaN phantoms",
) -> Path | None:
    """Write a structure set of a label map; None if there was nothing to write."""
    folder.mkdir(parents=True, exist_ok=True)
    by_label = label_boxes(labels, 255)
    names = write_objects(
        folder,
        "case",
        labels=labels,
        organs=organs,
        boxes=[enclosing_box(by_label[label - 1] for label in o.labels) for o in organs],
        request=DicomRequest(series, model, "ab" * 32, WARNING, True, None),
    )
    return folder / names[0] if names else None


def read(
    folder: Path, labels: NDArray[np.uint8], series: DicomSeries, **options: object
) -> Dataset:
    path = written(folder, labels, series, **options)  # type: ignore[arg-type]
    assert path is not None
    return pydicom.dcmread(path)


@pytest.mark.parametrize("grid", [GRID, OBLIQUE], ids=["axial", "oblique"])
def test_every_voxel_comes_back(grid: Grid, tmp_path: Path) -> None:
    labels, series = label_map(), write_ct(tmp_path / "ct", grid)
    found = read(tmp_path, labels, series)
    assert len(found.ROIContourSequence) == len(SHAPES)
    for item in found.ROIContourSequence:
        assert np.array_equal(fill_roi(item, series), labels == item.ReferencedROINumber)


def test_every_voxel_of_raters_masks_comes_back(tmp_path: Path) -> None:
    labels, organs = read_raters("case_1/oncologist")
    series = write_ct(tmp_path / "ct", labels.grid)
    found = read(tmp_path, labels.array, series, organs=organs)
    assert len(found.ROIContourSequence) == len(organs) == 21
    for item in found.ROIContourSequence:
        mask = mask_of(labels.array, organs[item.ReferencedROINumber - 1])
        assert np.array_equal(fill_roi(item, series), mask)


def test_patient_study_and_frame_are_those_of_the_images(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "ct", GRID)
    found = read(tmp_path, label_map(), series)
    assert found.file_meta.TransferSyntaxUID == pydicom.uid.ImplicitVRLittleEndian
    assert (str(found.PatientName), found.PatientID) == (PATIENT_NAME, "PAT-0001")
    assert (found.StudyInstanceUID, found.StudyDate) == (series.study_uid, "20240131")
    assert found.SeriesInstanceUID != series.series_uid
    assert found.SOPInstanceUID == found.file_meta.MediaStorageSOPInstanceUID
    frame = found.ReferencedFrameOfReferenceSequence[0]
    assert frame.FrameOfReferenceUID == found.FrameOfReferenceUID == series.frame_of_reference_uid
    study = frame.RTReferencedStudySequence[0]
    images = study.RTReferencedSeriesSequence[0]
    assert study.ReferencedSOPInstanceUID == series.study_uid
    assert images.SeriesInstanceUID == series.series_uid
    named = [item.ReferencedSOPInstanceUID for item in images.ContourImageSequence]
    assert named == list(series.sop_instance_uids)


def test_structures_have_names_colours_codes_and_types(tmp_path: Path) -> None:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[1, 2, 3], labels[2, 4:6, 5] = 1, 2
    organs = (
        Organ(name="Parotid_L", colour=(1, 2, 3), labels=(1,), snomed="45289007", side="left"),
        Organ(name="Absent", colour=(4, 5, 6), labels=(3,)),
        Organ(name="GTVnd", colour=(7, 8, 9), labels=(2,), rt_name="GTVn", rt_type="GTV"),
    )
    found = read(tmp_path, labels, write_ct(tmp_path / "ct", GRID), organs=organs)
    rois = found.StructureSetROISequence
    assert [(roi.ROINumber, roi.ROIName) for roi in rois] == [(1, "Parotid_L"), (3, "GTVn")]
    assert {roi.ROIGenerationAlgorithm for roi in rois} == {"AUTOMATIC"}
    assert [list(item.ROIDisplayColor) for item in found.ROIContourSequence] == [
        [1, 2, 3],
        [7, 8, 9],
    ]
    first, second = found.RTROIObservationsSequence
    assert (first.RTROIInterpretedType, second.RTROIInterpretedType) == ("ORGAN", "GTV")
    code = first.RTROIIdentificationCodeSequence[0]
    assert code.CodeValue == "45289007"
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert found.ApprovalStatus == "UNAPPROVED"


def test_the_description_names_model_hash_and_warning(tmp_path: Path) -> None:
    found = read(tmp_path, label_map(), write_ct(tmp_path / "ct", GRID), model="A\\B " + "x" * 2000)
    assert len(found.StructureSetDescription) <= 1024
    assert len(found.SeriesDescription) <= 64
    assert found.ManufacturerModelName.startswith("A B x")
    (tmp_path / "b").mkdir()
    found = read(tmp_path / "b", label_map(), write_ct(tmp_path / "ct", GRID))
    for part in ("HaN phantoms", "ab" * 32, WARNING):
        assert part in found.StructureSetDescription


def test_a_rerun_gives_the_same_bytes_and_other_labels_other_uids(tmp_path: Path) -> None:
    labels, series = label_map(), write_ct(tmp_path / "ct", GRID)
    paths = [written(tmp_path / name, labels, series) for name in "ab"]
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in paths if path}) == 1
    labels[4, 0, 0] = 5
    other = read(tmp_path / "c", labels, series)
    first = pydicom.dcmread(paths[0] or "")
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID != other.SeriesInstanceUID


def test_a_long_contour_stays_decimal_text(tmp_path: Path) -> None:
    grid = Grid((2, 300, 300), (1.0, 1.0, 1.0))
    labels = np.zeros(grid.shape, np.uint8)
    labels[0, ::2] = labels[0, :, 0] = 1
    labels[0, ::2, 1::2] = 1
    labels[0, 1::4, 2::4] = 1
    (item,) = read(tmp_path, labels, write_ct(tmp_path / "ct", grid)).ROIContourSequence
    (contour,) = item.ContourSequence
    element = contour["ContourData"]
    assert element.VR == "DS"
    assert len("\\".join(str(part) for part in element.value)) > 1 << 16


def test_no_structure_gives_no_file(tmp_path: Path) -> None:
    assert (
        written(tmp_path, np.zeros(GRID.shape, np.uint8), write_ct(tmp_path / "ct", GRID)) is None
    )
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


def test_odd_patient_values_are_repeated_as_they_are(tmp_path: Path) -> None:
    odd = {"PatientID": "x" * 90, "StudyDate": "2025.03.04", "PatientSex": "unknown"}
    series = replace(write_ct(tmp_path / "ct", GRID), patient_attributes=odd)
    found = read(tmp_path, label_map(), series)
    assert (found.PatientID, found.PatientSex) == ("x" * 90, "unknown")
    assert found["StudyDate"].value == "2025.03.04"
    assert found.PatientName == ""


def test_private_elements_are_not_copied(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "ct", GRID)
    for path in series.files:
        data = pydicom.dcmread(path)
        data.private_block(0x0011, "oarseg test", create=True).add_new(1, "LO", "Müller")
        data.save_as(path, enforce_file_format=True)
    found = read(tmp_path, label_map(), series)
    assert len(found.ROIContourSequence) == len(SHAPES)
    assert not any(element.tag.is_private for element in found.iterall())


def test_labels_of_another_size_are_a_defect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected labels of shape \(5, 80, 80\)"):
        written(tmp_path, np.ones((5, 80, 79), np.uint8), write_ct(tmp_path / "ct", GRID))


def test_decimal_strings_have_sixteen_characters_at_most() -> None:
    points = np.array([[-999999999.87654, -0.00001, 12.34567]])
    assert decimal_text(points) == "-999999999.8765\\0.0000\\12.3457"
    assert max(len(text) for text in decimal_text(points).split("\\")) <= 16
    with pytest.raises(OutputError, match="check the images' positions"):
        decimal_text(points * 10)
