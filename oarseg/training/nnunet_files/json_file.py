"""JSON files of nnU-Net, bounded and typed; whatever is wrong with one is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from pydantic import ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from oarseg.errors import InputError

# nnU-Net's files hold much that is not needed here, and trainers add to them.
READ: Final = ConfigDict(extra="ignore")
MOST_BYTES: Final = 64 << 20
LONGEST_SHOWN: Final = 80


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a file whose content is one JSON object.

    Raises:
        InputError: no plain file, too large, not JSON, or another value than an object.
    """
    try:
        if not path.is_file():
            raise InputError(f"{path}: expected a file, found none")
        if path.stat().st_size > MOST_BYTES:
            raise InputError(f"{path}: expected a JSON file of at most {MOST_BYTES >> 20} MiB")
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a JSON file, found {_damage(error)}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(document).__name__}")
    return document


def _damage(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"a fault in line {error.lineno}, column {error.colno}"
    if isinstance(error, RecursionError):
        return "values nested too deep"
    return "bytes or numbers that are none"


def shown(value: object) -> str:
    """A value from a file for a message: printable, and not longer than a line."""
    text = value if isinstance(value, str) and value.isprintable() else ascii(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def invalid(path: Path, error: ValidationError, *, inside: str = "") -> InputError:
    """What pydantic found first, as one sentence.

    Args:
        inside: where in the file the validated value lies.
    """
    found = error.errors(include_url=False)
    first = _plain_location(found[0]["loc"])
    # Of the branches of a union, the one that came furthest into the value says most.
    branches = [e for e in found if _plain_location(e["loc"])[: len(first)] == first]
    chosen = max(branches, key=lambda e: len(_plain_location(e["loc"])))
    parts = [inside, *(shown(part) for part in _plain_location(chosen["loc"]))]
    where = ".".join(part for part in parts if part) or "file"
    return InputError(f"{path}: {where}: {shown_message(_problem(chosen))}")


def _problem(fault: ErrorDetails) -> str:
    """Say what pydantic found; of a word that is not on a list, which word that is."""
    if fault["type"] == "literal_error" and isinstance(fault["input"], str):
        return f"expected {fault['ctx']['expected']}, found {shown(fault['input'])}"
    return fault["msg"]


def _plain_location(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(part for part in location if not _is_tag(part))


def _is_tag(part: object) -> bool:
    """Whether a part of a location is pydantic's name of a type, not a key of the file."""
    return isinstance(part, str) and ("[" in part or part.startswith("constrained-"))


def shown_message(message: str) -> str:
    """A message that may quote a file: printable, and of a bounded length."""
    text = "".join(c if c.isprintable() else "?" for c in message.removeprefix("Value error, "))
    return text if len(text) <= 4 * LONGEST_SHOWN else f"{text[: 4 * LONGEST_SHOWN]}…"
