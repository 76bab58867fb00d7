"""The model of a run: an uploaded one is never passed over for the shipped weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from oarseg.errors import WeightsError
from oarseg.model import model_folder
from oarseg.model.bundle import load_bundle
from oarseg.model.model_folder import find_model


def folder(parent: Path, name: str, files: Sequence[str] = ()) -> Path:
    """A folder with empty files in it; a name that ends in / is a folder."""
    made = parent / name
    made.mkdir()
    for file in files:
        path = made / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith("/"):
            path.mkdir()
        else:
            path.touch()
    return made


@pytest.mark.parametrize("files", [(), ("lost+found/",), (".hidden",), (".Trash-0/info",)])
def test_an_empty_folder_gives_the_shipped_weights(tmp_path: Path, files: Sequence[str]) -> None:
    shipped = folder(tmp_path, "weights", ["manifest.json"])
    assert find_model(folder(tmp_path, "model", files), shipped) == shipped
    assert find_model(tmp_path / "none", shipped) == shipped


def test_an_uploaded_model_is_taken(tmp_path: Path) -> None:
    shipped = folder(tmp_path, "weights", ["manifest.json"])
    model = folder(tmp_path, "model", ["manifest.json", "a.onnx"])
    assert find_model(model, shipped) == model


NNUNET = "Dataset101/nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["weights/manifest.json", "weights/a.onnx"],
            "found it in the folder 'weights'; pack that folder's contents, not the folder itself",
        ),
        (
            ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"],
            "found results of nnU-Net ('dataset.json', 'fold_0', 'plans.json'); make a model of "
            "them with 'oarseg export'",
        ),
        (
            [f"{NNUNET}/fold_0/checkpoint_best.pth"],
            "found results of nnU-Net ('Dataset101'); make a model of them with 'oarseg export'",
        ),
        (
            ["a.onnx"],
            "found only 'a.onnx'; make a model with 'oarseg export' and put its contents there",
        ),
        (list("fedcba"), "found only 'a', 'b', 'c', 'd', …; make a model with 'oarseg export' "),
        (["a\nb"], r"found only 'a\nb'; "),
        (["x" * 200], f"found only '{'x' * 60}…'; "),
        (["manifest.json/"], "found only 'manifest.json'; "),
    ],
)
def test_a_folder_without_a_manifest_is_an_error(
    tmp_path: Path, files: Sequence[str], message: str
) -> None:
    shipped = folder(tmp_path, "weights", ["manifest.json"])
    model = folder(tmp_path, "model", files)
    for refused in (lambda: find_model(model, shipped), lambda: load_bundle(model)):
        with pytest.raises(WeightsError) as refusal:
            refused()
        text = str(refusal.value)
        assert text.startswith(f"{model}: expected a model with manifest.json, {message}")
        assert "\n" not in text


def test_an_image_without_weights_says_so(tmp_path: Path) -> None:
    model, shipped = folder(tmp_path, "model"), folder(tmp_path, "weights")
    with pytest.raises(WeightsError, match=r"found none, and none in \S*weights, as in a wheel"):
        find_model(model, shipped)


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = folder(tmp_path, "weights", ["manifest.json"])

    def refuse(_: object) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(WeightsError, match="can be read, found Permission denied"):
        find_model(tmp_path / "model", shipped)


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    shipped = folder(tmp_path, "weights", ["manifest.json"])
    (tmp_path / "model").touch()
    with pytest.raises(WeightsError, match="can be read, found Not a directory"):
        find_model(tmp_path / "model", shipped)
    with pytest.raises(WeightsError, match="found no folder"):
        load_bundle(tmp_path / "model")


def test_platform_weights_take_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "PLATFORM_WEIGHTS", tmp_path)
    assert model_folder.default_weights() == model_folder.SHIPPED_WEIGHTS
    (tmp_path / "plans.json").write_text("{}")
    with pytest.raises(WeightsError, match="found results of nnU-Net"):
        model_folder.default_weights()
    (tmp_path / "manifest.json").write_text("{}")
    assert model_folder.default_weights() == tmp_path


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('{"run": {"time_limit_s": 590}}', 590.0),
        ('{"run": {"time_limit_s": 0.5, "region": "all"}}', 0.5),
        ('{"run": {"region": "all"}}', None),
        ('{"run": {"time_limit_s": null}}', None),
        ('{"run": {"time_limit_s": -3}}', None),
        ('{"run": {"time_limit_s": 1e999}}', None),
        ('{"run": {"time_limit_s": 1e10}}', None),
        (f'{{"run": {{"time_limit_s": 1{"0" * 400}}}}}', None),
        ('{"run": {"time_limit_s": true}}', None),
        ('{"run": {"time_limit_s": "590"}}', None),
        ('{"run": []}', None),
        ("{}", None),
        ("[" * 100_000, None),
        ("no JSON", None),
    ],
)
def test_the_models_time_limit(tmp_path: Path, text: str, seconds: float | None) -> None:
    assert model_folder.time_limit_of(tmp_path) is None
    (tmp_path / "manifest.json").write_text(text)
    assert model_folder.time_limit_of(tmp_path) == seconds
