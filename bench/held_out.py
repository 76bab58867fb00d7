"""Measure weights on what no training and no choice has seen, against bars.

    python bench/held_out.py NEW --against weights --templates DIR --out build/held-out

segments ten phantoms of level 0, twenty of level 2 (seeds that the long training neither trains on
nor chooses the best by) and the templates, and prints a table in Markdown. The phantoms are made
once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from templates import PLACES

from weights import Job, Reached, make_phantoms, measure, write_templates

# First seed and number of cases by set.
HELD_OUT = {"level0": (0, 300, 10), "level2": (2, 6000, 20)}
# Bars: as low and as high as may be.
LEAST_DICE = {"level0": 0.88, "level2": 0.75}
LEAST_CHIASM, LEAST_GAIN = 0.65, 0.10
MOST_STRAY_MM, MOST_OFF_MM = 20.0, 8.0
MUST_BE_FOUND = ("Brainstem", "Eye_L", "Eye_R", "OpticChiasm", "Pituitary")
Results = Mapping[str, Reached]


@dataclass(frozen=True)
class Bar:
    """A bar: what was asked for, what was reached, and whether that is enough."""

    asked: str
    reached: str
    met: bool


def judge(new: Results, old: Results | None) -> Iterator[Bar]:
    """Compare results by set with the bars.

    Args:
        new: of the weights that are judged.
        old: of those that they shall replace; None leaves out the gain.
    """
    for name, least in LEAST_DICE.items():
        if name in new:
            mean = new[name].mean
            yield Bar(f"{name}: mean Dice ≥ {least}", f"{mean:.3f}", mean >= least)
    if level0 := new.get("level0"):
        chiasm, stray = level0.structures["OpticChiasm"], level0.stray_mm
        yield Bar(f"level0: chiasm ≥ {LEAST_CHIASM}", f"{chiasm:.3f}", chiasm >= LEAST_CHIASM)
        asked = f"level0: no piece farther than {MOST_STRAY_MM:g} mm from its organ"
        yield Bar(asked, f"{stray:.0f} mm", stray <= MOST_STRAY_MM)
    if old and "level2" in new and "level2" in old:
        gain = new["level2"].mean - old["level2"].mean
        yield Bar(f"level2: gain ≥ {LEAST_GAIN:.2f}", f"{gain:+.3f}", gain >= LEAST_GAIN)
    if templates := new.get("templates"):
        yield from _judge_templates(templates)


def _judge_templates(found: Reached) -> Iterator[Bar]:
    for name in MUST_BE_FOUND:
        off = found.off_mm.get(name)
        met = off is not None and off <= MOST_OFF_MM
        reached = "not found" if off is None else f"{off:.1f} mm"
        yield Bar(f"templates: {name} at most {MOST_OFF_MM:g} mm off", reached, met)
    usual = f"templates: usual volumes of all {len(PLACES)} organs"
    outside = ", ".join(found.outside)
    yield Bar(usual, f"beyond: {outside}" if outside else "all", not outside)
    raised = ", ".join(f"{check} {count}" for check, count in found.raised.items())
    yield Bar("templates: no check raised", raised or "none", not raised)


def table(bars: Iterator[Bar]) -> Iterator[str]:
    """Write bars in Markdown."""
    yield "| bar | reached | met |\n|---|---|---|\n"
    yield from (f"| {bar.asked} | {bar.reached} | {'yes' if bar.met else 'no'} |\n" for bar in bars)


def make_held_out(job: Job) -> None:
    """Make the phantoms that are not there yet, and the templates."""
    sets = job.root / "sets"
    for name, (level, seed, cases) in HELD_OUT.items():
        make_phantoms(job, name, level=level, seed=seed, cases=cases)
    if job.templates and not (sets / "templates").is_dir():
        write_templates(job.templates, sets / "templates")


def measure_weights(job: Job, name: str, weights: Path) -> dict[str, Reached]:
    """Segment every set with a weights folder; ``name`` is where the results lie."""
    trial = job.root / name
    trial.mkdir(exist_ok=True)
    link = trial / "weights"
    link.unlink(missing_ok=True)
    link.symlink_to(weights.resolve(), target_is_directory=True)
    found = {one: measure(job, one, trial) for one in (*HELD_OUT, "templates")}
    return {one: reached for one, reached in found.items() if reached}


def main() -> None:
    """Print the table; the exit status is 1 if a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="weights folder that is judged")
    parser.add_argument("--against", type=Path, help="weights folder that it shall replace")
    parser.add_argument("--templates", type=Path, help="folder of the CT and T1 templates")
    parser.add_argument("--out", type=Path, default=Path("build/held-out"))
    parser.add_argument("--workers", type=int, default=2)
    told = parser.parse_args()
    job = Job(told.out, None, 0, 0, told.templates, "{}", "cpu", told.workers)
    make_held_out(job)
    new = measure_weights(job, "new", told.weights)
    old = measure_weights(job, "old", told.against) if told.against else None
    bars = list(judge(new, old))
    print("".join(table(iter(bars))), end="")
    sys.exit(not all(bar.met for bar in bars))


if __name__ == "__main__":
    main()
