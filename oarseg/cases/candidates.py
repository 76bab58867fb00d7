"""Files that may be the images of cases, before they are paired."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from oarseg.cases.admission import (
    fault_message,
    find_file_fault,
    not_an_image,
)
from oarseg.cases.case import CaseProblem, file_stem
from oarseg.cases.places import is_case_name
from oarseg.challenges.challenge import Socket
from oarseg.errors import InputError
from oarseg.imaging.files.locate import image_ending
from oarseg.imaging.files.pixels import printable_path


@dataclass(frozen=True)
class Candidate:
    """A file for one socket of one case, and its fault, if it has one."""

    socket: Socket
    path: Path
    name: str
    fault: str | None

    @property
    def key(self) -> str:
        """The case's name in lower case, by which files are paired."""
        return self.name.casefold()


@dataclass(frozen=True)
class Listing:
    """Contents of the input folder before files are paired."""

    candidates: list[Candidate]
    problems: list[CaseProblem]
    ignored: list[Path]


def make_candidate(path: Path, socket: Socket, input_dir: Path, name: str = "") -> Candidate:
    """Make a candidate of a file, with its fault if it cannot be opened.

    Args:
        path: the file.
        socket: what it is meant for.
        input_dir: the file must lie in it.
        name: of its case; empty takes the file's, without the socket's suffix.
    """
    stem = file_stem(path)
    # A file whose name is only the suffix keeps its whole stem.
    name = name or stem[: len(stem) - suffix_length(stem, socket)] or stem
    fault = find_file_fault(path, input_dir) or _name_fault(path, name)
    return Candidate(socket, path, printable_path(name), fault)


def _name_fault(path: Path, name: str) -> str | None:
    if is_case_name(name):
        return None
    return fault_message(
        Path(printable_path(str(path))),
        expected="a name for its case that a file can have",
        found=printable_path(name) or "none",
        do="rename the file or its folder",
    )


def suffix_length(stem: str, socket: Socket) -> int:
    """Return the length of the socket's longest suffix that the stem ends with; 0 for none."""
    lower = stem.lower()
    return max((len(s) for s in socket.suffixes if lower.endswith(s.lower())), default=0)


def list_input(folder: Path) -> list[Path]:
    """List the input folder itself, without hidden entries.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return _visible(folder)
    except OSError as error:
        raise InputError(_unreadable(folder, error)) from error


def list_below(folder: Path, listing: Listing) -> list[Path]:
    """List a folder below the input; empty, with a problem noted, if it cannot be read."""
    if not os.path.isdir(folder):
        return []
    try:
        return _visible(folder)
    except OSError as error:
        name = printable_path(folder.name)
        listing.problems.append(CaseProblem(name, _unreadable(folder, error)))
        return []


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _unreadable(folder: Path, error: OSError) -> str:
    return fault_message(
        folder,
        expected="a folder that can be read",
        found=f"{error.strerror}",
        do="make it readable, or remove it",
    )


def broken_links(paths: Iterable[Path], input_dir: Path) -> Iterator[CaseProblem]:
    """Report broken links without an image's ending: each may stand for a case's folder."""
    for path in paths:
        broken = os.path.islink(path) and not os.path.exists(path)
        if broken and image_ending(path.name) is None:
            fault = find_file_fault(path, input_dir)
            yield CaseProblem(printable_path(path.name), fault or not_an_image(path))
