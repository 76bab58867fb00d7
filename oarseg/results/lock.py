"""One run at a time writes to an output folder.

The lock is the kernel's (``flock``) on a hidden file, so it ends with the process that holds
it, however that ends. It also holds between containers that share a folder, and over NFS from
version 4 on. A file system that has no such locks gives a warning instead: there, nothing
keeps two runs apart.

This module needs nothing but Python, so that a process without much memory can use it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from oarseg.cases.places import HIDDEN
from oarseg.errors import OutputError
from oarseg.results.folder import (
    entry_kind,
    explained_refusal,
    open_file,
    opened_folder,
    remove_empty_folder,
    remove_entry,
)

LOCK = Path(HIDDEN, "lock")
LOCK_BYTES = 4096
ATTEMPTS = 1000
# What file systems answer that have no locks, and servers that offer none.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

log = logging.getLogger(__name__)


@contextmanager
def lock_output(output: Path) -> Iterator[None]:
    """Hold an output folder, which is made if it is missing, for this process and its children.

    A child that is forked holds it too, until it ends; only this process lets it go before.

    Raises:
        OutputError: another run holds it, which is named, and nothing was changed; or it
            cannot be made or written.
    """
    owner = os.getpid()
    with explained_refusal(output):
        made = not output.exists()
        output.mkdir(parents=True, exist_ok=True)
        handle = _acquire(output)
    try:
        yield
    finally:
        if os.getpid() == owner:
            _release(output, handle, made=made)


def _acquire(output: Path) -> int:
    for _ in range(ATTEMPTS):
        try:
            handle = open_file(output, LOCK, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            # The run before this one has just removed the hidden folder.
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                holder = os.pread(handle, LOCK_BYTES, 0)
                os.close(handle)
                raise _held(output, holder, error) from error
            log.warning(
                "%s: its file system has no locks (%s); let no other run write there",
                output,
                error.strerror,
            )
            return handle
        if _is_current(output, handle):
            _sign(handle)
            return handle
        os.close(handle)
    raise OutputError(f"{output}: expected a folder that stays, found its lock gone; try again")


def _is_current(output: Path, handle: int) -> bool:
    """Whether the file that was locked still has its name: its holder removes it at the end."""
    try:
        with opened_folder(output, LOCK.parent) as folder:
            found = os.stat(LOCK.name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(handle))


def _sign(handle: int) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since})
    # On a full disk the lock holds as well; it only does not say whose it is.
    with suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)


def _held(output: Path, holder: bytes, error: OSError) -> OutputError:
    if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        return OutputError(
            f"{output}: expected a folder that can be locked, found {error.strerror}; pass "
            "another --output"
        )
    return OutputError(
        f"{output}: expected a folder that no other run writes to, found one in use by "
        f"{_describe(holder)}; wait for its end, or pass another --output"
    )


def _describe(holder: bytes) -> str:
    try:
        found = json.loads(holder)
        text = f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another run"
    return text if text.isprintable() else "another run"


def _release(output: Path, handle: int, *, made: bool) -> None:
    """Remove the lock while it is held, then let it go."""
    remove_entry(output, LOCK)
    os.close(handle)
    remove_empty_folder(output, LOCK.parent)
    if made and entry_kind(output, LOCK.parent) == "none":
        _remove_if_empty(output)


def _remove_if_empty(output: Path) -> None:
    try:
        output.rmdir()
    except OSError as error:
        # A mount point, or a folder with results, stays.
        log.debug("%s stays: %s", output, error.strerror)
