"""Two windows of one CT as channels, in training and in inference alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnunet_oracle as oracle
import numpy as np
import pytest
from pydantic import ValidationError

from oarseg.cases.find_cases import find_cases
from oarseg.challenges import catalogue
from oarseg.cli import main
from oarseg.errors import InputError, WeightsError
from oarseg.imaging.files import read_scan
from oarseg.inference.channels import build_channels, read_images
from oarseg.model.agreement import check_agreement
from oarseg.model.entries.channels import Channel
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import Manifest, parse_manifest, write_manifest
from oarseg.phantom import write_cases
from oarseg.training.nnunet_files.dataset_file import read_dataset_file
from oarseg.training.preparation.dataset import default_recipes, windowed_recipes
from oarseg.training.preparation.dataset_origin import recipe_records

HAN_SEG = catalogue.load_challenge("han_seg")
SOFT, BONE = (-160.0, 240.0), (-500.0, 1500.0)
FILE = ModelFile("fold_0.onnx", "0" * 64, "0", "fp32")
CT = oracle.CT


def manifest(*channels: Channel) -> Manifest:
    recipe = oracle.Recipe((2.0, 1.0, 1.0), channels=(CT,) * len(channels))
    return replace(oracle.manifest_of(recipe, (FILE,)), channels=channels)


def test_the_networks_channels_are_those_of_training(tmp_path: Path) -> None:
    write_cases(tmp_path / "data", seeds=[3], size="tiny")
    raw = tmp_path / "Dataset101_X"
    told = ("--out", str(raw), "--transforms", "files", "--ct-windows")
    assert main(["prepare", str(tmp_path / "data"), *told]) == 0
    dataset = read_dataset_file(raw / "dataset.json")
    assert dataset.channels == ("CT", "CT", "noNorm")
    recipes = dataset.oarseg.channels
    assert recipes is not None
    assert [(recipe.name, recipe.window_hu) for recipe in recipes] == [
        ("CT", SOFT),
        ("CT", BONE),
        ("MR_T1", None),
    ]
    (case,) = find_cases(tmp_path / "data", HAN_SEG, required=frozenset({"CT"})).cases
    images = read_images(case, HAN_SEG, [recipe.name for recipe in recipes])
    channels = build_channels(
        images.volumes, recipes, HAN_SEG, files=case.files, align=lambda *_: None, resample=False
    )
    for number, (low, high) in enumerate((SOFT, BONE)):
        written = read_scan.read_volume(raw / f"imagesTr/case_03_{number:04d}.nrrd").array
        assert written.dtype == channels[number].dtype
        assert np.array_equal(written, channels[number])
        assert (written.min(), written.max()) == (low, high)


def test_a_manifest_keeps_windows_and_says_nothing_without(tmp_path: Path) -> None:
    two = manifest(Channel("CT", CT, window_hu=SOFT), Channel("CT", CT, window_hu=BONE))
    write_manifest(two, tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    assert parse_manifest(text, source="it").channels == two.channels
    write_manifest(manifest(Channel("CT", CT)), tmp_path)
    assert "window_hu" not in (tmp_path / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("windows", "said"),
    [((SOFT, SOFT), "must differ"), (((240.0, -160.0), BONE), "must rise")],
)
def test_equal_or_empty_windows_are_refused(windows: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        manifest(*(Channel("CT", CT, window_hu=window) for window in windows))


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        (("CT", "MR_T1", "CT"), "in this order"),
        (("CT", "MR_T1", "MR_T1"), "a window of MR_T1, which is not the reference CT"),
    ],
)
def test_windows_stand_side_by_side_and_are_the_cts(channels: Any, said: str) -> None:
    windows = (SOFT, None if channels[1] != channels[2] else SOFT, BONE)
    model = manifest(
        *(Channel(name, CT, window_hu=w) for name, w in zip(channels, windows, strict=True))
    )
    with pytest.raises(WeightsError, match=said):
        check_agreement(model, HAN_SEG, source="it")


def test_a_data_set_that_was_begun_before_there_were_windows_goes_on() -> None:
    """What prepare compares with its record has no new key."""
    assert not any("window" in json.dumps(r) for r in recipe_records(default_recipes(HAN_SEG)))
    assert "window_hu" in recipe_records(windowed_recipes(HAN_SEG))[0]


def test_windows_of_what_is_no_ct_are_refused() -> None:
    socket = replace(HAN_SEG.reference, modality="MR")
    rules: Any = type("Rules", (), {"name": "x", "reference": socket, "sockets": (socket,)})
    with pytest.raises(InputError, match="--ct-windows: challenge x begins with CT, which is no"):
        windowed_recipes(rules)
