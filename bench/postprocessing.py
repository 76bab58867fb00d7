"""Determine the shipped weights' postprocessing by nnU-Net's own rule, on the job's phantoms.

    python bench/postprocessing.py build/weights

takes the label maps that ``weights.py`` made of its sets with the best networks so far, has nnU-Net
compare them with the truth, with and without all parts but the largest, and prints where the
``postprocessing.json`` lies that ``oarseg export --postprocessing`` takes.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import SimpleITK as sitk

from weights import RESULTS, VALIDATION, find_labels

SUFFIX = ".nrrd"


def gather(job: Path, out: Path) -> tuple[Path, Path]:
    """Copy the sets' label maps and their truths to one folder each, under the same names.

    Raises:
        FileNotFoundError: a case of a set has no label map.
    """
    found, truths = out / "predicted", out / "truth"
    for folder in (found, truths):
        folder.mkdir(parents=True)
    for name in VALIDATION:
        for truth in sorted((job / "sets" / name / "truth").glob("*/label.nrrd")):
            case = truth.parent.name
            made = find_labels(job / "best" / name, case)
            if made is None:
                raise FileNotFoundError(f"{job / 'best' / name}: no label map of {case}")
            stem = f"{name}_{case}{SUFFIX}"
            sitk.WriteImage(sitk.ReadImage(str(made)), str(found / stem), useCompression=True)
            shutil.copy(truth, truths / stem)
    return found, truths


def determine(job: Path, out: Path, *, workers: int) -> Path:
    """Run nnU-Net's rule; return the file that it wrote."""
    from nnunetv2.postprocessing.remove_connected_components import determine_postprocessing

    found, truths = gather(job, out)
    results = job / "best" / Path(RESULTS).name
    plans, dataset = (
        json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("plans", "dataset")
    )
    determine_postprocessing(
        str(found), str(truths), plans, dataset | {"file_ending": SUFFIX}, workers, False
    )
    return found / "postprocessing.json"


def main() -> None:
    """Say where the file lies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, help="the job's folder")
    parser.add_argument("--workers", type=int, default=2)
    told = parser.parse_args()
    out = told.job / "postprocessing"
    shutil.rmtree(out, ignore_errors=True)
    print(determine(told.job, out, workers=told.workers))


if __name__ == "__main__":
    main()
