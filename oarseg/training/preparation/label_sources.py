"""Read a data set's labels (label maps, masks, 4-D files) as one label map per case.

The layouts are those that ``oarseg evaluate`` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.cases.case import Case, CaseProblem
from oarseg.challenges.challenge import Challenge, Organ
from oarseg.challenges.overlaps import Exclusive
from oarseg.errors import InputError
from oarseg.imaging.files.dicom.structure_set import StructureReferences, read_references
from oarseg.imaging.files.pixels import printable_path
from oarseg.imaging.volume import Grid
from oarseg.labels.find_labels import LabelFiles, find_labels
from oarseg.labels.mask import CroppedMask
from oarseg.labels.open_masks import LabelMap, Masks, Target, open_masks
from oarseg.labels.structure_sets import find_structure_sets, structure_set_of

LABELS_SHOWN = 5


@dataclass(frozen=True)
class TrainingLabels:
    """A case's labels.

    Attributes:
        array: label map (z, y, x), uint8.
        overlap_voxels: voxels of overlapping organs that no label stands for, which the
            overlap rule decided.
        missing: organs without any label information.
    """

    array: NDArray[np.uint8]
    overlap_voxels: int
    missing: tuple[str, ...]


def find_sources(
    folder: Path, challenge: Challenge, *, progress: Callable[[str], None]
) -> dict[str, LabelFiles]:
    """Find the label files of every case below a folder, by case-folded case name.

    Args:
        folder: labels in any layout of ``labels.find_labels``.
        challenge: names organs and layouts.
        progress: called with one line for each file that is ignored.

    Raises:
        InputError: no labels at all.
    """
    found = find_labels(folder, challenge)
    for problem in found.problems:
        progress(f"{problem.name}: passed over: {problem.message}")
    return {files.key: files for files in found.cases}


def find_structure_sources(
    folder: Path, cases: Sequence[Case], challenge: Challenge
) -> tuple[dict[str, LabelFiles], tuple[CaseProblem, ...]]:
    """Find the RT Structure Sets that were drawn on the cases' series.

    Args:
        folder: searched with all folders below it, whatever the files are called.
        cases: those without a series of DICOM have none.
        challenge: names the reference image.

    Returns:
        Case-folded case name → file, and what is wrong: files that cannot be read, cases
        that have several.
    """
    channel = challenge.reference.channel
    drawn = [case for case in cases if channel in case.series]
    known: list[StructureReferences] = []
    problems: list[CaseProblem] = []
    for path in find_structure_sets(folder) if drawn else ():
        try:
            known += [one] if (one := read_references(path)) else []
        except InputError as error:
            problems.append(CaseProblem(printable_path(path.name), str(error)))
    found: dict[str, LabelFiles] = {}
    for case in drawn:
        try:
            file = structure_set_of(case.series[channel], known)
        except InputError as error:
            problems.append(CaseProblem(case.name, str(error)))
            continue
        if file is not None:
            found[case.name.casefold()] = LabelFiles(case.name, file, {})
    return found, tuple(problems)


def read_training_labels(
    files: LabelFiles,
    challenge: Challenge,
    grid: Grid,
    *,
    labelled: Mapping[str, float] | None = None,
) -> TrainingLabels:
    """Read a case's labels on its reference image's grid.

    Args:
        files: the case's label files.
        challenge: its organs and labels.
        grid: of the reference image.
        labelled: organ → 0 where nobody has contoured it, from the user's table; other
            organs are missing only if they have no file.

    Raises:
        InputError: a file cannot be read, lies on another grid, or holds a label that the
            challenge does not have.
    """
    masks = open_masks(files, challenge, Target(grid))
    if masks.unknown and isinstance(masks, LabelMap):
        shown = ", ".join(masks.unknown[:LABELS_SHOWN])
        raise InputError(
            f"{files.first}: expected labels 0–{len(challenge.structures)} of {challenge.name}, "
            f"found {shown}; give the labels that belong to the challenge"
        )
    missing = tuple(
        organ.name
        for organ in challenge.organs
        if masks.lacks(organ) or (labelled or {}).get(organ.name) == 0
    )
    if isinstance(masks, LabelMap):
        return TrainingLabels(masks.labels, 0, missing)
    known = [organ for organ in challenge.organs if organ.name not in missing]
    merge = _merge_overlapping if challenge.overlapping else _merge_exclusive
    array, decided = merge(masks, known, challenge, grid)
    return TrainingLabels(array, decided, missing)


def _merge_exclusive(
    masks: Masks, organs: list[Organ], challenge: Challenge, grid: Grid
) -> tuple[NDArray[np.uint8], int]:
    """Merge masks that may not overlap: the smaller organ wins, among equals the higher label."""
    found = {organ: masks.mask(organ) for organ in organs}
    there = {organ: mask for organ, mask in found.items() if mask is not None}
    sizes = {organ: mask.voxels for organ, mask in there.items()}
    labels = np.zeros(grid.shape, np.uint8)
    for organ in sorted(there, key=lambda organ: (-sizes[organ], organ.labels)):
        _window(labels, there[organ])[there[organ].array] = organ.labels[0]
    return labels, sum(sizes.values()) - int(np.count_nonzero(labels))


def _merge_overlapping(
    masks: Masks, organs: list[Organ], challenge: Challenge, grid: Grid
) -> tuple[NDArray[np.uint8], int]:
    """Merge masks that may overlap: a label stands for a set of organs; see ``Exclusive``."""
    codes = np.zeros(grid.shape, np.uint64)
    sizes: dict[str, float] = {}
    for bit, organ in enumerate(challenge.organs):
        mask = masks.mask(organ) if organ in organs else None
        sizes[organ.name] = mask.voxels if mask else 0
        if mask is not None:
            part = _window(codes, mask)
            np.bitwise_or(part, np.uint64(1 << bit), out=part, where=mask.array)
    labels = np.zeros(grid.shape, np.uint8)
    rule = Exclusive(challenge, sizes, known={organ.name for organ in organs})
    decided = 0
    for target, plane in zip(labels, codes, strict=True):
        target[...], doubtful = rule.labels(plane)
        decided += doubtful
    return labels, decided


def _window(array: NDArray[Any], mask: CroppedMask) -> NDArray[Any]:
    """View the part of an array that a cropped mask covers."""
    z, y, x = (
        slice(start, start + count)
        for start, count in zip(mask.start, mask.array.shape, strict=True)
    )
    return array[z, y, x]


def merged_classes(challenge: Challenge, missing: tuple[str, ...]) -> dict[int, int]:
    """Find the labels that a case cannot distinguish because some organs are missing.

    Returns:
        label → the one that stands for it in the case's label map. Without a mask of an
        organ, its label is background (0); where organs overlap, the label of lobe and
        hippocampus is the lobe's if nobody has outlined the hippocampus.
    """
    absent = set(missing)
    known: dict[frozenset[str], int] = {frozenset(): 0}
    members = {
        structure.label: frozenset(
            organ.name for organ in challenge.organs if structure.label in organ.labels
        )
        for structure in challenge.structures
    }
    merged: dict[int, int] = {}
    # Labels with the fewest unknown organs stand for the others.
    for label in sorted(members, key=lambda label: (len(members[label] & absent), label)):
        seen = members[label] - absent
        if known.setdefault(seen, label) != label:
            merged[label] = known[seen]
    return dict(sorted(merged.items()))
