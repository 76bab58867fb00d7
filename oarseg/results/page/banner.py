"""The top of a page: what was computed, by what, and whether to believe it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from oarseg.imaging.volume import Grid
from oarseg.results.page.document import add
from oarseg.results.page.texts import (
    NOTHING,
    findings,
    greatest_peak_mib,
    items,
    names,
    number,
    part,
    seconds_in_all,
)


def add_banner(body: Element, report: Mapping[str, Any], geometry: str) -> None:
    """Add name, verdict, warnings and facts of a case.

    Args:
        body: what to add them to.
        report: the case's.
        geometry: of the reference image, in words.
    """
    header = add(body, "header", class_="banner")
    line = add(header, "div", class_="title")
    add(line, "h1", report.get("case", NOTHING))
    _add_verdict(line, report)
    warning = part(report, "model").get("warning")
    if warning:
        add(header, "p", warning, class_="clinical", role="note")
    _add_findings(header, report)
    facts = add(header, "dl", class_="facts")
    for term, text in _facts(report, geometry):
        group = add(facts, "div")
        add(group, "dt", term)
        add(group, "dd", text, class_="hash" if "SHA" in term else None)
    _add_steps(header, report)


def _add_verdict(line: Element, report: Mapping[str, Any]) -> None:
    if not part(report, "checks"):
        add(line, "p", "Organs not checked", class_="verdict look")
        return
    count = len(findings(report))
    if count:
        text = "1 finding to look at" if count == 1 else f"{count} findings to look at"
        add(line, "p", text, class_="verdict look")
    else:
        add(line, "p", "No check raised", class_="verdict plain")


def _add_findings(header: Element, report: Mapping[str, Any]) -> None:
    """List what was found, then the run's warnings."""
    raised = findings(report)
    # One warning sums up the findings, which stand here one by one.
    warnings = [text for text in items(report, "warnings") if not str(text).startswith("look at")]
    if not (raised or warnings):
        return
    listed = add(header, "ul", class_="findings")
    for found in raised:
        item = add(listed, "li", class_="raised")
        add(item, "strong", names(found))
        add(item, "span", f": {found.get('message', '')}")
    for text in warnings:
        add(listed, "li", text)


def _facts(report: Mapping[str, Any], geometry: str) -> Iterator[tuple[str, str]]:
    model, device = part(report, "model"), part(report, "device")
    folds = model.get("folds")
    count = f", {len(folds)} folds" if isinstance(folds, list) and len(folds) > 1 else ""
    yield "Model", f"{model.get('title', NOTHING)}{count}"
    yield "Manifest's SHA-256", str(model.get("manifest_sha256", NOTHING))
    yield "Images", ", ".join(f"{k}: {v}" for k, v in part(report, "inputs").items()) or NOTHING
    yield "Grid", geometry
    yield "Registration", _registration(report)
    yield "Device", " – ".join(str(v) for v in _device(device)) or NOTHING
    precision = part(report, "precision")
    yield "Precision", f"{precision.get('asked', NOTHING)} ({precision.get('arithmetic', NOTHING)})"
    yield "Effort", _effort(report)
    time, peak = seconds_in_all(report), greatest_peak_mib(report)
    yield "Time, peak memory", f"{number(time)} s, {number(peak, 0)} MiB"
    yield "Repair", _repair(report)
    if part(report, "postprocessing"):
        yield "Postprocessing", _postprocessing(part(report, "postprocessing"))
    yield "Written by", f"oarseg {part(report, 'versions').get('oarseg', NOTHING)}"


def _device(device: Mapping[str, Any]) -> Iterator[Any]:
    yield from (device[key] for key in ("device", "engine", "reason") if device.get(key))


def _registration(report: Mapping[str, Any]) -> str:
    found = part(report, "registration")
    if not found:
        return "none: segmented without an MR"
    reasons = "; ".join(map(str, items(found, "reasons")))
    text = f"{found.get('status', NOTHING)}, score {number(found.get('score'), 3)}"
    return f"{text}: {reasons}" if reasons else text


def _effort(report: Mapping[str, Any]) -> str:
    effort = part(report, "effort")
    left_out = "; ".join(map(str, items(effort, "left_out")))
    return f"left out for the time limit: {left_out}" if left_out else "nothing left out"


def _repair(report: Mapping[str, Any]) -> str:
    repair = part(report, "repair")
    if not repair:
        return "none asked for"
    changed = [change for change in items(repair, "changed") if isinstance(change, Mapping)]
    texts = [
        f"{change.get('voxels')} voxels of {change.get('structure')} "
        f"{'are ' + str(change['now']) if change.get('now') else 'removed'}"
        for change in changed
    ]
    return "; ".join(texts) or "nothing to repair"


def _postprocessing(done: Mapping[str, Any]) -> str:
    steps = [step for step in items(done, "steps") if isinstance(step, Mapping)]
    texts = [
        f"{count} voxels of {name} removed"
        for step in steps
        for name, count in part(step, "removed_voxels").items()
    ]
    return "; ".join(texts) or "nothing to remove"


def _add_steps(header: Element, report: Mapping[str, Any]) -> None:
    details = add(header, "details")
    add(details, "summary", "Steps and versions")
    table = add(details, "table", class_="steps")
    add(table, "caption", "Seconds and peak memory of each step")
    row = add(add(table, "thead"), "tr")
    for text in ("Step", "Seconds", "Peak, MiB"):
        add(row, "th", text, scope="col")
    rows = add(table, "tbody")
    for step in items(report, "steps"):
        if isinstance(step, Mapping):
            row = add(rows, "tr")
            add(row, "th", step.get("name", NOTHING), scope="row")
            add(row, "td", number(step.get("seconds"), 2))
            add(row, "td", number(step.get("peak_mib"), 0))
    versions = part(report, "versions")
    add(details, "p", ", ".join(f"{name} {value}" for name, value in versions.items()))


def describe_grid(grid: Grid, oblique_deg: float) -> str:
    """Describe an image's voxels and axes.

    Args:
        grid: as it is stored.
        oblique_deg: the angle between its axes and the patient's.
    """
    spacing = " × ".join(f"{value:.3g}" for value in reversed(grid.spacing_mm))
    size = " × ".join(str(length) for length in reversed(grid.shape))
    text = f"{size} voxels of {spacing} mm"
    return f"{text}, oblique by {oblique_deg:.1f}°" if oblique_deg >= 1 else text
