"""Write a DICOM Segmentation, by highdicom (the extra ``dicom-seg``).

PS3.3 A.51; highdicom: Bridge et al., J. Digit. Imaging 35, 2022.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from oarseg import __version__
from oarseg.challenges.challenge import Code, Organ
from oarseg.errors import InputError, OutputError
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.labels.write_labels import CATEGORY
from oarseg.results.dicom.data_sets import UNICODE, data_set, repeat_patient, without_warnings
from oarseg.results.dicom.identity import LONG_STRING, MANUFACTURER, Origin, one_line
from oarseg.results.dicom.structure_set import Roi
from oarseg.system import memory
from oarseg.system.memory import Need

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom.dataset import Dataset

SegmentationForm = Literal["binary", "labelmap"]

# What highdicom refuses otherwise becomes empty.
CHECKED = {
    "PatientBirthDate": re.compile(r"\d{8}"),
    "PatientSex": re.compile(r"[MFO]"),
    "StudyDate": re.compile(r"\d{8}"),
    "StudyTime": re.compile(r"\d{6}(\.\d{1,6})?"),
}
ABNORMAL = Code("SCT", "49755003", "Morphologically Abnormal Structure")
# What is said of an organ without a code of its own, and of a target volume.
SOME_ORGAN = Code("SCT", "113343008", "Organ")
SOME_TUMOUR = Code("SCT", "108369006", "Neoplasm")
# Of highdicom: the number of segments at each voxel, and the data set of a frame.
SUM_BYTES = 8
FRAME_BYTES = 10_000
WITHOUT = ", leave --dicom-seg out"
ALGORITHM_FAMILY = Code("DCM", "123110", "Artificial Intelligence")


def check_available() -> None:
    """Make sure that highdicom is installed.

    Raises:
        InputError: it is not.
    """
    if find_spec("highdicom") is None:
        raise InputError(
            "--dicom-seg: expected the package highdicom, found none; install it with "
            "pip install 'oarseg[dicom-seg]', or leave the option out"
        )


def check_form(form: SegmentationForm, organs: Sequence[Organ]) -> None:
    """Make sure that a form can hold the organs.

    Raises:
        InputError: organs overlap, and a label map cannot hold that.
    """
    if form == "labelmap" and overlap(organs):
        raise InputError(
            "--dicom-seg labelmap: expected organs that exclude each other, found some that "
            "overlap; use --dicom-seg binary"
        )


def overlap(organs: Sequence[Organ]) -> bool:
    """Return whether any organs share a label."""
    labels = [label for organ in organs for label in organ.labels]
    return len(set(labels)) < len(labels)


def stacking_bytes(shape: tuple[int, ...], organs: Sequence[Organ]) -> int:
    """Return what highdicom is given: numbered segments, or a stack where organs overlap.

    Args:
        shape: of the label map.
        organs: that become segments.
    """
    each = len(organs) + SUM_BYTES if overlap(organs) else 1
    return math.prod(shape) * each


def memory_need(shape: tuple[int, int, int], rois: Sequence[Roi]) -> Need:
    """Forecast the memory of a Segmentation: what highdicom is given, and its frames.

    Args:
        shape: of the label map.
        rois: that become segments.
    """
    slices, rows, columns = shape
    frames = sum(roi.box[0].stop - roi.box[0].start for roi in rois)
    fixed = frames * (2 * rows * columns // 8 + FRAME_BYTES)
    stack = stacking_bytes(shape, [roi.organ for roi in rois])
    return Need("writing the Segmentation", fixed, stack // slices, slices)


def write_segmentation(
    path: Path,
    labels: NDArray[np.uint8],
    rois: Sequence[Roi],
    origin: Origin,
    *,
    form: SegmentationForm = "binary",
) -> None:
    """Write a Segmentation to a new file: one segment for each organ.

    Segments are numbered 1, 2, … in the rois' order. For memory see ``stacking_bytes``.

    Args:
        path: must not exist.
        labels: (slices, rows, columns), slices in the series' order.
        rois: what to write; at least one.
        origin: the series, and the model.
        form: "binary", or "labelmap" (Label Map Segmentation of 2024, which few can read).

    Raises:
        OSError: the disk is full, or the place cannot be written.
        OutputError: highdicom refuses the slices.
        ResourceError: it would not fit into memory.
    """
    slices, rows, columns = labels.shape
    memory.check_memory(memory_need((slices, rows, columns), rois), hint=WITHOUT)
    try:
        with without_warnings():
            written = _made(labels, rois, origin, form)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # What a scanner wrote can be more than highdicom bears; its words may quote the patient.
        raise OutputError(
            f"{origin.series.folder}: expected slices of which highdicom can make a Segmentation, "
            f"found that it cannot ({type(error).__name__}); leave --dicom-seg out"
        ) from error
    _make_repeatable(written, origin)
    with without_warnings(), path.open("xb") as stream:
        written.save_as(stream)


def _made(
    labels: NDArray[np.uint8],
    rois: Sequence[Roi],
    origin: Origin,
    form: SegmentationForm,
) -> Dataset:
    from highdicom.seg import Segmentation
    from pydicom.uid import ExplicitVRLittleEndian

    return Segmentation(
        source_images=_sources(origin.series),
        pixel_array=_segments(labels, rois),
        segmentation_type="BINARY" if form == "binary" else "LABELMAP",
        segment_descriptions=[
            _description(number, roi, origin) for number, roi in enumerate(rois, 1)
        ],
        series_instance_uid=origin.uid("SEG", "series"),
        series_number=1,
        sop_instance_uid=origin.uid("SEG", "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=one_line(origin.model, LONG_STRING) or MANUFACTURER,
        software_versions=__version__,
        device_serial_number=origin.model_sha256[:LONG_STRING],
        content_label="OARSEG",
        content_description=one_line(origin.warning or origin.model, LONG_STRING),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=one_line(f"oarseg: {origin.model}", LONG_STRING),
    )


def _sources(series: DicomSeries) -> list[Dataset]:
    """Describe the slices, by what has been checked of them; the files are not read again."""
    first = data_set(
        SpecificCharacterSet=UNICODE,
        SOPClassUID=series.sop_class_uid,
        StudyInstanceUID=series.study_uid,
        SeriesInstanceUID=series.series_uid,
        FrameOfReferenceUID=series.frame_of_reference_uid,
        Modality=series.modality,
        Rows=series.rows,
        Columns=series.columns,
        PixelSpacing=_decimals(series.pixel_spacing_mm),
        SliceThickness=_decimals([series.spacing_mm])[0],
        ImageOrientationPatient=_decimals([*series.row_direction, *series.column_direction]),
    )
    repeat_patient(first, series)
    for keyword, form in CHECKED.items():
        if not form.fullmatch(str(first.get(keyword, ""))):
            setattr(first, keyword, "")
    slices = []
    for uid, position in zip(series.sop_instance_uids, series.positions_mm, strict=True):
        one = data_set(SOPInstanceUID=uid, ImagePositionPatient=_decimals(position))
        one.update(first)
        slices.append(one)
    return slices


def _decimals(numbers: Iterable[float]) -> list[str]:
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(number) for number in numbers]


def _segments(labels: NDArray[np.uint8], rois: Sequence[Roi]) -> NDArray[np.uint8]:
    """Number the segments in one array, or stack them where they overlap."""
    if not overlap([roi.organ for roi in rois]):
        table = np.zeros(256, np.uint8)
        for number, roi in enumerate(rois, 1):
            table[list(roi.organ.labels)] = number
        # Where every organ was found the numbers are the labels, and no copy is needed.
        same = all(np.array_equal(table[plane], plane) for plane in labels)
        return labels if same else table[labels]
    stacked = np.zeros((*labels.shape, len(rois)), np.uint8)
    for index, roi in enumerate(rois):
        chosen = np.zeros(256, np.uint8)
        chosen[list(roi.organ.labels)] = 1
        stacked[(*roi.box, index)] = chosen[labels[roi.box]]
    return stacked


def _description(number: int, roi: Roi, origin: Origin) -> SegmentDescription:
    from highdicom.color import CIELabColor
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription as Description
    from highdicom.sr import CodedConcept

    def concept(code: Code) -> CodedConcept:
        return CodedConcept(code.value, code.scheme, one_line(code.meaning, LONG_STRING))

    organ = roi.organ
    target = organ.rt_type != "ORGAN"
    code = organ.code() or (SOME_TUMOUR if target else SOME_ORGAN)
    described = Description(
        segment_number=number,
        segment_label=organ.dicom_name,
        segmented_property_category=concept(ABNORMAL if target else CATEGORY),
        segmented_property_type=concept(code),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=one_line(origin.model, LONG_STRING) or MANUFACTURER,
            family=concept(ALGORITHM_FAMILY),
            version=origin.model_sha256,
        ),
        tracking_uid=origin.uid("SEG", "segment", organ.name),
        tracking_id=organ.dicom_name,
        display_color=CIELabColor.from_rgb(*organ.colour),
    )
    side = organ.side_code()
    if side:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(side)]
    return described


def _make_repeatable(written: Dataset, origin: Origin) -> None:
    """Replace what highdicom takes from the clock and from chance."""
    organization = origin.uid("SEG", "dimensions")
    for item in (*written.DimensionOrganizationSequence, *written.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    for equipment in written.get("ContributingEquipmentSequence") or ():
        equipment.pop("ContributionDateTime", None)
    # Dates are obligatory here; the images' own date stands for the day of the run.
    date, time = written.StudyDate or "19000101", written.StudyTime or "000000"
    for keyword in ("ContentDate", "SeriesDate", "InstanceCreationDate"):
        if keyword in written:
            setattr(written, keyword, date)
    for keyword in ("ContentTime", "SeriesTime", "InstanceCreationTime"):
        if keyword in written:
            setattr(written, keyword, time)
