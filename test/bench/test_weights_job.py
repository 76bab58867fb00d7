"""The long training: begins with the shipped weights, goes on where it was, keeps the best."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import SimpleITK as sitk
import torch

from oarseg.cli.main import build_parser
from oarseg.training.nnunet_files.checkpoint import load_weights, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import weights as module

    return module


def test_the_start_is_the_last_of_the_shipped_networks(weights: ModuleType, tmp_path: Path) -> None:
    weights.write_start(ROOT / "weights", tmp_path / "start.pth")
    network = weights.untrained_network()
    load_weights(network, read_checkpoint(tmp_path / "start.pth"))
    network.eval()
    network.decoder.deep_supervision = False
    patch = np.random.default_rng(0).standard_normal((1, 2, 32, 64, 64)).astype(np.float32)
    shipped = onnxruntime.InferenceSession(str(ROOT / "weights" / "phantom_fold_2_fp32.onnx"))
    expected = shipped.run(None, {shipped.get_inputs()[0].name: patch})[0]
    with torch.no_grad():
        found = network(torch.from_numpy(patch)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-2)


def reached(weights: ModuleType, mean: float) -> object:
    return weights.Reached(2, mean, 1, {"Brainstem": mean})


def test_log_keeps_every_validation_and_tells_the_best(weights: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    assert weights.best_so_far(log) == -1.0
    for epoch, (level0, level2) in enumerate([(0.9, 0.5), (0.8, 0.7), (0.9, 0.6)]):
        found = {"level0": reached(weights, level0), "level2": reached(weights, level2)}
        weights.write_rows(log, 0, epoch, found)
    assert weights.best_so_far(log) == 0.7
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines[0] == ",".join(weights.COLUMNS)
    assert len(lines) == 7


def test_a_log_of_fewer_columns_is_gone_on_with(weights: ModuleType, tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    old = weights.COLUMNS[:8]
    log.write_text(",".join(old) + "\nthen,0,3,level2,5,0.6000,1,{}\n", encoding="utf-8")
    weights.write_rows(log, 0, 4, {"level2": weights.Reached(5, 0.5, 0, {}, {"Eye_L": 3.5})})
    first, second = weights.read_rows(log)
    assert weights.best_so_far(log) == 0.6
    assert tuple(first) == weights.COLUMNS
    assert (first["mean_dice"], first["off_mm"]) == ("0.6000", "")
    assert (second["epoch"], second["off_mm"]) == ("4", '{"Eye_L": 3.5}')


def test_what_was_not_segmented_counts_as_missed(weights: ModuleType, tmp_path: Path) -> None:
    truth = np.zeros((2, 3, 3), np.uint8)
    truth[0], truth[1] = 1, 2
    for case in ("case_1", "case_2"):
        (tmp_path / "truth" / case).mkdir(parents=True)
        image = sitk.GetImageFromArray(truth)
        sitk.WriteImage(image, str(tmp_path / "truth" / case / "label.nrrd"))
    made = tmp_path / "out" / "images" / "organs"
    made.mkdir(parents=True)
    sitk.WriteImage(sitk.GetImageFromArray(truth), str(made / "case_1.mha"))
    scores = dict(weights.case_scores(tmp_path / "truth", tmp_path / "out", 3))
    assert scores["case_1"].tolist()[:2] == [1.0, 1.0]
    assert scores["case_2"].tolist()[:2] == [0.0, 0.0]
    assert all(math.isnan(case[2]) for case in scores.values())


def test_finished_rounds_are_not_run_again(
    weights: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = weights.Job(tmp_path, None, 2, 1, None, "{}", "cpu", 1)
    assert job.last_checkpoint(0) is None
    done = job.round_folder(0) / "checkpoint.pth"
    done.parent.mkdir(parents=True)
    done.touch()
    ran: list[int] = []
    monkeypatch.setattr(weights, "run_round", lambda _job, number: ran.append(number))
    weights.run_rounds(job, 3)
    assert ran == [1, 2]
    assert job.last_checkpoint(1) == done


def test_a_job_may_begin_with_phantoms_that_its_start_has_not_seen(
    weights: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = weights.Job(tmp_path, tmp_path / "given", 2, 1, None, "{}", "cpu", 1, first=4)
    ran: list[int] = []
    monkeypatch.setattr(weights, "run_round", lambda _job, number: ran.append(number))
    weights.run_rounds(job, 2)
    assert ran == [4, 5]
    assert job.last_checkpoint(4) == tmp_path / "start.pth"
    assert job.last_checkpoint(5) == job.round_folder(4) / "checkpoint.pth"


def test_its_commands_are_ones_that_oarseg_takes(
    weights: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing runs: each command line is parsed as the command line itself does."""
    parsed: list[str] = []

    def parse(line: list[str], **_: object) -> None:
        told = build_parser().parse_args(line[3:])
        parsed.append(line[3])
        if line[3] == "export":
            told.out.mkdir(parents=True)

    monkeypatch.setattr(weights.subprocess, "run", parse)
    job = weights.Job(tmp_path, tmp_path / "start", 2, 1, None, "{}", "cpu", 1)
    (tmp_path / "start").touch()
    job.round_folder(0).mkdir(parents=True)
    weights.make_sets(job)
    weights.prepare_round(job, 0)
    parse(weights.train_command(job, 0))
    fold = tmp_path / "results" / "fold_all"
    fold.mkdir(parents=True)
    names = [f"fold_all/checkpoint_{name}.pth" for name in ("epoch_9", "epoch_12", "final")]
    for path in ("plans.json", "dataset.json", *reversed(names)):
        (tmp_path / "results" / path).write_text(path)
    weights.validate(job, 0, weights.snapshots(fold))
    # Each snapshot is a fold, in the order of their epochs.
    folds = (tmp_path / "trial" / Path(weights.RESULTS).name).glob("fold_*/*")
    assert [path.read_text() for path in sorted(folds)] == names
    assert parsed == [*["phantom"] * 4, "prepare", "train", "export"]
    card = tmp_path / "trial" / "weights" / "README.md"
    assert "![Mean Dice by epoch](training.svg)" in card.read_text(encoding="utf-8")
    assert card.with_name("training.svg").is_file()


def test_cases_are_kept_for_the_comparison_with_torch(weights: ModuleType, tmp_path: Path) -> None:
    job = weights.Job(tmp_path, None, 2, 1, None, "{}", "cpu", 1)
    made = job.round_folder(0) / weights.PREPROCESSED / "oarsegSmall_3d_fullres"
    made.mkdir(parents=True)
    for name in ("a.b2nd", "a_seg.b2nd", "a.pkl", "b.b2nd", "b_seg.b2nd"):
        (made / name).write_text(name)
    kept = weights.keep_cases(job, 0)
    assert weights.keep_cases(job, 1) == kept  # those of the first round do
    assert kept.name == made.name  # by which export knows them
    names = sorted(path.name for path in kept.iterdir())
    assert names == ["a.b2nd", "a_seg.b2nd", "b.b2nd", "b_seg.b2nd"]


def test_the_faster_arithmetic_is_taken(
    weights: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = weights.Job(tmp_path, None, 2, 1, None, '{"seed": 5}', "cpu", 1)
    for seconds, faster in (((1.2, 1.6), False), ((1.2, 0.7), True)):
        timed = dict(zip(("float32", "bfloat16"), seconds, strict=True))
        monkeypatch.setattr(weights, "time_steps", lambda timed=timed: timed)
        assert json.loads(weights.with_arithmetic(job)) == {"seed": 5, "bfloat16_on_cpu": faster}
    told = dataclasses.replace(job, settings='{"bfloat16_on_cpu": false}')
    assert weights.with_arithmetic(told) == told.settings
    on_gpu = dataclasses.replace(job, device="cuda")
    assert weights.with_arithmetic(on_gpu) == job.settings


def test_steps_are_timed_in_both_arithmetics(
    weights: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import step_time

    seen: list[bool] = []

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv3d(2, 1, 1)

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            seen.append(self.conv(image).dtype == torch.bfloat16)
            return [self.conv(image)]

    for bfloat16 in (False, True):
        assert step_time.step_seconds(Network(), bfloat16=bfloat16, steps=2) > 0
    assert seen == [False, False, True, True]


def test_threads_sleep_while_they_wait_unless_told_otherwise(
    weights: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("SOMETHING", "else")
    assert weights.train_environment()["OMP_WAIT_POLICY"] == "PASSIVE"
    assert weights.train_environment()["SOMETHING"] == "else"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert weights.train_environment()["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_slow_validation_is_followed_by_a_longer_rest(weights: ModuleType) -> None:
    assert weights.rest_after(60.0) == 3600
    assert weights.rest_after(1800.0) == 18_000


def test_seeds_of_validation_are_never_trained_on(weights: ModuleType) -> None:
    held = max(seed for _, seed in weights.VALIDATION.values()) + 100
    assert held < min(weights.TRAINING.values())
