"""Write a DICOM Segmentation, by highdicom (the extra ``dicom-seg``).

PS3.3 A.51; highdicom: Bridge et al., J. Digit. Imaging 35, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from oarseg import __version__
from oarseg.challenges.challenge import Code, Organ
from oarseg.errors import InputError, OutputError
from oarseg.labels.write_labels import CATEGORY
from oarseg.results.dicom.identity import LONG_STRING, MANUFACTURER, Origin, one_line
from oarseg.results.dicom.structure_set import Roi

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

SegmentationForm = Literal["binary", "labelmap"]

ABNORMAL = Code("SCT", "49755003", "Morphologically Abnormal Structure")
# What is said of an organ without a code of its own, and of a target volume.
SOME_ORGAN = Code("SCT", "113343008", "Organ")
SOME_TUMOUR = Code("SCT", "108369006", "Neoplasm")
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
    labels = [label for organ in organs for label in organ.labels]
    if form == "labelmap" and len(set(labels)) < len(labels):
        raise InputError(
            "--dicom-seg labelmap: expected organs that exclude each other, found some that "
            "overlap; use --dicom-seg binary"
        )


def write_segmentation(
    path: Path,
    labels: NDArray[np.uint8],
    rois: Sequence[Roi],
    origin: Origin,
    *,
    form: SegmentationForm = "binary",
) -> None:
    """Write a Segmentation to a new file: one segment for each organ.

    Segments are numbered 1, 2, … in the rois' order. Organs that overlap take one byte for
    each voxel and organ meanwhile.

    Args:
        path: must not exist.
        labels: (slices, rows, columns), slices in the series' order.
        rois: what to write; at least one.
        origin: the series, and the model.
        form: "binary", or "labelmap" (Label Map Segmentation of 2024, which few can read).

    Raises:
        OSError: the disk is full, or the place cannot be written.
        OutputError: highdicom refuses the slices.
    """
    slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in origin.series.files]
    try:
        written = _made(slices, labels, rois, origin, form)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # What a scanner wrote, or left out, can be more than highdicom bears.
        raise OutputError(
            f"{origin.series.folder}: expected slices of which highdicom can make a Segmentation, "
            f"found that it cannot ({error}); leave --dicom-seg out"
        ) from error
    _make_repeatable(written, origin, slices[0])
    with path.open("xb") as stream:
        written.save_as(stream)


def _made(
    slices: Sequence[Dataset],
    labels: NDArray[np.uint8],
    rois: Sequence[Roi],
    origin: Origin,
    form: SegmentationForm,
) -> Dataset:
    from highdicom.seg import Segmentation

    return Segmentation(
        source_images=slices,
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


def _segments(labels: NDArray[np.uint8], rois: Sequence[Roi]) -> NDArray[np.uint8]:
    """Number the segments in one array, or stack them where they overlap."""
    used = [label for roi in rois for label in roi.organ.labels]
    if len(set(used)) == len(used):
        table = np.zeros(256, np.uint8)
        for number, roi in enumerate(rois, 1):
            table[list(roi.organ.labels)] = number
        return table[labels]
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


def _make_repeatable(written: Dataset, origin: Origin, source: Dataset) -> None:
    """Replace what highdicom takes from the clock and from chance."""
    organization = origin.uid("SEG", "dimensions")
    for item in (*written.DimensionOrganizationSequence, *written.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    for equipment in written.get("ContributingEquipmentSequence") or ():
        equipment.pop("ContributionDateTime", None)
    # Dates are obligatory here; the images' own date stands for the day of the run.
    date = source.get("StudyDate") or "19000101"
    for keyword in ("ContentDate", "SeriesDate", "InstanceCreationDate"):
        if keyword in written:
            setattr(written, keyword, date)
    for keyword in ("ContentTime", "SeriesTime", "InstanceCreationTime"):
        if keyword in written:
            setattr(written, keyword, source.get("StudyTime") or "000000")
