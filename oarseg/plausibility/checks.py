"""Look for what is implausible in the organs of a case.

Each finding is a reason to look, and none changes anything. One fault is to raise one check:
what a fault makes of other measures is set right before these are judged. So the limits of whole
organs do not hold for one that the image's edge cuts; where left and right are exchanged, both
are looked for in each other's place; a stray part counts for no place, edge or empty slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from oarseg.challenges.pairs import name_pairs
from oarseg.challenges.plausibility import Plausibility
from oarseg.imaging.volume import Vector
from oarseg.plausibility.measure import Measured
from oarseg.plausibility.places import deviations

CheckName = Literal["missing", "volume", "side", "ratio", "place", "cut", "parts", "gap", "density"]
ByName = Mapping[str, Measured]
_Describe = Callable[[Measured], str]


@dataclass(frozen=True)
class Finding:
    """Something that deserves a look.

    Attributes:
        check: which check found it.
        organs: one, or the left and the right of a pair.
        message: what was found and what was expected, for people.
    """

    check: CheckName
    organs: tuple[str, ...]
    message: str


def find_implausible(measured: Sequence[Measured], limits: Plausibility) -> tuple[Finding, ...]:
    """Apply every check to the organs of a case.

    Args:
        measured: of every organ of the challenge.
        limits: the challenge's.

    Returns:
        Check by check, and organ by organ in each.
    """
    organs = {organ.organ: organ for organ in measured}
    pairs = [pair for pair in name_pairs(organs) if not any(organs[name].missing for name in pair)]
    swapped = [pair for pair in pairs if not _is_left_of(organs[pair[0]], organs[pair[1]])]
    present = {name: organ for name, organ in organs.items() if not organ.missing}
    return (
        *(Finding("missing", (n,), "not found") for n, organ in organs.items() if organ.missing),
        *_volumes(present, limits),
        *(
            Finding("side", pair, "the left one lies to the right of the right one")
            for pair in swapped
        ),
        *_ratios(present, pairs, limits),
        *_places(present, swapped, limits),
        *_each(present, "cut", _cut),
        *_each(present, "parts", _parts),
        *_each(present, "gap", _gap),
        *_densities(present, limits),
    )


def _is_left_of(left: Measured, right: Measured) -> bool:
    if left.centroid_mm is None or right.centroid_mm is None:
        return True
    return left.centroid_mm[0] > right.centroid_mm[0]


def _each(organs: ByName, check: CheckName, describe: _Describe) -> Iterator[Finding]:
    for name, organ in organs.items():
        message = describe(organ)
        if message:
            yield Finding(check, (name,), message)


def _volumes(organs: ByName, limits: Plausibility) -> Iterator[Finding]:
    for name, organ in organs.items():
        usual = limits.volume_limits_cm3(name)
        if usual is None:
            continue
        low, high = usual
        # What the image cuts may be as small as it likes.
        if organ.volume_cm3 > high or (organ.volume_cm3 < low and not organ.edges):
            message = f"{organ.volume_cm3:.4g} cm³, expected {low:.4g} to {high:.4g} cm³"
            yield Finding("volume", (name,), message)


def _ratios(
    organs: ByName, pairs: Sequence[tuple[str, str]], limits: Plausibility
) -> Iterator[Finding]:
    for left, right in pairs:
        one, other = organs[left], organs[right]
        if one.edges or other.edges:
            continue
        ratio, limit = volume_ratio(one, other), limits.ratio_limit(left)
        if ratio is not None and max(ratio, 1 / ratio) > limit:
            larger = "left" if ratio > 1 else "right"
            message = (
                f"the {larger} one is {max(ratio, 1 / ratio):.2f} times the other, "
                f"expected at most {limit:g}"
            )
            yield Finding("ratio", (left, right), message)


def volume_ratio(left: Measured, right: Measured) -> float | None:
    """Return the left volume by the right one; None where one is missing."""
    if left.missing or right.missing:
        return None
    return left.volume_cm3 / right.volume_cm3


def _places(
    organs: ByName, swapped: Sequence[tuple[str, str]], limits: Plausibility
) -> Iterator[Finding]:
    centroids: dict[str, Vector] = {}
    for name, organ in organs.items():
        if organ.centroid_mm is not None and not organ.edges:
            centroids[name] = organ.centroid_mm
    for left, right in swapped:
        if left in centroids and right in centroids:
            centroids[left], centroids[right] = centroids[right], centroids[left]
    for name, (off_mm, in_sds) in deviations(centroids, limits.place).items():
        if in_sds > limits.place_sds:
            message = (
                f"{off_mm:.0f} mm from where the other organs put it, {in_sds:.1f} standard "
                f"deviations, expected at most {limits.place_sds:g}"
            )
            yield Finding("place", (name,), message)


def _cut(organ: Measured) -> str:
    if not organ.edges:
        return ""
    return f"reaches the {' and the '.join(organ.edges)} edge of the image"


def _parts(organ: Measured) -> str:
    if not organ.stray_parts:
        return ""
    count = "1 stray part" if organ.stray_parts == 1 else f"{organ.stray_parts} stray parts"
    return f"{count}, {organ.stray_cm3:.2g} cm³, up to {organ.stray_farthest_mm:.0f} mm away"


def _gap(organ: Measured) -> str:
    if not organ.empty_slices:
        return ""
    count = "1 empty slice" if organ.empty_slices == 1 else f"{organ.empty_slices} empty slices"
    return f"{count} between filled ones"


def _densities(organs: ByName, limits: Plausibility) -> Iterator[Finding]:
    for name, organ in organs.items():
        usual = limits.density.get(name)
        if usual is None or organ.mean is None:
            continue
        low, high = usual.hu
        if not low <= organ.mean <= high:
            message = f"{organ.mean:.0f} HU on average, expected {low:.0f} to {high:.0f} HU"
            yield Finding("density", (name,), message)
