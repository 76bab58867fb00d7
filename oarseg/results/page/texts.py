"""How a report's values are written on a page; a report of another version may lack any of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"
# What each check is called in a narrow column.
CHECK_TEXTS = {
    "missing": "not found",
    "volume": "volume",
    "side": "left and right",
    "ratio": "size of the pair",
    "place": "place",
    "cut": "cut by the image",
    "parts": "stray parts",
    "gap": "empty slice",
    "density": "mean HU",
}


def number(value: Any, digits: int = 1) -> str:
    """Write a number, or a dash for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return NOTHING
    return f"{value:.{digits}f}"


def volume(value: Any) -> str:
    """Write a volume in cm³: small ones with more digits."""
    small = isinstance(value, int | float) and abs(value) < 10
    return number(value, 2 if small else 1)


def limits(pair: Any, digits: int | None = None) -> str:
    """Write a range, such as "10.0–55.0"."""
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        return NOTHING
    low, high = (volume(v) if digits is None else number(v, digits) for v in pair)
    return f"{low} to {high}"


def part(report: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return a nested table of a report; an empty one where there is none."""
    found: Any = report
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def items(report: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list of a report; an empty one where there is none."""
    found = report.get(key)
    return list(found) if isinstance(found, list | tuple) else []


def findings(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what the checks raised."""
    return [
        found for found in items(part(report, "checks"), "raised") if isinstance(found, Mapping)
    ]


def names(found: Mapping[str, Any]) -> str:
    """Write the organs of a finding."""
    return ", ".join(map(str, items(found, "organs")))


def registration_verdict(report: Mapping[str, Any]) -> str:
    """Write the verdict of a registration; a dash without one."""
    return str(part(report, "registration").get("status", NOTHING))


def seconds_in_all(report: Mapping[str, Any]) -> float:
    """Add up the seconds of all steps."""
    steps = [step for step in items(report, "steps") if isinstance(step, Mapping)]
    return float(sum(_value(step, "seconds") for step in steps))


def greatest_peak_mib(report: Mapping[str, Any]) -> float:
    """Return the peak memory of all processes; of reports without it, the greatest of a step."""
    steps = [step for step in items(report, "steps") if isinstance(step, Mapping)]
    return _value(report, "peak_mib") or float(
        max((_value(step, "peak_mib") for step in steps), default=0)
    )


def _value(of: Mapping[str, Any], key: str) -> float:
    value = of.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
