"""Calibrate the networks' decision: one bias a class, so that the mean Dice is highest.

    python bench/class_biases.py build/weights

A training weighs classes for its loss, and a thin organ's probability is blurred by resampling; so
the class of highest probability is not the label map of highest Dice. On phantoms of their own,
which neither training nor choice has seen, a number for each class is fitted that is added to its
logits, and written into the biases of every fold's last layer. Adding it to each fold or to their
mean is the same, so the networks stay stock nnU-Net's. Half of the phantoms check what was fitted
to the other half. The folder ``biased`` of the job gets

- ``best/<trainer>``: the results folder for ``oarseg export``;
- ``best/level0`` and ``best/level2``: the phantoms' label maps, by which ``postprocessing.py``
  determines the postprocessing: ``python bench/postprocessing.py build/weights/biased``.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.cases.case import probability_name
from oarseg.challenges.catalogue import load_challenge
from oarseg.imaging.arrays import Labels
from oarseg.labels.dice import dice_by_label
from weights import RESULTS, Job, make_phantoms, oarseg, read_labels

# First seeds by set: level 0 and level 2.
FITTED = {"level0": (0, 8000), "level2": (2, 9000)}
STEPS = (0.5, 0.25)
MOST = 2.0  # of a bias; what wants more has hardly been learned
LEAST_PROBABILITY = 0.02  # voxels where no organ has it stay background whatever the biases
FLOOR = 1e-4
LAST_LAYER = re.compile(r"decoder\.seg_layers\.(\d+)\.bias")


@dataclass(frozen=True, eq=False)
class Voxels:
    """The voxels of a phantom that may be an organ's.

    Attributes:
        truth: their labels.
        chances: logarithms of probability (classes, voxels), background first.
        where: their places in the flattened image.
        shape: of the image (z, y, x).
    """

    truth: NDArray[np.uint8]
    chances: NDArray[np.float32]
    where: NDArray[np.int64]
    shape: tuple[int, ...]

    def labels(self, biases: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Label the voxels, with a bias for each class."""
        found: NDArray[np.uint8] = (self.chances + biases[:, None]).argmax(0).astype(np.uint8)
        return found

    def image(self, biases: NDArray[np.float32]) -> Labels:
        """Return the label map (z, y, x)."""
        flat = np.zeros(int(np.prod(self.shape)), np.uint8)
        flat[self.where] = self.labels(biases)
        return flat.reshape(self.shape)


def structure_names() -> list[str]:
    """Return the structures' names, in the order of the classes."""
    return [structure.name for structure in load_challenge("han_seg").structures]


def collect(truth: Labels, organs: Sequence[NDArray[Any]]) -> Voxels:
    """Take the voxels that may be an organ's from the probabilities (z, y, x) of all organs."""
    flat = truth.ravel()
    chances = np.stack([organ.ravel() for organ in organs]).astype(np.float32, copy=False)
    where = np.flatnonzero((chances.max(0) >= LEAST_PROBABILITY) | (flat > 0))
    kept = chances[:, where]
    every = np.concatenate([1 - kept.sum(0, keepdims=True), kept])
    return Voxels(flat[where], np.log(every.clip(FLOOR, 1)), where, truth.shape)


def mean_dice(cases: Sequence[Voxels], biases: NDArray[np.float32]) -> float:
    """Return the mean over structures of their mean Dice over cases."""
    labels = len(biases) - 1
    rows = [dice_by_label(case.labels(biases), case.truth, labels=labels) for case in cases]
    found = np.array(rows)
    seen = ~np.isnan(found).all(0)  # structures that some case has
    return float(np.nanmean(found[:, seen], axis=0).mean())


def fit(cases: Sequence[Voxels], classes: int) -> NDArray[np.float32]:
    """Find biases (classes,) by going up, class after class; the background's is 0."""
    biases = np.zeros(classes, np.float32)
    best = mean_dice(cases, biases)
    for step in STEPS:
        for number in range(1, classes):
            for move in (-step, step):
                while abs(biases[number] + move) <= MOST:
                    tried = biases.copy()
                    tried[number] += move
                    reached = mean_dice(cases, tried)
                    if reached <= best:
                        break
                    biases, best = tried, reached
    return biases


def check(cases: Sequence[Voxels], classes: int) -> tuple[float, float]:
    """Return the mean Dice without biases and with those that were fitted to the other half."""
    halves = cases[::2], cases[1::2]
    none = np.zeros(classes, np.float32)
    before = [mean_dice(half, none) for half in halves]
    after = [mean_dice(halves[1 - n], fit(half, classes)) for n, half in enumerate(halves)]
    return float(np.mean(before)), float(np.mean(after))


def predict(job: Job, weights: Path, cases: int) -> dict[tuple[str, str], Voxels]:
    """Make the phantoms that are not there, and compute their probabilities."""
    names, found = structure_names(), {}
    for name, (level, seed) in FITTED.items():
        data, out = job.root / "sets" / name, job.root / "probabilities" / name
        make_phantoms(job, name, level=level, seed=seed, cases=cases)
        shutil.rmtree(out, ignore_errors=True)
        oarseg(
            "segment", "--input", data, "--output", out, "--weights", weights,
            "--precision", "fast", "--probabilities", *names, log=job.root / "job.log",
        )  # fmt: skip
        for path in sorted((data / "truth").glob("*/label.nrrd")):
            case = path.parent.name
            files = [out / "oar_masks" / case / probability_name(case, organ) for organ in names]
            found[name, case] = collect(read_labels(path), [read_image(file) for file in files])
        shutil.rmtree(out)
    return found


def read_image(path: Path) -> NDArray[Any]:
    """Read an image (z, y, x)."""
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def write_networks(trained: Path, out: Path, biases: NDArray[np.float32]) -> None:
    """Copy a results folder, with the biases added to each fold's last layer."""
    import torch

    from oarseg.training.nnunet_files.checkpoint import only_plain_data

    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(trained, out)
    for path in sorted(out.glob("fold_*/checkpoint_final.pth")):
        with only_plain_data():
            checkpoint = torch.load(path, map_location="cpu")
        parameters = checkpoint["network_weights"]
        add_biases(parameters, torch.from_numpy(biases))
        torch.save(checkpoint, path)


def write_labels(root: Path, name: str, case: str, labels: Labels) -> None:
    """Write a phantom's label map where ``postprocessing.py`` finds it."""
    folder = root / "best" / name / "images" / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(labels)
    truth = root / "sets" / name / "truth" / case / "label.nrrd"
    image.CopyInformation(sitk.ReadImage(str(truth)))
    sitk.WriteImage(image, str(folder / f"{case}.nrrd"), useCompression=True)


def add_biases(parameters: dict[str, Any], biases: Any) -> None:
    """Add biases to those of the output of full resolution, the last one.

    Raises:
        ValueError: there is none of as many classes.
    """
    found = {int(m[1]): name for name in parameters if (m := LAST_LAYER.fullmatch(name))}
    name = found[max(found)] if found else ""
    if not name or parameters[name].shape != biases.shape:
        raise ValueError(f"expected a last layer with {len(biases)} biases, found {name or 'none'}")
    parameters[name] = parameters[name] + biases


def main() -> None:
    """Write the folder, and print what was fitted and what it is worth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", type=Path, help="the job's folder")
    parser.add_argument("--cases", type=int, default=8, help="phantoms a level")
    parser.add_argument("--workers", type=int, default=2)
    told = parser.parse_args()
    root, best = told.job / "biased", told.job / "best"
    job = Job(root, None, told.cases, told.cases, None, "{}", "cpu", told.workers)
    voxels = predict(job, best / "weights", told.cases)
    cases, classes = list(voxels.values()), len(structure_names()) + 1
    before, after = check(cases, classes)
    biases = fit(cases, classes)
    write_networks(best / Path(RESULTS).name, root / "best" / Path(RESULTS).name, biases)
    for (name, case), found in voxels.items():
        write_labels(root, name, case, found.image(biases))
    print(f"mean Dice of the other half: {before:.4f} without, {after:.4f} with biases")
    told_biases = zip(structure_names(), biases[1:], strict=True)
    print(", ".join(f"{name} {bias:+.2f}" for name, bias in told_biases))


if __name__ == "__main__":
    main()
