"""The DICOM objects of a case: whether they can be written, and from what."""

from __future__ import annotations

from typing import Any

from oarseg.cases.case import Case
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.imaging.volume import Grid
from oarseg.results.dicom import segmentation
from oarseg.results.dicom.write_objects import DicomRequest, object_names
from oarseg.system import memory
from oarseg.system.memory import Need
from oarseg.workflows.settings import RunDescription, Settings


def check_objects(settings: Settings, challenge: Challenge) -> None:
    """Make sure, before any case, that the objects asked for can be written.

    Raises:
        InputError: highdicom is missing, or the form cannot hold the challenge's organs.
    """
    if settings.segmentation:
        segmentation.check_available()
        segmentation.check_form(settings.segmentation, challenge.organs)


def check_reference(case: Case, challenge: Challenge, settings: Settings) -> None:
    """Make sure that a case has the series which the objects asked for refer to.

    Raises:
        InputError: its reference image is not DICOM.
    """
    channel = challenge.reference.channel
    options = (("--rtstruct", settings.structure_set), ("--dicom-seg", settings.segmentation))
    asked = [option for option, wanted in options if wanted]
    if asked and channel not in case.series:
        raise InputError(
            f"{case.files[channel]}: expected a DICOM series for {' and '.join(asked)}, found a "
            f"file of another format; leave {' and '.join(asked)} out, or give the DICOM slices"
        )


def check_segmentation_memory(grid: Grid, run: RunDescription, *, freed: int) -> None:
    """Make sure, before the work, that a Segmentation of organs that overlap will fit.

    Args:
        grid: the CT's.
        run: says what is asked for.
        freed: bytes that are held now and will not be when it is written.

    Raises:
        ResourceError: it will not.
    """
    organs = run.challenge.organs
    if run.settings.segmentation and segmentation.overlap(organs):
        slices = grid.shape[0]
        per_slice = segmentation.stacking_bytes(grid.shape, organs) // slices
        need = Need("the Segmentation of organs that overlap", -freed, per_slice, slices)
        memory.check_memory(need, hint=segmentation.WITHOUT)


def dicom_request(case: Case, run: RunDescription) -> DicomRequest | None:
    """Describe the objects to write for a case; None where none was asked for."""
    settings, weights = run.settings, run.weights
    if not (settings.structure_set or settings.segmentation):
        return None
    return DicomRequest(
        series=case.series[run.challenge.reference.channel],
        model=weights.manifest.title,
        model_sha256=weights.sha256,
        warning=weights.manifest.warning,
        structure_set=settings.structure_set,
        segmentation=settings.segmentation,
    )


def dicom_record(
    case: Case, run: RunDescription, volumes_cm3: dict[str, float]
) -> dict[str, Any] | None:
    """Say in a report which objects were written, and which organs they lack; None without any."""
    request = dicom_request(case, run)
    if request is None:
        return None
    organs = run.challenge.organs
    absent = [organ.dicom_name for organ in organs if volumes_cm3[organ.name] == 0]
    written = len(absent) < len(organs)
    return {
        "files": object_names(case.name, request) if written else [],
        "absent": absent,
    }
