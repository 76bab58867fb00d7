"""What a folder holds of DICOM: series of slices, files that cannot be used, and the rest."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from oarseg.errors import InputError
from oarseg.imaging.files.dicom.file_meta import (
    BYTES_TO_TELL,
    FileMeta,
    is_bare,
    is_dicom,
    read_file_meta,
)
from oarseg.imaging.files.dicom.slice_header import (
    ENHANCED,
    MODALITIES,
    SliceHeader,
    read_header,
)
from oarseg.imaging.files.dicom.structure_set import STRUCTURE_SET
from oarseg.imaging.files.pixels import open_plain_file, unusable_file

MOST_FILES = 1_000_000


@dataclass(frozen=True)
class SeriesFiles:
    """The image files with one series UID and study UID, sorted by path, not checked yet."""

    headers: tuple[SliceHeader, ...]

    @property
    def first(self) -> SliceHeader:
        """The header of the file whose path is first."""
        return self.headers[0]

    @property
    def folders(self) -> frozenset[Path]:
        """The folders that hold its files."""
        return frozenset(header.path.parent for header in self.headers)


@dataclass(frozen=True)
class UnusedFile:
    """A DICOM file that is no slice of a scan, and what it is."""

    path: Path
    kind: str
    is_structure_set: bool = False


@dataclass(frozen=True)
class DicomFolder:
    """What was found in a folder and below it.

    Attributes:
        series: CT and MR images, sorted by study and series UID.
        faults: CT or MR images that cannot be read, and why.
        unused: DICOM files that are listed and not used.
        others: number of files that are not DICOM.
    """

    series: tuple[SeriesFiles, ...]
    faults: tuple[tuple[Path, InputError], ...]
    unused: tuple[UnusedFile, ...]
    others: int

    @property
    def is_empty(self) -> bool:
        """Whether no file was DICOM."""
        return not (self.series or self.faults or self.unused)

    def unused_kinds(self) -> str:
        """List the kinds of unused files, and how many there are of each, for messages."""
        counts: dict[str, int] = {}
        for file in self.unused:
            counts[file.kind] = counts.get(file.kind, 0) + 1
        return ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))


def search_folder(folder: Path) -> DicomFolder:
    """Read the headers of all DICOM files in a folder and below it, whatever they are called.

    Hidden files and folders are left out. Links to folders are not followed; a link to a
    file outside the folder is a fault, as are a folder that cannot be read and a series in two
    studies, of which either would get a part of the slices.

    Raises:
        InputError: far more files than a folder of scans has.
    """
    groups: dict[tuple[str, str], list[SliceHeader]] = {}
    faults: list[tuple[Path, InputError]] = []
    unused: list[UnusedFile] = []
    others = 0
    root = Path(os.path.realpath(folder))
    for path in _files(folder, faults):
        try:
            found = _read(path, root)
        except InputError as error:
            faults.append((path, error))
            continue
        if found is None:
            others += 1
        elif isinstance(found, UnusedFile):
            unused.append(found)
        elif found.is_scout:
            unused.append(UnusedFile(path, "scout"))
        else:
            groups.setdefault((found.study_uid, found.series_uid), []).append(found)
    series = tuple(SeriesFiles(tuple(groups[key])) for key in sorted(groups))
    times = Counter(one.first.series_uid for one in series)
    shared = [one.first for one in series if times[one.first.series_uid] > 1]
    faults += [(header.path, in_two_studies(header)) for header in shared]
    return DicomFolder(series, tuple(faults), tuple(unused), others)


def read_series_files(paths: Iterable[Path], folder: Path) -> SeriesFiles:
    """Read the headers of the files of one series anew, which were found in a folder before.

    Raises:
        InputError: a file can no longer be read, or is of another series than the first.
    """
    root = Path(os.path.realpath(folder))
    headers: list[SliceHeader] = []
    for path in paths:
        found = _read(path, root)
        if not isinstance(found, SliceHeader) or (
            headers and found.series_uid != headers[0].series_uid
        ):
            raise unusable_file(
                path,
                expected="a slice of the series that was planned",
                found="another file",
                do="put it back, or plan anew",
            )
        headers.append(found)
    return SeriesFiles(tuple(headers))


def in_two_studies(header: SliceHeader) -> InputError:
    """Return the error for a series whose slices name two studies."""
    return unusable_file(
        header.path,
        expected=f"the StudyInstanceUID (0020,000D) of all slices of series {header.series_uid}",
        found="another in some of them",
        do="export the images again",
    )


def holds_dicom(folder: Path) -> bool:
    """Return whether any file in a folder or below it is DICOM, damaged or not."""
    for path in _files(folder, []):
        try:
            with open_plain_file(path) as stream:
                head = stream.read(BYTES_TO_TELL)
                if is_dicom(head) or is_bare(head):
                    return True
        except InputError:
            continue
    return False


def _files(folder: Path, faults: list[tuple[Path, InputError]]) -> Iterator[Path]:
    """Yield the files below a folder in order; folders that cannot be read are faults."""

    def note(error: OSError) -> None:
        path = Path(error.filename)
        faults.append((path, _unreadable_folder(path, error)))

    count = 0
    for place, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            count += 1
            if count > MOST_FILES:
                raise unusable_file(
                    folder,
                    expected=f"at most {MOST_FILES} files",
                    found="more",
                    do="give the folder of the scans alone",
                )
            yield Path(place, name)


def _unreadable_folder(path: Path, error: OSError) -> InputError:
    return unusable_file(
        path,
        expected="a folder that can be read",
        found=f"{error.strerror}",
        do="let its user read it, or move it away",
    )


def _read(path: Path, root: Path) -> SliceHeader | UnusedFile | None:
    """Read a file's header; None if it is not DICOM.

    Raises:
        InputError: a CT or MR image that cannot be used.
    """
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
        raise unusable_file(
            path,
            expected="a file inside the input folder",
            found="a link that leaves it",
            do="put the file itself there",
        )
    with open_plain_file(path) as stream:
        meta = read_file_meta(path, stream)
        if meta is None:
            return None
        if _is_image(meta):
            return read_header(path, stream, meta)
        return UnusedFile(path, meta.sop_class, meta.sop_class_uid == STRUCTURE_SET)


def _is_image(meta: FileMeta) -> bool:
    return meta.sop_class_uid in MODALITIES or meta.sop_class_uid in ENHANCED
