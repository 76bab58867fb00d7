"""Box plots of the scores. Only this module needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.evaluation.scoring import Score

BASELINE = "#c0392b"
MISSED = "#d35400"
BOX = "#d6e4f0"
LINE = "#1f4e79"
# Upper limit of the distance axis. Larger values are drawn at the edge, so that one stray
# voxel does not compress all boxes.
MAX_AXIS_MM = 20.0


def write_plot(path: Path, scores: Sequence[Score], challenge: Challenge, *, title: str) -> None:
    """Draw Dice and HD95 of every structure, with the published baseline's mean.

    Each dot is a case. Boxes span the quartiles, with a line at the median. Missed
    structures are crosses at Dice 0 and at the right edge, counted beside the name.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "matplotlib: expected it to be installed for the plot; pip install matplotlib, or pass "
            "--no-plot"
        ) from error
    names = [organ.name for organ in challenge.organs]
    missed = [_missed_flags(scores, name) for name in names]
    figure = Figure(figsize=(11, 1.6 + 0.27 * len(names)), layout="constrained")
    dice, distance = figure.subplots(1, 2, sharey=True)
    known = challenge.evaluation.baseline
    _draw_panel(
        dice,
        [_metric_values(scores, name, "dsc", factor=100) for name in names],
        [known[name].dsc_percent[0] if name in known else math.nan for name in names],
        missed,
        limits=(0.0, 100.0),
        label="Dice coefficient (%)",
    )
    far = [_metric_values(scores, name, "hd95_mm") for name in names]
    marks = [known[name].hd95_mm[0] if name in known else math.nan for name in names]
    finite = [v for values in [*far, marks] for v in values if math.isfinite(v)]
    high = min(max([*finite, 1.0]) * 1.05, MAX_AXIS_MM)
    label = f"HD95 (mm), by {scores[0].definition}" if scores else "HD95 (mm)"
    if any(value > high for values in far for value in values):
        label += f"; greater ones at {high:.0f}"
    _draw_panel(distance, far, marks, missed, limits=(0.0, high), label=label)
    counted = [
        f"{name} ({sum(m)} of {len(m)} missed)" if any(m) else name
        for name, m in zip(names, missed, strict=True)
    ]
    dice.set_yticks(range(len(names)), counted, fontsize=8)
    dice.invert_yaxis()
    _draw_legend(figure, challenge, dice)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=130)


def _scores_of(scores: Sequence[Score], structure: str) -> list[Score]:
    return [s for s in scores if s.structure == structure and not math.isnan(s.dsc)]


def _metric_values(
    scores: Sequence[Score], structure: str, metric: str, *, factor: float = 1.0
) -> list[float]:
    return [factor * float(getattr(score, metric)) for score in _scores_of(scores, structure)]


def _missed_flags(scores: Sequence[Score], structure: str) -> list[bool]:
    return [s.status in ("missed", "unusable") for s in _scores_of(scores, structure)]


def _draw_panel(
    axes: Any,
    values: Sequence[Sequence[float]],
    baseline: Sequence[float],
    missed: Sequence[Sequence[bool]],
    *,
    limits: tuple[float, float],
    label: str,
) -> None:
    low, high = limits
    shown = [[min(value, high) for value in row] for row in values]
    axes.boxplot(
        shown,
        positions=range(len(shown)),
        orientation="horizontal",
        widths=0.6,
        patch_artist=True,
        showfliers=False,
        boxprops={"facecolor": BOX, "edgecolor": LINE, "linewidth": 0.8},
        medianprops={"color": LINE, "linewidth": 1.6},
        whiskerprops={"color": LINE, "linewidth": 0.8},
        capprops={"color": LINE, "linewidth": 0.8},
        manage_ticks=False,
    )
    for row, (points, lost) in enumerate(zip(shown, missed, strict=True)):
        for which, mark, size, colour in ((False, ".", 4, LINE), (True, "x", 5, MISSED)):
            found = [value for value, gone in zip(points, lost, strict=True) if gone is which]
            axes.plot(found, [row] * len(found), mark, color=colour, markersize=size, alpha=0.8)
    axes.plot(baseline, range(len(shown)), "D", color=BASELINE, markersize=5, zorder=5)
    axes.set_xlim(low - high * 0.02, high * 1.02)
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)


def _draw_legend(figure: Any, challenge: Challenge, axes: Any) -> None:
    entries = {
        "a case": axes.plot([], [], ".", color=LINE, markersize=4)[0],
        "a case in which it was missed": axes.plot([], [], "x", color=MISSED, markersize=5)[0],
    }
    if challenge.evaluation.baseline:
        source = f"mean of {challenge.evaluation.baseline_source}"
        entries[source] = axes.plot([], [], "D", color=BASELINE, markersize=5)[0]
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=len(entries),
        frameon=False,
        fontsize=8,
    )
