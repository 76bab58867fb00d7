"""A case: its name, its input files, and where its outputs lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oarseg.challenges.challenge import Challenge
from oarseg.imaging.files.locate import image_ending

INPUTS = "inputs.json"
IMAGES = "images"
RESULTS = "results.json"
MASKS = "oar_masks"
REPORTS = "reports"


@dataclass(frozen=True)
class Case:
    """The files of one case.

    Attributes:
        name: the reference file's name without ending and suffix, such as "case_01".
        files: channel name → file.
    """

    name: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class CaseProblem:
    """Why something in the input is no case: its name, and one sentence for the user."""

    name: str
    message: str


def label_path(case: Case, challenge: Challenge) -> Path:
    """Where the challenge wants a case's label file, below the output folder."""
    output, socket = challenge.output, challenge.reference
    if output.path:
        return Path(output.path.replace("{case}", case.name))
    reference = case.files[socket.channel]
    stem = _stem(reference)
    end = output.ending or reference.name[len(stem) :]
    # A file that is called alike in every case tells nothing of its own.
    named = case.name if socket.file and stem.lower() == socket.file.lower() else stem
    if output.replace:
        named = named.replace(output.replace, output.by)
    return Path(IMAGES, output.slug, named + end)


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(image_ending(path.name) or "")]
