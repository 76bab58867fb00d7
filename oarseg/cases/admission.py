"""Which files of the input folder may be opened, and which are no images at all.

A file beside the images is left out, and counted, when its name or its text shows that it is
no image: what an operating system leaves behind, a README, checksums, notes. Whatever may be
an image stays a problem that the user is told of: another format, a misspelt ending, a stream
that breaks off. So a typo never makes a case vanish.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from oarseg.errors import InputError
from oarseg.imaging.files.locate import ENDINGS
from oarseg.imaging.files.metaimage import is_metaimage
from oarseg.imaging.files.nifti import is_nifti
from oarseg.imaging.files.pixels import GZIP_MAGIC, open_plain_file

# Left by Windows, macOS, NAS systems and file systems, compared without regard to case.
SYSTEM_LEFTOVERS = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
        "__macosx",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
    }
)
DOCUMENT = re.compile(
    r"(readme|license|licence|changelog|checksums?|(md5|sha1|sha256|sha512)sums?)(\.[^.]{1,8})?"
    r"|.*\.(txt|md|rst|pdf|docx?|xlsx?|pptx?|od[stp]|csv|tsv|json|xml|ya?ml|toml|ini|log|html?"
    r"|md5|sha1|sha256|sha512|sig|asc|url|lnk|py|sh)",
    re.IGNORECASE,
)
# What images begin with, whatever their names say, and what stands in for one.
IMAGE_MAGICS = (b"NRRD", b"# vtk", b"version https://git-lfs", GZIP_MAGIC)
HEAD_BYTES = 1 << 16
_WHITESPACE = re.compile(r"[\t\n\r\f]")


def printable_path(name: str) -> str:
    """A file name that can stand in a message."""
    return name if name.isprintable() else repr(name)


def not_an_image(path: Path) -> str:
    """Say why a path is no image that can be read."""
    return fault_message(
        path,
        expected=f"an image ({', '.join(ENDINGS)})",
        found="a folder" if os.path.isdir(path) else "another file",
        do="remove it from this folder, or convert or rename it if it is an image",
    )


def is_no_image(path: Path, input_dir: Path) -> bool:
    """Whether a file without an image's ending is certainly none, so that it can be left out.

    Args:
        path: the file; it is opened only if it is a plain one inside the input folder.
        input_dir: the input folder.
    """
    if path.name.casefold() in SYSTEM_LEFTOVERS:
        return True
    if find_file_fault(path, input_dir):
        return False
    try:
        with open_plain_file(path) as stream:
            head = stream.read(HEAD_BYTES)
    except InputError:
        return False
    if _begins_as_image(head):
        return False
    return DOCUMENT.fullmatch(path.name) is not None or _is_text(head)


def _begins_as_image(head: bytes) -> bool:
    known = is_metaimage(head) or is_nifti(head) or head[128:132] == b"DICM"
    return known or head.startswith(IMAGE_MAGICS)


def _is_text(head: bytes) -> bool:
    """Whether the first bytes of a file are text; no bytes at all say nothing."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The last character may go on behind what was read.
        if error.start < len(head) - 3 or len(head) < HEAD_BYTES:
            return False
        text = head[: error.start].decode("utf-8-sig")
    return bool(text) and _WHITESPACE.sub("", text).isprintable()


def find_file_fault(path: Path, input_dir: Path) -> str | None:
    """Find what forbids opening a file: its name, its kind or where it leads."""
    if not path.name.isprintable():
        return fault_message(
            Path(repr(path.name)),
            expected="a printable file name",
            found="control characters",
            do="rename it",
        )
    try:
        # Unlike Path.resolve, this raises an OSError for a link that leads back to itself.
        inside = Path(os.path.realpath(path, strict=True)).is_relative_to(input_dir.resolve())
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
    """Compose a message: the file, what it should be, what it is, what to do."""
    return f"{path}: expected {expected}, found {found}; {do}"
