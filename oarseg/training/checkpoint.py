"""A results folder of nnU-Net → networks and the facts of their plan."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from oarseg.errors import InputError

NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")

# nnU-Net keeps numpy scalars in its logs and the trainer's arguments; nothing else
# may be rebuilt from a checkpoint, which can come from a stranger.
ALLOWED: list[Any] = [
    np._core.multiarray.scalar,  # type: ignore[attr-defined]  # the name pickles refer to
    np.dtype,
    np.ndarray,
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    *(type(np.dtype(t)) for t in (np.float16, np.float32, np.float64, np.int32, np.int64, bool)),
]


@dataclass(frozen=True)
class Results:
    """One trained configuration: ``<trainer>__<plans>__<configuration>``."""

    folder: Path
    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration: str

    @property
    def manager(self) -> PlansManager:
        """nnU-Net's view of the plans."""
        return PlansManager(self.plans)

    @property
    def settings(self) -> Any:
        """nnU-Net's view of the configuration."""
        return self.manager.get_configuration(self.configuration)

    @property
    def labels(self) -> LabelManager:
        """nnU-Net's view of the labels."""
        return self.manager.get_label_manager(self.dataset)


def open_results(folder: Path) -> Results:
    """Read a results folder and refuse what cannot be exported.

    Raises:
        InputError: a file is missing, or the configuration is 2-D, a cascade or of
            another network.
    """
    documents = []
    for name in ("plans.json", "dataset.json"):
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: expected in an nnU-Net results folder, found none")
        documents.append(json.loads(path.read_text(encoding="utf-8")))
    parts = folder.name.split("__")
    if len(parts) != 3:
        raise InputError(
            f"{folder}: expected a folder named <trainer>__<plans>__<configuration>, "
            "as nnU-Net names its results"
        )
    results = Results(folder, documents[0], documents[1], parts[2])
    _refuse_unsupported(results)
    return results


def _refuse_unsupported(results: Results) -> None:
    where = f"{results.folder}: configuration {results.configuration}"
    known = results.plans["configurations"]
    if results.configuration not in known:
        raise InputError(f"{where} is not in the plans, which have {', '.join(known)}")
    settings = results.settings
    if len(settings.patch_size) != 3:
        raise InputError(f"{where} is 2-D; only 3-D configurations can be exported")
    if settings.previous_stage_name is not None:
        raise InputError(f"{where} is a cascade; export its 3d_fullres instead")
    network = settings.network_arch_class_name.rsplit(".", 1)[-1]
    if network not in NETWORKS:
        raise InputError(f"{where} uses {network}; supported are {' and '.join(NETWORKS)}")


def fold_checkpoints(
    results: Results, folds: Sequence[str], *, name: str = "checkpoint_final.pth"
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
                f"{path}: fold {fold} has no {name}; finished: {', '.join(there) or 'none'}"
            )
    return paths


@dataclass(frozen=True)
class Checkpoint:
    """What inference needs of a checkpoint.

    Attributes:
        path: the file, for messages.
        weights: the network's parameters by name.
        mirror_axes: axes (of the network) that the training allows to mirror.
    """

    path: Path
    weights: dict[str, torch.Tensor]
    mirror_axes: tuple[int, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running any code that it may carry.

    Raises:
        InputError: unreadable, or it holds objects that are not on the allow-list.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        lines = str(error).splitlines()
        reason = next((line.strip() for line in lines if "GLOBAL" in line), lines[0])
        raise InputError(
            f"{path}: holds objects that are not allowed in a checkpoint: {reason}"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path}: expected a checkpoint of nnU-Net, could not read it") from error
    weights: dict[str, torch.Tensor] = document["network_weights"]
    for prefix in ("module.", "_orig_mod."):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    axes = document.get("inference_allowed_mirroring_axes") or ()
    return Checkpoint(path, weights, tuple(int(axis) for axis in axes))


def build_network(results: Results, checkpoint: Checkpoint) -> torch.nn.Module:
    """The network of one checkpoint, ready for inference on the CPU.

    Raises:
        InputError: the checkpoint is of another network than the plans.
    """
    settings = results.settings
    network: torch.nn.Module = get_network_from_plans(
        settings.network_arch_class_name,
        settings.network_arch_init_kwargs,
        settings.network_arch_init_kwargs_req_import,
        len(results.dataset["channel_names"]),
        results.labels.num_segmentation_heads,
        deep_supervision=False,
    )
    try:
        # nnU-Net's decoder keeps its deep-supervision heads in every mode.
        network.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise InputError(
            f"{checkpoint.path}: is of another network than the plans: {reason}"
        ) from error
    return network.eval()
