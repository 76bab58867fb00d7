"""The phantoms and networks that the benchmarks run on, made once and kept in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges import catalogue
from oarseg.imaging.slabs import whole_image
from oarseg.imaging.volume import Volume
from oarseg.inference import channels
from oarseg.model.entries.channels import Channel, ChannelRecipe, Normalisation
from oarseg.model.manifest import Label, Manifest, write_manifest
from oarseg.phantom import PhantomSpec, make_phantom, write_cases
from oarseg.phantom.grids import draw_ct_grid
from oarseg.phantom.patient.anatomy import make_anatomy

ROOT = Path(__file__).resolve().parent.parent
SEED = 1  # the shipped case's, on which nothing is trained
CACHE = ROOT / "build" / "bench"
TOY_PATCH = (32, 160, 160)
_STAGES: dict[str, Any] = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * 5],
    "strides": [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 3, [1, 2, 2]],
    "n_conv_per_stage_decoder": [2, 2, 2, 2, 2],
}
# Networks as nnU-Net plans them for a GPU of 8 GB, and its residual encoder L.
LARGE: dict[str, dict[str, Any]] = {
    "30m": _STAGES | {"n_conv_per_stage": [2, 2, 2, 2, 2, 2]},
    "100m": _STAGES
    | {"n_blocks_per_stage": [1, 3, 4, 6, 6, 6], "n_conv_per_stage_decoder": [1, 1, 1, 1, 1]},
}
CT = Normalisation("ct", mean=174.36, std=315.17, lower=-255.0, upper=1277.0)


def kept(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that is made if it is not there; a broken-off making leaves none."""
    if not folder.is_dir():
        draft = folder.with_name(f"{folder.name}.draft")
        draft.mkdir(parents=True, exist_ok=True)
        make(draft)
        draft.rename(folder)
    return folder


@dataclass(frozen=True, eq=False)
class Channels:
    """A phantom as networks see it, (z, y, x): CT, moved MR, and the true labels."""

    ct: Volume
    mr: NDArray[np.float32]
    truth: NDArray[np.uint8]


def phantom_channels(spec: PhantomSpec, recipe: ChannelRecipe) -> Channels:
    """A phantom's channels on the CT's grid, the MR moved by its true transform."""
    phantom = make_phantom(spec)
    if phantom.mr is None:
        raise ValueError("the phantom has no MR")
    mr = channels.mr_channel(phantom.mr, phantom.truth.ct_to_mr, phantom.ct.grid, recipe)
    return Channels(phantom.ct, whole_image(mr), phantom.labels.array)


def case(size: str) -> Path:
    """The channels of the phantom that most benchmarks run on."""

    def make(folder: Path) -> None:
        recipe = ChannelRecipe("MR_T1", optional=True, standardise="mean_one")
        seen = phantom_channels(PhantomSpec(SEED, size), recipe)
        np.save(folder / "ct.npy", seen.ct.array)
        np.save(folder / "mr.npy", seen.mr)
        (folder / "spacing.json").write_text(json.dumps(seen.ct.grid.spacing_mm))

    return kept(CACHE / "cases" / size, make)


def toy(spacing_mm: tuple[float, float, float], *, classes: int = 31, folds: int = 1) -> Path:
    """A weights folder of small networks that have learnt for seconds, on a given spacing."""
    import nnunet_oracle as oracle

    structures = catalogue.load_challenge("han_seg").structures[: classes - 1]
    labels = {"background": 0, **{s.name: s.label for s in structures}}

    def make(folder: Path) -> None:
        recipe = _recipe(spacing_mm, labels, folds=folds)
        _write_manifest(oracle.make(recipe, folder).manifest, labels, folder)

    name = "toy-" + "x".join(f"{mm:g}" for mm in spacing_mm) + f"-{classes}-{folds}"
    return kept(CACHE / "weights" / name, make)


def large(name: str, spacing_mm: tuple[float, float, float]) -> Path:
    """A weights folder with one network of ``LARGE``, of random weights, on a given spacing."""
    import nnunet_oracle as oracle

    structures = catalogue.load_challenge("han_seg").structures
    labels = {"background": 0, **{s.name: s.label for s in structures}}

    def make(folder: Path) -> None:
        recipe = _recipe(spacing_mm, labels, residual="n_blocks_per_stage" in LARGE[name])
        network = oracle.untrained(recipe, LARGE[name])
        file = oracle.export_network(network, recipe, folder, 0)
        _write_manifest(oracle.manifest_of(recipe, (file,)), labels, folder)

    stem = f"{name}-" + "x".join(f"{mm:g}" for mm in spacing_mm)
    return kept(CACHE / "weights" / stem, make)


def _recipe(spacing_mm: tuple[float, float, float], labels: dict[str, int], **more: Any) -> Any:
    import nnunet_oracle as oracle

    both = (CT, Normalisation("none"))
    return oracle.Recipe(spacing_mm, patch=TOY_PATCH, channels=both, labels=labels, **more)


def _write_manifest(made: Manifest, labels: dict[str, int], folder: Path) -> None:
    manifest = replace(
        made,
        challenge="han_seg",
        channels=(
            Channel("CT", CT),
            Channel("MR_T1", Normalisation("none"), optional=True, standardise="mean_one"),
        ),
        labels=tuple(Label(value, name) for name, value in labels.items()),
    )
    write_manifest(manifest, folder)


def folder(size: str) -> Path:
    """The same phantom as files, as the platform lays them out."""

    def make(draft: Path) -> None:
        write_cases(draft, seeds=[SEED], size=size, layout="platform")

    return kept(CACHE / "folders" / size, make)


def spacing_mm(size: str) -> tuple[float, float, float]:
    """The CT's, (z, y, x)."""
    spec = PhantomSpec(SEED, size)
    return draw_ct_grid(spec, make_anatomy(spec.seed)).spacing_mm
