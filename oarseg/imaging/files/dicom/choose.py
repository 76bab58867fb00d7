"""Which of several series is meant."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from oarseg.errors import InputError
from oarseg.imaging.files.dicom.assemble import assemble_series, typical_spacing_mm
from oarseg.imaging.files.dicom.search import (
    DicomFolder,
    SeriesFiles,
    in_two_studies,
    search_folder,
)
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.files.pixels import quote_header_text, unusable_file

# Fewer slices make no volume: scouts that do not call themselves so, and series of a bolus.
FEWEST_SLICES = 4
MOST_SERIES_LISTED = 20


def series_of(found: DicomFolder, modality: str) -> tuple[SeriesFiles, ...]:
    """Return the series of a modality, without those too short for a volume if others are not."""
    known = [series for series in found.series if series.first.modality == modality]
    return tuple([s for s in known if _is_long(s)] or known)


def _is_long(series: SeriesFiles) -> bool:
    return len(series.headers) >= FEWEST_SLICES or series.first.enhanced


def choose_series(
    folder: Path, candidates: Sequence[SeriesFiles], wanted: Collection[str], option: str
) -> SeriesFiles:
    """Choose the one series that is meant.

    Args:
        folder: for messages.
        candidates: at least one, of one modality.
        wanted: UIDs of series from the command line; empty without any.
        option: the name of that option.

    Raises:
        InputError: several candidates, or none or several of those that are wanted.
    """
    chosen = [series for series in candidates if not wanted or series.first.series_uid in wanted]
    if len(chosen) == 1:
        return chosen[0]
    if len({series.first.series_uid for series in chosen}) == 1:
        raise in_two_studies(chosen[0].first)
    modality = candidates[0].first.modality
    raise unusable_file(
        folder,
        expected=f"one {modality} series" + (f" of those that {option} names" if wanted else ""),
        found=f"{len(chosen)} of {list_series(candidates)}",
        do=f"choose one with {option} UID",
    )


def list_series(candidates: Sequence[SeriesFiles]) -> str:
    """List series: UID, description, slices and spacing."""
    shown = [_describe(series) for series in candidates[:MOST_SERIES_LISTED]]
    rest = (
        [f"{len(candidates) - MOST_SERIES_LISTED} more"]
        if len(candidates) > MOST_SERIES_LISTED
        else []
    )
    return "; ".join([*shown, *rest])


def _describe(series: SeriesFiles) -> str:
    spacing = typical_spacing_mm(series)
    apart = f" of {spacing:.2f} mm" if spacing else ""
    name = quote_header_text(series.first.description)
    return f"{series.first.series_uid} ({name}, {len(series.headers)} slices{apart})"


def find_series(
    folder: Path, modality: str, wanted: Collection[str] = (), *, option: str = "--series"
) -> DicomSeries:
    """Find the one series of a modality in a folder, and put its slices in order.

    Args:
        folder: searched with all folders below it.
        modality: "CT" or "MR".
        wanted: UIDs of series; empty for the only one that there is.
        option: how the user can name one.

    Raises:
        InputError: none, several, a file that cannot be read, or slices that make no volume.
    """
    found = search_folder(folder)
    candidates = series_of(found, modality)
    if not candidates:
        raise no_series(folder, found, modality)
    chosen = choose_series(folder, candidates, wanted, option)
    check_faults(found, chosen)
    return assemble_series(chosen)


def no_series(folder: Path, found: DicomFolder, modality: str) -> InputError:
    """Return the error for a folder without a series of a modality."""
    if found.faults:
        return found.faults[0][1]
    kinds = [found.unused_kinds()] if found.unused else []
    kinds += [f"{s.first.modality} ({len(s.headers)} slices)" for s in found.series]
    alone = found.unused and not found.series
    return unusable_file(
        found.unused[0].path if alone else folder,
        expected=f"a {modality} series in DICOM",
        found=", ".join(kinds) or f"{found.others} files of other kinds",
        do=f"give the folder that holds the {modality}",
    )


def check_faults(found: DicomFolder, chosen: SeriesFiles) -> None:
    """Refuse a series beside which a file lies that cannot be read: it may be a slice of it.

    Raises:
        InputError: there is such a file in one of the series' folders.
    """
    for path, error in found.faults:
        if path.parent in chosen.folders:
            raise error
