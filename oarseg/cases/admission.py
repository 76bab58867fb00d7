"""Decide which input files may be opened, and which are certainly not images.

A file beside the images is ignored, and counted, if its name or its text shows that it is not
an image: leftovers of an operating system, a README, checksums, notes. Anything that may be an
image is reported as a problem: another format, a misspelt ending, a truncated stream. A typo
therefore never makes a case disappear.
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

# Left behind by Windows, macOS, NAS systems and file systems; compared case-insensitively.
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
# The first bytes of images, whatever their names, and of files that stand in for them.
IMAGE_MAGICS = (b"NRRD", b"# vtk", b"version https://git-lfs", GZIP_MAGIC)
HEAD_BYTES = 1 << 16
_WHITESPACE = re.compile(r"[\t\n\r\f]")


def not_an_image(path: Path) -> str:
    """Return the message for a path that is not an image of a known format."""
    return fault_message(
        path,
        expected=f"an image ({', '.join(ENDINGS)})",
        found="a folder" if os.path.isdir(path) else "another file",
        do="remove it from this folder, or convert or rename it if it is an image",
    )


def is_no_image(path: Path, input_dir: Path) -> bool:
    """Return whether a file without an image's ending is certainly not one and may be ignored.

    Args:
        path: the file; opened only if it is a plain file inside the input folder.
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
    """Return whether the first bytes of a file are text; False for an empty file."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The last character may continue beyond the bytes that were read.
        if error.start < len(head) - 3 or len(head) < HEAD_BYTES:
            return False
        text = head[: error.start].decode("utf-8-sig")
    return bool(text) and _WHITESPACE.sub("", text).isprintable()


def find_file_fault(path: Path, input_dir: Path) -> str | None:
    """Return why a file must not be opened (its name, kind or link target), or None."""
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
