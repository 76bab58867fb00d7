"""Read and write files below the output folder without following a link.

An output folder may come from anywhere. Every path below it is therefore walked from the
folder's own descriptor, one part at a time and never through a link, and files are created
exclusively: nothing outside is read, written or removed. Only the output folder itself may be
reached through links, which the user gave.

This module imports only the standard library, so that a process with little memory can use it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from oarseg.cases.places import HIDDEN
from oarseg.errors import OutputError

EntryKind = Literal["none", "file", "folder", "link", "other"]
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def explained_refusal(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into one sentence.

    Args:
        path: what was to be written.

    Raises:
        OutputError: instead of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        # A container runs as its own user, who does not own the caller's folder.
        advice = (
            f'let uid {os.getuid()} write there (docker run: --user "$(id -u)"), '
            if isinstance(error, PermissionError)
            else "free space, "
        )
        raise OutputError(
            f"{path}: expected a folder that can be written, found "
            f"{error.strerror or error}{where}; {advice}or pass another --output"
        ) from error


@contextmanager
def opened_folder(output: Path, folder: Path, *, create: bool = False) -> Iterator[int]:
    """Open a folder below the output folder.

    Args:
        output: the output folder, which must be there.
        folder: relative to it.
        create: make what is missing.

    Yields:
        Its descriptor.

    Raises:
        OutputError: a part of the path is a link or a file.
        OSError: it is missing, or the system refuses.
    """
    handle = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        walked = output
        for part in folder.parts:
            walked = walked / part
            inner = _open_part(handle, part, walked, create=create)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def _open_part(handle: int, part: str, walked: Path, *, create: bool) -> int:
    if create:
        with suppress(FileExistsError):
            os.mkdir(part, dir_fd=handle)
    try:
        return os.open(part, _FOLDER, dir_fd=handle)
    except OSError as error:
        error.filename = str(walked)
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        kind = _kind_at(handle, part)
        raise OutputError(
            f"{walked}: expected a folder, found a {kind}; links below the output folder are "
            "not followed; remove it, or pass another --output"
        ) from error


@contextmanager
def _opened_parent(output: Path, path: Path, *, create: bool = False) -> Iterator[tuple[int, str]]:
    with opened_folder(output, path.parent, create=create) as handle:
        try:
            yield handle, path.name
        except OSError as error:
            # The system's own message would name the last part only.
            error.filename = str(output / path)
            error.filename2 = None
            raise


def _kind_at(handle: int, name: str) -> EntryKind:
    try:
        mode = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return "none"
    kinds: dict[int, EntryKind] = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "folder",
        stat.S_IFLNK: "link",
    }
    return kinds.get(stat.S_IFMT(mode), "other")


def entry_kind(output: Path, path: Path) -> EntryKind:
    """Return what is at a path below the output folder; a link is not followed."""
    try:
        with _opened_parent(output, path) as (handle, name):
            return _kind_at(handle, name)
    except FileNotFoundError:
        return "none"


def entry_identity(output: Path, path: Path) -> tuple[int, int] | None:
    """Return what a file or folder keeps when it is renamed; None if it does not exist."""
    try:
        with _opened_parent(output, path) as (handle, name):
            found = os.stat(name, dir_fd=handle, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def list_folder(output: Path, folder: Path) -> list[str]:
    """List the names in a folder, sorted; empty if it does not exist."""
    try:
        with opened_folder(output, folder) as handle:
            return sorted(os.listdir(handle))
    except FileNotFoundError:
        return []


def make_folder(output: Path, folder: Path) -> None:
    """Make a folder and its missing parents."""
    with opened_folder(output, folder, create=True):
        pass


def move_entry(output: Path, source: Path, target: Path) -> None:
    """Rename a file or folder; a file at the target is replaced."""
    with (
        _opened_parent(output, target, create=True) as (to, new_name),
        _opened_parent(output, source) as (start, old_name),
    ):
        os.rename(old_name, new_name, src_dir_fd=start, dst_dir_fd=to)


def remove_entry(output: Path, path: Path) -> None:
    """Remove a file, a link or a folder with its contents; do nothing if it does not exist."""
    try:
        with _opened_parent(output, path) as (handle, name):
            if _kind_at(handle, name) == "folder":
                shutil.rmtree(name, dir_fd=handle)
            else:
                os.unlink(name, dir_fd=handle)
    except FileNotFoundError:
        pass
    except RecursionError as error:
        raise OutputError(
            f"{output / path}: expected a folder of a run, found one nested too deep to remove; "
            "remove it, or pass another --output"
        ) from error


def remove_empty_folder(output: Path, folder: Path) -> None:
    """Remove a folder if it exists and is empty."""
    try:
        with _opened_parent(output, folder) as (handle, name):
            os.rmdir(name, dir_fd=handle)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise


def open_file(output: Path, path: Path, flags: int) -> int:
    """Open a plain file below the output folder; see ``os.open``.

    Raises:
        OutputError: the path is not a plain file, or the file has a second name (hard link)
            elsewhere, which would be written too.
        OSError: the system refuses.
    """
    create = bool(flags & os.O_CREAT)
    with _opened_parent(output, path, create=create) as (handle, name):
        try:
            opened = os.open(name, flags | _FILE, 0o666, dir_fd=handle)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise
            raise _not_plain(output / path, _kind_at(handle, name)) from error
    status = os.fstat(opened)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return opened
    os.close(opened)
    raise _not_plain(output / path, "file" if stat.S_ISREG(status.st_mode) else "other")


def _not_plain(path: Path, kind: EntryKind) -> OutputError:
    found = {"file": "one with a second name", "other": "a pipe or device"}.get(kind, f"a {kind}")
    return OutputError(
        f"{path}: expected a plain file, found {found}; remove it, or pass another --output"
    )


def read_text(output: Path, path: Path, *, limit: int) -> str | None:
    """Read the text of a plain file.

    Args:
        output: the output folder.
        path: relative to it.
        limit: bytes; a larger file is not read.

    Returns:
        None where there is no such file, no UTF-8 or too much of it.
    """
    try:
        handle = open_file(output, path, os.O_RDONLY)
    except (OSError, OutputError):
        return None
    with os.fdopen(handle, "rb") as stream:
        content = stream.read(limit + 1)
    try:
        return content.decode("utf-8") if len(content) <= limit else None
    except UnicodeDecodeError:
        return None


def write_new_text(output: Path, path: Path, text: str) -> None:
    """Write a file that was not there, and that is on the disk when this returns."""
    _write_new(output, path, text.encode("utf-8"))


def _write_new(output: Path, path: Path, content: bytes) -> None:
    handle = open_file(output, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def replace_text(output: Path, path: Path, text: str) -> None:
    """Replace a file by another in one step: a kill leaves the old or the new one, whole."""
    replace_bytes(output, path, text.encode("utf-8"))


def replace_bytes(output: Path, path: Path, content: bytes) -> None:
    """Replace a file by another in one step: a kill leaves the old or the new one, whole."""
    draft = Path(HIDDEN, f"draft-{path.name}")
    remove_entry(output, draft)
    try:
        _write_new(output, draft, content)
        move_entry(output, draft, path)
    except BaseException:
        remove_entry(output, draft)
        raise
    sync_folder(output, path.parent)


def sync_folder(output: Path, folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    with opened_folder(output, folder) as handle:
        os.fsync(handle)
