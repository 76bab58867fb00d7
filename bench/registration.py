"""Registration on pairs with known truth, against SimpleITK and elastix started alike.

    python bench/registration.py same-pose flexed impostors --seeds 30 --out bench/results
    python bench/registration.py templates --templates DIR --seeds 20
    python bench/registration.py same-pose --size median --seeds 4
    python bench/registration.py same-pose --seeds 6 --peers

DIR holds ct_template_2mm.nii.gz and t1_template_mni152.nii.gz, both in one frame. Each
line is printed as it is found; ``--out`` takes them and the summary as Markdown. Seeds
below 6000 were looked at while the verdict's limits were set.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pairs import Pair, flexed, impostors, lookalikes, plain, spread, template_pairs
from peers import PEERS

from oarseg.errors import OarsegError
from oarseg.imaging.transform import Transform
from oarseg.registration import (
    TG132_MAX_MM,
    TG132_MEAN_MM,
    Method,
    Registration,
    register_mr,
    target_registration_errors,
)

FIRST_SEED = 6000
GROUPS: dict[str, Callable[[range, str], Iterator[Pair]]] = {
    "plain": plain,
    "same-pose": spread,
    "flexed": flexed,
    "impostors": impostors,
    "lookalikes": lookalikes,
}
NAN = float("nan")


@dataclass(frozen=True)
class Row:
    """What one method made of one pair; errors in mm, NaN where there is no truth."""

    group: str
    pair: str
    kind: str
    method: str
    status: str
    mean_mm: float
    max_mm: float
    neck_mm: float
    seconds: float
    cpu_seconds: float
    details: str = ""

    @property
    def found(self) -> bool:
        """Whether the landmarks meet TG-132."""
        return self.mean_mm < TG132_MEAN_MM and self.max_mm < TG132_MAX_MM

    def line(self) -> str:
        """As a row of a Markdown table."""
        figures = (self.mean_mm, self.max_mm, self.neck_mm)
        errors = " | ".join("–" if np.isnan(v) else f"{v:.2f}" for v in figures)
        return (
            f"| {self.group} | {self.pair} | {self.kind} | {self.method} | {self.status} | "
            f"{errors} | {self.seconds:.1f} | {self.cpu_seconds:.1f} | {self.details} |"
        )


HEADER = (
    "| group | pair | kind | method | verdict | TRE mean | TRE max | neck | s | CPU s | figures |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def ours(pair: Pair, group: str, method: Method, threads: int) -> list[Row]:
    """Our row; with B-spline a second one, of its rigid part."""
    begin, cpu = time.perf_counter(), time.process_time()
    try:
        found = register_mr(pair.ct, pair.mr, method=method, threads=threads)
    except OarsegError as error:
        spent = (time.perf_counter() - begin, time.process_time() - cpu)
        return [Row(group, pair.name, pair.kind, method, "refused", NAN, NAN, NAN, *spent,
                    str(error))]  # fmt: skip
    spent = (found.seconds, time.process_time() - cpu)
    tried = [(method, found.transform)]
    if method == "bspline":
        tried.insert(0, ("rigid", found.transform.rigid_part))
    return [
        Row(group, pair.name, pair.kind, name, found.verdict.status, *_errors(pair, transform),
            *spent, _figures(found))
        for name, transform in tried
    ]  # fmt: skip


def _errors(pair: Pair, transform: Transform) -> tuple[float, float, float]:
    if not len(pair.ct_points):
        return NAN, NAN, NAN
    errors = target_registration_errors(transform, pair.ct_points, pair.mr_points)
    neck = NAN
    if len(pair.ct_neck):
        neck = float(target_registration_errors(transform, pair.ct_neck, pair.mr_neck).mean())
    return float(errors.mean()), float(errors.max()), neck


def _figures(found: Registration) -> str:
    v, bend = found.verdict, found.refinement
    text = (
        f"information {v.information:.3f}, contrast {v.contrast:.3f}, rival {v.rival:.2f}, "
        f"overlap {v.overlap:.2f}, angle {v.angle_deg:.1f}, mismatch {v.mismatch_mm:.2f}"
    )
    if bend:
        text += f"; spline {'kept' if bend.kept else bend.reason}, gain {100 * bend.gain:.1f} %, "
        text += f"Jacobian from {bend.lowest_jacobian:.2f}"
    return text


def peer_rows(pair: Pair, group: str) -> list[Row]:
    """One row a peer; a peer that gives up has no error and is not found."""
    rows = []
    for name, peer in PEERS.items():
        begin, cpu = time.perf_counter(), time.process_time()
        try:
            errors, status = _errors(pair, peer(pair.ct, pair.mr)), "–"
        except RuntimeError as error:
            errors, status = (NAN, NAN, NAN), "gave up"
            print(f"{name}: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        spent = (time.perf_counter() - begin, time.process_time() - cpu)
        rows.append(Row(group, pair.name, pair.kind, name, status, *errors, *spent))
    return rows


def summary(rows: Sequence[Row]) -> list[str]:
    """One line a group and method."""
    lines = [
        "| group | method | pairs | good / doubtful / failed | meets TG-132 | TRE mean | "
        "worst case's mean | worst landmark | neck mean | median s | most s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for group, method in dict.fromkeys((row.group, row.method) for row in rows):
        part = [row for row in rows if (row.group, row.method) == (group, method)]
        counts = [sum(row.status in names for row in part)
                  for names in (("good",), ("doubtful",), ("failed", "refused"))]  # fmt: skip
        verdicts = " / ".join(map(str, counts)) if any(counts) else "–"
        known = [row for row in part if not np.isnan(row.mean_mm)]
        truth = group not in ("impostors", "lookalikes")
        errors = [
            f"{sum(row.found for row in part)}" if truth else "–",
            _stat(np.mean, [row.mean_mm for row in known]),
            _stat(np.max, [row.mean_mm for row in known]),
            _stat(np.max, [row.max_mm for row in known]),
            _stat(np.mean, [row.neck_mm for row in known if not np.isnan(row.neck_mm)]),
        ]
        seconds = [row.seconds for row in part]
        lines.append(
            f"| {group} | {method} | {len(part)} | {verdicts} | {' | '.join(errors)} | "
            f"{np.median(seconds):.1f} | {max(seconds):.1f} |"
        )
    return lines


def _stat(function: Callable[[list[float]], float], values: list[float]) -> str:
    return f"{function(values):.2f}" if values else "–"


def main() -> None:
    """Print a line a pair, then the summary."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="+", choices=[*GROUPS, "templates"])
    parser.add_argument("--seeds", type=int, default=30, help="pairs a group")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--size", default="small")
    parser.add_argument("--registration", choices=("rigid", "bspline"), default="rigid")
    parser.add_argument("--templates", type=Path)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the Markdown file")
    options = parser.parse_args()
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    rows: list[Row] = []
    print(HEADER)
    for group in options.groups:
        for pair in _pairs(group, seeds, options):
            found = ours(pair, group, options.registration, options.threads)
            found += peer_rows(pair, group) if options.peers else []
            print("\n".join(row.line() for row in found), flush=True)
            rows += found
    print("\n".join(["", *summary(rows)]))
    if options.out:
        name = "-".join(options.groups) + ("-peers" if options.peers else "")
        write(options.out / f"{datetime.date.today()}-registration-{options.size}-{name}.md", rows)


def _pairs(group: str, seeds: range, options: argparse.Namespace) -> Iterator[Pair]:
    if group != "templates":
        return GROUPS[group](seeds, options.size)
    if options.templates is None:
        raise SystemExit("templates: pass --templates DIR")
    return template_pairs(options.templates, seeds)


def write(path: Path, rows: Sequence[Row]) -> None:
    """The command, the machine and both tables."""
    command = "python bench/registration.py " + " ".join(sys.argv[1:])
    load = os.getloadavg()[1]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    lines = [f"`{command}`", "", f"{machine}; load over five minutes {load:.1f}.", ""]
    lines += [*summary(rows), "", HEADER, *(row.line() for row in rows), ""]
    path.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
