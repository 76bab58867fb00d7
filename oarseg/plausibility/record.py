"""What was measured and found of a case, as plain data for its report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from oarseg.challenges.pairs import name_pairs
from oarseg.challenges.plausibility import Plausibility
from oarseg.plausibility.checks import Finding, volume_ratio
from oarseg.plausibility.measure import Measured

DIGITS = 3


def checks_record(
    measured: Sequence[Measured], findings: Sequence[Finding], limits: Plausibility
) -> dict[str, Any]:
    """Build the part of a report that cohorts can be filtered by.

    Args:
        measured: of every organ.
        findings: of ``find_implausible``.
        limits: what they were compared with.
    """
    by_name = {organ.organ: organ for organ in measured}
    ratios = {
        left: volume_ratio(by_name[left], by_name[right]) for left, right in name_pairs(by_name)
    }
    return {
        "verdict": "look" if findings else "plausible",
        "raised": [asdict(finding) for finding in findings],
        "organs": {
            organ.organ: {
                **_measured_record(organ),
                **_limits_record(organ.organ, limits),
                "left_by_right": _rounded(ratios.get(organ.organ)),
                "raised": [f.check for f in findings if organ.organ in f.organs],
            }
            for organ in measured
        },
        "sources": dict(limits.sources),
    }


def _measured_record(organ: Measured) -> dict[str, Any]:
    record = asdict(organ)
    del record["organ"]
    return {key: _rounded(value) for key, value in record.items()}


def _limits_record(organ: str, limits: Plausibility) -> dict[str, Any]:
    volume, density = limits.volume.get(organ), limits.density.get(organ)
    place = limits.place.get(organ)
    return {
        "volume_limits_cm3": _rounded(limits.volume_limits_cm3(organ)),
        "mean_limits_hu": density.hu if density else None,
        "limits_from": {
            "volume": volume.source if volume else None,
            "place": place.source if place else None,
            "density": density.source if density else None,
        },
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, tuple):
        return [_rounded(part) for part in value]
    return value
