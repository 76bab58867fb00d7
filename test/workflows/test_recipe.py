"""From a data set as published to masks, by the commands that a user gives."""

from __future__ import annotations

import filecmp
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.cli import main

ROOT = Path(__file__).resolve().parents[2]
CASES = 6
UNSEEN = 41
DATASET = "Dataset106_Phantoms"


def oarseg(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0, arguments


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    oarseg("phantom", folder, "--seed", 30, "--cases", CASES, "--size", "tiny", "--workers", 2)
    return folder


def test_from_the_published_data_set_to_masks(published: Path, tmp_path: Path) -> None:
    raw, work, weights = tmp_path / "raw" / DATASET, tmp_path / "work", tmp_path / "weights"
    oarseg("prepare", published, "--out", raw, "--workers", 2)
    training = ("--plans", "oarsegTiny", "--epochs", 2, "--settings", '{"iterations": 8}')
    where = ("--device", "cpu", "--workers", 1, "--threads", 1)
    oarseg("train", raw, "--work", work, "--folds", 0, 1, *training, *where)

    results = work / "results" / DATASET / "OarsegTrainer__oarsegTiny__3d_fullres"
    cases = work / "preprocessed" / DATASET / "oarsegTiny_3d_fullres"
    card = ("--title", "recipe", "--training", "6 tiny phantoms", "--licence", "none")
    oarseg("export", results, "--out", weights, "--folds", 0, 1, "--preprocessed", cases, *card)
    manifest = json.loads((weights / "manifest.json").read_text())
    assert {model["file"] for model in manifest["models"]} <= {
        r["file"] for r in manifest["parity"]
    }
    assert {model["fold"] for model in manifest["models"]} == {"0", "1"}
    in_float32 = {m["file"] for m in manifest["models"] if m["precision"] == "fp32"}
    assert len(in_float32) == 2
    for row in manifest["parity"]:
        # A row in bfloat16, where the CPU has it, tells how good that is; see test_export.py.
        if row["file"] in in_float32 and row["arithmetic"] == "f32":
            assert row["argmax_agreement"] >= 0.9999

    oarseg("phantom", tmp_path / "in", "--seed", UNSEEN, "--size", "tiny", "--layout", "platform")
    folders = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--weights", weights)
    done = subprocess.run(
        [sys.executable, ROOT / "process.py", *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (labels,) = (tmp_path / "out/images/head_neck_oar").iterdir()
    ct = sitk.ReadImage(str(tmp_path / f"in/images/ct/case_{UNSEEN}_CT.mha"))
    mask = sitk.ReadImage(str(labels))
    assert mask.GetSize() == ct.GetSize()
    assert set(np.unique(sitk.GetArrayFromImage(mask))) <= set(range(31))


def test_a_killed_prepare_is_finished_by_the_next(published: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole" / DATASET, tmp_path / "killed" / DATASET
    told = ("--transforms", "files")
    oarseg("prepare", published, "--out", whole, *told)

    process = subprocess.Popen(
        [sys.executable, "-m", "oarseg.cli", "prepare", published, "--out", killed, *told],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    records = killed / "oarseg_cases"
    deadline = time.monotonic() + 120
    while not list(records.glob("case_*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    begun = len(list(records.glob("case_*.json")))
    assert 0 < begun < CASES, "killed in the middle"
    assert not (killed / "dataset.json").exists()

    oarseg("prepare", published, "--out", killed, *told)
    for folder in ("imagesTr", "labelsTr"):
        names = sorted(path.name for path in (whole / folder).iterdir())
        assert sorted(path.name for path in (killed / folder).iterdir()) == names
        _, differing, unread = filecmp.cmpfiles(whole / folder, killed / folder, names, False)
        assert not differing
        assert not unread
    assert filecmp.cmp(whole / "dataset.json", killed / "dataset.json", False)
