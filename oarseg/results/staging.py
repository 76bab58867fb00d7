"""Put a case's outputs in place all together, or not at all.

Everything is written into a hidden folder below the output folder, synced, and renamed into
place. The label file comes last, and its rename decides. Files that the other renames replace
are kept until then, and put back if one fails. A process that is killed between two renames
leaves a mark, and ``recover_case`` takes back what was placed without the label file.

The mark is trusted only for the case's own places, which follow from its name, and for its own
hidden folder. No link is followed.

This module imports only the standard library, so that a process with little memory can use it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from oarseg.cases.places import (
    EARLIER,
    HIDDEN,
    is_case_name,
    masks_path,
    report_path,
    safe_relative_path,
    segmentation_path,
)
from oarseg.errors import OutputError
from oarseg.results.folder import (
    entry_kind,
    list_folder,
    make_folder,
    move_entry,
    read_text,
    remove_empty_folder,
    remove_entry,
    sync_folder,
    write_new_text,
)

STAGES = Path(HIDDEN, "stage")
PLACING = "placing.json"
# Enough for a few paths of the greatest length that the system allows.
PLACING_BYTES = 1 << 16


@dataclass(frozen=True)
class CaseStage:
    """Where a case's outputs wait: ``new`` mirrors the output folder, ``old`` keeps what
    they replace.

    Attributes:
        output: the output folder.
        case: the case's name.
    """

    output: Path
    case: str

    @property
    def folder(self) -> Path:
        """The stage, relative to the output folder."""
        return STAGES / self.case

    @property
    def new(self) -> Path:
        """Where to write."""
        return self.output / self.folder / "new"

    def write_text(self, file: Path, text: str) -> None:
        """Write a file to the stage."""
        write_new_text(self.output, self._waiting(file), text)

    def commit(self, files: Sequence[Path]) -> None:
        """Rename files and folders into place, all or none.

        Args:
            files: relative to the output folder: those that the case's name gives, and last
                the label file.

        Raises:
            OutputError: something of another kind lies in a place; all is as it was.
            OSError: a rename failed; all is as it was.
        """
        *others, last = files
        for file in files:
            self._check_place(file)
        marker = self.folder / PLACING
        write_new_text(self.output, marker, json.dumps([str(file) for file in files]))
        sync_folder(self.output, self.folder)
        try:
            for file in others:
                self._place(file)
            for folder in {file.parent for file in others}:
                sync_folder(self.output, folder)
            self._place_last(last)
        except BaseException:
            self.restore(others, last)
            raise
        # The case is complete; a kill after this point takes nothing back.
        sync_folder(self.output, last.parent)
        remove_entry(self.output, marker)

    def restore(self, others: Sequence[Path], last: Path) -> None:
        """Undo what ``commit`` has done so far, unless the last file is in place."""
        if entry_kind(self.output, self._waiting(last)) == "none":
            return
        for file in reversed(others):
            waiting, kept = self._waiting(file), self._kept(file)
            # Files still on the stage never reached their places.
            placed = entry_kind(self.output, waiting) == "none"
            if placed and entry_kind(self.output, file) != "none":
                move_entry(self.output, file, waiting)
            if entry_kind(self.output, kept) != "none":
                move_entry(self.output, kept, file)

    def _waiting(self, file: Path) -> Path:
        return self.folder / "new" / file

    def _kept(self, file: Path) -> Path:
        return self.folder / "old" / file

    def _check_place(self, file: Path) -> None:
        found = entry_kind(self.output, file)
        expected = entry_kind(self.output, self._waiting(file))
        # A link in the place is itself replaced.
        if found not in ("none", "link", expected):
            raise OutputError(
                f"{self.output / file}: expected a {expected} of this case or nothing, found a "
                f"{found}; move it away, or pass another --output"
            )

    def _place(self, file: Path) -> None:
        if entry_kind(self.output, file) != "none":
            move_entry(self.output, file, self._kept(file))
        move_entry(self.output, self._waiting(file), file)

    def _place_last(self, file: Path) -> None:
        """Rename the file that decides, over an older one in one step."""
        move_entry(self.output, self._waiting(file), file)


@contextmanager
def stage_case(output: Path, case: str) -> Iterator[CaseStage]:
    """Make a hidden folder in the output folder, which is removed whatever happens."""
    recover_case(output, case)
    stage = CaseStage(output, case)
    try:
        make_folder(output, stage.folder / "new")
        yield stage
    finally:
        _remove_stage(stage)


def recover_case(output: Path, case: str) -> None:
    """Undo what a process left of a case when it was killed while writing."""
    stage = CaseStage(output, case)
    last = _decisive_file(stage)
    if last is not None:
        own = (segmentation_path(case), masks_path(case), report_path(case))
        stage.restore(own, last)
    _remove_stage(stage)


def recover_cases(output: Path) -> None:
    """Undo what killed processes left of any case; no other process may be writing here."""
    for name in list_folder(output, STAGES):
        if is_case_name(name):
            recover_case(output, name)
        else:
            remove_entry(output, STAGES / name)
    remove_empty_folder(output, STAGES)
    remove_empty_folder(output, Path(HIDDEN))


def move_aside(output: Path, case: str, files: Iterable[Path]) -> bool:
    """Move an earlier run's files of a case to ``earlier/<case>``, replacing older ones.

    Args:
        output: the output folder.
        case: the case's name.
        files: files and folders relative to ``output``, which need not exist.

    Returns:
        Whether there is anything of the case in ``earlier`` now.
    """
    recover_case(output, case)
    aside = Path(EARLIER, case)
    for file in files:
        if entry_kind(output, file) != "none":
            remove_entry(output, aside / file)
            move_entry(output, file, aside / file)
    return entry_kind(output, aside) == "folder"


def remove_aside(output: Path, case: str) -> None:
    """Remove what was set aside of a case that has been written again."""
    remove_entry(output, Path(EARLIER, case))
    remove_empty_folder(output, Path(EARLIER))


def _remove_stage(stage: CaseStage) -> None:
    remove_entry(stage.output, stage.folder)
    remove_empty_folder(stage.output, STAGES)
    remove_empty_folder(stage.output, Path(HIDDEN))


def _decisive_file(stage: CaseStage) -> Path | None:
    """Return the label file of a case that was being placed; None if no rename had begun."""
    text = read_text(stage.output, stage.folder / PLACING, limit=PLACING_BYTES)
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return safe_relative_path(found[-1]) if isinstance(found, list) and found else None
