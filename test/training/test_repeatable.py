"""A deterministic training comes out the same: twice, and after an interruption."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from oarseg.training.planning import TINY, Workspace, plan_and_preprocess
from oarseg.training.repeatable import (
    WORKERS,
    augmenting_in_this_process,
    deterministic_algorithms,
    seed_all,
)
from oarseg.training.run import train_folds
from oarseg.training.settings import TrainerSettings
from oarseg.training.trainers.OarsegTrainer import OarsegTrainer

SHAPE = (20, 52, 52)
SETTINGS = TrainerSettings(
    epochs=2,
    iterations=2,
    validation_iterations=1,
    optimizer="adamw",
    augmentation="light",
    modality_dropout=0.5,
    optional_channels=((0, 0.0),),
    deterministic=True,
    seed=3,
)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two images of noise with a bright box, planned and preprocessed."""
    folder = tmp_path_factory.mktemp("repeatable")
    space = Workspace(folder / "raw" / "Dataset109_Boxes", folder / "work")
    for name in ("imagesTr", "labelsTr"):
        (space.raw / name).mkdir(parents=True)
    draw = np.random.default_rng(0)
    labels = np.zeros(SHAPE, np.uint8)
    labels[8:12, 20:30, 20:30] = 1
    for case in ("a", "b"):
        write(space.raw / "imagesTr" / f"{case}_0000.nrrd", draw.normal(labels * 3.0, 1.0))
        write(space.raw / "labelsTr" / f"{case}.nrrd", labels)
    dataset = {
        "channel_names": {"0": "noNorm"},
        "labels": {"background": 0, "box": 1},
        "numTraining": 2,
        "file_ending": ".nrrd",
    }
    (space.raw / "dataset.json").write_text(json.dumps(dataset))
    plan_and_preprocess(space, plans=TINY.name, settings=SETTINGS, workers=1)
    return space


def write(path: Path, array: np.ndarray) -> None:  # type: ignore[type-arg]
    image = sitk.GetImageFromArray(
        array.astype(np.float32 if path.parent.name == "imagesTr" else np.uint8)
    )
    image.SetSpacing(tuple(reversed(TINY.spacing_mm)))
    sitk.WriteImage(image, str(path))


def trained(
    space: Workspace, name: str, seed: int = SETTINGS.seed, restarts: tuple[int, ...] = ()
) -> dict[str, torch.Tensor]:
    """The weights of a training in results of its own."""
    own = Own(space.raw, space.work, name)
    plans = space.preprocessed / f"{TINY.name}.json"
    document = json.loads(plans.read_text())
    document["oarseg"] |= {"seed": seed, "restarts": restarts}
    plans.write_text(json.dumps(document))
    results = train_folds(own, plans=TINY.name, folds=["all"], device="cpu", threads=1)
    path = results / "fold_all" / "checkpoint_final.pth"
    weights: dict[str, torch.Tensor] = torch.load(path, weights_only=False)["network_weights"]
    return weights


class Own(Workspace):
    """A workspace whose results lie apart from other trainings on the same cases."""

    def __init__(self, raw: Path, work: Path, name: str) -> None:
        super().__init__(raw, work)
        object.__setattr__(self, "name", name)

    @property
    def results(self) -> Path:
        return self.work / self.name / self.dataset  # type: ignore[attr-defined,no-any-return]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_a_training_can_be_repeated_to_the_bit(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WORKERS, "3")
    first = trained(space, "first")
    random.seed(1)
    np.random.seed(1)
    assert same(first, trained(space, "second"))
    assert not same(first, trained(space, "other", seed=SETTINGS.seed + 1))
    assert os.environ[WORKERS] == "3"
    assert not torch.are_deterministic_algorithms_enabled()

    # Killed after its first epoch, and finished by the next command.
    real = OarsegTrainer.on_train_epoch_start

    def killed(self: OarsegTrainer) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as context:
        context.setattr(OarsegTrainer, "on_train_epoch_start", killed)
        with pytest.raises(KeyboardInterrupt):
            trained(space, "killed")
    np.random.seed(2)
    assert same(first, trained(space, "killed"))


def test_each_schedule_leaves_the_network_at_its_end(space: Workspace) -> None:
    trained(space, "restarted", restarts=(1,))
    fold = next(space.work.glob("restarted/*/*/fold_all"))
    assert [path.name for path in fold.glob("checkpoint_epoch_*")] == ["checkpoint_epoch_1.pth"]
    kept, final = (
        torch.load(fold / f"checkpoint_{name}.pth", weights_only=False)["network_weights"]
        for name in ("epoch_1", "final")
    )
    assert kept.keys() == final.keys()
    assert not same(kept, final)


def test_seeds_are_of_all_that_draws() -> None:
    def draws(*seeds: int) -> tuple[float, float, float]:
        seed_all(*seeds)
        return random.random(), float(np.random.random()), float(torch.rand(1))

    assert draws(7, 0, 1) == draws(7, 0, 1)
    assert len({draws(7, 0, 1), draws(7, 1, 0), draws(8, 0, 1)}) == 3


def test_surroundings_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKERS, raising=False)
    with augmenting_in_this_process(), deterministic_algorithms():
        assert os.environ[WORKERS] == "0"
        assert torch.are_deterministic_algorithms_enabled()
    assert WORKERS not in os.environ
    assert not torch.are_deterministic_algorithms_enabled()
