"""Write a challenge as the TOML text that it can be loaded from again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

from oarseg.challenges.challenge import Challenge


def challenge_toml(challenge: Challenge) -> str:
    """Return a challenge as TOML, without what is as by default."""
    document = TypeAdapter(Challenge).dump_python(challenge, mode="json", exclude_defaults=True)
    return "\n".join(_table_lines(document, "")).strip() + "\n"


def _table_lines(table: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield a table's own keys, then the tables in it."""
    inner = {key: value for key, value in table.items() if _holds_tables(value)}
    for key, value in table.items():
        if key not in inner:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in inner.items():
        name = f"{path}{_key(key)}"
        for part in value if isinstance(value, list) else [value]:
            yield ""
            yield f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
            yield from _table_lines(part, f"{name}.")


def _holds_tables(value: Any) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict)
    )


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        # JSON's escapes are TOML's too, but for one character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}.get(
        text := json.dumps(value), text
    )
