"""Real raters' masks as a label map: one organ may be several labels, as masks overlap."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.challenges.challenge import Organ
from oarseg.challenges.label_table import distinct_colour
from oarseg.imaging.volume import Volume, grid_of

# Beside the repository, as the masks are not the project's to ship.
SHARED = Path(__file__).resolve().parents[3] / "shared"
RATERS = Path(os.environ.get("OARSEG_SHARED", SHARED)) / "data" / "raters"


@cache
def read_raters(name: str) -> tuple[Volume, tuple[Organ, ...]]:
    """Read the masks of "case_1/oncologist"; skip the test where they are not there."""
    folder = RATERS / name
    files = sorted(folder.glob("*.nrrd"))
    if not files:
        pytest.skip(f"no masks of raters in {folder}")
    first = sitk.ReadImage(str(files[0]))
    bits = np.zeros(first.GetSize()[::-1], np.uint32)
    for number, file in enumerate(files):
        bits |= (sitk.GetArrayFromImage(sitk.ReadImage(str(file))) > 0).astype(np.uint32) << (
            np.uint32(number)
        )
    inside = bits > 0
    values = bits[inside]
    present = np.concatenate([np.zeros(1, np.uint32), np.unique(values)])
    assert len(present) <= 256
    labels = np.zeros(bits.shape, np.uint8)
    labels[inside] = np.searchsorted(present, values)
    organs = [
        Organ(
            name=file.stem,
            colour=distinct_colour(number),
            labels=tuple(np.flatnonzero(present >> np.uint32(number) & 1).tolist()),
        )
        for number, file in enumerate(files)
    ]
    return Volume(labels, grid_of(first)), tuple(organs)


def mask_of(labels: NDArray[np.uint8], organ: Organ) -> NDArray[np.bool_]:
    """The mask of one organ."""
    table = np.zeros(256, np.bool_)
    table[list(organ.labels)] = True
    return np.asarray(table[labels], np.bool_)
