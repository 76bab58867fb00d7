"""Names from foreign files, changed as little as files and folders need."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_NOT_IN_FILES = re.compile(r"[^\w.+-]+")
# A challenge's names have at most 100 characters; a number may follow.
MOST_CHARACTERS = 96
_NOT_IN_SLUGS = re.compile(r"[^a-z0-9]+")


def file_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names that files can have, one for each name and no two alike.

    Runs of characters other than letters, digits and ``_.+-`` become one ``_``; a name that
    occurs again, in whatever case, gets ``_2``, ``_3`` and so on. Dots at the start, which hide a
    file or name a folder above, are left out, and what is longer than a challenge's names may be
    is cut. Equal lists give equal names.
    """
    plain = [
        _NOT_IN_FILES.sub("_", name).strip("_").lstrip(".")[:MOST_CHARACTERS] or "unnamed"
        for name in names
    ]
    return distinct_names(plain, fold=str.casefold)


def slug_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names as the platform gives its sockets: ``MR T1`` becomes ``mr-t1``."""
    return distinct_names(
        [_NOT_IN_SLUGS.sub("-", name.lower()).strip("-") or "image" for name in names], joint="-"
    )


def distinct_names(
    names: Sequence[str], *, joint: str = "_", fold: Callable[[str], str] = str
) -> tuple[str, ...]:
    """Return the names, with a number appended to each that occurred before.

    Args:
        names: as they are.
        joint: stands before the number.
        fold: two names are the same if they are after this.
    """
    found: list[str] = []
    taken: set[str] = set()
    for name in names:
        number, distinct = 1, name
        while fold(distinct) in taken:
            number += 1
            distinct = f"{name}{joint}{number}"
        found.append(distinct)
        taken.add(fold(distinct))
    return tuple(found)
