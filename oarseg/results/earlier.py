"""Move outputs of earlier runs that are in a run's way to ``earlier/<case>``."""

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
    """Outputs of earlier runs in an output folder.

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
        """Do the same, but leave the outputs in place and listed until ``move_pending``."""
        with explained_refusal(self.output):
            files = self._in_place(case, label_file)
        if not files:
            return None
        self._pending[case] = files
        return _sentence(case)

    def move_pending(self) -> None:
        """Move outputs that are no longer listed; log those that cannot be moved, and keep them."""
        for case, files in self._pending.items():
            try:
                with explained_refusal(self.output):
                    staging.move_aside(self.output, case, files)
            except OutputError as error:
                log.error("%s: its outputs of an earlier run stay in place: %s", case, error)
        self._pending.clear()

    def _in_place(self, case: str, label_file: Path | None) -> tuple[Path, ...]:
        """List the files and folders in a case's places that are of the kind expected there.

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
            # No file exists under a name that the system does not allow.
            log.debug("%s: %s", path, error.strerror)
            return "none"

    def _reported_label(self, case: str) -> Path | None:
        """Return the label file in an earlier run's report, if it can belong to this case."""
        label_file = safe_relative_path((read_report(self.output, case) or {}).get("label_file"))
        if label_file is None or not owns_label_path(case, label_file, self.challenge):
            return None
        owner = self.owners.get(fold_path(label_file), case)
        return label_file if owner == case else None


def _sentence(case: str) -> str:
    return f"its outputs of an earlier run are in {Path(EARLIER, case)}"
