"""What a run has written, what of it Grand Challenge takes, and how it compares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.cases.places import IMAGES
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.imaging.files.locate import image_ending
from oarseg.labels.dice import count_labels
from oarseg.labels.stacks import LabelStack, open_stack

# Of an image; everything else that lies there is not looked at.
PLATFORM_ENDINGS = (".mha", ".tif")
# Values of a label file, which are bytes.
_SIZES = 256


@dataclass(frozen=True)
class WrittenFile:
    """A file of the output folder.

    Attributes:
        path: below the folder.
        bytes: its size.
        verdict: what the platform does with it.
        taken: it is the image that the platform wants.
    """

    path: Path
    bytes: int
    verdict: str
    taken: bool = False


@dataclass(frozen=True)
class PlatformVerdict:
    """Whether the platform takes what was written, and why, in one sentence."""

    taken: bool
    text: str


@dataclass(frozen=True)
class LabelComparison:
    """A label file beside the one that was expected.

    Attributes:
        path: below both folders.
        differing: voxels that differ; None if there is no such file, or another grid.
        voxels: of the image.
        lowest_dice: of the organ that differs most, and its name.
    """

    path: Path
    differing: int | None
    voxels: int = 0
    lowest_dice: tuple[float, str] | None = None

    def line(self) -> str:
        """Return it in words."""
        if self.differing is None:
            return f"{self.path}: not written, or on another grid than expected"
        text = f"{self.path}: {self.differing} of {self.voxels} voxels differ"
        if self.differing and self.lowest_dice:
            dice, organ = self.lowest_dice
            text += f", least Dice {dice:.4f} ({organ})"
        return text


def list_written(output: Path, rules: Challenge) -> list[WrittenFile]:
    """List the files of an output folder, with what the platform does with each.

    Raises:
        InputError: there is no such folder.
    """
    if not output.is_dir():
        raise InputError(f"{output}: expected an output folder, found none")
    return [_judge(output, path, rules) for path in sorted(output.rglob("*")) if path.is_file()]


def _judge(output: Path, path: Path, rules: Challenge) -> WrittenFile:
    below, size = path.relative_to(output), path.stat().st_size
    if below.parts[0] != IMAGES:
        return WrittenFile(below, size, "kept from it: no output socket")
    if len(below.parts) != 3 or below.parts[1] != rules.output.slug:
        return WrittenFile(below, size, "refused: no socket of this challenge")
    if path.suffix not in PLATFORM_ENDINGS:
        endings = " or ".join(PLATFORM_ENDINGS)
        return WrittenFile(below, size, f"refused: expects {endings}; give the input as .mha")
    if rules.output.form == "labels":
        strange = sorted(_labels(path) - {0, *(s.label for s in rules.structures)})
        if strange:
            return WrittenFile(below, size, f"refused: labels {strange} are not declared")
    return WrittenFile(below, size, f"taken as {rules.output.slug}", taken=True)


def _labels(path: Path) -> set[int]:
    return {int(value) for _, _, plane in open_stack(path).planes() for value in np.unique(plane)}


def judge_written(
    written: Sequence[WrittenFile], rules: Challenge, *, several: bool = False
) -> PlatformVerdict:
    """Judge whether the platform would take what a run wrote.

    Args:
        written: its files.
        rules: its challenge.
        several: the run had several cases, each of which is a job of its own on the platform.
    """
    if rules.output.path or not rules.output.slug:
        return PlatformVerdict(
            taken=False,
            text='the challenge writes no output socket: give its file [output] slug = "…" and '
            'ending = ".mha", and export with it',
        )
    refused = next((file for file in written if file.verdict.startswith("refused")), None)
    if refused:
        text = f"a job that writes this fails: {refused.path} {refused.verdict}"
        return PlatformVerdict(taken=False, text=text)
    number = sum(file.taken for file in written)
    if number == 1:
        return PlatformVerdict(taken=True, text="a job that writes this is taken")
    if several and number:
        return PlatformVerdict(
            taken=True, text=f"each of these {number} images is taken, from its own job"
        )
    found = f"found {number}: one case a job" if number else "found none"
    socket = f"{IMAGES}/{rules.output.slug}"
    text = f"a job that writes this fails: expected one image in {socket}, {found}"
    return PlatformVerdict(taken=False, text=text)


def compare_labels(output: Path, expected: Path, rules: Challenge) -> Iterator[LabelComparison]:
    """Compare the label files with those of another folder of the same layout.

    Yields:
        One for each image below ``images/<slug>/`` of the expected folder.

    Raises:
        InputError: there is none, or an image cannot be read.
    """
    folder = expected / IMAGES / rules.output.slug
    wanted = [path for path in sorted(folder.glob("*")) if image_ending(path.name)]
    if not wanted:
        raise InputError(f"{folder}: expected label files to compare with, found none")
    for path in wanted:
        below = path.relative_to(expected)
        found = output / below
        if not found.is_file():
            yield LabelComparison(below, None)
        else:
            yield _compare(below, open_stack(found), open_stack(path), rules)


def _compare(path: Path, ours: LabelStack, theirs: LabelStack, rules: Challenge) -> LabelComparison:
    """Compare plane by plane: a stack of organs may be larger than memory."""
    if ours.channels != theirs.channels or not ours.grid.matches(theirs.grid):
        return LabelComparison(path, None)
    differing = 0
    sizes, both = np.zeros(_SIZES, np.int64), np.zeros(_SIZES, np.int64)
    for (_, _, found), (_, _, wanted) in zip(ours.planes(), theirs.planes(), strict=True):
        same = found == wanted
        differing += same.size - int(np.count_nonzero(same))
        if ours.channels == 1:
            sizes += _count(ours, found) + _count(theirs, wanted)
            both += _count(ours, found[same])
    worst = _lowest_dice(sizes, both, rules) if differing and ours.channels == 1 else None
    return LabelComparison(path, differing, ours.channels * ours.grid.voxels, worst)


def _count(stack: LabelStack, plane: NDArray[Any]) -> NDArray[np.int64]:
    try:
        return count_labels(plane, _SIZES)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{stack.path}: expected labels from 0 to {_SIZES - 1}, found others ({error}); give "
            "the label file of this challenge"
        ) from error


def _lowest_dice(
    sizes: NDArray[np.int64], both: NDArray[np.int64], rules: Challenge
) -> tuple[float, str]:
    """Return the lowest Dice of a label, and its name, from both sides' sizes and their overlap."""
    names = {structure.label: structure.name for structure in rules.structures}
    there = np.flatnonzero(sizes[1:]) + 1
    dice = 2 * both[there] / sizes[there]
    label = int(there[np.argmin(dice)])
    return float(dice.min()), names.get(label, f"label {label}")
