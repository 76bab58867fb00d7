"""Stock results folders of nnU-Net with their images, and nnU-Net's own answer to these files."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunet_oracle as oracle
import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray

RESULTS = Path("Dataset501_Foreign", "nnUNetTrainer__nnUNetPlans__3d_fullres")
Change = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Foreign:
    """A model as nnUNetv2_train leaves it.

    Attributes:
        recipe: the network.
        names: of the channels, as in ``dataset.json``.
        ending: of image files.
        change_dataset, change_plans: edit the files.
        folds: their names.
        checkpoint: the file of each fold.
    """

    recipe: oracle.Recipe
    names: tuple[str, ...]
    ending: str = ".nii.gz"
    change_dataset: Change = dict.copy
    change_plans: Change = dict.copy
    folds: tuple[str, ...] = ("0",)
    checkpoint: str = "checkpoint_final.pth"


def write_results(model: Foreign, parent: Path, *, numpy_1: bool = False) -> Path:
    """Write the results folder as nnU-Net does, with numpy's scalars in its checkpoints."""
    folder, scratch = parent / RESULTS, parent / "scratch"
    folder.mkdir(parents=True)
    scratch.mkdir(exist_ok=True)
    plans = oracle.plans_of(model.recipe)
    dataset = copy.deepcopy(oracle.dataset_of(model.recipe))
    dataset["channel_names"] = {str(i): name for i, name in enumerate(model.names)}
    dataset["file_ending"] = model.ending
    model.change_plans(plans)
    model.change_dataset(dataset)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    networks = oracle.make(model.recipe, scratch).networks
    for fold, network in zip(model.folds, networks, strict=True):
        (folder / f"fold_{fold}").mkdir()
        path = folder / f"fold_{fold}" / model.checkpoint
        save_checkpoint(path, network, model.recipe.mirror_axes)
        if numpy_1:
            _name_as_numpy_1(path)
    return folder


def save_checkpoint(
    path: Path,
    network: torch.nn.Module,
    mirror_axes: tuple[int, ...],
    *,
    configuration: str = "3d_fullres",
) -> None:
    """Write a checkpoint as nnU-Net's trainer does."""
    document = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "logging": {"ema_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.1)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"configuration": configuration, "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": mirror_axes or None,
    }
    torch.save(document, path)


def _name_as_numpy_1(path: Path) -> None:
    """Rewrite a checkpoint so that it names numpy's scalars as numpy before 2 did."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b"numpy._core", b"numpy.core"))


def as_old_plans(plans: dict[str, Any]) -> None:
    """Describe the network as nnU-Net did before 2.4."""
    configuration = plans["configurations"]["3d_fullres"]
    new = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": new["features_per_stage"][0],
        "unet_max_num_features": new["features_per_stage"][-1],
        "n_conv_per_stage_encoder": new["n_conv_per_stage"],
        "n_conv_per_stage_decoder": new["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": new["strides"],
        "conv_kernel_sizes": new["kernel_sizes"],
    }


def write_images(
    arrays: Sequence[NDArray[Any]],
    folder: Path,
    *,
    ending: str,
    spacing_mm: tuple[float, float, float],
    direction: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1),
    case: str = "patient_1",
) -> list[Path]:
    """Write a case's channels as ``<case>_0000<ending>``, ``_0001`` …; spacing is (z, y, x)."""
    folder.mkdir(exist_ok=True)
    files = []
    for number, array in enumerate(arrays):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing_mm[::-1])
        image.SetOrigin((-12.0, 40.0, -7.5))
        image.SetDirection([float(value) for value in direction])
        files.append(folder / f"{case}_{number:04d}{ending}")
        sitk.WriteImage(image, str(files[-1]))
    return files


def nnunets_answer(
    results: Path,
    files: Sequence[Path],
    out: Path,
    *,
    folds: tuple[str, ...],
    checkpoint: str = "checkpoint_final.pth",
) -> None:
    """Write the label map that stock nnU-Net makes of a case's files."""
    predictor = nnUNetPredictor(
        use_mirroring=True,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(results), folds, checkpoint)
    reader = recursive_find_reader_writer_by_name(
        predictor.plans_manager.plans["image_reader_writer"]
    )
    image, properties = reader().read_images([str(file) for file in files])
    labels = predictor.predict_single_npy_array(image, properties)
    reader().write_seg(labels, str(out), properties)


def read_labels(path: Path) -> NDArray[Any]:
    """Read a label map's voxels, (z, y, x)."""
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
