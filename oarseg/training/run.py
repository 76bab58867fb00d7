"""Train the folds of one model with nnU-Net's code and our trainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from oarseg.errors import InputError
from oarseg.training.nnunet_files.json_file import read_json_object
from oarseg.training.nnunet_files.results_folder import checkpoint_name
from oarseg.training.planning import CONFIGURATION, Workspace

log = logging.getLogger(__name__)

TRAINER = "OarsegTrainer"
FOLDS = 5  # nnU-Net's, where no splits_final.json says otherwise


def train_folds(
    space: Workspace,
    *,
    plans: str,
    folds: Sequence[int | str],
    device: str,
    gpus: int = 1,
    threads: int = 0,
    initial_weights: Path | None = None,
) -> Path:
    """Train the folds that are not finished; resume one that was interrupted.

    Args:
        space: the folders; planning and preprocessing must be done.
        plans: the plans' name.
        folds: 0–4, or ``all``.
        device: ``cuda`` or ``cpu``.
        gpus: more than one trains with nnU-Net's distributed mode.
        threads: torch's threads on the CPU; 0 keeps torch's own choice.
        initial_weights: a checkpoint from which every fold starts, or a results folder
            with one for each fold. The optimizer and the schedule start from the beginning.

    Returns:
        The results folder, which ``oarseg export`` takes.

    Raises:
        InputError: planning has not run, several GPUs are combined with the CPU or with
            initial weights, or the initial weights are missing or do not fit the network.
    """
    path = space.preprocessed / f"{plans}.json"
    if not path.is_file():
        raise InputError(f"{path}: expected the plans, found none; planning has not run")
    if gpus > 1 and device != "cuda":
        raise InputError(f"--gpus {gpus}: only device cuda trains on several")
    if gpus > 1 and initial_weights is not None:
        raise InputError(f"--gpus {gpus}: initial weights are for one GPU or the CPU")
    starts = {fold: _initial_checkpoint(initial_weights, fold) for fold in folds}
    from oarseg.training.nnunet_files.plans import read_plans

    read_plans(path, CONFIGURATION)  # before nnU-Net imports what they name
    _check_folds(space, folds)
    space.activate()
    results = space.results / f"{TRAINER}__{plans}__{CONFIGURATION}"
    for fold in folds:
        if (results / f"fold_{fold}" / checkpoint_name("final")).is_file():
            log.info("fold %s is finished", fold)
        elif gpus > 1:
            _train_distributed(space, plans=plans, fold=fold, gpus=gpus)
        else:
            _train_here(space, path, fold=fold, device=device, threads=threads, start=starts[fold])
    return results


def _check_folds(space: Workspace, folds: Sequence[int | str]) -> None:
    """Refuse folds that nnU-Net cannot form from the cases."""
    for fold in folds:
        if isinstance(fold, str) and fold != "all":
            raise InputError(f"--folds {fold}: expected numbers from 0 on, or all")
    cases = len(list((space.raw / "labelsTr").glob("*")))
    given = (space.preprocessed / "splits_final.json").is_file()
    if cases < FOLDS and not given and any(fold != "all" for fold in folds):
        raise InputError(
            f"{space.raw}: expected at least {FOLDS} cases for {FOLDS} folds, found {cases}; "
            "train on all of them with --folds all"
        )


def _initial_checkpoint(given: Path | None, fold: int | str) -> Path | None:
    """Return the checkpoint from which a fold starts."""
    if given is None or given.is_file():
        return given
    path = given / f"fold_{fold}" / checkpoint_name("final")
    if not path.is_file():
        raise InputError(f"{path}: expected the initial weights of fold {fold}, found none")
    return path


def _train_here(
    space: Workspace,
    plans: Path,
    *,
    fold: int | str,
    device: str,
    threads: int,
    start: Path | None,
) -> None:
    """Run the trainer class directly, which avoids importing all of nnU-Net's trainers."""
    import torch

    from oarseg.training.trainers.OarsegTrainer import OarsegTrainer

    if threads:
        torch.set_num_threads(threads)
    document = read_json_object(plans)
    folder = (
        space.results / f"{TRAINER}__{document['plans_name']}__{CONFIGURATION}" / f"fold_{fold}"
    )
    latest = folder / "checkpoint_latest.pth"
    document["continue_training"] = latest.is_file()
    trainer = OarsegTrainer(
        plans=document,
        configuration=CONFIGURATION,
        fold=fold,  # type: ignore[arg-type]  # nnU-Net takes "all" as well
        dataset_json=read_json_object(space.preprocessed / "dataset.json"),
        device=torch.device(device),
    )
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    elif start is not None:
        _begin_with(trainer, start)
    trainer.run_training()


def _begin_with(trainer: Any, start: Path) -> None:
    from oarseg.training.nnunet_files.checkpoint import load_weights, read_checkpoint

    checkpoint = read_checkpoint(start)
    trainer.initialize()
    load_weights(trainer.network, checkpoint)
    log.info("fold %s begins with the weights of %s", trainer.fold, start)


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
