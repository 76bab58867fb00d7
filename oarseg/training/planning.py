"""Run nnU-Net's planning and preprocessing, with our own presets for small machines."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oarseg.errors import InputError
from oarseg.training.nnunet_files.dataset_file import read_dataset_file
from oarseg.training.nnunet_files.json_file import read_json_object
from oarseg.training.settings import PLANS_KEY, TrainerSettings, as_document

CONFIGURATION = "3d_fullres"


@dataclass(frozen=True)
class Workspace:
    """The folders of one training, as nnU-Net expects them.

    Attributes:
        raw: the dataset's raw folder, ``…/Dataset<nnn>_<name>``.
        work: holds ``preprocessed`` and ``results``.
    """

    raw: Path
    work: Path

    @property
    def dataset(self) -> str:
        """Return the dataset's full name."""
        return self.raw.name

    @property
    def dataset_id(self) -> int:
        """Return the dataset's number."""
        return int(self.dataset[7:10])

    @property
    def preprocessed(self) -> Path:
        """Return nnU-Net's folder of this dataset's plans and preprocessed cases."""
        return self.work / "preprocessed" / self.dataset

    @property
    def results(self) -> Path:
        """Return nnU-Net's folder of this dataset's trainings."""
        return self.work / "results" / self.dataset

    def activate(self) -> None:
        """Point nnU-Net's environment variables to these folders."""
        folders = {
            "raw": self.raw.parent,
            "preprocessed": self.preprocessed.parent,
            "results": self.results.parent,
            "extTrainer": Path(__file__).parent / "trainers",
        }
        os.environ.update({f"nnUNet_{name}": str(path) for name, path in folders.items()})


@dataclass(frozen=True)
class Preset:
    """A network that few cores can train and run.

    Attributes:
        spacing_mm, patch_size: (z, y, x).
        features: channels of each stage; the patch is halved between stages.
        trainer: settings of a training that takes an hour or two on two cores.
    """

    name: str
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    strides: tuple[tuple[int, int, int], ...]
    features: tuple[int, ...]
    batch_size: int
    trainer: TrainerSettings


SMALL = Preset(
    name="oarsegSmall",
    spacing_mm=(3.0, 1.8, 1.8),
    patch_size=(32, 64, 64),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
    features=(16, 32, 64, 80, 96),
    batch_size=2,
    trainer=TrainerSettings(
        epochs=74,
        restarts=(50,),
        iterations=50,
        validation_iterations=2,
        optimizer="adamw",
        learning_rate=1e-3,
        oversample_foreground=0.75,
        mirroring="none",
        augmentation="light",
        modality_dropout=0.2,
        bfloat16_on_cpu=True,
        seed=7,
    ),
)
# For phantoms of size tiny: trains in seconds, to show that all steps work together. A tumour of
# 40 voxels must be found with any seed, or a test of the steps would fail by chance. In patches
# of 16x48x48 it is a thousandth of the voxels, and trainings learned the background only.
TINY = Preset(
    name="oarsegTiny",
    spacing_mm=(8.0, 6.5, 6.5),
    patch_size=(16, 32, 32),
    strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
    features=(8, 16, 32),
    batch_size=2,
    trainer=TrainerSettings(
        epochs=2,
        iterations=40,
        validation_iterations=1,
        optimizer="adamw",
        learning_rate=1e-2,
        oversample_foreground=0.75,
        mirroring="none",
        augmentation="light",
        modality_dropout=0.2,
        seed=7,
        deterministic=True,
    ),
)
PRESETS = {SMALL.name: SMALL, TINY.name: TINY}
PLANNERS = {
    "nnUNetPlans": "ExperimentPlanner",
    "nnUNetResEncUNetMPlans": "nnUNetPlannerResEncM",
    "nnUNetResEncUNetLPlans": "nnUNetPlannerResEncL",
    "nnUNetResEncUNetXLPlans": "nnUNetPlannerResEncXL",
}


def plan_and_preprocess(
    space: Workspace, *, plans: str, settings: TrainerSettings, workers: int
) -> None:
    """Fingerprint, plan and preprocess; skip the steps that have been done.

    Args:
        space: the folders.
        plans: name of nnU-Net's plans or of one of our presets.
        settings: written into the plans, where the trainer finds them.
        workers: processes for nnU-Net.

    Raises:
        InputError: the raw dataset does not exist, or the plans have an unknown name.
    """
    check_raw_dataset(space.raw)
    if plans not in PLANNERS and plans not in PRESETS:
        known = ", ".join([*PLANNERS, *PRESETS])
        raise InputError(f"plans {plans!r}: expected one of {known}")
    space.activate()
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    from oarseg.training.nnunet_files.plans import read_plans

    number = space.dataset_id
    if not (space.preprocessed / "dataset_fingerprint.json").is_file():
        api.extract_fingerprints([number], num_processes=workers, show_progress_bar=False)
    path = space.preprocessed / f"{plans}.json"
    if not path.is_file():
        planner = PLANNERS.get(plans, "ExperimentPlanner")
        made = api.plan_experiments([number], planner)
        document = json.loads((space.preprocessed / f"{made}.json").read_text(encoding="utf-8"))
        if plans in PRESETS:
            document = _apply(PRESETS[plans], document)
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
    write_settings(space, plans=plans, settings=settings)
    # nnU-Net imports what plans name, and a work folder can come from elsewhere.
    identifier = read_plans(path, CONFIGURATION).settings.data_identifier
    finished = space.preprocessed / f"{identifier}.finished"
    if not finished.is_file():
        api.preprocess_dataset(number, plans, (CONFIGURATION,), (workers,), show_progress_bar=False)
        finished.touch()


def check_raw_dataset(raw: Path) -> None:
    """Make sure that a folder can be a raw dataset of nnU-Net.

    Raises:
        InputError: it is missing, has no ``dataset.json``, or no number in its name.
    """
    if not (raw / "dataset.json").is_file():
        raise InputError(f"{raw}: expected dataset.json, found none; run 'oarseg prepare'")
    if not re.fullmatch(r"Dataset\d{3}_[\w.+-]+", raw.resolve().name):
        raise InputError(f"{raw}: expected a folder named Dataset<nnn>_<name>, as nnU-Net names it")


def default_settings(plans: str) -> TrainerSettings:
    """Return the preset's trainer settings, or nnU-Net's defaults for nnU-Net's plans."""
    return PRESETS[plans].trainer if plans in PRESETS else TrainerSettings()


def write_settings(space: Workspace, *, plans: str, settings: TrainerSettings) -> None:
    """Write the trainer's settings into an existing plans file."""
    path = space.preprocessed / f"{plans}.json"
    document = read_json_object(path)
    document[PLANS_KEY] = as_document(settings)
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def optional_channels(raw: Path) -> tuple[tuple[int, float], ...]:
    """Return index and absent value of each optional channel that is not normalised.

    A channel that nnU-Net normalises has another absent value in each case, so it
    cannot be dropped after preprocessing.
    """
    dataset = read_dataset_file(raw / "dataset.json")
    return tuple(
        (number, recipe.absent_value)
        for number, (name, recipe) in enumerate(
            zip(dataset.channels, dataset.oarseg.channels or (), strict=False)
        )
        if recipe.optional and name == "noNorm"
    )


def _apply(preset: Preset, plans: dict[str, Any]) -> dict[str, Any]:
    configuration = plans["configurations"][CONFIGURATION]
    stages = len(preset.features)
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": stages,
        "features_per_stage": list(preset.features),
        "kernel_sizes": [[3, 3, 3]] * stages,
        "strides": [list(stride) for stride in preset.strides],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    configuration |= {
        "spacing": list(preset.spacing_mm),
        "patch_size": list(preset.patch_size),
        "batch_size": preset.batch_size,
        "batch_dice": True,
        "data_identifier": f"{preset.name}_{CONFIGURATION}",
    }
    return plans | {
        "plans_name": preset.name,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {CONFIGURATION: configuration},
    }
