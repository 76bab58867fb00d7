"""A case's outputs appear together, or none of them.

Everything is written into a hidden folder beside its destination, synced, and renamed
into place. What a rename replaces is kept until the last one is done and put back if one
fails. A process that is killed between two renames leaves a list of them; ``recover_case``
takes them back. Outputs of an earlier run are set aside before a case is begun anew, so
that nothing in its place is of another run.

This module needs nothing but Python, so that a process without much memory can use it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from oarseg.cases.places import safe_relative_path

PARTIAL = ".partial-"
EARLIER = "earlier"
PLACING = "placing.json"


@dataclass(frozen=True)
class CaseStage:
    """Where a case's outputs wait: ``new`` mirrors the output folder, ``old`` keeps
    what they replace.
    """

    output: Path
    folder: Path

    @property
    def new(self) -> Path:
        """Where to write."""
        return self.folder / "new"

    def commit(self, files: Sequence[Path]) -> None:
        """Rename files and folders into place, all or none.

        Raises:
            OSError: a rename failed; all is as it was.
        """
        marker = self.folder / PLACING
        write_text(marker, json.dumps([str(file) for file in files]))
        sync_folder(self.folder)
        try:
            for file in files:
                self._place(file)
        except BaseException:
            self.restore(files)
            raise
        for folder in {(self.output / file).parent for file in files}:
            sync_folder(folder)
        # From here on the case counts as written.
        marker.unlink()

    def restore(self, files: Iterable[Path]) -> None:
        """Take back what ``commit`` has done so far; harmless where it has done nothing."""
        for file in reversed(tuple(files)):
            target, kept = self.output / file, self.folder / "old" / file
            # What still waits in `new` never reached its place.
            if not (self.new / file).exists() and target.exists():
                target.rename(self.new / file)
            if kept.exists():
                kept.rename(target)

    def _place(self, file: Path) -> None:
        target, kept = self.output / file, self.folder / "old" / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            target.rename(kept)
        (self.new / file).rename(target)


@contextmanager
def stage_case(output: Path, case: str) -> Iterator[CaseStage]:
    """A hidden folder in the output folder, gone afterwards whatever happens."""
    recover_case(output, case)
    stage = _stage(output, case)
    try:
        stage.new.mkdir(parents=True)
        yield stage
    finally:
        _remove(stage.folder)


def recover_case(output: Path, case: str) -> None:
    """Undo what a process left of a case that was killed while it wrote."""
    stage = _stage(output, case)
    marker = stage.folder / PLACING
    if marker.is_file():
        stage.restore(_listed(marker))
    _remove(stage.folder)


def move_aside(output: Path, case: str, files: Iterable[Path]) -> bool:
    """Move a case's files of an earlier run to ``earlier/<case>``, over older ones there.

    Args:
        output: the output folder.
        case: the case's name.
        files: files and folders relative to ``output``, which need not be there.

    Returns:
        Whether there is anything of the case in ``earlier`` now.
    """
    recover_case(output, case)
    aside = output / EARLIER / case
    for file in files:
        if (output / file).exists():
            _remove(aside / file)
            (aside / file).parent.mkdir(parents=True, exist_ok=True)
            (output / file).rename(aside / file)
    return aside.exists()


def remove_aside(output: Path, case: str) -> None:
    """Remove what was set aside of a case that has been written anew."""
    _remove(output / EARLIER / case)
    folder = output / EARLIER
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _stage(output: Path, case: str) -> CaseStage:
    return CaseStage(output, output / f"{PARTIAL}{case}")


def _listed(marker: Path) -> list[Path]:
    """The files of a list that may be cut off; then no rename had begun."""
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        return []
    return (
        [path for text in found if (path := safe_relative_path(text))]
        if isinstance(found, list)
        else []
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
