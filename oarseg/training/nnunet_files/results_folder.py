"""A results folder of nnU-Net: the facts of its plan, and its folds' checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from oarseg.errors import InputError
from oarseg.training.nnunet_files.dataset_file import DatasetFile, read_dataset_file
from oarseg.training.nnunet_files.plans import Configuration, Plans, read_plans

FINAL_CHECKPOINT = "checkpoint_final.pth"


@dataclass(frozen=True)
class Results:
    """One trained configuration: ``<trainer>__<plans>__<configuration>``."""

    folder: Path
    plans: Plans
    dataset: DatasetFile

    @property
    def settings(self) -> Configuration:
        """The trained configuration."""
        return self.plans.settings

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(channels, z, y, x) of a network input."""
        return (len(self.dataset.channels), *self.settings.patch_size)


def open_results(folder: Path) -> Results:
    """Read a results folder and refuse what cannot be exported.

    Raises:
        InputError: a file is missing or damaged, or the configuration is 2-D, a cascade or
            of another network.
    """
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: expected in an nnU-Net results folder, found none")
    parts = folder.resolve().name.split("__")
    if len(parts) != 3:
        raise InputError(
            f"{folder}: expected a folder named <trainer>__<plans>__<configuration>, "
            "as nnU-Net names its results"
        )
    plans = read_plans(folder / "plans.json", parts[2])
    results = Results(folder, plans, read_dataset_file(folder / "dataset.json"))
    channels, schemes = len(results.dataset.channels), len(plans.settings.normalization_schemes)
    if channels != schemes:
        raise InputError(
            f"{folder}: dataset.json has {channels} channels, plans.json normalises {schemes}"
        )
    return results


def fold_checkpoints(
    results: Results, folds: Sequence[str], *, name: str = FINAL_CHECKPOINT
) -> dict[str, Path]:
    """Fold → checkpoint file.

    Raises:
        InputError: a fold has no finished training.
    """
    paths = {fold: results.folder / f"fold_{fold}" / name for fold in folds}
    for fold, path in paths.items():
        if not path.is_file():
            there = sorted(p.parent.name for p in results.folder.glob(f"fold_*/{name}"))
            raise InputError(
                f"{path}: fold {fold} has no {name}; finished: {', '.join(there) or 'none'}; "
                "name the folds with --folds"
            )
    return paths
