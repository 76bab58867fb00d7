"""TOML files of the user's: validated, with messages that name the key and its line.

``tomllib`` forgets where a key stood, so the lines are found again in the text: table
headers and keys at the beginning of a line, which is how such files are written. A key
inside an inline table is reported at the line of the key that holds it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from oarseg.errors import InputError

T = TypeVar("T")
Path = tuple[str | int, ...]

NAME = r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'"""
DOTTED = rf"(?:{NAME})(?:\s*\.\s*(?:{NAME}))*"
HEADER = re.compile(rf"^\s*(\[\[?)\s*({DOTTED})\s*\]")
KEY_PATTERN = re.compile(rf"^\s*({DOTTED})\s*=")
MULTILINE = ('"""', "'''")
DOCUMENT_KEY = "at"
UNKNOWN_KEY = "unexpected_keyword_argument"


def rule_error(at: Path, message: str) -> PydanticCustomError:
    """The error that a validator raises for a rule broken at a key of the document."""
    return PydanticCustomError("rule", "{message}", {"message": message, DOCUMENT_KEY: at})


def parse_toml(text: str, *, source: str) -> dict[str, Any]:
    """The document of a TOML text.

    Raises:
        InputError: not TOML; says where.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: not valid TOML: {error}") from error


def validate_document(
    document: Mapping[str, Any], kind: type[T], *, source: str, text: str | None = None
) -> T:
    """A document as a typed record.

    Args:
        document: what was parsed.
        kind: a pydantic dataclass.
        source: the file, for messages.
        text: what the document was parsed from; None leaves lines out of messages.

    Raises:
        InputError: a key is missing, unknown, of the wrong kind or breaks a rule: names
            the file, the line and the key.
    """
    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        raise InputError(_message(error.errors(), source, text)) from error


def _message(errors: list[ErrorDetails], source: str, text: str | None) -> str:
    # A misspelt key is also a missing one; what was written tells more.
    first = min(errors, key=lambda error: error["type"] != UNKNOWN_KEY)
    at = tuple(first.get("ctx", {}).get(DOCUMENT_KEY, first["loc"]))
    line = line_of(text, at) if text is not None else None
    where = ".".join(str(part) for part in at) or "file"
    told = f"{source}{f', line {line}' if line else ''}: {where}: {first['msg']}"
    return told + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")


def line_of(text: str, at: Path) -> int | None:
    """The line (from 1) of a key, else of what is nearest to it: the table that lacks it."""
    lines = dict(_keys(text))
    for length in range(len(at), 0, -1):
        if at[:length] in lines:
            return lines[at[:length]]
    return None


def _keys(text: str) -> Iterator[tuple[Path, int]]:
    """Every table and key, in the order of the text, with its line."""
    table: Path = ()
    counts: dict[Path, int] = {}
    closing = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if closing:
            closing = "" if closing in line else closing
            continue
        closing = next((mark for mark in MULTILINE if line.count(mark) % 2), "")
        if header := HEADER.match(line):
            table = _table(_names(header[2]), counts, an_array=header[1] == "[[")
            yield table, number
        elif key := KEY_PATTERN.match(line):
            yield (*table, *_names(key[1])), number


def _table(names: Path, counts: dict[Path, int], *, an_array: bool) -> Path:
    """The full path of a table: an array of tables is entered at its last element."""
    path: Path = ()
    for name in names:
        path = (*path, name)
        if an_array and len(path) == len(names) + sum(isinstance(p, int) for p in path):
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _names(dotted: str) -> Path:
    return tuple(name.strip("\"'") for name in re.findall(NAME, dotted))
