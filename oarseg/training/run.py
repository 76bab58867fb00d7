"""Train the folds of one model with nnU-Net's code and our trainer."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from oarseg.errors import InputError
from oarseg.training.planning import CONFIGURATION, Workspace

log = logging.getLogger(__name__)

TRAINER = "OarsegTrainer"
FINAL = "checkpoint_final.pth"


def train_folds(
    space: Workspace,
    *,
    plans: str,
    folds: Sequence[int | str],
    device: str,
    gpus: int = 1,
    threads: int = 0,
) -> Path:
    """Train each fold that is not finished; continue the one that was begun.

    Args:
        space: the folders; planning and preprocessing must be done.
        plans: the plans' name.
        folds: 0–4, or ``all``.
        device: ``cuda`` or ``cpu``.
        gpus: more than one trains with nnU-Net's distributed mode.
        threads: torch's, on CPU; 0 keeps torch's own choice.

    Returns:
        The results folder, which ``oarseg export`` takes.

    Raises:
        InputError: planning has not run, or several GPUs were asked of the CPU.
    """
    path = space.preprocessed / f"{plans}.json"
    if not path.is_file():
        raise InputError(f"{path}: expected the plans, found none; planning has not run")
    if gpus > 1 and device != "cuda":
        raise InputError(f"--gpus {gpus}: only device cuda trains on several")
    space.activate()
    results = space.results / f"{TRAINER}__{plans}__{CONFIGURATION}"
    for fold in folds:
        if (results / f"fold_{fold}" / FINAL).is_file():
            log.info("fold %s is finished", fold)
        elif gpus > 1:
            _train_distributed(space, plans=plans, fold=fold, gpus=gpus)
        else:
            _train_here(space, path, fold=fold, device=device, threads=threads)
    return results


def _train_here(
    space: Workspace, plans: Path, *, fold: int | str, device: str, threads: int
) -> None:
    """Run the trainer class itself, which spares the import of every trainer nnU-Net has."""
    import torch

    from oarseg.training.trainers.OarsegTrainer import OarsegTrainer

    if threads:
        torch.set_num_threads(threads)
    document = json.loads(plans.read_text(encoding="utf-8"))
    folder = (
        space.results / f"{TRAINER}__{document['plans_name']}__{CONFIGURATION}" / f"fold_{fold}"
    )
    latest = folder / "checkpoint_latest.pth"
    document["continue_training"] = latest.is_file()
    trainer = OarsegTrainer(
        plans=document,
        configuration=CONFIGURATION,
        fold=fold,  # type: ignore[arg-type]  # nnU-Net takes "all" as well
        dataset_json=json.loads((space.preprocessed / "dataset.json").read_text(encoding="utf-8")),
        device=torch.device(device),
    )
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    trainer.run_training()


def _train_distributed(space: Workspace, *, plans: str, fold: int | str, gpus: int) -> None:
    from nnunetv2.run.run_training import run_training

    latest = space.results / f"{TRAINER}__{plans}__{CONFIGURATION}" / f"fold_{fold}"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_training(
        space.dataset,
        CONFIGURATION,
        fold,
        TRAINER,
        plans,
        num_gpus=gpus,
        continue_training=(latest / "checkpoint_latest.pth").is_file(),
    )
