"""What a work folder from elsewhere, or the wrong folder, may do to a training or an export."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import export_fuzzing as fuzzing
import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from oarseg.errors import InputError
from oarseg.training.exporting.parity import patches_from
from oarseg.training.nnunet_files.checkpoint import only_plain_data
from oarseg.training.nnunet_files.results_folder import Results, open_results
from oarseg.training.planning import Workspace
from oarseg.training.run import train_folds
from oarseg.training.trainers.OarsegTrainer import OarsegTrainer


class Touch:
    """A pickle that makes a file where it is loaded as code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_plans_in_a_work_folder_are_checked_before_nnunet_imports_what_they_name(
    tmp_path: Path,
) -> None:
    space = Workspace(tmp_path / "Dataset101_X", tmp_path / "work")
    space.preprocessed.mkdir(parents=True)
    plans = json.loads(fuzzing.whole_files()["plans.json"])
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = "evil.PlainConvUNet"
    (space.preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(InputError, match=r"uses PlainConvUNet \('evil.PlainConvUNet'\)"):
        train_folds(space, plans="nnUNetPlans", folds=[0], device="cpu")


def test_a_training_goes_on_from_data_only(tmp_path: Path) -> None:
    intruder, path = tmp_path / "intruder", tmp_path / "checkpoint_latest.pth"
    torch.save({"network_weights": {"a": torch.zeros(1)}, "logging": Touch(intruder)}, path)
    trainer = OarsegTrainer.__new__(OarsegTrainer)
    with pytest.raises(InputError, match=r"not allowed in a checkpoint: posix\.mkdir"):
        trainer.load_checkpoint(str(path))
    assert not intruder.exists()


def test_nnunets_own_loading_is_bound_to_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks torch for ``weights_only=False``, numpy scalars and all."""
    found = []

    def load(_: nnUNetTrainer, path: str) -> None:
        found.append(torch.load(path, weights_only=False))

    monkeypatch.setattr(nnUNetTrainer, "load_checkpoint", load)
    path = tmp_path / "checkpoint_latest.pth"
    log = {"losses": [np.float32(0.5), np.float64(0.25)]}
    torch.save({"network_weights": {"a": torch.zeros(1)}, "logging": log}, path)
    OarsegTrainer.__new__(OarsegTrainer).load_checkpoint(str(path))
    assert found[0]["logging"] == log
    intruder = tmp_path / "intruder"
    torch.save(Touch(intruder), path)
    with only_plain_data(), pytest.raises(Exception, match="mkdir"):
        torch.load(path, weights_only=False)
    assert not intruder.exists()


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return open_results(fuzzing.make_folder(tmp_path))


def write_case(folder: Path, shape: tuple[int, ...]) -> None:
    folder.mkdir()
    labels = np.zeros((1, *shape[1:]), np.int8)
    labels[..., -1] = 3
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.savez(folder / "case_1.npz", data=image, seg=labels)


def test_patches_hold_a_structure_and_no_pickle_is_read(tmp_path: Path, results: Results) -> None:
    folder = tmp_path / "x"
    write_case(folder, (2, 20, 30, 40))
    (folder / "case_1.pkl").write_bytes(b"not to be read")
    patches = patches_from(folder, results)
    assert patches.array.shape == (1, *results.input_shape)
    # The structure is the last column: a patch around it ends there.
    assert (patches.array[0, 0, ..., -1] % 40 == 39).all()


@pytest.mark.parametrize("name", ["nnUNetPlans_2d", "Dataset101_X", "missing"])
def test_patches_of_another_folder_are_refused(tmp_path: Path, results: Results, name: str) -> None:
    folder = tmp_path / name
    if name != "missing":
        write_case(folder, (2, 20, 30, 40))
    with pytest.raises(InputError, match=r"expected nnU-Net's folder x of .*give it with --prepr"):
        patches_from(folder, results)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 20, 30, 40), "expected 2 channels of a volume"), (None, "found none")],
    ids=["other channels", "no cases"],
)
def test_cases_of_another_kind_are_refused(
    tmp_path: Path, results: Results, shape: tuple[int, ...] | None, message: str
) -> None:
    folder = tmp_path / "x"
    if shape is None:
        folder.mkdir()
    else:
        write_case(folder, shape)
    with pytest.raises(InputError, match=message):
        patches_from(folder, results)


def test_a_damaged_case_is_one_sentence(tmp_path: Path, results: Results) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for ending in ("npz", "b2nd"):
        (folder / f"case_1.{ending}").write_bytes(b"nothing")
        with pytest.raises(InputError, match="expected a preprocessed case, could not read it"):
            patches_from(folder, results)
        (folder / f"case_1.{ending}").unlink()


@pytest.mark.parametrize(
    ("fold", "message"),
    [("x", "--folds x: expected numbers from 0 on, or all"), (0, "with --folds all")],
)
def test_folds_that_cannot_be_made_are_refused(
    tmp_path: Path, fold: int | str, message: str
) -> None:
    space = Workspace(tmp_path / "Dataset101_X", tmp_path / "work")
    space.preprocessed.mkdir(parents=True)
    plans = space.preprocessed / "nnUNetPlans.json"
    plans.write_bytes(fuzzing.whole_files()["plans.json"])
    with pytest.raises(InputError, match=message):
        train_folds(space, plans="nnUNetPlans", folds=[fold], device="cpu")
