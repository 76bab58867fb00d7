"""Models and cases in the files of stock nnU-Net, answered by nnU-Net and by the commands."""

from __future__ import annotations

import copy
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nnunet_oracle as oracle
import numpy as np
import SimpleITK as sitk
import torch
from nnunet_oracle import CT, ZSCORE, Recipe
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray
from parity_cases import CASES, REGIONS, Parity, Shape, Spacing

from oarseg.cli import main
from oarseg.model.manifest import Normalisation
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

CONFIGURATION, TRAINER = "3d_fullres", "nnUNetTrainer"
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
    def folds(self) -> tuple[str, ...]:
        """Names of all folds."""
        return (self.fold, *(str(fold) for fold in range(1, self.recipe.folds)))


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
    results, images = write_results(model, folder), write_case(model, folder / "images")
    command = ["export", str(results), "--out", str(folder / "weights"), "--formats", "fp32"]
    assert main(command) == 0, command
    # In this process: the command forks, which torch's threads do not always survive.
    settings = Settings(images, folder / "ours", folder / "weights", device="cpu", threads=2)
    assert segment_folder(settings) == ()
    stock_prediction(model, results, images, folder / "theirs")
    file = f"case{model.ending}"
    (ours,) = (path for path in (folder / "ours").rglob(file))
    return read(ours), read(folder / "theirs" / file)


def read(path: Path) -> NDArray[Any]:
    """A file's voxels."""
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def stock_prediction(model: StockModel, results: Path, images: Path, out: Path) -> None:
    """``nnUNetv2_predict`` in this process."""
    out.mkdir()
    predictor = nnUNetPredictor(
        use_mirroring=True,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(results), model.folds)
    predictor.predict_from_files_sequential(str(images), str(out))


def write_results(model: StockModel, folder: Path) -> Path:
    """``<trainer>__<plans>__<configuration>`` as training leaves it."""
    results = folder / f"{TRAINER}__nnUNetPlans__{CONFIGURATION}"
    results.mkdir(parents=True)
    scratch = folder / "scratch"
    scratch.mkdir()
    networks = oracle.make(model.recipe, scratch).networks
    dataset = oracle.dataset_of(model.recipe) | {"file_ending": model.ending}
    plans = oracle.plans_of(model.recipe) | {"image_reader_writer": model.reader}
    if model.old_plans:
        plans = without_architecture(plans)
    (results / "plans.json").write_text(json.dumps(plans))
    (results / "dataset.json").write_text(json.dumps(dataset))
    for fold, network in zip(model.folds, networks, strict=True):
        path = results / f"fold_{fold}" / "checkpoint_final.pth"
        path.parent.mkdir()
        save_checkpoint(path, network, model.recipe.mirror_axes)
        if model.numpy_1:
            pickle_as_numpy_1(path)
    return results


def save_checkpoint(path: Path, network: torch.nn.Module, mirror_axes: tuple[int, ...]) -> None:
    """A checkpoint as nnU-Net's trainer writes it."""
    document = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.1)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {"configuration": CONFIGURATION, "fold": 0, "device": torch.device("cpu")},
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": mirror_axes or None,
    }
    torch.save(document, path)


def pickle_as_numpy_1(path: Path) -> None:
    """Rewrite a checkpoint as numpy 1 pickled it: by that name of its module."""
    with zipfile.ZipFile(path) as archive:
        members = {info: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in members.items():
            if info.filename.endswith("data.pkl"):
                assert b"numpy._core" in data
                data = data.replace(b"cnumpy._core", b"cnumpy.core")
            archive.writestr(info, data)


def without_architecture(plans: dict[str, Any]) -> dict[str, Any]:
    """The same plans as nnU-Net wrote them before it named classes in them."""
    old = copy.deepcopy(plans)
    configuration = old["configurations"][CONFIGURATION]
    how = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": how["features_per_stage"][0],
        "unet_max_num_features": how["features_per_stage"][-1],
        "n_conv_per_stage_encoder": how["n_conv_per_stage"],
        "n_conv_per_stage_decoder": how["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": how["strides"],
        "conv_kernel_sizes": how["kernel_sizes"],
    }
    return old


def write_case(model: StockModel, folder: Path) -> Path:
    """One case, a file a channel, in a frame that is neither axial nor at the origin."""
    folder.mkdir()
    count = len(model.recipe.channels)
    for number, array in enumerate(oracle.images(model.shape, count, margin=model.margin)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(tuple(reversed(model.spacing_mm)))
        image.SetOrigin((-110.0, 42.0, 310.5))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        sitk.WriteImage(image, str(folder / f"case_{number:04d}{model.ending}"))
    return folder
