"""A case: its name, its input files, and where its outputs lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from oarseg.cases.places import (
    IMAGES,
    NAME_BYTES,
    fold_path,
    masks_path,
    report_path,
    segmentation_path,
)
from oarseg.challenges.challenge import Challenge
from oarseg.imaging.files.dicom.series import DicomSeries
from oarseg.imaging.files.locate import ENDINGS, image_ending

# Of the label file of a case whose reference image is a series of DICOM.
SERIES_ENDING = ".mha"
# Between the names of case and organ in a file of probabilities.
PROBABILITY_MARK = "_PROB_"


@dataclass(frozen=True)
class Case:
    """The files of one case.

    Attributes:
        name: the reference file's name without ending and suffix, such as "case_01".
        files: channel name → file. For a series of DICOM it is the series' folder and, as the
            name, its UID: it stands in messages and reports, and is opened by nobody.
        series: channel name → series of DICOM, of those channels that are one.
    """

    name: str
    files: Mapping[str, Path]
    series: Mapping[str, DicomSeries] = field(default_factory=dict)

    def source(self, channel: str) -> Path | DicomSeries:
        """Return what the image of a channel is read from."""
        return self.series.get(channel, self.files[channel])


@dataclass(frozen=True)
class CaseProblem:
    """Something in the input that cannot be a case: its name, and one sentence for the user."""

    name: str
    message: str


def label_path(case: Case, challenge: Challenge) -> Path:
    """Return the path of a case's label file below the output folder, as the challenge asks."""
    output, socket = challenge.output, challenge.reference
    if output.path:
        return Path(output.path.replace("{case}", case.name))
    if socket.channel in case.series:
        return Path(IMAGES, output.slug, case.name + (output.ending or SERIES_ENDING))
    reference = case.files[socket.channel]
    stem = file_stem(reference)
    end = output.ending or reference.name[len(stem) :]
    # A file name that is the same in every case does not identify one.
    named = case.name if socket.file and stem.lower() == socket.file.lower() else stem
    if output.replace:
        named = named.replace(output.replace, output.by)
    return Path(IMAGES, output.slug, named + end)


def output_paths(case: Case, challenge: Challenge) -> tuple[Path, ...]:
    """List a case's output files and folders, below the output folder.

    Returns:
        Segmentation, folder of masks, report and label file.
    """
    name = case.name
    label_file = label_path(case, challenge)
    return segmentation_path(name), masks_path(name), report_path(name), label_file


def mask_name(case: str, organ: str) -> str:
    """Return the file name of the mask of one organ of a case."""
    return f"{case}_OAR_{organ}.seg.nrrd"


def probability_name(case: str, organ: str) -> str:
    """Return the file name of the probabilities of one organ of a case; shorter than its mask's."""
    return f"{case}{PROBABILITY_MARK}{organ}.nrrd"


def longest_output_name(case: Case, challenge: Challenge) -> str:
    """Return the file name with the most bytes among a case's outputs."""
    masks = [mask_name(case.name, organ.name) for organ in challenge.organs]
    parts = [part for path in output_paths(case, challenge) for part in path.parts]
    return max(masks + parts, key=lambda name: len(name.encode(errors="surrogateescape")))


def fits_file_name(name: str) -> bool:
    """Return whether a name is short enough for a file."""
    return len(name.encode(errors="surrogateescape")) <= NAME_BYTES


def owns_label_path(name: str, path: Path, challenge: Challenge) -> bool:
    """Return whether a label file can belong to a case, whatever its input files were called.

    Args:
        name: the case's name.
        path: path of the label file below the output folder, from an earlier run's report.
        challenge: gives the rule by which label files are named.
    """
    socket = challenge.reference
    marks = {"", *socket.suffixes, *(suffix.lower() for suffix in socket.suffixes)}
    inputs = [Path(f"{name}{suffix}{end}") for suffix in marks for end in ENDINGS]
    known = {
        fold_path(label_path(Case(name, {socket.channel: file}), challenge)) for file in inputs
    }
    return fold_path(path) in known


def file_stem(path: Path) -> str:
    """Return a file's name without its image ending."""
    return path.name[: len(path.name) - len(image_ending(path.name) or "")]
