"""Repair and judge the organs of a case that was segmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from oarseg.cases.case import Case
from oarseg.challenges.challenge import Challenge
from oarseg.challenges.pairs import name_pairs
from oarseg.errors import OarsegError
from oarseg.imaging.files import read_scan
from oarseg.imaging.volume import Grid, Vector, Volume
from oarseg.inference.region.footprint import BlockMask
from oarseg.plausibility.checks import find_implausible
from oarseg.plausibility.measure import measure_organs
from oarseg.plausibility.record import checks_record
from oarseg.plausibility.repair import Change, find_wrong_sides, repair_labels
from oarseg.workflows.report import Notes
from oarseg.workflows.review.postprocess import postprocess
from oarseg.workflows.review.tell_sides import tell_sides
from oarseg.workflows.settings import RunDescription

# Of the findings that a warning quotes; the report has all.
QUOTED = 8


def judge_organs(
    labels: Volume, case: Case, run: RunDescription, notes: Notes, *, body_mm: Vector | None
) -> Volume:
    """Repair what the user asked for, filter as the model says, then check; note what was found.

    The sides of a model's merged pairs are told first. Sides are repaired before the model's
    postprocessing, which would take a part with the other side's label for a stray one and leave a
    hole; stray parts are removed after it.

    The reference image is read again, as it was freed to make room for the networks.

    Args:
        labels: on the reference image's grid.
        case: names the reference image.
        run: the challenge, and what to repair.
        notes: takes warnings, checks and repairs.
        body_mm: the body's centre, if it is known.

    Returns:
        The label map, repaired if that was asked for, and postprocessed if the model says so.
    """
    asked, rules = run.settings.repair, run.challenge
    labels = tell_sides(labels, run, notes, body_mm=body_mm)
    sides, strays = (tuple(a for a in asked if a == kind) for kind in ("lr", "components"))
    labels, changes = repair_labels(labels, rules, sides, body_mm=body_mm)
    wrong = () if sides else _wrong_sides(labels, run, body_mm)
    labels = postprocess(labels, run, notes, wrong=wrong)
    labels, more = repair_labels(labels, rules, strays, body_mm=body_mm)
    if asked:
        changes += more
        notes.repair = {"asked": list(asked), "changed": [asdict(change) for change in changes]}
        _warn_of_changes(changes, notes)
    image = _densities(case, run, notes)
    notes.checks = check_organs(labels, run.challenge, image)
    if notes.checks is None:
        notes.warn("the labels are too ragged to judge: the organs were not checked")
    else:
        _warn_of(notes.checks["raised"], notes)
    return labels


def _wrong_sides(labels: Volume, run: RunDescription, body_mm: Vector | None) -> tuple[Change, ...]:
    """Tell what the postprocessing may remove although it is of the other side."""
    filtered = {value for step in run.weights.manifest.postprocessing for value in step.labels}
    rules = run.challenge
    paired = {rules.structure(name).label for pair in _pairs(rules) for name in pair}
    if not filtered & paired:
        return ()
    return find_wrong_sides(labels, rules, body_mm=body_mm)


def _pairs(rules: Challenge) -> tuple[tuple[str, str], ...]:
    return name_pairs([structure.name for structure in rules.structures])


def check_organs(
    labels: Volume, challenge: Challenge, image: Volume | None
) -> dict[str, Any] | None:
    """Measure and judge the organs of a label map; None if it is too ragged.

    Args:
        labels: uint8, on the reference image's grid.
        challenge: names the organs and gives the limits.
        image: the CT on the same grid; None leaves densities out.
    """
    limits = challenge.plausibility
    measured = measure_organs(labels, challenge.organs, limits, image=image)
    if measured is None:
        return None
    return checks_record(measured, find_implausible(measured, limits), limits)


def centre_of_body(body: BlockMask, grid: Grid) -> Vector:
    """Return the mean position of the body's blocks, in the world.

    Args:
        body: of an image.
        grid: the image's.
    """
    index = (np.argwhere(body.blocks).mean(0) + 0.5) * body.size - 0.5
    return cast(Vector, tuple(grid.to_world(index[None])[0].tolist()))


def _densities(case: Case, run: RunDescription, notes: Notes) -> Volume | None:
    """Read the reference image, if it is a CT."""
    socket = run.challenge.reference
    if socket.modality != "CT":
        return None
    settings = run.settings
    try:
        return read_scan.read_ct(
            case.source(socket.channel),
            assume_hu=settings.assume_hu,
            limits=settings.limits,
            warn=lambda message: None,  # said when it was read to be segmented
        )
    except OarsegError as error:
        notes.warn(f"mean HU of the organs not checked: {error}")
        return None


def _warn_of_changes(changes: Sequence[Change], notes: Notes) -> None:
    if changes:
        parts = [f"{c.voxels} voxels of {c.structure} are {c.now or 'removed'}" for c in changes]
        notes.warn(f"repaired as asked: {'; '.join(parts)}")


def _warn_of(raised: Sequence[dict[str, Any]], notes: Notes) -> None:
    """Warn of what deserves a look, but for missing organs, which have a warning of their own."""
    texts = [f"{', '.join(f['organs'])}: {f['message']}" for f in raised if f["check"] != "missing"]
    if texts:
        more = f"; and {len(texts) - QUOTED} more" if len(texts) > QUOTED else ""
        notes.warn(f"look at the masks: {'; '.join(texts[:QUOTED])}{more}")
