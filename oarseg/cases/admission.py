"""What forbids opening a file of the input folder, before a byte of it is read."""

from __future__ import annotations

import stat
from pathlib import Path

from oarseg.imaging.files.locate import ENDINGS


def printable_path(name: str) -> str:
    """A file name that can stand in a message."""
    return name if name.isprintable() else repr(name)


def not_an_image(path: Path) -> str:
    """Why a path is no image."""
    return fault_message(
        path,
        expected=f"an image ({', '.join(ENDINGS)})",
        found="a folder" if path.is_dir() else "another file",
        do="remove it from this folder",
    )


def find_file_fault(path: Path, input_dir: Path) -> str | None:
    """What forbids opening a file: its name, its kind or where it leads."""
    if not path.name.isprintable():
        return fault_message(
            Path(repr(path.name)),
            expected="a printable file name",
            found="control characters",
            do="rename it",
        )
    try:
        inside = path.resolve(strict=True).is_relative_to(input_dir.resolve())
        mode = path.stat().st_mode
    except OSError as error:
        return fault_message(
            path, expected="a readable file", found=f"{error.strerror}", do="replace it"
        )
    if not inside:
        return fault_message(
            path,
            expected="a file inside the input folder",
            found="a link that leaves it",
            do="put the file itself there",
        )
    if not stat.S_ISREG(mode):
        return fault_message(
            path,
            expected="a plain file",
            found="a folder" if stat.S_ISDIR(mode) else "a pipe or device",
            do="put the image itself there",
        )
    return None


def fault_message(path: Path, *, expected: str, found: str, do: str) -> str:
    """A message: the file, what it should be, what it is, what to do."""
    return f"{path}: expected {expected}, found {found}; {do}"
