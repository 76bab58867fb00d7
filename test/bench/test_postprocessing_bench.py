"""The shipped weights' postprocessing: nnU-Net's own rule on the job's phantoms."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.model.manifest import KeepLargest
from oarseg.training.nnunet_files.postprocessing import read_postprocessing

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import postprocessing

    return postprocessing


def write(path: Path, labels: np.ndarray) -> None:  # type: ignore[type-arg]
    path.parent.mkdir(parents=True)
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(path))


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Label 1 has a stray part in each case; label 2 consists of two parts."""
    truth = np.zeros((6, 8, 8), np.uint8)
    truth[1:3, 1:4, 1:4] = 1
    truth[4, 1:3, 1:3] = truth[4, 5:7, 5:7] = 2
    guess = truth.copy()
    guess[5, 7, 0] = 1
    for name in ("level0", "level2"):
        write(tmp_path / "sets" / name / "truth" / "case_1" / "label.nrrd", truth)
        write(tmp_path / "best" / name / "images" / "head_neck_oar" / "case_1_seg.mha", guess)
    results = tmp_path / "best" / "OarsegTrainer__oarsegSmall__3d_fullres"
    results.mkdir()
    (results / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))
    dataset = {"labels": {"background": 0, "one": 1, "two": 2}, "file_ending": ".mha"}
    (results / "dataset.json").write_text(json.dumps(dataset))
    return tmp_path


def test_only_what_gains_from_it_keeps_its_largest_part(
    module: ModuleType, job: Path, tmp_path: Path
) -> None:
    found = module.determine(job, tmp_path / "out", workers=1)
    assert read_postprocessing(found, {1, 2}) == (KeepLargest((1,)),)


def test_a_case_without_a_label_map_is_an_error(
    module: ModuleType, job: Path, tmp_path: Path
) -> None:
    next(job.glob("best/level2/images/*/*")).unlink()
    with pytest.raises(FileNotFoundError, match="no label map of case_1"):
        module.gather(job, tmp_path / "out")
