"""The table of a page: a row an organ, the report's own numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from oarseg.challenges.structures import Organ
from oarseg.results.page.document import add
from oarseg.results.page.texts import CHECK_TEXTS, NOTHING, items, limits, number, part, volume

ORGAN_COLUMNS = (
    ("Show", "Draw the organ's contour"),
    ("Organ", "Jump to its centroid"),
    ("cm³", "Volume"),
    ("plausible", "Volumes that raise no check, cm³"),
    ("L/R", "Left volume by the right one"),
    ("parts", "Connected parts"),
    ("stray cm³", "Volume of parts that are small or far away"),
    ("holes", "Background that the organ encloses"),
    ("mean HU", "Mean of the CT's values"),
    ("Verdict", "Checks that were raised"),
)
# Where the model was calibrated; before the verdict.
EXPECTED_COLUMN = (
    "expected DC",
    "Dice that the model's calibration expects by how far the folds agree, ± its error (root mean "
    "square); ≥ where they agree more than in any case of the calibration, ? where less",
)


def add_table(
    parent: Element, report: Mapping[str, Any], organs: Sequence[Organ], *, shown: bool
) -> None:
    """Add the table of organs.

    Args:
        parent: what to add it to.
        report: the case's.
        organs: of the challenge, in its order.
        shown: whether contours can be switched on and off.
    """
    table = add(parent, "table", id="organs")
    add(table, "caption", "Organs. A name jumps to the organ.")
    row = add(add(table, "thead"), "tr")
    expected = part(report, "expected_dice", "organs")
    columns = [*ORGAN_COLUMNS[:-1], *([EXPECTED_COLUMN] if expected else []), ORGAN_COLUMNS[-1]]
    for text, title in columns if shown else columns[1:]:
        add(row, "th", text, scope="col", title=title, class_="show" if text == "Show" else None)
    rows = add(table, "tbody")
    for index, organ in enumerate(organs):
        record = part(report, "checks", "organs", organ.name)
        volumes = part(report, "volumes_cm3")
        cm3 = volumes.get(organ.name, record.get("volume_cm3"))
        more = [_expected_text(part(expected, organ.name))] if expected else []
        _add_row(rows, index, organ, record, cm3, more=more, shown=shown)


def _expected_text(record: Mapping[str, Any]) -> str:
    """Write an expected Dice and its error, such as "0.84 ± 0.03"."""
    if record.get("beyond") == "below":
        return "?"
    dice = number(record.get("dice"), 2)
    if dice == NOTHING:
        return NOTHING
    sign = "≥ " if record.get("beyond") == "above" else ""
    return f"{sign}{dice} ± {number(record.get('error'), 2)}"


def _add_row(
    rows: Element,
    index: int,
    organ: Organ,
    record: Mapping[str, Any],
    cm3: Any,
    *,
    more: Sequence[str],
    shown: bool,
) -> None:
    raised = [str(check) for check in items(record, "raised")]
    row = add(rows, "tr", data_organ=index, class_="raised" if raised else None)
    if shown:
        cell = add(row, "td", class_="show")
        label = f"Contour of {organ.name}"
        add(cell, "input", type="checkbox", checked=True, aria_label=label)
    name = add(row, "th", scope="row")
    add_swatch(name, organ.colour)
    add(name, "button" if shown else "span", organ.name, type="button" if shown else None)
    cells = (
        volume(cm3),
        limits(record.get("volume_limits_cm3")),
        number(record.get("left_by_right"), 2),
        number(record.get("parts"), 0),
        volume(record.get("stray_cm3")),
        number(record.get("holes"), 0),
        number(record.get("mean"), 0),
        *more,
    )
    for text in cells:
        add(row, "td", text, class_="number")
    add(
        row,
        "td",
        ", ".join(CHECK_TEXTS.get(c, c) for c in raised) or _plain(record),
        class_="verdict",
    )


def _plain(record: Mapping[str, Any]) -> str:
    return "plausible" if record else NOTHING


def add_swatch(parent: Element, colour: tuple[int, int, int]) -> None:
    """Add a square of a colour, which a policy without inline styles allows."""
    svg = add(parent, "svg", class_="swatch", width=10, height=10, aria_hidden="true")
    add(svg, "rect", width=10, height=10, fill="#{:02x}{:02x}{:02x}".format(*colour))
