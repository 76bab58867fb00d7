"""Pairs merged in training and split by anatomy, by the commands that a user gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from oarseg.challenges.catalogue import load_challenge
from oarseg.challenges.pairs import name_pairs
from oarseg.cli import main
from oarseg.model.manifest import parse_manifest
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

HAN_SEG = load_challenge("han_seg")
DATASET = "Dataset107_Pairs"
LABELS = {structure.name: structure.label for structure in HAN_SEG.structures}


def oarseg(*arguments: object) -> None:
    assert main([str(argument) for argument in arguments]) == 0, arguments


def test_from_the_published_data_set_to_both_sides(tmp_path: Path) -> None:
    """A training of seconds learns next to nothing; see test_tell_sides.py for what is found."""
    raw, work, weights = tmp_path / "raw" / DATASET, tmp_path / "work", tmp_path / "weights"
    oarseg("phantom", tmp_path / "data", "--seed", 30, "--cases", 2, "--size", "tiny")
    oarseg("prepare", tmp_path / "data", "--out", raw, "--transforms", "files")
    asked = json.dumps({"merge_pairs": True, "iterations": 2})
    training = ("--plans", "oarsegTiny", "--epochs", 1, "--settings", asked)
    where = ("--device", "cpu", "--workers", 1, "--threads", 1, "--folds", "all")
    oarseg("train", raw, "--work", work, *training, *where)
    results = work / "results" / DATASET / "OarsegTrainer__oarsegTiny__3d_fullres"
    oarseg("export", results, "--out", weights, "--formats", "fp32")

    manifest = parse_manifest((weights / "manifest.json").read_text(), source="it")
    assert manifest.challenge == "han_seg"
    assert len(manifest.labels) == 31 - 8
    assert manifest.pairs == tuple((LABELS[a], LABELS[b]) for a, b in name_pairs(LABELS))

    oarseg("phantom", tmp_path / "in", "--seed", 41, "--size", "tiny", "--layout", "platform")
    # In this process: a forked one would wait for threads of torch.
    settings = Settings(tmp_path / "in", tmp_path / "out", weights, device="cpu", threads=2)
    assert segment_folder(settings) == ()
    report = json.loads((tmp_path / "out/reports/case_41.json").read_text())
    sides = report["sides"]
    (path,) = (tmp_path / "out/images/head_neck_oar").iterdir()
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    counts = np.bincount(labels.ravel(), minlength=31)
    for name in (name for pair in name_pairs(LABELS) for name in pair):
        assert sides["voxels"].get(name, 0) == counts[LABELS[name]]
