"""Find the cases in folders of DICOM: each study one, or one of the platform's sockets.

A study's case is named after its UID, never after its patient or a folder, which may bear the
patient's name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from oarseg.cases.admission import fault_message, find_file_fault
from oarseg.cases.case import Case, CaseProblem
from oarseg.challenges.challenge import Challenge, Socket
from oarseg.errors import InputError
from oarseg.imaging.files.dicom.assemble import assemble_series, short_id
from oarseg.imaging.files.dicom.choose import (
    check_faults,
    choose_series,
    list_series,
    no_series,
    series_of,
)
from oarseg.imaging.files.dicom.search import (
    DicomFolder,
    SeriesFiles,
    holds_dicom,
    search_folder,
)
from oarseg.imaging.files.dicom.series import DicomSeries, study_name
from oarseg.imaging.files.locate import image_ending
from oarseg.imaging.files.pixels import printable_path

NO_SERIES = "none"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WantedSeries:
    """The series that the user named.

    Attributes:
        series: UIDs of series for the reference image; empty for the only one of each study.
        mr_series: UIDs of MR series, or "none" to leave every MR out; empty for the only one.
    """

    series: tuple[str, ...] = ()
    mr_series: tuple[str, ...] = ()

    @property
    def no_mr(self) -> bool:
        """Whether no MR is to be used."""
        return NO_SERIES in self.mr_series


@dataclass
class DicomCases:
    """The cases of a folder of DICOM, and what cannot be one."""

    cases: list[Case] = field(default_factory=list)
    problems: list[CaseProblem] = field(default_factory=list)

    def attempt(self, name: str, make: Callable[[], Case]) -> None:
        """Add a case, or the problem that it has."""
        try:
            self.cases.append(make())
        except InputError as error:
            self.problems.append(CaseProblem(name, str(error)))


def find_socket_case(
    folders: Mapping[str, Path],
    challenge: Challenge,
    needed: AbstractSet[str],
    wanted: WantedSeries,
    input_dir: Path,
) -> DicomCases | None:
    """Find the one case of which a socket is a folder of DICOM slices.

    Args:
        folders: slug → folder, of the sockets that the platform lists.
        challenge: gives the sockets.
        needed: channels that the case must have.
        wanted: series that the user named.
        input_dir: the input folder; no file may lie outside it.

    Returns:
        None if no socket is such a folder.
    """
    sockets = [s for s in challenge.sockets if s.slug in folders and folders[s.slug].is_dir()]
    found = {s.channel: search_folder(folders[s.slug]) for s in sockets if _is_set(folders[s.slug])}
    if not found:
        return None
    _log_rest(list(found.values()))
    reference = found.get(challenge.reference.channel) or next(iter(found.values()))
    name = study_name(reference.series[0].first.study_uid) if reference.series else "dicom"

    def make() -> Case:
        files: dict[str, Path] = {}
        series: dict[str, DicomSeries] = {}
        for socket in sockets:
            folder, channel = folders[socket.slug], socket.channel
            if channel in found:
                named = wanted.mr_series if socket.modality == "MR" else wanted.series
                if NO_SERIES not in named:
                    series[channel] = _series(folder, found[channel], socket, named)
            elif (file := _only_image(folder, input_dir)) is not None:
                files[channel] = file
        return _case(name, challenge, needed, files, series, input_dir)

    cases = DicomCases()
    cases.attempt(name, make)
    return cases


def find_study_cases(
    input_dir: Path, challenge: Challenge, needed: AbstractSet[str], wanted: WantedSeries
) -> DicomCases | None:
    """Find a case in each study below a folder.

    Returns:
        None if no file there is DICOM.

    Raises:
        InputError: no image of the reference's modality, or no series of a UID that was named.
    """
    found = search_folder(input_dir)
    if found.is_empty:
        return None
    _log_rest([found])
    modality = challenge.reference.modality
    if not any(series.first.modality == modality for series in found.series):
        raise no_series(input_dir, found, modality)
    _check_wanted(input_dir, found, wanted)
    cases = DicomCases()
    studies: dict[str, list[SeriesFiles]] = {}
    for series in found.series:
        studies.setdefault(series.first.study_uid, []).append(series)
    for uid, members in studies.items():
        study = DicomFolder(tuple(members), found.faults, (), 0)
        if _is_meant(study, modality, wanted):
            _add_study(cases, study_name(uid), input_dir, found, study, challenge, needed, wanted)
    _add_lone_faults(cases, found)
    return cases


def _add_study(
    cases: DicomCases,
    name: str,
    input_dir: Path,
    found: DicomFolder,
    study: DicomFolder,
    challenge: Challenge,
    needed: AbstractSet[str],
    wanted: WantedSeries,
) -> None:
    reference = challenge.reference

    def make() -> Case:
        if not series_of(study, reference.modality):
            raise no_series(input_dir, study, reference.modality)
        series = {reference.channel: _series(input_dir, study, reference, wanted.series)}
        socket = next((s for s in challenge.sockets if s.modality == "MR"), None)
        if socket is not None and not socket.reference and not wanted.no_mr:
            pool = _patient(found, series[reference.channel]) if wanted.mr_series else study
            if _candidates(pool, "MR", wanted.mr_series):
                series[socket.channel] = _series(input_dir, pool, socket, wanted.mr_series)
        return _case(name, challenge, needed, {}, series, input_dir)

    cases.attempt(name, make)


def _candidates(found: DicomFolder, modality: str, named: Sequence[str]) -> tuple[SeriesFiles, ...]:
    known = series_of(found, modality)
    return tuple(s for s in known if not named or s.first.series_uid in named)


def _series(folder: Path, found: DicomFolder, socket: Socket, named: Sequence[str]) -> DicomSeries:
    """Choose the series of a socket, and put its slices in order."""
    candidates = series_of(found, socket.modality)
    if not candidates:
        raise no_series(folder, found, socket.modality)
    option = "--mr-series" if socket.modality == "MR" else "--series"
    chosen = choose_series(folder, candidates, named, option)
    check_faults(found, chosen)
    return assemble_series(chosen)


def _patient(found: DicomFolder, reference: DicomSeries) -> DicomFolder:
    """Return the series of the reference's patient, of all studies."""
    patient = reference.patient_attributes.get("PatientID", "")
    same = tuple(s for s in found.series if s.first.patient_id == patient)
    return DicomFolder(same, found.faults, (), 0)


def _is_meant(study: DicomFolder, modality: str, wanted: WantedSeries) -> bool:
    """Return whether a study is to be a case, given what the user named."""
    uids = {series.first.series_uid for series in study.series}
    if wanted.series:
        return bool(uids & set(wanted.series))
    has_reference = any(series.first.modality == modality for series in study.series)
    return has_reference or not (wanted.no_mr or uids & set(wanted.mr_series))


def _check_wanted(input_dir: Path, found: DicomFolder, wanted: WantedSeries) -> None:
    known = {series.first.series_uid for series in found.series}
    for option, uids in (("--series", wanted.series), ("--mr-series", wanted.mr_series)):
        for uid in uids:
            if uid != NO_SERIES and uid not in known:
                raise InputError(
                    f"{input_dir}: expected the series {printable_path(uid)} of {option}, found "
                    f"{list_series(found.series)}; correct the UID"
                )


def _case(
    name: str,
    challenge: Challenge,
    needed: AbstractSet[str],
    files: Mapping[str, Path],
    series: Mapping[str, DicomSeries],
    input_dir: Path,
) -> Case:
    """Make the case, with every channel that it needs, of one patient.

    Raises:
        InputError: a channel is missing, or two patients.
    """
    channels = {**files, **series}
    missing = [s.channel for s in challenge.sockets if s.channel in needed - set(channels)]
    if missing:
        raise InputError(
            fault_message(
                input_dir,
                expected=f"the {missing[0]} of {name} with its {', '.join(channels) or 'images'}",
                found="none",
                do="add it, or give each image as a folder images/<socket>/",
            )
        )
    patients = sorted({s.patient_attributes.get("PatientID", "") for s in series.values()})
    if len(patients) > 1:
        raise InputError(
            fault_message(
                input_dir,
                expected=f"images of one patient in {name}",
                found=f"the patient IDs {short_id(patients[0])} and {short_id(patients[1])}",
                do="choose the series of one patient",
            )
        )
    for channel, one in series.items():
        log.info("%s: %s is series %s, %d slices", name, channel, one.series_uid, len(one.files))
    places = {channel: one.folder / one.series_uid for channel, one in series.items()}
    return Case(name, {**files, **places}, dict(series))


def _is_set(folder: Path) -> bool:
    """Return whether a socket's folder holds a set of DICOM slices, and no image in one file."""
    return not _images(folder) and holds_dicom(folder)


def _images(folder: Path) -> list[Path]:
    """List the images of a folder; one that cannot be read is reported as such elsewhere."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []
    return [folder / name for name in names if image_ending(name) is not None]


def _only_image(folder: Path, input_dir: Path) -> Path | None:
    """Return the image of a socket that is no DICOM; None without any.

    Raises:
        InputError: several, or one that must not be opened.
    """
    images = _images(folder)
    if len(images) > 1:
        found = f"{len(images)} ({', '.join(printable_path(path.name) for path in images[:3])})"
        raise InputError(
            fault_message(folder, expected="one image", found=found, do="keep one of them")
        )
    fault = find_file_fault(images[0], input_dir) if images else None
    if fault:
        raise InputError(fault)
    return images[0] if images else None


def _add_lone_faults(cases: DicomCases, found: DicomFolder) -> None:
    """Report the files that cannot be read and lie beside no series."""
    folders = {folder for series in found.series for folder in series.folders}
    for path, error in found.faults:
        if path.parent not in folders:
            cases.problems.append(CaseProblem(printable_path(path.name), str(error)))


def _log_rest(folders: Sequence[DicomFolder]) -> None:
    for found in folders:
        if found.unused:
            log.info("DICOM files that are not used: %s", found.unused_kinds())
        if found.others:
            log.info("%d files are not DICOM, left out", found.others)
