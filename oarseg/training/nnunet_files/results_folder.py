"""A results folder of nnU-Net: the facts of its plan, and its folds' checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from oarseg.errors import InputError
from oarseg.training.nnunet_files.architecture import with_batch_norm
from oarseg.training.nnunet_files.dataset_file import DatasetFile, read_dataset_file
from oarseg.training.nnunet_files.plans import Configuration, Plans, read_plans

Which = Literal["best", "final"]
# Folders are searched this deep for results: nnUNet_results/Dataset001_X/T__P__C.
DEEPEST: Final = 3
MOST_FOLDERS: Final = 10_000
MOST_LISTED: Final = 12
# Of nnU-Net's trainers the one whose network is another than its plans say.
BATCH_NORM_TRAINER: Final = "nnUNetTrainerBN"


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
        return (len(self.dataset.channels) + len(self.hints), *self.settings.patch_size)

    @property
    def hints(self) -> tuple[int, ...]:
        """The labels of the stage before of which a cascade has a channel each."""
        if self.settings.previous_stage is None:
            return ()
        return tuple(value for value in self.dataset.values if value != 0)

    @property
    def configuration(self) -> str:
        """The name of the trained configuration."""
        return self.folder.resolve().name.split("__")[2]

    @property
    def stage_folder(self) -> Path | None:
        """The results folder of the stage before a cascade; None for another configuration."""
        stage = self.settings.previous_stage
        if stage is None:
            return None
        trainer, plans, _ = self.folder.resolve().name.split("__")
        return self.folder.resolve().with_name(f"{trainer}__{plans}__{stage}")


def open_results(folder: Path) -> Results:
    """Read a results folder and refuse what cannot be exported.

    Raises:
        InputError: it is no results folder, and the message lists those in it; or a file is
            damaged, or the configuration is of another network.
    """
    parts = folder.resolve().name.split("__")
    for name in ("plans.json", "dataset.json"):
        if not (folder / name).is_file():
            found = f"no {name}" if len(parts) == 3 and folder.is_dir() else _described(folder)
            raise _not_results(folder, found)
    if len(parts) != 3:
        raise _not_results(folder, "another name")
    plans = _as_trained(read_plans(folder / "plans.json", parts[2]), trainer=parts[0])
    results = Results(folder, plans, read_dataset_file(folder / "dataset.json"))
    channels, schemes = len(results.dataset.channels), len(plans.settings.normalization_schemes)
    if channels != schemes:
        raise InputError(
            f"{folder}: dataset.json has {channels} channels, plans.json normalises {schemes}"
        )
    return results


def _as_trained(plans: Plans, *, trainer: str) -> Plans:
    """Return the plans with the network that the trainer made of them."""
    if trainer != BATCH_NORM_TRAINER:
        return plans
    settings = plans.settings
    changed = replace(settings, architecture=with_batch_norm(settings.architecture))
    return replace(plans, settings=changed)


def _described(path: Path) -> str:
    if not path.exists():
        return "nothing of that name"
    return "another folder" if path.is_dir() else "a file"


def _not_results(path: Path, found: str) -> InputError:
    """Say what is no results folder, and which one was probably meant."""
    near = find_results(path)
    if not near:
        do = "pass the folder that nnUNetv2_train wrote its folds to"
    elif len(near) == 1:
        do = f"pass {near[0]}"
    else:
        rest = " …" if len(near) > MOST_LISTED else ""
        do = f"pass one of {', '.join(map(str, near[:MOST_LISTED]))}{rest}"
    return InputError(
        f"{path}: expected a results folder of nnU-Net, <trainer>__<plans>__<configuration> with "
        f"plans.json and dataset.json, found {found}; {do}"
    )


def find_results(path: Path) -> tuple[Path, ...]:
    """Find the results folders that a path of theirs belongs to, or else those below it.

    Args:
        path: a fold, a file in a results folder, or a folder with results folders in it.
    """
    above = next((parent for parent in path.absolute().parents if is_results(parent)), None)
    if above is not None:
        return (above,)
    return tuple(sorted(_results_below(path)))


def _results_below(path: Path) -> Iterator[Path]:
    """Search breadth first, so that links back up cannot lead far."""
    level, seen = [path], 0
    for _ in range(DEEPEST):
        inside = [entry for folder in level for entry in _folders_in(folder)]
        seen += len(inside)
        if seen > MOST_FOLDERS:
            return
        yield from (folder for folder in inside if is_results(folder))
        level = [folder for folder in inside if not is_results(folder)]


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(e for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return []


def is_results(folder: Path) -> bool:
    """Return whether a folder is named and filled like a results folder."""
    return len(folder.name.split("__")) == 3 and all(
        (folder / name).is_file() for name in ("plans.json", "dataset.json")
    )


def checkpoint_name(which: Which) -> str:
    """Return the file name of a fold's last or best checkpoint."""
    return f"checkpoint_{which}.pth"


def finished_folds(results: Results, which: Which = "final") -> tuple[str, ...]:
    """Return the folds that have a checkpoint: the numbered ones, or else ``all``.

    nnU-Net does not average ``all``, whose network has seen every case, with the others.

    Raises:
        InputError: no fold has one.
    """
    there = _folds_with(results, which)
    if not there:
        other: Which = "best" if which == "final" else "final"
        unfinished = _folds_with(results, other)
        listed = ", ".join(f"fold_{fold}" for fold in unfinished)
        have = "has" if len(unfinished) == 1 else "have"
        hint = f"{listed} {have} {checkpoint_name(other)}; pass --checkpoint {other}"
        raise InputError(
            f"{results.folder}: expected folds with {checkpoint_name(which)}, found none; "
            + (hint if unfinished else "let nnUNetv2_train finish")
        )
    numbered = tuple(sorted((fold for fold in there if fold.isdecimal()), key=int))
    return numbered or there


def _folds_with(results: Results, which: Which) -> tuple[str, ...]:
    files = results.folder.glob(f"fold_*/{checkpoint_name(which)}")
    return tuple(sorted(file.parent.name.removeprefix("fold_") for file in files))


def fold_checkpoints(
    results: Results, folds: Sequence[str], which: Which = "final"
) -> dict[str, Path]:
    """Fold → checkpoint file.

    Raises:
        InputError: a fold is named twice, or has no such checkpoint.
    """
    name = checkpoint_name(which)
    paths = {fold: results.folder / f"fold_{fold}" / name for fold in folds}
    if len(paths) < len(folds):
        raise InputError(f"--folds {' '.join(folds)}: expected each fold once; correct --folds")
    for fold, path in paths.items():
        if not path.is_file():
            there = ", ".join(f"fold_{known}" for known in _folds_with(results, which))
            raise InputError(
                f"{path}: fold {fold} has no {name}; finished: {there or 'none'}; "
                "name the folds with --folds, or another checkpoint with --checkpoint"
            )
    return paths
