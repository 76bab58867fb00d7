import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oarseg.errors import WeightsError
from oarseg.model import bundle
from oarseg.model.manifest import write_manifest


def document(folder: Path) -> dict[str, Any]:
    """A manifest of two folds whose files are a few bytes in the folder."""
    models = []
    for fold in "01":
        name = f"fold_{fold}_fp32.onnx"
        (folder / name).write_bytes(b"network " + fold.encode())
        digest = hashlib.sha256(b"network " + fold.encode()).hexdigest()
        models.append({"file": name, "sha256": digest, "fold": fold, "precision": "fp32"})
    scheme = {"scheme": "ct", "mean": 40.0, "std": 300.0, "lower": -900.0, "upper": 1500.0}
    return {
        "format_version": 1,
        "challenge": "han_seg",
        "title": "t",
        "warning": "",
        "channels": [{"name": "CT", "normalisation": scheme}],
        "spacing_mm": [3.0, 1.8, 1.8],
        "patch_size": [32, 64, 64],
        "transpose_forward": [0, 1, 2],
        "data_resampling": {"order": 3},
        "logits_resampling": {"order": 1},
        "labels": [{"value": 0, "name": "background"}, {"value": 1, "name": "A_Carotid_L"}],
        "regions": False,
        "mirror_axes": [],
        "models": models,
        "parity": [],
        "training": "",
        "licence": "",
        "versions": {},
    }


def save(folder: Path, values: dict[str, Any]) -> Path:
    (folder / "manifest.json").write_text(json.dumps(values))
    return folder


def test_loads_and_names_the_files(tmp_path: Path) -> None:
    loaded = bundle.load_bundle(save(tmp_path, document(tmp_path)))
    assert loaded.manifest.folds == ("0", "1")
    assert [p.name for p in loaded.paths("fp32")] == ["fold_0_fp32.onnx", "fold_1_fp32.onnx"]
    with pytest.raises(WeightsError, match="fold 0 has no fp16 file"):
        loaded.paths("fp16")


def test_written_manifest_reads_back_equal(tmp_path: Path) -> None:
    manifest = bundle.load_bundle(save(tmp_path, document(tmp_path))).manifest
    write_manifest(manifest, tmp_path)
    assert bundle.load_bundle(tmp_path).manifest == manifest


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected a folder with manifest\.json, found none"):
        bundle.load_bundle(tmp_path)


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    save(tmp_path, document(tmp_path))
    (tmp_path / "fold_1_fp32.onnx").write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"fold_1_fp32\.onnx: SHA-256 .* is not the manifest's"):
        bundle.load_bundle(tmp_path)
    (tmp_path / "fold_1_fp32.onnx").unlink()
    with pytest.raises(WeightsError, match=r"fold_1_fp32\.onnx: named by manifest\.json"):
        bundle.load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing_mm": [3.0, 0.0, 1.8]}, "spacing_mm.1"),
        ({"transpose_forward": [0, 1, 1]}, "permutation"),
        ({"mirror_axes": [3]}, "mirror_axes"),
        ({"models": []}, "models"),
        ({"format_version": 2}, "format_version"),
        ({"surprise": 1}, "surprise"),
        ({"patch_size": [10**9, 10**9, 10**9]}, "patch_size"),
        ({"labels": [{"value": 0, "name": "a"}, {"value": 256, "name": "b"}]}, "labels.1.value"),
    ],
)
def test_broken_manifest_names_the_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save(tmp_path, document(tmp_path) | change)
    with pytest.raises(WeightsError, match=message):
        bundle.load_bundle(tmp_path)


def test_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "weights"
    inside.mkdir()
    values = document(inside)
    (tmp_path / "fold_0_fp32.onnx").write_bytes(b"network 0")
    values["models"][0]["file"] = "../fold_0_fp32.onnx"
    with pytest.raises(WeightsError, match="not in the folder"):
        bundle.load_bundle(save(inside, values))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.floats(0, 1, exclude_max=True), length=st.integers(0, 40), new=st.binary())
def test_any_manifest_is_read_or_refused(
    tmp_path: Path, position: float, length: int, new: bytes
) -> None:
    save(tmp_path, document(tmp_path))
    path = tmp_path / "manifest.json"
    data = path.read_bytes()
    at = int(position * len(data))
    path.write_bytes(data[:at] + new + data[at + length :])
    with suppress(WeightsError):
        assert bundle.load_bundle(tmp_path).manifest.models


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_manifest_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"manifest\.json: file: "):
        bundle.load_bundle(tmp_path)
