"""What the operating system refuses, told in one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from oarseg.errors import InputError, OutputError

_LONGEST_SHOWN: Final = 300
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Of a path or a disk, and never of a defect of ours.
_REFUSED: Final = frozenset(
    {errno.EACCES, errno.EIO, errno.ELOOP, errno.ENAMETOOLONG, errno.EPERM, errno.EROFS}
)


@contextmanager
def refusals_told(out: Path) -> Iterator[None]:
    """Turn refused paths and a full disk into errors of ours; others keep their traceback.

    Args:
        out: what is written to, for failures that name no file.

    Raises:
        InputError: a path is too long, leads in a circle, or may not be read or written.
        OutputError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM | _REFUSED:
            raise
        where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(out)
        shown = where if len(where) <= _LONGEST_SHOWN else f"{where[:_LONGEST_SHOWN]}…"
        if error.errno in _NO_ROOM:
            raise OutputError(f"{shown}: {error.strerror}; make room, and begin again") from error
        raise InputError(
            f"{shown}: expected a path that can be read or written, found {error.strerror}"
        ) from error
