"""Peak memory and seconds of a cascade and of ensembles of configurations, beside one alone.

    python bench/configurations.py --size medium

``oarseg segment`` on the phantom's files, with small networks of 31 classes that have learnt for
seconds: ``3d_fullres`` at the CT's spacing, ``3d_lowres`` at two and a half times that in plane and
one and a half times along the slices.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cases
import inference

from oarseg.challenges import catalogue
from oarseg.model.entries.channels import Channel, Normalisation
from oarseg.model.entries.networks import ModelFile, Resampling, Stage
from oarseg.model.manifest import Label, Manifest, describe_member, describe_network, write_manifest
from oarseg.system.cpus import available_cpus

NONE = Normalisation("none")
CHANNELS = (
    Channel("CT", cases.CT),
    Channel("MR_T1", NONE, optional=True, standardise="mean_one"),
)


def networks(folder: Path, name: str, size: str) -> Manifest:
    """Make the networks of one configuration in a folder; return their manifest."""
    import nnunet_oracle as oracle

    z, y, x = cases.spacing_mm(size)
    structures = catalogue.load_challenge("han_seg").structures
    labels = {"background": 0, **{s.name: s.label for s in structures}}
    spacing, patch = (z, y, x), cases.TOY_PATCH
    if name == "3d_lowres":
        spacing, patch = (1.5 * z, 2.5 * y, 2.5 * x), (48, 128, 128)
    hints = len(structures) if "cascade" in name else 0
    inside = folder / name
    inside.mkdir()
    recipe = oracle.Recipe(
        spacing, patch=patch, channels=(cases.CT, NONE, *(NONE,) * hints), labels=labels
    )
    made = oracle.make(recipe, inside).manifest
    files = []
    for model in made.models:
        (inside / model.file).rename(folder / f"{name}_{model.file}")
        files.append(ModelFile(f"{name}_{model.file}", model.sha256, model.fold, model.precision))
    inside.rmdir()
    return replace(
        made,
        challenge="han_seg",
        configuration=name,
        channels=CHANNELS,
        labels=tuple(Label(value, label) for label, value in labels.items()),
        models=tuple(files),
    )


def one(folder: Path, size: str) -> Manifest:
    """``3d_fullres`` alone."""
    return networks(folder, "3d_fullres", size)


def with_lowres(folder: Path, size: str) -> Manifest:
    """``3d_fullres`` and ``3d_lowres``, averaged."""
    low = networks(folder, "3d_lowres", size)
    return replace(one(folder, size), further=(describe_member(low),))


def cascade(folder: Path, size: str) -> Manifest:
    """``3d_lowres``, then ``3d_cascade_fullres``."""
    stage = networks(folder, "3d_lowres", size)
    values = tuple(label.value for label in stage.labels if label.value)
    last = networks(folder, "3d_cascade_fullres", size)
    return replace(last, stage=Stage(describe_network(stage), values, Resampling(order=1)))


MODELS: dict[str, Callable[[Path, str], Manifest]] = {
    "3d_fullres": one,
    "3d_fullres + 3d_lowres": with_lowres,
    "3d_cascade_fullres": cascade,
}


def weights(name: str, size: str) -> Path:
    """A weights folder, made once."""

    def make(folder: Path) -> None:
        write_manifest(MODELS[name](folder, size), folder)

    return cases.kept(cases.CACHE / "weights" / f"{name.replace(' ', '')}-{size}", make)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="medium")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--threads", type=int, default=available_cpus())
    arguments = parser.parse_args()
    arguments.device = "cpu"
    row = inference.Row("configurations", arguments.size, "own", ())
    print("| model | seconds | peak memory, MiB | steps: seconds (MiB) |\n|---|---:|---:|---|")
    for name in arguments.models:
        found = inference.whole(row, weights(name, arguments.size), arguments)
        if "failed" in found:
            raise SystemExit(f"{name}: {found}")
        steps = ", ".join(f"{step} {s:.1f} ({mib})" for step, s, mib in found["steps"])
        print(f"| {name} | {found['seconds']:.0f} | {found['peak_mib']} | {steps} |", flush=True)


if __name__ == "__main__":
    main()
