"""Read the user's label table from TOML or nnU-Net's ``dataset.json``; choose colours.

TOML holds ``[[structures]]`` and, for overlapping organs, ``[[overlapping]]``, as in a
challenge's own file. Entries without a colour get one here; codes are in ``structures``.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oarseg.challenges import toml_file
from oarseg.errors import InputError

TABLES = ("structures", "overlapping")
GOLDEN_ANGLE = 0.381966
NOT_STRUCTURES = ("background", "ignore")


def read_label_table(path: Path) -> tuple[dict[str, Any], str | None]:
    """Read the tables of a file, and its text if messages can name its lines.

    Raises:
        InputError: neither a TOML file with structures nor a ``dataset.json``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a label table, cannot read it") from error
    if path.suffix == ".json":
        return {"structures": _read_dataset_json(path, text)}, None
    document = toml_file.parse_toml(text, source=str(path))
    other = sorted(set(document) - set(TABLES))
    if other or "structures" not in document:
        found = ", ".join(other) or "none"
        raise InputError(f"{path}: expected only [[structures]] and [[overlapping]], found {found}")
    return document, text


def _read_dataset_json(path: Path, text: str) -> list[dict[str, Any]]:
    """Read the structures of nnU-Net's ``dataset.json``, version 1 or 2."""
    try:
        labels = json.loads(text)["labels"]
        pairs = [(name, label) for name, label in labels.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected nnU-Net's dataset.json with labels") from error
    if all(str(name).isdigit() for name, _ in pairs):  # version 1 maps labels to names
        pairs = [(label, int(name)) for name, label in pairs]
    kept = [(name, label) for name, label in pairs if name not in NOT_STRUCTURES]
    regions = [name for name, label in kept if not isinstance(label, int)]
    if regions:
        raise InputError(
            f"{path}: {regions[0]}: is a region of several labels; write a TOML table with "
            "[[structures]] and [[overlapping]] instead"
        )
    return [{"label": label, "name": name} for name, label in kept]


def fill_colours(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give every structure and organ of a document without a colour a distinct one."""
    result = dict(document)
    for table in TABLES:
        entries = document.get(table)
        if isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries):
            result[table] = [
                {"colour": distinct_colour(i), **entry} for i, entry in enumerate(entries)
            ]
    return result


def distinct_colour(index: int) -> tuple[int, int, int]:
    """Return an RGB colour unlike its neighbours': hues are a golden angle apart."""
    lightness, saturation = (0.5, 0.65, 0.38)[index % 3], (0.85, 0.6)[index % 2]
    parts = colorsys.hls_to_rgb((index * GOLDEN_ANGLE) % 1.0, lightness, saturation)
    red, green, blue = (round(255 * part) for part in parts)
    return red, green, blue
