"""Tell how a cohort stands, and what it found, as tables."""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from oarseg.cohort.ledger import CaseState, CohortLedger
from oarseg.cohort.plan import Plan
from oarseg.results.results_file import read_report

COLUMNS = ("case", "state", "attempts", "host", "seconds", "message")


def case_objects(plan: Plan, ledger: CohortLedger) -> list[dict[str, Any]]:
    """Return an object a case: state, attempts, who, how long, why."""
    states = ledger.states(case.name for case in plan.cases)
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


def write_summary(path: Path, plan: Plan, ledger: CohortLedger) -> int:
    """Write a CSV table, a row a case; returns how many rows it has."""
    rows = list(_rows(plan, ledger))
    names = dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)])
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


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
    return cells | {f"volume_cm3_{organ}": volume for organ, volume in volumes.items()}
