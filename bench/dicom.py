"""The shipped case as DICOM, in every position and form: how many voxels get another label.

    python bench/dicom.py [--case test] [--weights weights]

The case is segmented as it lies in the folder, then as studies of DICOM slices
(``test/support/dicom_studies.py``). The run ends with status 1 if a label differs.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from dicom_studies import FORMS, write_study

from oarseg.challenges import catalogue
from oarseg.errors import OarsegError
from oarseg.imaging.files.read_scan import read_volume
from oarseg.imaging.orientation import to_lps
from oarseg.imaging.volume import Volume
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
HAN_SEG = catalogue.load_challenge("han_seg")


def main() -> int:
    """Segment all forms and print what differs; 0 where nothing does."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", type=Path, default=ROOT / "test", help="in the platform's layout")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        expected = _labels(arguments.case, work / "expected", arguments.weights)
        images = _images(arguments.case)
        differing = 0
        for number, name in enumerate(FORMS):
            place = work / str(number)
            write_study(place / "in", images, name)
            found = _labels(place / "in", place / "out", arguments.weights)
            other = int(np.count_nonzero(found.array != expected.array))
            structures = len(np.unique(found.array)) - 1
            print(f"{name}: {other} of {expected.grid.voxels:,} voxels, {structures} structures")
            differing += other
    return 1 if differing else 0


def _images(case: Path) -> tuple[Volume, Volume]:
    """The CT and MR of the case."""
    ct, mr = (next((case / "images" / socket.slug).iterdir()) for socket in HAN_SEG.sockets)
    return read_volume(ct), read_volume(mr)


def _labels(folder: Path, out: Path, weights: Path) -> Volume:
    """Segment the one case of a folder; its label map, with the patient's axes.

    Raises:
        OarsegError: it failed.
    """
    failures = segment_folder(Settings(folder, out, weights, device="cpu"))
    if failures:
        raise OarsegError(failures[0].message)
    (file,) = (out / "images" / HAN_SEG.output.slug).iterdir()
    volume = read_volume(file)
    return to_lps(volume.grid).volume(volume)


if __name__ == "__main__":
    raise SystemExit(main())
