"""Models of every kind, answered by stock nnU-Net and by the commands, files in, files out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import foreign_models as foreign
import nnunet_oracle as oracle
from foreign_models import Foreign
from nnunet_oracle import CT, ZSCORE, Recipe
from numpy.typing import NDArray
from parity_cases import CASES, REGIONS, Parity, Shape, Spacing

from oarseg.cli import main
from oarseg.model.entries.channels import Normalisation
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

IN_MASK = Normalisation(scheme="zscore", use_mask=True)
TO_ONE = Normalisation(scheme="rescale_0_1")
LABELS = {"background": 0, **{f"s{k}": k for k in range(1, 6)}}


@dataclass(frozen=True)
class StockModel:
    """A results folder and an image.

    Attributes:
        margin: voxels of 0 around the image, as after skull stripping or padding.
        ending: of the image files.
        reader: nnU-Net's class that reads them.
        old_plans: written as by nnU-Net 2.0–2.4, without an architecture.
        numpy_1: the checkpoints were pickled under numpy 1.
        fold: name of the first fold, if it is the only one.
    """

    name: str
    recipe: Recipe
    shape: Shape
    spacing_mm: Spacing
    margin: int = 0
    ending: str = ".nrrd"
    reader: str = "SimpleITKIO"
    old_plans: bool = False
    numpy_1: bool = False
    fold: str = "0"

    def enlarged(self, scale: int) -> StockModel:
        """The same model on a larger image."""
        depth, height, width = (length * scale for length in self.shape)
        return replace(self, shape=(depth, height, width), margin=self.margin * scale)

    @property
    def trained(self) -> Foreign:
        """The files that training leaves."""
        names = tuple(f"image {number}" for number in range(len(self.recipe.channels)))
        return Foreign(
            self.recipe,
            names,
            self.ending,
            change_plans=self._change_plans,
            folds=(self.fold, *(str(fold) for fold in range(1, self.recipe.folds))),
        )

    def _change_plans(self, plans: dict[str, Any]) -> None:
        plans["image_reader_writer"] = self.reader
        if self.old_plans:
            foreign.as_old_plans(plans)


def _of(case: Parity) -> StockModel:
    return StockModel(case.name, case.recipe, case.shape, case.spacing_mm, case.margin)


def _plain(name: str, *, recipe: Recipe, **more: Any) -> StockModel:
    return StockModel(name, recipe, (20, 40, 36), (2.0, 1.0, 1.2), **more)


_GRID = (2.0, 1.0, 1.0)
MODELS = (
    *map(_of, CASES),
    _plain("one-channel", recipe=Recipe(_GRID, channels=(CT,))),
    _plain("three-channels", recipe=Recipe(_GRID, channels=(CT, ZSCORE, TO_ONE))),
    _plain("four-channels", recipe=Recipe(_GRID, channels=(ZSCORE, ZSCORE, TO_ONE, CT))),
    _plain("skull-stripped", recipe=Recipe(_GRID, channels=(IN_MASK, IN_MASK)), margin=4),
    _plain("padded-ct", recipe=Recipe(_GRID, channels=(CT,)), margin=4),
    _plain("ignore-label", recipe=Recipe(_GRID, labels=LABELS | {"ignore": 6})),
    _plain("mirroring-everywhere", recipe=Recipe(_GRID, mirror_axes=(0, 1, 2))),
    _plain(
        "regions-two-folds",
        recipe=Recipe(_GRID, labels=REGIONS, region_order=(1, 2, 3), folds=2),
    ),
    _plain("thick-slices-two-folds", recipe=Recipe((5.0, 0.9, 0.9), folds=2)),
    _plain("residual-encoder-two-folds", recipe=Recipe(_GRID, residual=True, folds=2)),
    # Their features can only double.
    _plain("old-plans", recipe=Recipe(_GRID, features=(8, 16, 16)), old_plans=True),
    _plain("numpy-1-checkpoint", recipe=Recipe(_GRID), numpy_1=True),
    _plain("fold-all", recipe=Recipe(_GRID), fold="all"),
    _plain("mha", recipe=Recipe(_GRID), ending=".mha"),
    _plain("nifti", recipe=Recipe(_GRID), ending=".nii.gz"),
    _plain("nibabel", recipe=Recipe(_GRID), ending=".nii.gz", reader="NibabelIOWithReorient"),
)


def named(name: str) -> StockModel:
    """One of the models."""
    return next(model for model in MODELS if model.name == name)


def answers(model: StockModel, folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Our label map and nnU-Net's, both (z, y, x), from the same files to files."""
    results = foreign.write_results(model.trained, folder, numpy_1=model.numpy_1)
    count = len(model.recipe.channels)
    images = foreign.write_images(
        oracle.images(model.shape, count, margin=model.margin),
        folder / "images",
        ending=model.ending,
        spacing_mm=model.spacing_mm,
        direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1),
        case="case",
    )
    command = ["export", str(results), "--out", str(folder / "weights"), "--formats", "fp32"]
    assert main(command) == 0, command
    # In this process: the command forks, which torch's threads do not always survive.
    settings = Settings(
        folder / "images", folder / "ours", folder / "weights", device="cpu", threads=2
    )
    assert segment_folder(settings) == ()
    (ours,) = (folder / "ours").rglob(f"case{model.ending}")
    theirs = folder / f"theirs{model.ending}"
    foreign.nnunets_answer(results, images, theirs, folds=model.trained.folds)
    return foreign.read_labels(ours), foreign.read_labels(theirs)
