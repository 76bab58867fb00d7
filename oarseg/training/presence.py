"""Tables of cases and structures: what lies in a case's field (HaN-Seg's ``OAR_data.csv``),
or which structures somebody has labelled in it.
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
    """Case → structure → 1 (in the field), 0.5 (partly in it) or 0 (not there).

    Structures may stand in the first row or in the first column, as the table's own
    description leaves open; fields are separated by commas or semicolons. Columns of
    other names are passed over.

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
    return {row[0]: {name: _value(path, row, i) for i, name in columns} for row in rows[1:]}


def _value(path: Path, row: list[str], column: int) -> float:
    text = row[column] if column < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"{path}: {row[0]}: expected 0, 0.5 or 1, found {text!r}")
    return value


def find_contradictions(presence: Presence, missing: tuple[str, ...]) -> tuple[str, ...]:
    """What a case's row of the table and its mask files disagree on, in words."""
    without = [name for name in missing if presence.get(name, 0) > 0]
    with_mask = [name for name, value in presence.items() if value == 0 and name not in missing]
    told = []
    if without:
        told.append(f"no mask though the table has it in the field: {', '.join(without)}")
    if with_mask:
        told.append(f"a mask though the table has it absent: {', '.join(with_mask)}")
    return tuple(told)
