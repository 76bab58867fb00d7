"""Models of every configuration that nnU-Net's own planner makes, with weights of a few seconds.

The planner is given a small GPU, so that its patches are small and it plans a cascade. The results
folders are as ``nnUNetv2_train`` leaves them, and nnU-Net answers from files to files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import foreign_models as foreign
import nnunet_oracle as oracle
import numpy as np
import torch
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner as planner
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from scipy import ndimage

DATASET = "Dataset777_Planned"
SHAPE = (36, 72, 68)
SPACING_MM = (2.0, 1.0, 1.1)
CONFIGURATIONS = ("2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres")
LABELS: dict[str, Any] = {"background": 0, **{f"s{k}": k for k in range(1, 6)}}
REGIONS: dict[str, Any] = {"background": 0, "all": [1, 2, 3], "middle": [2, 3], "core": 3}


SMALL = {
    "UNet_base_num_features": 6,
    "UNet_max_features_2d": 16,
    "UNet_max_features_3d": 16,
    "UNet_reference_com_nfeatures": 6,
    "UNet_vram_target_GB": 0.01,
    "UNet_blocks_per_stage_encoder": (1,) * 14,
    "UNet_blocks_per_stage_decoder": (1,) * 13,
}


class SmallPlanner(planner.ExperimentPlanner):  # type: ignore[misc]
    """nnU-Net's planner for a GPU of a few megabytes, and narrow networks."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        vars(self).update(SMALL)


def write_dataset(
    root: Path, *, regions: bool = False, names: Sequence[str] = ("CT", "MR")
) -> Path:
    """Plan a data set; returns its folder of results, which is empty but for the plans."""
    raw, preprocessed = root / "raw" / DATASET, root / "preprocessed" / DATASET
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed):
        folder.mkdir(parents=True)
    dataset: dict[str, Any] = {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": REGIONS if regions else LABELS,
        "file_ending": ".nrrd",
        "numTraining": 4,
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    if regions:
        dataset["regions_class_order"] = [1, 2, 3]
    (raw / "dataset.json").write_text(json.dumps(dataset))
    for name in ("labelsTr/a", *(f"imagesTr/a_{number:04d}" for number in range(len(names)))):
        (raw / f"{name}.nrrd").touch()
    intensities = {"mean": 12.5, "std": 310.0, "percentile_00_5": -950.0, "percentile_99_5": 1200.0}
    fingerprint = {
        "spacings": [list(SPACING_MM)] * 4,
        "shapes_after_crop": [list(SHAPE)] * 4,
        "foreground_intensity_properties_per_channel": {
            str(number): intensities for number in range(len(names))
        },
        "median_relative_size_after_cropping": 1.0,
    }
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    with (
        mock.patch.object(planner, "nnUNet_raw", str(root / "raw")),
        mock.patch.object(planner, "nnUNet_preprocessed", str(root / "preprocessed")),
        mock.patch.object(planner, "maybe_convert_to_dataset_name", return_value=DATASET),
    ):
        SmallPlanner(777).plan_experiment()
    results = root / "results" / DATASET
    results.mkdir(parents=True)
    return results


def plans_and_dataset(results: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the plans and dataset.json of a data set that was planned."""
    preprocessed = results.parents[1] / "preprocessed" / DATASET
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    return plans, json.loads((preprocessed / "dataset.json").read_text())


def results_of(results: Path, configuration: str) -> Path:
    """Name a configuration's results folder."""
    return results / f"nnUNetTrainer__nnUNetPlans__{configuration}"


def train(results: Path, configuration: str, *, folds: int = 1) -> Path:
    """Write a results folder with networks that have learnt for a few seconds."""
    plans, dataset = plans_and_dataset(results)
    folder = results_of(results, configuration)
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    known = plans["configurations"]
    settings = {**known[known[configuration].get("inherits_from", configuration)]}
    settings |= known[configuration]
    for fold in range(folds):
        path = folder / f"fold_{fold}" / "checkpoint_final.pth"
        path.parent.mkdir()
        axes = (0, 1) if len(settings["patch_size"]) == 2 else (0,)
        network = _fitted(settings, dataset, fold)
        foreign.save_checkpoint(path, network, axes, configuration=configuration)
    return folder


def _fitted(settings: dict[str, Any], dataset: dict[str, Any], fold: int) -> torch.nn.Module:
    torch.manual_seed(fold + len(settings["patch_size"]))
    torch.set_num_threads(2)
    channels, regions = len(dataset["channel_names"]), "regions_class_order" in dataset
    heads = len(dataset["labels"]) - regions
    values = [1, 2, 3] if regions else list(range(1, heads))
    hints = values if settings.get("previous_stage") else []
    architecture = settings["architecture"]
    network: torch.nn.Module = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        channels + len(hints),
        heads,
        deep_supervision=False,
    ).train()
    size = [n + 8 for n in ([1] * (3 - len(settings["patch_size"])) + settings["patch_size"])]
    image = np.stack(
        [(i - i.mean()) / i.std() for i in oracle.images(tuple(size), channels, seed=90)]
    )
    # What a coarser stage sees.
    coarse = ndimage.gaussian_filter(image, (0, 1, 2, 2))
    x = torch.from_numpy(image.astype(np.float32))
    wanted = _labels(image, heads, regions)
    guess = _labels(coarse, heads, regions)
    if hints:
        one_hot = np.stack([guess == value for value in hints]).astype(np.float32)
        x = torch.cat([x, torch.from_numpy(one_hot)])
    target = torch.from_numpy(
        np.stack([wanted >= k for k in values]).astype(np.float32) if regions else wanted
    )
    optimiser = torch.optim.Adam(network.parameters(), 2e-2)
    draw = np.random.default_rng(fold)
    for _ in range(25):
        flat = len(settings["patch_size"]) == 2
        starts = draw.integers(0, 9, 3)
        lengths = [1, *settings["patch_size"]] if flat else settings["patch_size"]
        part = tuple(slice(s, s + n) for s, n in zip(starts, lengths, strict=True))
        patch, want = x[(slice(None), *part)][None], target[(..., *part)][None]
        if flat:
            patch, want = patch.squeeze(2), want.squeeze(-3)
        loss = oracle._loss(network(patch), want)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def _labels(image: NDArray[Any], heads: int, regions: bool) -> NDArray[np.int64]:
    levels = np.linspace(-1.0, 1.0, 3 if regions else heads - 1)
    return np.digitize(image[0] + 0.3 * image[-1], levels).astype(np.int64)


def predict(
    folder: Path,
    images: Path,
    out: Path,
    *,
    folds: tuple[int, ...] = (0,),
    previous: Path | None = None,
    probabilities: bool = False,
) -> Path:
    """Let stock nnU-Net label a folder of cases, as ``nnUNetv2_predict`` does."""
    out.mkdir(exist_ok=True)
    for name in ("plans.json", "dataset.json"):
        shutil.copy(folder / name, out / name)
    predictor = nnUNetPredictor(
        use_mirroring=True,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(folder), folds, "checkpoint_final.pth")
    predictor.predict_from_files_sequential(
        str(images),
        str(out),
        save_probabilities=probabilities,
        folder_with_segs_from_prev_stage=None if previous is None else str(previous),
    )
    return out


def ensemble(folders: Sequence[Path], out: Path) -> Path:
    """Let stock nnU-Net average the probabilities of several folders, as ``nnUNetv2_ensemble``.

    This is ``ensemble_folders`` without its pool of processes.
    """
    out.mkdir()
    plans = PlansManager(json.loads((folders[0] / "plans.json").read_text()))
    dataset = json.loads((folders[0] / "dataset.json").read_text())
    for file in folders[0].glob("*.npz"):
        merge_files(
            [str(folder / file.name) for folder in folders],
            str(out / file.stem),
            dataset["file_ending"],
            plans.image_reader_writer_class(),
            plans.get_label_manager(dataset),
        )
    return out


def best(results: Path, chosen: Sequence[str], *, folds: Sequence[int] = (0,)) -> Path:
    """Write what ``nnUNetv2_find_best_configuration`` leaves of its choice."""
    document = {
        "folds": list(folds),
        "dataset_name_or_id": DATASET,
        "considered_models": [
            {"plans": "nnUNetPlans", "configuration": name, "trainer": "nnUNetTrainer"}
            for name in CONFIGURATIONS
        ],
        "ensembling_allowed": True,
        "all_results": {},
        "best_model_or_ensemble": {
            "result_on_crossval_pre_pp": 0.9,
            "result_on_crossval_post_pp": 0.9,
            "postprocessing_file": "/elsewhere/postprocessing.pkl",
            "some_plans_file": "/elsewhere/plans.json",
            "selected_model_or_models": [
                {
                    "configuration": name,
                    "trainer": "nnUNetTrainer",
                    "plans_identifier": "nnUNetPlans",
                }
                for name in chosen
            ],
        },
    }
    path = results / "inference_information.json"
    path.write_text(json.dumps(document))
    return path
