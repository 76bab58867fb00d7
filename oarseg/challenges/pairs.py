"""Pairs of a left and a right organ, told by their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# How names tell sides: "Parotid_L", "LeftLung", "Eye_AL".
SIDE_MARKS = (("_L", "_R"), ("Left", "Right"), ("L", "R"))


def name_pairs(names: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return (left, right) for every name whose counterpart is there too, in their order."""
    known = list(names)
    pairs = []
    for name in known:
        partner = next((other for other in _counterparts(name) if other in known), None)
        if partner is not None:
            pairs.append((name, partner))
    return tuple(pairs)


def _counterparts(left: str) -> Iterator[str]:
    for mark, other in SIDE_MARKS:
        if left.endswith(mark):
            yield left[: -len(mark)] + other
        if len(mark) > 1 and left.startswith(mark):
            yield other + left[len(mark) :]
