"""Tell left from right for a model whose classes hold both organs of a pair, and note how."""

from __future__ import annotations

from typing import Any

from oarseg.challenges.challenge import Challenge
from oarseg.challenges.pairs import name_pairs
from oarseg.errors import InferenceError
from oarseg.imaging.volume import Vector, Volume
from oarseg.plausibility.sides import SplitPairs, split_pairs
from oarseg.workflows.report import Notes
from oarseg.workflows.settings import RunDescription

# What a plane that was not found from pairs hangs on.
WEAK = {"body": "the body's centre", "image": "the image's centre"}


def tell_sides(
    labels: Volume, run: RunDescription, notes: Notes, *, body_mm: Vector | None
) -> Volume:
    """Give right organs their label where the model has one class for both sides.

    Args:
        labels: uint8; not changed.
        run: the model and its challenge.
        notes: takes the plane and the voxels of each side.
        body_mm: the body's centre, if it is known.

    Raises:
        InferenceError: the labels are too ragged to be divided.
    """
    pairs, rules = run.weights.manifest.pairs, run.challenge
    if not pairs:
        return labels
    found = split_pairs(labels, pairs, middle=_middle(rules), body_mm=body_mm)
    if found is None:
        raise InferenceError(
            "expected organs whose sides can be told, found labels too ragged; check the image"
        )
    notes.sides = _record(found, rules)
    if found.midline is not None and found.source in WEAK:
        notes.warn(
            f"sides were told by {WEAK[found.source]}, as no pair of organs shows the middle: "
            "check left and right"
        )
    return found.labels


def _middle(rules: Challenge) -> tuple[int, ...]:
    """List the structures that have no counterpart, most of which lie across the middle."""
    names = [structure.name for structure in rules.structures]
    paired = {name for pair in name_pairs(names) for name in pair}
    return tuple(s.label for s in rules.structures if s.name not in paired)


def _record(found: SplitPairs, rules: Challenge) -> dict[str, Any]:
    names = {structure.label: structure.name for structure in rules.structures}
    return {
        "told_from": found.source,
        "pairs": found.pairs,
        "midline": None
        if found.midline is None
        else {
            "normal": [round(part, 4) for part in found.midline.normal],
            "offset_mm": round(found.midline.offset_mm, 1),
        },
        "voxels": {
            name: count
            for side in found.sides
            for name, count in (
                (names[side.left], side.left_voxels),
                (names[side.right], side.right_voxels),
            )
        },
        "cut_at_the_midline": [names[side.left] for side in found.sides if side.cut],
    }
