"""Other people's readers of RT Structure Sets, each in a venv of its own (``make dicom-test``)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

VENVS = Path(__file__).resolve().parents[2] / "build" / "readers"
Masks = dict[str, NDArray[np.bool_]]

# Each is given the structure set, the folder of slices, and a folder to write to.
DCMRTSTRUCT2NII = """
import sys
from dcmrtstruct2nii import dcmrtstruct2nii
dcmrtstruct2nii(*sys.argv[1:4], gzip=False, convert_original_dicom=False)
"""
RT_UTILS = """
import sys
import numpy as np
from rt_utils import RTStructBuilder
found = RTStructBuilder.create_from(dicom_series_path=sys.argv[2], rt_struct_path=sys.argv[1])
for name in found.get_roi_names():
    mask = np.moveaxis(found.get_roi_mask_by_name(name), 2, 0)
    np.save(f"{sys.argv[3]}/{name}.npy", mask)
"""
PLATIPY = """
import sys
from platipy.dicom.io.rtstruct_to_nifti import convert_rtstruct
convert_rtstruct(sys.argv[2], sys.argv[1], prefix="", output_dir=sys.argv[3])
"""
SCRIPTS = {"dcmrtstruct2nii": DCMRTSTRUCT2NII, "rt-utils": RT_UTILS, "platipy": PLATIPY}


def read_masks(reader: str, structure_set: Path, slices: Path, out: Path) -> Masks:
    """Read every structure as a mask (z, y, x) by a reader: plastimatch, or one of ``SCRIPTS``."""
    out.mkdir(parents=True)
    if reader == "plastimatch":
        _run(
            "plastimatch",
            "convert",
            f"--input={structure_set}",
            f"--referenced-ct={slices}",
            f"--output-prefix={out}",
            "--prefix-format=nrrd",
        )
    else:
        python = VENVS / reader / "bin" / "python"
        _run(str(python), "-c", SCRIPTS[reader], str(structure_set), str(slices), str(out))
    return {_name_of(file): _mask(file) for file in sorted(out.iterdir())}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _name_of(file: Path) -> str:
    return file.name.split(".")[0].removeprefix("mask_")


def _mask(file: Path) -> NDArray[np.bool_]:
    if file.suffix == ".npy":
        return np.asarray(np.load(file), np.bool_)
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(file))) > 0, np.bool_)
