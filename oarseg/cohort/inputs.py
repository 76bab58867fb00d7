"""The files of a case as a plan knows them: where they lie, and by what a change is seen."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from oarseg.cases.admission import find_file_fault
from oarseg.cases.case import Case
from oarseg.cases.places import safe_relative_path
from oarseg.challenges.structures import STRICT
from oarseg.errors import InputError
from oarseg.imaging.files.dicom.assemble import assemble_series
from oarseg.imaging.files.dicom.search import read_series_files
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.model.bundle import file_sha256


def inside(path: str) -> str:
    """Return a path that stays in its folder, for models of files that anybody may have edited.

    Raises:
        ValueError: it does not.
    """
    if safe_relative_path(path) is None:
        raise ValueError("expected a path inside the input folder")
    return path


RelativePath = Annotated[str, AfterValidator(inside)]


@dataclass(frozen=True, config=STRICT)
class InputFile:
    """A file of a case as it was when the plan was made.

    Attributes:
        path: below the input folder.
        size: in bytes.
        mtime_ns: time of its last change.
    """

    path: RelativePath
    size: int
    mtime_ns: int

    @property
    def shown(self) -> str:
        """What stands for it in results and reports, below the input folder."""
        return self.path

    def paths(self, root: Path) -> list[Path]:
        """Return its one path."""
        return [root / self.path]


@dataclass(frozen=True, config=STRICT, kw_only=True)
class InputSeries:
    """A series of DICOM as it was when the plan was made.

    Attributes:
        uid: of the series.
        folder: that holds all its slices, below the input folder; empty for that itself.
        names: of the slices, below that folder, in the order of the volume's planes.
        size: of all of them, in bytes.
        listing: SHA-256 over names, sizes and times of last change.
    """

    uid: Annotated[str, AfterValidator(inside)]
    folder: Annotated[str, AfterValidator(lambda path: path and inside(path))]
    names: Annotated[tuple[RelativePath, ...], Field(min_length=1)]
    size: int
    listing: str

    @property
    def shown(self) -> str:
        """What stands for it in results and reports, below the input folder."""
        return os.path.join(self.folder, self.uid)

    def paths(self, root: Path) -> list[Path]:
        """Return the paths of its slices."""
        return [root / self.folder / name for name in self.names]


Input = InputFile | InputSeries


def planned_inputs(case: Case, root: Path) -> dict[str, Input]:
    """Describe the files of a case; none of them is opened.

    Args:
        case: as it was found.
        root: the input folder.

    Returns:
        Channel → file or series.

    Raises:
        InputError: a file is gone, or has a name that no plan can hold.
    """
    try:
        return {
            channel: _series(case.series[channel], root)
            if channel in case.series
            else _file(path, root)
            for channel, path in case.files.items()
        }
    except OSError as error:
        raise InputError(
            f"{error.filename}: expected a readable file, found {error.strerror}; replace it"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{str(next(iter(case.files.values())))!a}: expected files and folders with "
            "printable names, found others; rename them"
        ) from error


def _file(path: Path, root: Path) -> InputFile:
    found = os.stat(path)
    return InputFile(str(path.relative_to(root)), found.st_size, found.st_mtime_ns)


def _series(series: DicomSeries, root: Path) -> InputSeries:
    below = str(series.folder.relative_to(root))
    names = tuple(str(file.relative_to(series.folder)) for file in series.files)
    stats = [os.stat(file) for file in series.files]
    lines = (f"{s.st_size} {s.st_mtime_ns} {n}\n" for n, s in zip(names, stats, strict=True))
    return InputSeries(
        uid=series.series_uid,
        folder="" if below == "." else below,
        names=names,
        size=sum(found.st_size for found in stats),
        listing=hashlib.sha256("".join(lines).encode()).hexdigest(),
    )


def case_of(name: str, inputs: Mapping[str, Input], root: Path) -> Case:
    """Return the case that a plan means; of DICOM the headers are read anew.

    Raises:
        InputError: its slices no longer make the volume.
    """
    files = {channel: root / found.shown for channel, found in inputs.items()}
    series = {
        channel: assemble_series(read_series_files(found.paths(root), root))
        for channel, found in inputs.items()
        if isinstance(found, InputSeries)
    }
    return Case(name, files, series)


def has_changed(old: Input, new: Input, digest: str | None, root: Path) -> bool:
    """Return whether a file's content is another than that of which the digest was taken.

    Args:
        old: as it was in the plan that its case was computed by.
        new: as it is now.
        digest: of what was read then, if anything was.
        root: the input folder.
    """
    if old == new:
        return False
    if type(old) is not type(new) or old.size != new.size or digest is None:
        return True
    try:
        return content_digest(new, root) != digest
    except OSError:
        return True  # whoever computes the case will say what is wrong


def content_digest(found: Input, root: Path) -> str:
    """Return the SHA-256 of a file; for a series that of its slices' SHA-256, by name."""
    paths = found.paths(root)
    if isinstance(found, InputFile):
        return file_sha256(paths[0])
    pairs = sorted(zip(found.names, paths, strict=True))
    lines = (f"{file_sha256(path)}  {name}\n" for name, path in pairs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class UnchangedInputs:
    """The files of a case while it is computed: what was read, and that nobody writes to them.

    Args:
        inputs: of the plan.
        root: the input folder.
    """

    def __init__(self, inputs: Mapping[str, Input], root: Path) -> None:
        self._inputs, self._root = inputs, root
        self._before: Sequence[tuple[int, int]] = ()

    def digests(self) -> dict[str, str]:
        """Read the files through; return channel → SHA-256.

        Raises:
            InputError: one is not there or changes meanwhile.
            OSError: the folder is not there, or cannot be read: no fault of the case.
        """
        self._before = self._stamps()
        try:
            found = {c: content_digest(one, self._root) for c, one in self._inputs.items()}
        except (FileNotFoundError, PermissionError) as error:
            raise self._unreadable(error) from error
        self.check()
        return found

    def check(self) -> None:
        """Make sure that no file has changed since its digest was taken.

        Raises:
            InputError: one has.
        """
        now = self._stamps()
        for path, before, after in zip(self._paths(), self._before, now, strict=True):
            if before != after:
                raise InputError(
                    f"{path}: expected a file that nobody writes to, found it changed while it "
                    "was read; run the cohort again when it is complete"
                )

    def _paths(self) -> Iterator[Path]:
        for found in self._inputs.values():
            yield from found.paths(self._root)

    def _stamps(self) -> list[tuple[int, int]]:
        stamps = []
        for path in self._paths():
            try:
                found = path.stat()
            except (FileNotFoundError, PermissionError) as error:
                raise self._unreadable(error) from error
            if fault := find_file_fault(path, self._root):
                raise InputError(fault)  # a pipe, or a link out of the folder, since the plan
            stamps.append((found.st_size, found.st_mtime_ns))
        return stamps

    def _unreadable(self, error: OSError) -> InputError:
        if not os.listdir(self._root):
            # As a mount that is gone leaves it. Raised as the system's: no case is to blame.
            message = "expected the input folder of the plan, found an empty one; mount it"
            raise OSError(f"{self._root}: {message}") from error
        return InputError(
            f"{error.filename}: expected the file of the plan, cannot read it ({error.strerror})"
        )
