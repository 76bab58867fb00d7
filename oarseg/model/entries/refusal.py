"""What pydantic found wrong with a file of a weights folder, as one short line."""

from __future__ import annotations

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """Describe the first fault of a file: the key, its range and what was found."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "file"
    message = first["msg"].removeprefix("Value error, ")
    return f"{_shortened(where)}: {_shortened(message)}{_found_text(first['input'])}"


def _shortened(text: str) -> str:
    """Limit a text to 200 printable characters."""
    line = "".join(c if c.isprintable() else "?" for c in text[:200])
    return line if len(text) <= 200 else f"{line}…"


def _found_text(value: object) -> str:
    """Describe the refused value, if it is short enough to help."""
    text = repr(value) if isinstance(value, str | int | float | list | None) else ""
    return f", found {text}" if 0 < len(text) <= 60 and text.isprintable() else ""
