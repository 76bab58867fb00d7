"""The index of a cohort's pages, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element

from oarseg.results.page.document import add, render
from oarseg.results.page.texts import (
    CHECK_TEXTS,
    NOTHING,
    findings,
    greatest_peak_mib,
    items,
    names,
    number,
    registration_verdict,
    seconds_in_all,
)

CASE_COLUMNS = ("Case", "Findings", "What", "Registration", "Warnings", "Seconds", "Peak, MiB")


@dataclass(frozen=True)
class CaseLine:
    """What the index says of a case.

    Attributes:
        case: its name.
        page: file name of its page; empty if it has none.
        report: its report; empty for a failed case.
        messages: why it failed.
    """

    case: str
    page: str
    report: dict[str, Any] = field(default_factory=dict)
    messages: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, int, str]:
        """Return what sorts the worst first: failed cases, then those with most findings."""
        return (0 if self.messages else 1, -len(findings(self.report)), self.case)


def index_page(lines: Sequence[CaseLine]) -> str:
    """Build the index of several cases."""
    body = Element("body", {"class": "index"})
    header = add(body, "header", class_="banner")
    add(add(header, "div", class_="title"), "h1", "Cases")
    failed = sum(bool(line.messages) for line in lines)
    raised = sum(bool(findings(line.report)) for line in lines)
    plain = len(lines) - failed - raised
    add(
        header,
        "p",
        f"{len(lines)} cases: {failed} failed, {raised} to look at, {plain} without findings.",
    )
    table = add(add(body, "main"), "table")
    add(table, "caption", "Worst first. A column's name sorts by it.")
    row = add(add(table, "thead"), "tr")
    for text in CASE_COLUMNS:
        add(add(row, "th", scope="col"), "button", text, type="button")
    rows = add(table, "tbody")
    for line in sorted(lines, key=lambda line: line.rank):
        _add_line(rows, line)
    return render("Cases", body, scripts=("sorting.js",))


def _add_line(rows: Element, line: CaseLine) -> None:
    report, raised = line.report, findings(line.report)
    kind = "failed" if line.messages else ("raised" if raised else None)
    row = add(rows, "tr", class_=kind)
    name = add(row, "th", scope="row")
    if line.page:
        # A name with a colon would otherwise begin like a scheme.
        add(name, "a", line.case, href=f"./{quote(line.page, errors='replace')}")
    else:
        add(name, "span", line.case)
    what = "; ".join(line.messages) or "; ".join(
        f"{names(found)}: {CHECK_TEXTS.get(str(found.get('check')), str(found.get('check')))}"
        for found in raised
    )
    add(row, "td", "failed" if line.messages else len(raised), class_="verdict")
    add(row, "td", what or NOTHING)
    add(row, "td", registration_verdict(report))
    add(row, "td", len(items(report, "warnings")) if report else NOTHING, class_="number")
    add(row, "td", number(seconds_in_all(report)) if report else NOTHING, class_="number")
    add(row, "td", number(greatest_peak_mib(report), 0) if report else NOTHING, class_="number")
