"""Tell how a cohort stands, and what it found, as tables."""

from __future__ import annotations

import csv
import importlib.util
import io
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from oarseg.cohort.ledger import CaseState, CohortLedger
from oarseg.cohort.plan import Plan
from oarseg.errors import InputError
from oarseg.results.folder import explained_refusal, replace_bytes
from oarseg.results.results_file import read_report

TABLE: Final = Path("cohort.csv")
PARQUET: Final = Path("cohort.parquet")
VOLUME: Final = "volume_cm3_"
COLUMNS: Final = ("case", "state", "attempts", "host", "seconds", "message")


def case_objects(plan: Plan, ledger: CohortLedger) -> list[dict[str, Any]]:
    """Return an object a case: state, attempts, who, how long, why."""
    states = ledger.states((case.name for case in plan.cases), outcomes=True)
    return [_object(case.name, states[case.name], ledger) for case in plan.cases]


def _object(name: str, state: CaseState, ledger: CohortLedger) -> dict[str, Any]:
    outcome = state.outcome
    worker = outcome.worker if outcome else ledger.running_on(name, state)
    return {
        "case": name,
        "state": state.state,
        "attempts": state.attempts,
        "worker": {"host": worker.host, "pid": worker.pid} if worker else None,
        "seconds": outcome.seconds if outcome else None,
        "message": outcome.message if outcome else "",
    }


def totals(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how many cases are in which state, the speed, and the time that is left.

    Cases an hour are those of the workers that are busy now, at the median seconds of a case.
    """
    counts = Counter(found["state"] for found in objects)
    seconds = [found["seconds"] for found in objects if found["state"] == "done"]
    busy = len({tuple(f["worker"].values()) for f in objects if f["state"] == "running"})
    result: dict[str, Any] = dict(counts)
    if seconds and busy:
        hourly = busy * 3600 / max(0.01, statistics.median(seconds))
        result["cases_an_hour"] = round(hourly, 1)
        result["hours_left"] = round((counts["waiting"] + counts["running"]) / hourly, 2)
    return result


def write_summary(plan: Plan, ledger: CohortLedger, *, parquet: bool) -> list[Path]:
    """Write a table, a row a case, beside the cohort's outputs.

    Args:
        plan: of the cohort.
        ledger: its folder.
        parquet: write it as Parquet too.

    Returns:
        The files.

    Raises:
        InputError: pyarrow is missing.
        OutputError: they cannot be written.
    """
    if parquet:
        check_parquet()
    rows = list(_rows(plan, ledger))
    names = list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)]))
    contents = {TABLE: _csv(names, rows)}
    if parquet:
        contents[PARQUET] = _parquet(names, rows)
    for path, content in contents.items():
        with explained_refusal(ledger.output / path):
            replace_bytes(ledger.output, path, content)
    return [ledger.output / path for path in contents]


def check_parquet() -> None:
    """Make sure, before the work, that tables can be written as Parquet.

    Raises:
        InputError: pyarrow is missing.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError(
            "--parquet: expected the package pyarrow, found none; install it with "
            "pip install 'oarseg[parquet]', or take the CSV"
        )


def _csv(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def _parquet(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    def kind(name: str) -> Any:
        if name == "attempts":
            return pyarrow.int64()
        number = name == "seconds" or name.startswith(VOLUME)
        return pyarrow.float64() if number else pyarrow.string()

    arrays = [pyarrow.array([row.get(name) for row in rows], kind(name)) for name in names]
    stream = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays, names=list(names)), stream)
    return stream.getvalue()


def _rows(plan: Plan, ledger: CohortLedger) -> Iterator[dict[str, Any]]:
    objects = case_objects(plan, ledger)
    for found, case in zip(objects, plan.cases, strict=True):
        worker = found.pop("worker")
        row = found | {"host": worker["host"] if worker else ""}
        ended = ledger.outcome(case.name)
        if ended is not None:
            row |= {f"sha256_{channel}": d for channel, d in ended[1].digests.items()}
        report = read_report(ledger.output, case.name) if found["state"] == "done" else None
        yield row | _report_cells(report or {})


def _report_cells(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report says that a table can hold."""
    registration, checks = report.get("registration") or {}, report.get("checks") or {}
    cells: dict[str, Any] = {
        "registration": registration.get("status", ""),
        "plausible": checks.get("verdict", ""),
        "checks": " ".join(
            f"{f['check']}:{'+'.join(f['organs'])}" for f in checks.get("raised", ())
        ),
        "warnings": " | ".join(report.get("warnings", ())),
    }
    volumes = report.get("volumes_cm3", {})
    return cells | {f"{VOLUME}{organ}": volume for organ, volume in volumes.items()}
