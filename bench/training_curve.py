"""Draw a long training's curve from its log, for the card of the weights.

    python bench/training_curve.py build/weights/log.csv --card weights/README.md

writes ``training.svg`` beside the card and the section between ``<!-- training -->`` and
``<!-- /training -->`` in it, which is appended to a card that has none. ``weights.py`` does so
with each export.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

Row = Mapping[str, str]
MARKS = ("<!-- training -->", "<!-- /training -->")
PICTURE = "training.svg"
SETS = {"level0": ("level 0", "#0072b2"), "level2": ("level 2", "#d55e00")}
MOST_ROWS = 12
WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 16, 40  # margins of the plot
GRID = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Validation:
    """One validation of a log.

    Attributes:
        epoch: of all rounds so far.
        rows: by set.
    """

    epoch: int
    rows: dict[str, Row]

    def mean(self, name: str) -> float | None:
        """Return the mean Dice on a set; None where the set was not validated."""
        row = self.rows.get(name)
        return float(row["mean_dice"]) if row else None


def read_validations(log: Path) -> list[Validation]:
    """Read a log, in the order in which it was written; rows of one time are one validation.

    A round's epochs begin at 0 again; those of the rounds before are added.
    """
    with log.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    longest: dict[int, int] = {}
    for row in rows:
        number = int(row["round"])
        longest[number] = max(longest.get(number, 0), int(row["epoch"]))
    grouped: dict[tuple[str, int, int], dict[str, Row]] = {}
    for row in rows:
        key = (row["time"], int(row["round"]), int(row["epoch"]))
        grouped.setdefault(key, {})[row["set"]] = row
    return [
        Validation(epoch + sum(n for before, n in longest.items() if before < number), sets)
        for (_, number, epoch), sets in grouped.items()
    ]


def draw_curve(validations: Sequence[Validation]) -> str:
    """Draw the mean Dice of both sets over the epochs as SVG; the same text for the same log."""
    last = max((v.epoch for v in validations), default=0) or 1
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
        "<title>Mean Dice on phantoms that were never trained on, by epoch</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_axes(last),
    ]
    for number, (name, (title, colour)) in enumerate(SETS.items()):
        points = [(v.epoch, mean) for v in validations if (mean := v.mean(name)) is not None]
        places = [f"{_x(epoch, last):.1f},{_y(mean):.1f}" for epoch, mean in points]
        text.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" '
            f'points="{" ".join(places)}"/>'
        )
        dots = (place.split(",") for place in places)
        text += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in dots]
        height = HEIGHT - BOTTOM - 28 + 16 * number
        text.append(f'<text x="{WIDTH - 90}" y="{height}" fill="{colour}">{escape(title)}</text>')
    return "\n".join([*text, "</svg>"]) + "\n"


def _axes(last: int) -> Iterator[str]:
    for value in GRID:
        y = _y(value)
        yield f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>'
    for share in (0.0, 0.5, 1.0):
        x, epoch = _x(share * last, last), round(share * last)
        below = HEIGHT - BOTTOM + 18
        yield f'<text x="{x:.1f}" y="{below}" text-anchor="middle">{epoch}</text>'
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">epochs</text>'


def _x(epoch: float, last: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * epoch / last


def _y(dice: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * dice


def write_section(validations: Sequence[Validation]) -> str:
    """Write the card's section: the picture, and a table of at most ``MOST_ROWS`` validations.

    The last and the best by level 2 are among them.
    """
    lines = [
        "## The training's curve",
        "",
        "Trained on synthetic images only, not for clinical use. Mean Dice on phantoms of seeds "
        "that were never trained on; of 7 organs in the CT and T1 templates (averages of people), "
        "those found, their centroids' mean distance from the published places, and how many have "
        "a volume within half of the usual ones.",
        "",
        f"![Mean Dice by epoch]({PICTURE})",
        "",
        "| epochs | level 0 | level 2 | templates: found | off, mm | usual volume |",
        "|---:|---:|---:|---:|---:|---:|",
        *(_line(validation, validations) for validation in choose(validations)),
    ]
    return "\n".join(lines)


def choose(validations: Sequence[Validation]) -> list[Validation]:
    """Return some validations, evenly spread, with the last and the best by level 2."""
    count = len(validations)
    kept = (
        {round(n * (count - 1) / (MOST_ROWS - 2)) for n in range(MOST_ROWS - 1)} if count else set()
    )
    best = best_of(validations)
    return [v for n, v in enumerate(validations) if n in kept or v is best]


def best_of(validations: Sequence[Validation]) -> Validation | None:
    """Return the validation with the highest mean on level 2, the first of several."""
    return max(
        (v for v in validations if v.mean("level2") is not None),
        key=lambda v: v.mean("level2") or 0.0,
        default=None,
    )


def _line(validation: Validation, every: Sequence[Validation]) -> str:
    means = [_share(validation.mean(name)) for name in SETS]
    if validation is best_of(every):
        means = [f"**{mean}**" for mean in means]
    cells = [str(validation.epoch), *means, *_template_cells(validation.rows.get("templates"))]
    return "| " + " | ".join(cells) + " |"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _template_cells(row: Row | None) -> tuple[str, str, str]:
    if row is None or not row.get("off_mm"):
        return "", "", ""
    off: dict[str, float] = json.loads(row["off_mm"])
    count = len(off) + int(row["missed"])
    mean = f"{sum(off.values()) / len(off):.1f}" if off else ""
    usual = count - len(row["outside"].split())
    return f"{len(off)} of {count}", mean, f"{usual} of {count}"


def write_card(log: Path, card: Path) -> None:
    """Write the curve of a log beside a card, and the section into it.

    Raises:
        ValueError: the card has one of the marks only.
    """
    validations = read_validations(log)
    (card.parent / PICTURE).write_text(draw_curve(validations), encoding="utf-8")
    section = f"{MARKS[0]}\n\n{write_section(validations)}\n\n{MARKS[1]}"
    page = card.read_text(encoding="utf-8") if card.is_file() else "# Weights\n"
    before, begin, rest = page.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if bool(begin) != (MARKS[1] in page) or bool(begin) != bool(end):
        raise ValueError(f"{card}: expected {MARKS[0]} and below it {MARKS[1]}, or neither")
    whole = before + section + after if begin else f"{page.rstrip()}\n\n{section}\n"
    card.write_text(whole, encoding="utf-8")


def main() -> None:
    """Write the curve into a card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path, help="log.csv of the long training")
    parser.add_argument("--card", type=Path, required=True, help="Markdown")
    told = parser.parse_args()
    write_card(told.log, told.card)


if __name__ == "__main__":
    main()
