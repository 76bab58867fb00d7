"""Read tables of cases and structures (CSV).

Such a table lists which structures lie in a case's field of view (HaN-Seg's
``OAR_data.csv``), or which structures somebody has contoured in it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError

Presence = Mapping[str, float]
CASES_SHOWN = 3


def read_presence(path: Path, challenge: Challenge) -> dict[str, dict[str, float]]:
    """Read a table as case → structure → 1 (in the field), 0.5 (partly) or 0 (absent).

    The first row or the first column may name the structures: the description of HaN-Seg's
    table allows both. Fields are separated by commas or semicolons. Columns of other names
    are ignored.

    Raises:
        InputError: no known structure is named, or a value is not a number from 0 to 1.
    """
    text = path.read_text(encoding="utf-8-sig")
    separator = ";" if text.partition("\n")[0].count(";") else ","
    rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if any(row)]
    known = {organ.name for organ in challenge.organs}
    if not known & set(rows[0] if rows else ()):
        rows = [list(column) for column in zip(*rows, strict=False)]
    if not rows or not known & set(rows[0]):
        raise InputError(
            f"{path}: expected structures of {challenge.name} in the first row or column, "
            f"for example {', '.join(sorted(known)[:CASES_SHOWN])}; found none"
        )
    columns = [(i, name) for i, name in enumerate(rows[0]) if name in known]
    return {
        row[0]: {name: _parse_presence(path, row, i) for i, name in columns} for row in rows[1:]
    }


def _parse_presence(path: Path, row: list[str], column: int) -> float:
    text = row[column] if column < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"{path}: {row[0]}: expected 0, 0.5 or 1, found {text!r}")
    return value


def find_contradictions(presence: Presence, missing: tuple[str, ...]) -> tuple[str, ...]:
    """Describe where a case's row of the table and its mask files disagree."""
    without = [name for name in missing if presence.get(name, 0) > 0]
    with_mask = [name for name, value in presence.items() if value == 0 and name not in missing]
    found = []
    if without:
        found.append(f"no mask though the table has it in the field: {', '.join(without)}")
    if with_mask:
        found.append(f"a mask though the table has it absent: {', '.join(with_mask)}")
    return tuple(found)
