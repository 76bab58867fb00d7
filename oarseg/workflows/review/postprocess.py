"""Apply the postprocessing that nnU-Net determined for a model, and note what it removed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from oarseg.challenges.challenge import Challenge
from oarseg.imaging.volume import Volume
from oarseg.plausibility.largest_part import Removed, keep_largest
from oarseg.plausibility.repair import Change
from oarseg.workflows.report import Notes
from oarseg.workflows.settings import RunDescription

log = logging.getLogger(__name__)


def postprocess(
    labels: Volume, run: RunDescription, notes: Notes, *, wrong: Iterable[Change] = ()
) -> Volume:
    """Keep the largest parts of what the model's manifest says.

    Args:
        labels: uint8; not changed.
        run: the model and its challenge.
        notes: takes what was removed.
        wrong: parts that have the other side's label, of which it warns if they are removed.

    Returns:
        The label map; itself where nothing was removed.
    """
    steps = run.weights.manifest.postprocessing
    if not steps:
        return labels
    array = labels.array.copy()
    removed = keep_largest(array, steps)
    if removed is None:
        notes.warn("the labels are too ragged to filter: the model's postprocessing was left out")
        return labels
    notes.postprocessing = {"steps": [_record(step, run.challenge) for step in removed]}
    lost = [step for step in removed if step.voxels]
    if not lost:
        return labels
    log.info("postprocessing removed %s", "; ".join(_text(step, run.challenge) for step in lost))
    _warn_of_sides(lost, wrong, run.challenge, notes)
    return labels.with_array(array)


def _record(step: Removed, rules: Challenge) -> dict[str, Any]:
    return {
        "keeps_largest_of": [_name(value, rules) for value in step.labels],
        "removed_parts": step.parts,
        "removed_voxels": {_name(value, rules): count for value, count in step.voxels.items()},
    }


def _text(step: Removed, rules: Challenge) -> str:
    parts = "part" if step.parts == 1 else "parts"
    voxels = ", ".join(f"{n} voxels of {_name(v, rules)}" for v, n in step.voxels.items())
    return f"{step.parts} {parts}: {voxels}"


def _name(value: int, rules: Challenge) -> str:
    return next((s.name for s in rules.structures if s.label == value), str(value))


def _warn_of_sides(
    lost: Iterable[Removed], wrong: Iterable[Change], rules: Challenge, notes: Notes
) -> None:
    """Warn where a part was removed that is of the other side."""
    names = {_name(value, rules) for step in lost for value in step.voxels}
    holes = [change for change in wrong if change.structure in names]
    if holes:
        parts = [f"{c.voxels} voxels of {c.structure} on the side of {c.now}" for c in holes]
        notes.warn(
            f"postprocessing may have removed what has the other side's label: {'; '.join(parts)}; "
            "--repair lr gives it the right one first"
        )
