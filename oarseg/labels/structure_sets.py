"""RT Structure Sets as labels: which belongs to which scan, and which contours to which organ."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from oarseg.challenges.challenge import Challenge, Organ
from oarseg.errors import InputError
from oarseg.imaging.files.dicom.search import search_folder
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.files.dicom.structure_set import (
    FEWEST_POINTS,
    DrawnStructure,
    StructureReferences,
    fill_contours,
    read_structure_set,
)
from oarseg.imaging.files.locate import image_ending
from oarseg.imaging.files.pixels import printable_path, quote_header_text, unusable_file
from oarseg.imaging.volume import Grid
from oarseg.labels.pieces import Pieces

NAMES_SHOWN = 10
# Kinds of contours that enclose nothing.
POINTS = frozenset({"'POINT'", f"fewer than {FEWEST_POINTS} points"})


def is_structure_set(path: Path) -> bool:
    """Return whether a label file is not an image, and therefore an RT Structure Set."""
    return image_ending(path.name) is None


def find_structure_sets(folder: Path) -> tuple[Path, ...]:
    """Find the files below a folder that are DICOM and no scans."""
    return tuple(file.path for file in search_folder(folder).unused if file.is_structure_set)


def structure_set_of(series: DicomSeries, known: Iterable[StructureReferences]) -> Path | None:
    """Return the structure set that was drawn on a series.

    Args:
        series: the scan.
        known: what RT Structure Sets refer to.

    Returns:
        The one that names the series; if none does, the one that lies in its frame of reference
        and names no series.

    Raises:
        InputError: several, or structures in another frame of reference.
    """
    known = tuple(known)
    fitting = [one for one in known if series.series_uid in one.series_uids]
    fitting = fitting or [one for one in known if _shares_frame(one, series)]
    if len(fitting) > 1:
        raise unusable_file(
            fitting[0].path,
            expected=f"one RT Structure Set of series {series.series_uid}",
            found=f"another in {printable_path(str(fitting[1].path))}",
            do="keep one of them",
        )
    if not fitting:
        return None
    (one,) = fitting
    if one.roi_frame_uids - {series.frame_of_reference_uid}:
        raise unusable_file(
            one.path,
            expected=f"structures in the frame of reference of series {series.series_uid}",
            found="some in another (ReferencedFrameOfReferenceUID)",
            do="give those that were drawn on this series, or move them there first",
        )
    return one.path


def _shares_frame(one: StructureReferences, series: DicomSeries) -> bool:
    return not one.series_uids and series.frame_of_reference_uid in one.frame_uids


def read_structures(
    path: Path, challenge: Challenge, grid: Grid
) -> tuple[dict[str, Pieces], tuple[str, ...]]:
    """Read the structures that a challenge knows as masks on a scan's grid.

    A structure is known by its name in the challenge, in DICOM (``rt_name``), or by another one
    that the table ``[data_set.roi_names]`` gives. Case, separators and the order of a name's parts
    do not count, so that TG-263's names in reverse order fit too (``L_Parotid``, ``parotid l``).

    Returns:
        organ → mask, and the names of structures that the challenge does not know.

    Raises:
        InputError: not readable, no structure that is known, two of one organ,
            contours that are open or off the slices.
    """
    found = read_structure_set(path)
    if found is None:
        raise unusable_file(
            path,
            expected="an RT Structure Set",
            found="another file",
            do="give the label file itself",
        )
    organs = _organs_by_name(challenge)
    chosen: dict[str, DrawnStructure] = {}
    unknown: list[str] = []
    for roi in found:
        organ = organs.get(_key(roi.name))
        if organ is None:
            unknown.append(roi.name)
        elif organ.name in chosen:
            raise _twice(path, organ, chosen[organ.name], roi)
        else:
            chosen[organ.name] = roi
    if not chosen:
        names = ", ".join(quote_header_text(name) for name in unknown[:NAMES_SHOWN])
        raise unusable_file(
            path,
            expected=f"structures named as those of {challenge.name}",
            found=names or "none with a contour",
            do="rename them, or name them in [data_set.roi_names] of the challenge's file",
        )
    return {name: _pieces(path, roi, grid) for name, roi in chosen.items()}, tuple(unknown)


def _pieces(path: Path, roi: DrawnStructure, grid: Grid) -> Pieces:
    if roi.fault:
        raise roi.fault
    # Points beside closed contours mark something; an open contour may be a part of the organ.
    if roi.others - POINTS or not roi.contours:
        raise unusable_file(
            path,
            expected=f"closed contours of {quote_header_text(roi.name)}",
            found=", ".join(sorted(roi.others)),
            do="close them, or remove the structure",
        )
    pieces = Pieces()
    for number, plane in sorted(fill_contours(path, roi, grid).items()):
        pieces.add(number, plane)
    return pieces


def _organs_by_name(challenge: Challenge) -> dict[tuple[str, ...], Organ]:
    others = challenge.data_set.roi_names
    return {
        _key(name): organ
        for organ in challenge.organs
        for name in (*others.get(organ.name, ()), organ.dicom_name, organ.name)
    }


def _key(name: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"[^\W_]+", name.casefold())))


def _twice(path: Path, organ: Organ, one: DrawnStructure, other: DrawnStructure) -> InputError:
    return unusable_file(
        path,
        expected=f"one structure for {organ.name}",
        found=f"{quote_header_text(one.name)} and {quote_header_text(other.name)}",
        do="keep one of them",
    )
