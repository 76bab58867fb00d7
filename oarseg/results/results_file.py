"""Keep ``results.json``, the record of every case, correct even if a run is killed.

The file is rewritten as a whole after the first cases, and later whenever the records have
grown by a quarter, so that a run of n cases writes a few times its final size and not n²/2
records. In between, every record is appended to a hidden journal and synced. The supervisor
of a stopped run, or the next run in the folder, completes ``results.json`` from the journal.

A label file that ``results.json`` lists is in place at every moment, with all outputs of its
case. Outputs of an earlier run stay listed until this run has replaced them or has failed to;
in the latter case they are unlisted before they are moved aside.

This module imports only the standard library, so that a process with little memory can use it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oarseg.cases.places import (
    HIDDEN,
    REPORTS,
    RESULTS,
    is_case_name,
    masks_path,
    report_path,
    safe_relative_path,
    segmentation_path,
)
from oarseg.errors import OutputError
from oarseg.results.folder import (
    entry_kind,
    explained_refusal,
    list_folder,
    open_file,
    read_text,
    remove_empty_folder,
    remove_entry,
    replace_text,
    sync_folder,
)

JOURNAL = Path(HIDDEN, "journal")
RESULTS_BYTES = 256 << 20
REPORT_BYTES = 16 << 20
# The file is rewritten when new entries make up 1 / GROWTH of it.
GROWTH = 4

Entry = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """The outcome of one case, for ``results.json``.

    Attributes:
        case: its name.
        inputs: channel name → file; empty if the files did not make up a case.
        label_file: the label file, if it was written.
        error_messages: sentences for the user; empty for a case that was written.
    """

    case: str
    inputs: Mapping[str, Path] = field(default_factory=dict)
    label_file: Path | None = None
    error_messages: tuple[str, ...] = ()

    @property
    def entry(self) -> Entry:
        """Return the entry of ``results.json``: evalutils' layout, HaN-Seg's input types."""
        inputs = [
            _file(f"metaio_{channel.lower().replace('_', '')}_image", path)
            for channel, path in self.inputs.items()
        ]
        return {
            "outputs": [_file("metaio_image", self.label_file)] if self.label_file else [],
            "inputs": inputs,
            "error_messages": list(self.error_messages),
        }


def _file(kind: str, path: Path) -> dict[str, str]:
    return {"type": kind, "filename": path.name}


class ResultsFile:
    """The ``results.json`` of a run in progress.

    Args:
        output: the output folder, which this run holds.
        kept: records of an earlier run that are still valid, by case.
        records: records of this run that are known before its first case.
    """

    def __init__(
        self, output: Path, *, kept: Mapping[str, Record], records: Sequence[Record] = ()
    ) -> None:
        self._output = output
        self._kept = dict(kept)
        self._entries: list[Entry] = []
        self._written = 0
        self._add(records)
        with explained_refusal(output / RESULTS):
            self._write()
            lines = [_journal_line(record, kept=True) for record in self._kept.values()]
            lines += [_journal_line(record) for record in records]
            replace_text(output, JOURNAL, "".join(lines))

    def keeps(self, case: str) -> bool:
        """Return whether the outputs in place of a case are an earlier run's, and listed."""
        return case in self._kept

    @property
    def is_due(self) -> bool:
        """Return whether so many records are new that the file must be rewritten."""
        return GROWTH * (len(self._entries) - self._written) >= self._written + len(self._kept)

    def append(self, *records: Record) -> None:
        """Record cases; once this returns, the records survive a kill.

        Raises:
            OutputError: the disk is full, or whatever the system says.
        """
        with explained_refusal(self._output / JOURNAL):
            self._append_lines(_journal_line(record) for record in records)
        self._add(records)

    def write(self) -> None:
        """Rewrite ``results.json`` with all records.

        Raises:
            OutputError: it cannot be written; the older one is left as it was.
        """
        with explained_refusal(self._output / RESULTS):
            self._write()

    def close(self) -> None:
        """Write the file for the last time, and remove the journal."""
        self.write()
        _remove_journal(self._output)

    def _add(self, records: Iterable[Record]) -> None:
        for record in records:
            self._kept.pop(record.case, None)
            self._entries.append(record.entry)

    def _write(self) -> None:
        kept = [record.entry for record in self._kept.values()]
        write_results(self._output, [*self._entries, *kept])
        self._written = len(self._entries)

    def _append_lines(self, lines: Iterable[str]) -> None:
        handle = open_file(self._output, JOURNAL, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.writelines(lines)
            stream.flush()
            os.fsync(stream.fileno())


def write_results(output: Path, entries: Sequence[Entry]) -> None:
    """Replace ``results.json``, whole or not at all.

    Raises:
        OSError: it cannot be written; an older one is left as it was.
    """
    replace_text(output, Path(RESULTS), json.dumps(entries, indent=1) + "\n")
    remove_empty_folder(output, Path(HIDDEN))


@contextmanager
def open_results_file(
    output: Path, *, kept: Mapping[str, Record], records: Sequence[Record] = ()
) -> Iterator[ResultsFile]:
    """Write ``results.json`` while a run goes on; see ``ResultsFile``.

    However the run ends, its records are written or stay in the journal.
    """
    results = ResultsFile(output, kept=kept, records=records)
    try:
        yield results
    except BaseException:
        with suppress(OutputError):
            results.close()
        raise
    results.close()


def complete_results(output: Path) -> None:
    """Complete ``results.json`` from the journal of a run that was killed.

    Raises:
        OutputError: it cannot be written, or a link lies in its way.
    """
    if entry_kind(output, JOURNAL) == "none":
        return
    text = read_text(output, JOURNAL, limit=RESULTS_BYTES)
    if text is None:
        log.warning("%s: cannot be read, and is removed", output / JOURNAL)
    else:
        with explained_refusal(output / RESULTS):
            write_results(output, _entries_of(text))
    _remove_journal(output)


def read_kept_records(output: Path) -> dict[str, Record]:
    """Return the complete cases of an earlier run, by name.

    ``results.json`` must list them and their outputs must exist. The file has no case names;
    each case's report gives the name and the label file.
    """
    listed = _listed_entries(output)
    if not listed:
        return {}
    kept = {}
    for file in list_folder(output, Path(REPORTS)):
        record = _record_of(output, file.removesuffix(".json"))
        if record is not None and _key(record.entry) in listed:
            kept[record.case] = record
    return kept


def read_report(output: Path, case: str) -> dict[str, Any] | None:
    """Return a case's report of an earlier run, unchecked; None if there is no readable one."""
    text = read_text(output, report_path(case), limit=REPORT_BYTES)
    try:
        document = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _record_of(output: Path, case: str) -> Record | None:
    """Return a case's record, from its report, if its outputs are in place."""
    report = read_report(output, case) if is_case_name(case) else None
    if report is None or report.get("case") != case:
        return None
    label_file, inputs = safe_relative_path(report.get("label_file")), report.get("inputs")
    if label_file is None or not isinstance(inputs, dict):
        return None
    if not all(isinstance(text, str) for pair in inputs.items() for text in pair):
        return None
    if not _is_complete(output, case, label_file):
        return None
    files = {channel: Path(name) for channel, name in inputs.items()}
    return Record(case, files, output / label_file)


def _is_complete(output: Path, case: str, label_file: Path) -> bool:
    files = (label_file, segmentation_path(case))
    try:
        whole = all(entry_kind(output, file) == "file" for file in files)
        return whole and entry_kind(output, masks_path(case)) == "folder"
    except (OSError, OutputError):
        return False


def _listed_entries(output: Path) -> set[str]:
    """Return the entries of ``results.json`` with an output, each as comparable text."""
    text = read_text(output, Path(RESULTS), limit=RESULTS_BYTES)
    try:
        document = json.loads(text or "[]")
    except (ValueError, RecursionError):
        log.warning("%s: cannot be read, and is rewritten", output / RESULTS)
        return set()
    if not isinstance(document, list):
        return set()
    return {_key(item) for item in document if isinstance(item, dict) and item.get("outputs")}


def _key(entry: Entry) -> str:
    return json.dumps(entry, sort_keys=True)


def _journal_line(record: Record, *, kept: bool = False) -> str:
    return json.dumps({"case": record.case, "kept": kept, "entry": record.entry}) + "\n"


def _entries_of(journal: str) -> list[Entry]:
    """Return the entries of a journal, whose last line may be incomplete."""
    kept: dict[str, Entry] = {}
    entries: list[Entry] = []
    for line in journal.splitlines():
        try:
            found = json.loads(line)
            case, entry = found["case"], dict(found["entry"])
            if found.get("kept"):
                kept[case] = entry
            else:
                kept.pop(case, None)
                entries.append(entry)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
    return [*entries, *kept.values()]


def _remove_journal(output: Path) -> None:
    with explained_refusal(output / JOURNAL):
        remove_entry(output, JOURNAL)
        remove_empty_folder(output, Path(HIDDEN))
        sync_folder(output, Path("."))
