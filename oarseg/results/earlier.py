"""Outputs of earlier runs that lie where a run writes, and their way to ``earlier/<case>``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from oarseg.cases.case import owns_label_path
from oarseg.cases.places import (
    EARLIER,
    fold_path,
    is_case_name,
    masks_path,
    report_path,
    safe_relative_path,
    segmentation_path,
)
from oarseg.challenges.challenge import Challenge
from oarseg.errors import OutputError
from oarseg.results import staging
from oarseg.results.folder import EntryKind, entry_kind, explained_refusal
from oarseg.results.results_file import read_report

log = logging.getLogger(__name__)


@dataclass
class EarlierOutputs:
    """What earlier runs left in a folder.

    Attributes:
        output: the output folder.
        challenge: gives the names of label files.
        owners: label files, folded, that belong to a case of this run or are still listed.
    """

    output: Path
    challenge: Challenge
    owners: Mapping[Path, str]
    _pending: dict[str, tuple[Path, ...]] = field(default_factory=dict)

    def set_aside(self, case: str, label_file: Path | None = None) -> str | None:
        """Move a case's outputs out of the way now; ``results.json`` must not list them.

        Args:
            case: its name.
            label_file: relative to the output folder, where it is known.

        Returns:
            A sentence for the user where there are such outputs.

        Raises:
            OutputError: they cannot be moved.
        """
        with explained_refusal(self.output):
            files = self._in_place(case, label_file)
            moved = is_case_name(case) and staging.move_aside(self.output, case, files)
        return _sentence(case) if moved else None

    def set_aside_later(self, case: str, label_file: Path | None = None) -> str | None:
        """The same, but they stay in place until ``move_pending``, and are listed until then."""
        with explained_refusal(self.output):
            files = self._in_place(case, label_file)
        if not files:
            return None
        self._pending[case] = files
        return _sentence(case)

    def move_pending(self) -> None:
        """Move what is no longer listed; what cannot be moved stays, with a word in the log."""
        for case, files in self._pending.items():
            try:
                with explained_refusal(self.output):
                    staging.move_aside(self.output, case, files)
            except OutputError as error:
                log.error("%s: its outputs of an earlier run stay in place: %s", case, error)
        self._pending.clear()

    def _in_place(self, case: str, label_file: Path | None) -> tuple[Path, ...]:
        """The files and folders in a case's places that are of the kinds that belong there.

        A folder of masks can have the name of another case's segmentation.
        """
        if not is_case_name(case):
            return ()
        files = {segmentation_path(case), report_path(case)}
        files |= {file for file in (label_file, self._reported_label(case)) if file}
        places: Iterable[tuple[Path, EntryKind]] = (
            (masks_path(case), "folder"),
            *((file, "file") for file in sorted(files)),
        )
        return tuple(path for path, kind in places if self._kind(path) in (kind, "link"))

    def _kind(self, path: Path) -> EntryKind:
        try:
            return entry_kind(self.output, path)
        except OSError as error:
            # A name that the system does not allow has no file.
            log.debug("%s: %s", path, error.strerror)
            return "none"

    def _reported_label(self, case: str) -> Path | None:
        """The label file that an earlier run's report names, if it can be this case's."""
        label_file = safe_relative_path((read_report(self.output, case) or {}).get("label_file"))
        if label_file is None or not owns_label_path(case, label_file, self.challenge):
            return None
        owner = self.owners.get(fold_path(label_file), case)
        return label_file if owner == case else None


def _sentence(case: str) -> str:
    return f"its outputs of an earlier run are in {Path(EARLIER, case)}"
