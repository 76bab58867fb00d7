"""Write the DICOM objects of a case that were asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.challenge import Organ
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.labels.boxes import Box
from oarseg.results.dicom.identity import Origin
from oarseg.results.dicom.segmentation import SegmentationForm, write_segmentation
from oarseg.results.dicom.structure_set import rois_of, write_structure_set

STRUCTURE_SET_END = "_RTSTRUCT.dcm"
SEGMENTATION_END = "_SEG.dcm"


@dataclass(frozen=True)
class DicomRequest:
    """The DICOM objects to write for a case.

    Attributes:
        series: the images that they refer to.
        model: the model's title.
        model_sha256: of its manifest.
        warning: the model's, for its users.
        structure_set: write an RT Structure Set.
        segmentation: the form of the Segmentation; None without one.
    """

    series: DicomSeries
    model: str
    model_sha256: str
    warning: str
    structure_set: bool
    segmentation: SegmentationForm | None


def write_objects(
    folder: Path,
    case: str,
    *,
    labels: NDArray[np.uint8],
    organs: Sequence[Organ],
    boxes: Sequence[Box | None],
    request: DicomRequest,
) -> list[str]:
    """Write the objects into a folder; none if no organ has a voxel, as they cannot be empty.

    Args:
        folder: where to write.
        case: begins the files' names.
        labels: uint8, (slices, rows, columns), on the series' grid.
        organs: what becomes an ROI or segment, …
        boxes: … and the box round each; None for one without voxels.
        request: what to write.

    Returns:
        The files' names.

    Raises:
        OSError: the disk is full, or the place cannot be written.
        ValueError: the label map is not of the series' size.
    """
    series = request.series
    expected = (len(series.files), series.rows, series.columns)
    if labels.shape != expected:
        raise ValueError(f"expected labels of shape {expected}, found {labels.shape}")
    rois = rois_of(organs, boxes)
    if not rois:
        return []
    digest = hashlib.sha256(np.ascontiguousarray(labels).data).hexdigest()
    origin = Origin(series, request.model, request.model_sha256, request.warning, digest)
    if request.structure_set:
        write_structure_set(folder / (case + STRUCTURE_SET_END), labels, rois, origin)
    if request.segmentation:
        file = folder / (case + SEGMENTATION_END)
        write_segmentation(file, labels, rois, origin, form=request.segmentation)
    names = object_names(case, request)
    for name in names:
        _sync(folder / name)
    return names


def object_names(case: str, request: DicomRequest) -> list[str]:
    """List the names of a case's objects, which lie beside its masks."""
    ends = (
        (STRUCTURE_SET_END, request.structure_set),
        (SEGMENTATION_END, request.segmentation is not None),
    )
    return [case + end for end, wanted in ends if wanted]


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
