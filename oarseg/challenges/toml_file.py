"""Parse and validate the user's TOML files; messages name the key and its line.

``tomllib`` does not keep line numbers. They are recovered from the text by table headers
and keys at the beginning of a line, which is how such files are written. A key in an inline
table is reported at the line of the key that holds the table.
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
    """Return the error that a validator raises for a rule broken at a key."""
    return PydanticCustomError("rule", "{message}", {"message": message, DOCUMENT_KEY: at})


def parse_toml(text: str, *, source: str) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        InputError: not valid TOML; says where.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: not valid TOML: {error}") from error


def validate_document(
    document: Mapping[str, Any], kind: type[T], *, source: str, text: str | None = None
) -> T:
    """Validate a document and return it as a typed record.

    Args:
        document: the parsed document.
        kind: a pydantic dataclass.
        source: the file, for messages.
        text: text of the document; None omits line numbers from messages.

    Raises:
        InputError: a key is missing, unknown, of the wrong type or breaks a rule; names
            file, line and key.
    """
    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        raise InputError(_format_errors(error.errors(), source, text)) from error


def _format_errors(errors: list[ErrorDetails], source: str, text: str | None) -> str:
    # A misspelt key is reported twice, as unknown and as missing: prefer the unknown one.
    first = min(errors, key=lambda error: error["type"] != UNKNOWN_KEY)
    at = tuple(first.get("ctx", {}).get(DOCUMENT_KEY, first["loc"]))
    line = line_of(text, at) if text is not None else None
    where = ".".join(str(part) for part in at) or "file"
    text_of_first = f"{source}{f', line {line}' if line else ''}: {where}: {first['msg']}"
    return text_of_first + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")


def line_of(text: str, at: Path) -> int | None:
    """Return the line (from 1) of a key, or of the table that lacks it."""
    lines = dict(_iterate_keys(text))
    for length in range(len(at), 0, -1):
        if at[:length] in lines:
            return lines[at[:length]]
    return None


def _iterate_keys(text: str) -> Iterator[tuple[Path, int]]:
    """Iterate over tables and keys in the order of the text, with their lines."""
    table: Path = ()
    counts: dict[Path, int] = {}
    closing = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if closing:
            closing = "" if closing in line else closing
            continue
        closing = next((mark for mark in MULTILINE if line.count(mark) % 2), "")
        if header := HEADER.match(line):
            table = _resolve_table(_split_names(header[2]), counts, an_array=header[1] == "[[")
            yield table, number
        elif key := KEY_PATTERN.match(line):
            yield (*table, *_split_names(key[1])), number


def _resolve_table(names: Path, counts: dict[Path, int], *, an_array: bool) -> Path:
    """Resolve the path of a table; of an array of tables, its last element."""
    path: Path = ()
    for name in names:
        path = (*path, name)
        if an_array and len(path) == len(names) + sum(isinstance(p, int) for p in path):
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _split_names(dotted: str) -> Path:
    return tuple(name.strip("\"'") for name in re.findall(NAME, dotted))
