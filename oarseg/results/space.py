"""Check before a case is computed that the disk has room for its outputs."""

from __future__ import annotations

import os
from pathlib import Path

from oarseg.cases.case import Case, label_path
from oarseg.challenges.challenge import Challenge
from oarseg.errors import OutputError

# Deflate cannot compress a run of zeros better than this.
DEFLATE_RATIO = 1032
# Bytes per voxel that organs add, over all files that contain them: twice what the 30 of
# HaN-Seg take in phantoms of 5 and 31 million voxels (0.12 to 0.14).
CONTENT_BYTES = 0.25
# Headers, the blocks of a file system, the report.
FILE_BYTES = 16 << 10
# Per voxel of an organ's probabilities: halves until they are written, and these as floats.
PROBABILITY_BYTES = 2 + 3
# What is written beside a case: results.json, the journal, folders.
RESERVE_BYTES = 1 << 20
MIB = 1 << 20


class DiskFullError(OutputError):
    """The disk is too full for any case."""


def estimate_output_bytes(case: Case, challenge: Challenge, voxels: int) -> int:
    """Estimate an upper bound of the bytes that a case's outputs take.

    It holds for organs, whose surfaces are smooth. A label map of noise takes more, and may
    fail when it is written.

    Args:
        case: names the label file, which is stored as it is where its ending is ``.nii``.
        challenge: gives the number of organs.
        voxels: of the label map.
    """
    organs = len(challenge.organs)
    maps = 2 + organs * (2 if challenge.output.form == "channels" else 1)
    if challenge.overlapping:
        maps += organs
    compressed = voxels * (maps / DEFLATE_RATIO + CONTENT_BYTES)
    stored = voxels if label_path(case, challenge).name.lower().endswith(".nii") else 0
    return int(compressed) + stored + maps * FILE_BYTES


def free_bytes(output: Path) -> int | None:
    """Return the free bytes for this user on a folder's disk; None if the disk reports none."""
    try:
        found = os.statvfs(output)
    except OSError:
        return None
    # Some network and memory file systems report no size.
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def check_disk(output: Path) -> None:
    """Make sure that the disk is not full.

    Raises:
        DiskFullError: no case would fit.
    """
    free = free_bytes(output)
    if free is not None and free < RESERVE_BYTES:
        raise DiskFullError(
            f"{output}: expected a disk with room, found {free >> 10} KiB: No space left on "
            "device; free space, or pass another --output"
        )


def check_space(
    output: Path, case: Case, challenge: Challenge, voxels: int, *, probabilities: int = 0
) -> None:
    """Make sure that the disk has room for a case's outputs.

    Args:
        output: the output folder.
        case: names the label file.
        challenge: gives the number of organs.
        voxels: of the label map.
        probabilities: how many organs get a file of them.

    Raises:
        OutputError: the disk has too little room.
    """
    free = free_bytes(output)
    needed = estimate_output_bytes(case, challenge, voxels) + RESERVE_BYTES
    needed += probabilities * voxels * PROBABILITY_BYTES
    if free is not None and needed > free:
        raise OutputError(
            f"{output}: expected about {needed / MIB:.0f} MiB for the outputs of this case, "
            f"found {free / MIB:.0f} MiB left; free space, or pass another --output"
        )
