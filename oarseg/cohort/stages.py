"""Where attempts write to, and how their outputs come to their places."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from oarseg.cohort.plan import FOLDER
from oarseg.errors import OutputError
from oarseg.results.folder import (
    entry_identity,
    entry_kind,
    explained_refusal,
    list_folder,
    make_folder,
    move_entry,
    remove_entry,
)

STAGE_FOLDERS: Final = "stage"
REOPENED: Final = "reopened"
# What a rename says where a folder with something in it, or something of another kind, lies.
_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)


class StageFolders:
    """The stages of a cohort: a folder an attempt, until its outputs are in their places.

    No link below the output folder is followed.

    Args:
        output: the output folder.
    """

    def __init__(self, output: Path) -> None:
        self._output = output

    def prepare(self) -> None:
        """Make their folder.

        Raises:
            OutputError: it cannot be made, or is a link.
        """
        with explained_refusal(self._output):
            make_folder(self._output, FOLDER / STAGE_FOLDERS)

    def folder(self, attempt: str) -> Path:
        """Return the folder that an attempt writes to."""
        return self._output / _stage(attempt)

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield case and number of the attempt of each stage that is there."""
        for name in list_folder(self._output, FOLDER / STAGE_FOLDERS):
            case, _, number = name.rpartition(".")
            yield case, number

    def discard(self, attempt: str) -> None:
        """Remove what an attempt wrote, as far as that is possible."""
        with suppress(OSError, OutputError):
            remove_entry(self._output, _stage(attempt))

    def place(self, attempt: str, outputs: tuple[str, ...]) -> None:
        """Move outputs to their places; again, or by two at once, does no harm.

        Args:
            attempt: whose they are.
            outputs: files and folders, below the stage and below the output folder.

        Raises:
            OutputError: they cannot be moved.
        """
        if entry_kind(self._output, _stage(attempt)) != "folder":
            return
        with explained_refusal(self._output):
            for name in outputs:
                self._place_entry(_stage(attempt) / name, Path(name))
        self.discard(attempt)

    def _place_entry(self, source: Path, target: Path) -> None:
        ours = entry_identity(self._output, source)
        try:
            move_entry(self._output, source, target)
            return
        except FileNotFoundError:
            return  # moved before, or by another just now
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
        # Nothing is removed: what lies there may be what another has just placed. That is put
        # back, and nothing else is, or it could take the place of what is ours.
        aside = self.aside(target.name) / target.name
        self._try(target, aside)
        if entry_identity(self._output, aside) in (None, ours):
            self._try(aside, target)
        self._try(source, target)

    def _try(self, source: Path, target: Path) -> bool:
        try:
            move_entry(self._output, source, target)
        except FileNotFoundError:
            return False
        return True

    def aside(self, name: str) -> Path:
        """Return a new place, below the output folder, for what has lost its own."""
        short = name.encode()[:200].decode(errors="ignore")
        return FOLDER / REOPENED / f"{short}.{secrets.token_hex(4)}"

    def set_aside(self, outputs: tuple[str, ...], aside: Path) -> None:
        """Move outputs that are no longer a case's away from their places.

        Raises:
            OutputError: they cannot be moved.
        """
        with explained_refusal(self._output):
            for name in outputs:
                self._try(Path(name), aside / name)

    def holds(self, attempt: str, name: str) -> bool:
        """Return whether an output is in its place, or still in its stage."""
        places = (Path(name), _stage(attempt) / name)
        return any(entry_kind(self._output, place) != "none" for place in places)


def _stage(attempt: str) -> Path:
    return FOLDER / STAGE_FOLDERS / attempt
