"""Headers that are lines of text, and the numbers in them, distrusted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from oarseg.imaging.files.pixels import quote_header_text, unusable_file
from oarseg.imaging.volume import Vector

# As C's strtod reads it, without its words for infinities and its hexadecimal.
NUMBER = re.compile(r"[+-]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][+-]?\d{1,3})?", re.ASCII)


def parse_fields(path: Path, text: bytes, *, separator: str) -> dict[str, str]:
    """The ``key separator value`` lines of a header, keys as they are spelled.

    Args:
        path: for messages.
        text: the header.
        separator: a regular expression; ``:=``, which begins a free text, does not count.

    Raises:
        InputError: a key that comes twice: readers differ in which one they take.
    """
    pairs: dict[str, str] = {}
    for line in re.split(r"[\r\n]+", text.decode("latin-1")):
        match = re.match(rf"\s*([^=:]+?)\s*{separator}(?!=)\s*(.*?)\s*$", line)
        if match is None or match[1].startswith("#"):
            continue
        if match[1] in pairs:
            raise unusable_file(
                path,
                expected=f"{quote_header_text(match[1])} once in the header",
                found="it twice",
                do="correct the header",
            )
        pairs[match[1]] = match[2]
    return pairs


def parse_numbers(path: Path, key: str, texts: Sequence[str], count: int) -> tuple[float, ...]:
    """A header field's numbers.

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
    """Three numbers; errors as for ``parse_numbers``."""
    return cast(Vector, parse_numbers(path, key, texts, 3))


def parse_integers(path: Path, key: str, texts: Sequence[str], count: int) -> tuple[int, ...]:
    """A header field's numbers without their fractions; errors as for ``parse_numbers``."""
    return tuple(int(value) for value in parse_numbers(path, key, texts, count))
