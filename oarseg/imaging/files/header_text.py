"""Headers that are lines of text: their fields and numbers, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from oarseg.errors import InputError
from oarseg.imaging.files.pixels import quote_header_text, unusable_file
from oarseg.imaging.volume import Vector

# As C's strtod reads it, without its words for infinities and its hexadecimal.
NUMBER = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)
# Of ASCII alone: the bytes of a UTF-8 text may be blanks of Latin-1.
BLANKS = " \t\r\n\v\f"
# Slicer writes ten lines a segment, and lines of some kilobytes for the rules of a
# conversion; the header as a whole ends within ``locate.HEADER_LIMIT``.
MOST_LINES = 20_000
LONGEST_LINE = 1 << 16
LONGEST_KEY = 512


def parse_fields(path: Path, text: bytes, *, separators: str) -> dict[str, str]:
    """Return the ``key separator value`` lines of a header, keys as they are spelled.

    The time is linear in the length of the text, whatever it holds: lines are cut at their
    first separator, without a regular expression that could backtrack.

    Args:
        path: for messages.
        text: the header.
        separators: the characters that end a key. A key holds neither ``=`` nor ``:``, and
            ``:=``, which begins a free text, does not count.

    Raises:
        InputError: too many lines, a line or key that is too long, or a key that is given
            twice, because readers differ in which of the two they take.
    """
    pairs: dict[str, str] = {}
    for line in split_lines(path, text):
        key, value = split_field(line, separators)
        if not key or key.startswith("#"):
            continue
        if len(key) > LONGEST_KEY:
            raise _oversized(path, f"keys of at most {LONGEST_KEY} characters", f"{len(key)}")
        if key in pairs:
            raise given_twice(path, key)
        pairs[key] = value
    return pairs


def split_lines(path: Path, text: bytes) -> list[str]:
    """Split a header into its lines, without blanks at either end, empty lines left out.

    Raises:
        InputError: more lines than ``MOST_LINES``, or one longer than ``LONGEST_LINE``.
    """
    whole = text.decode("latin-1").replace("\r\n", "\n").replace("\r", "\n")
    count = whole.count("\n")
    if count > MOST_LINES:
        raise _oversized(path, f"a header of at most {MOST_LINES} lines", f"{count}")
    lines = [line for text_line in whole.split("\n") if (line := text_line.strip(BLANKS))]
    longest = max(map(len, lines), default=0)
    if longest > LONGEST_LINE:
        raise _oversized(path, f"lines of at most {LONGEST_LINE} characters", f"{longest}")
    return lines


def split_field(line: str, separators: str) -> tuple[str, str]:
    """Return the key and the value of a line; an empty key where it has no field."""
    ends = [at for at in (line.find("="), line.find(":")) if at >= 0]
    end = min(ends, default=-1)
    if end < 0 or line[end] not in separators or line[end + 1 : end + 2] == "=":
        return "", ""
    return line[:end].strip(BLANKS), line[end + 1 :].strip(BLANKS)


def named_once(path: Path, fields: dict[str, str], synonyms: Mapping[str, str]) -> dict[str, str]:
    """Give every field its usual name.

    Args:
        path: for messages.
        fields: by their keys as they are spelled.
        synonyms: other key → usual name.

    Raises:
        InputError: two keys that mean the same: readers differ in which of them they take.
    """
    named: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for key, value in fields.items():
        usual = synonyms.get(key, key)
        if usual in named:
            raise given_twice(path, spelled[usual], key)
        named[usual], spelled[usual] = value, key
    return named


def given_twice(path: Path, key: str, other: str | None = None) -> InputError:
    """Return the error for a field that is given twice, by one key or by two synonyms."""
    synonym = other is not None and other != key
    return unusable_file(
        path,
        expected=f"{quote_header_text(key)} once in the header",
        found=f"also {quote_header_text(other)}, which means the same" if synonym else "it twice",
        do="correct the header",
    )


def _oversized(path: Path, expected: str, found: str) -> InputError:
    return unusable_file(path, expected=expected, found=found, do="correct the header")


def parse_numbers(path: Path, key: str, texts: Sequence[str], count: int) -> tuple[float, ...]:
    """Parse a header field's numbers.

    Raises:
        InputError: another count, or anything but finite decimal numbers.
    """
    if len(texts) != count or not all(NUMBER.fullmatch(text) for text in texts):
        raise unusable_file(
            path,
            expected=f"{key} with {count} finite numbers",
            found=quote_header_text(" ".join(texts)),
            do="correct the header",
        )
    values = tuple(float(text) for text in texts)
    if not all(math.isfinite(value) for value in values):
        raise unusable_file(
            path, expected=f"a finite {key}", found=f"{values}", do="correct the header"
        )
    return values


def parse_vector(path: Path, key: str, texts: Sequence[str]) -> Vector:
    """Parse three numbers; errors as for ``parse_numbers``."""
    return cast(Vector, parse_numbers(path, key, texts, 3))


def parse_integers(path: Path, key: str, texts: Sequence[str], count: int) -> tuple[int, ...]:
    """Parse numbers and drop their fractions; errors as for ``parse_numbers``."""
    return tuple(int(value) for value in parse_numbers(path, key, texts, count))
