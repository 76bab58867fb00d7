import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_onnx import write_pointwise

from oarseg.errors import WeightsError
from oarseg.model import bundle
from oarseg.model.manifest import parse_manifest, write_manifest

PATCH = [8, 16, 16]


def document(folder: Path) -> dict[str, Any]:
    """A manifest of two folds whose networks, small ones, are in the folder."""
    models = []
    for fold in "01":
        name = f"fold_{fold}_fp32.onnx"
        write_pointwise(folder / name, PATCH, (1.0, float(fold)))
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        models.append({"file": name, "sha256": digest, "fold": fold, "precision": "fp32"})
    scheme = {"scheme": "ct", "mean": 40.0, "std": 300.0, "lower": -900.0, "upper": 1500.0}
    return {
        "format_version": 1,
        "challenge": "han_seg",
        "title": "t",
        "warning": "",
        "channels": [{"name": "CT", "normalisation": scheme}],
        "spacing_mm": [3.0, 1.8, 1.8],
        "patch_size": PATCH,
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
    with pytest.raises(WeightsError, match=r"expected a model with manifest\.json, found an empty"):
        bundle.load_bundle(tmp_path)


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    save(tmp_path, document(tmp_path))
    (tmp_path / "fold_1_fp32.onnx").write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"fold_1_fp32\.onnx: SHA-256 .* is not the manifest's"):
        bundle.load_bundle(tmp_path)
    (tmp_path / "fold_1_fp32.onnx").unlink()
    with pytest.raises(WeightsError, match=r"fold_1_fp32\.onnx: named by manifest\.json"):
        bundle.load_bundle(tmp_path)


def ct(**values: Any) -> dict[str, Any]:
    """The channels of ``document``, with other intensities."""
    scheme = {"scheme": "ct", "mean": 40.0, "std": 300.0, "lower": -900.0, "upper": 1500.0}
    return {"channels": [{"name": "CT", "normalisation": scheme | values}]}


def labels(*pairs: tuple[Any, str], **others: Any) -> dict[str, Any]:
    return {"labels": [{"value": value, "name": name} for value, name in pairs], **others}


def model(**values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The models of a document, the first of them changed."""
    return lambda whole: {"models": [whole["models"][0] | values, *whole["models"][1:]]}


def stage_of(whole: dict[str, Any], *names: int, **others: Any) -> dict[str, Any]:
    """A stage before, of the document's own networks."""
    same = (
        *("spacing_mm", "patch_size", "transpose_forward", "data_resampling"),
        *("logits_resampling", "mirror_axes", "models", "parity"),
    )
    network = {
        "configuration": "3d_lowres",
        "normalisations": [channel["normalisation"] for channel in whole["channels"]],
        **{key: whole[key] for key in same},
        **others,
    }
    return {"network": network, "labels": list(names), "resampling": {"order": 1}}


def further(whole: dict[str, Any], *names: int) -> dict[str, Any]:
    """Networks of a second configuration, a cascade."""
    stage = stage_of(whole, *names)
    return stage["network"] | {"stage": stage}


def keep_largest(*steps: list[int]) -> dict[str, Any]:
    return {"postprocessing": [{"labels": step} for step in steps]}


CUBIC = {"order": 3}
ORDERS = "logits_resampling: must be of orders 0 or 1, not 3 in plane and 0 along z"


Change = dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing_mm": [3.0, 0.0, 1.8]}, r"spacing_mm\.1: .* 0\.05, found 0\.0"),
        ({"spacing_mm": [3.0, 1e-9, 1.8]}, r"spacing_mm\.1: .* 0\.05, found 1e-09"),
        ({"spacing_mm": [60, 1.8, 1.8]}, r"spacing_mm\.0: .* 50"),
        ({"spacing_mm": [float("nan"), 1.8, 1.8]}, r"spacing_mm\.0"),
        ({"transpose_forward": [0, 1, 1]}, "permutation"),
        ({"transpose_forward": [0, 1, 10**30]}, r"transpose_forward\.2"),
        ({"mirror_axes": [3]}, r"mirror_axes\.0: .* 2, found 3"),
        ({"mirror_axes": [-1]}, r"mirror_axes\.0"),
        ({"mirror_axes": [0, 0]}, "mirror_axes must differ from each other"),
        ({"models": []}, "models"),
        ({"format_version": 2}, "format_version"),
        ({"surprise": 1}, "surprise"),
        ({"s" * 5000: 1}, "manifest.json: s{200}…: "),
        ({"a\nb": 1}, r"manifest\.json: a\?b: "),
        ({"patch_size": [10**9, 10**9, 10**9]}, "patch_size"),
        ({"patch_size": [-8, -16, 16]}, "patch_size"),
        ({"data_resampling": {"order": 9}}, r"data_resampling\.order: .* 5, found 9"),
        ({"data_resampling": {"order": -1}}, r"data_resampling\.order: .* 0, found -1"),
        ({"logits_resampling": {"order": 1, "order_z": 9}}, r"logits_resampling\.order_z"),
        ({"logits_resampling": CUBIC}, f"json: {ORDERS}"),
        ({"logits_resampling": {"order": 1, "order_z": 2}}, "not 1 in plane and 2 along z"),
        (
            lambda whole: {"stage": stage_of(whole, 1, logits_resampling=CUBIC)},
            rf"stage\.network\.{ORDERS}",
        ),
        (
            lambda whole: {"stage": stage_of(whole, 1, 7)},
            r"stage\.labels must be labels of the model, which 7 is not",
        ),
        (
            lambda whole: {"further": [further(whole, 1), further(whole, 1, 9)]},
            r"further\.1\.stage\.labels must be labels of the model, which 9 is not",
        ),
        (
            keep_largest([1], [1, 2]),
            r"postprocessing\.1\.labels must be labels of the model, which 2 is not",
        ),
        ({"data_resampling": {"order": 3, "separate_z_threshold": 0}}, "separate_z_threshold"),
        (ct(lower=float("-inf")), r"channels\.0\.normalisation\.lower"),
        (ct(upper=float("inf")), r"channels\.0\.normalisation\.upper"),
        (ct(mean=float("nan")), r"channels\.0\.normalisation\.mean"),
        (ct(lower=1500.0, upper=-900.0), "lower must be below upper"),
        (ct(lower=100.0, upper=100.0), "lower must be below upper"),
        (ct(std=0.0), "std must fit the range from lower to upper, 2400"),
        (ct(std=-300.0), "std must fit"),
        (ct(std=1e8), "std must fit"),
        (ct(mean=1e6), "mean must lie between lower and upper"),
        (labels((0, "a"), (256, "b")), r"labels\.1\.value: .* 255, found 256"),
        (labels((0, "a"), (1, "b"), (1, "c")), "values of labels must differ"),
        (labels((0, "a"), (1, "b"), (2, "b")), "names of labels must differ"),
        (labels((1, "a"), (0, "b")), "labels must begin with the background, value 0"),
        (labels((1, "a"), (0, "b"), regions=True), "labels of regions must be above 0"),
        (labels((0, "a"), (1, "x" * 5000)), r"labels\.1\.name: .* at most 100 characters"),
        (model(file="x" * 5000), r"models\.0\.file: .* at most 200 characters"),
        (model(file="a\x00.onnx"), r"models\.0\.file: must be printable"),
        (model(file="/etc/passwd.onnx"), "must be the plain name of a file that ends in .onnx"),
        (model(file="..\\a.onnx"), "must be the plain name"),
        (model(file=".onnx"), "must be the plain name"),
        (model(file="network.xml"), "must be the plain name"),
        (model(file="fold_1_fp32.onnx"), "files of models must differ"),
        (model(fold="1"), "folds of one precision must differ"),
        (model(sha256="0"), r"models\.0\.sha256"),
        ({"title": "t" * 5000}, "title: .* at most 1000 characters"),
        ({"warning": "a\x1b[2J"}, "warning: must be printable"),
        ({"versions": {"x": "y" * 5000}}, r"versions\.x"),
    ],
)
def test_broken_manifest_names_the_key(tmp_path: Path, change: Change, message: str) -> None:
    whole = document(tmp_path)
    save(tmp_path, whole | (change(whole) if callable(change) else change))
    with pytest.raises(WeightsError, match=message) as refusal:
        bundle.load_bundle(tmp_path)
    text = str(refusal.value)
    assert text.startswith(f"{tmp_path / 'manifest.json'}: ")
    assert text.endswith("; export the model again")
    assert text.isprintable()
    assert len(text) < 600


def test_labels_that_a_model_knows_may_be_named(tmp_path: Path) -> None:
    """Painted ones, right ones of pairs, and those that regions are made of, if they are noted."""
    pair = [{"value": 0, "name": "b"}, {"value": 1, "name": "l+r", "right": 2}]
    regions = [{"value": 1, "name": "all", "members": [1, 2]}, {"value": 3, "name": "x"}]
    noted = [regions[0], regions[1] | {"members": [3]}]
    whole = document(tmp_path)

    def read(labels: list[dict[str, Any]], named: int) -> None:
        change = {"labels": labels, "regions": labels[0]["value"] == 1, **keep_largest([named])}
        parse_manifest(json.dumps(whole | change), source="it")

    read(pair, 2)
    read(noted, 2)
    read(regions, 7)
    for labels in (pair, noted):
        with pytest.raises(WeightsError, match="labels of the model, which 7 is not"):
            read(labels, 7)


def test_a_manifest_without_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b" " * (1 << 21))
    with pytest.raises(WeightsError, match="expected at most 262144 bytes, found 262145"):
        bundle.load_bundle(tmp_path)


def test_a_network_with_the_right_hash_is_checked_all_the_same(tmp_path: Path) -> None:
    whole = document(tmp_path)
    write_pointwise(tmp_path / "fold_1_fp32.onnx", PATCH, (1.0, 2.0, 3.0))
    data = (tmp_path / "fold_1_fp32.onnx").read_bytes()
    whole["models"][1]["sha256"] = hashlib.sha256(data).hexdigest()
    with pytest.raises(WeightsError, match=r"fold_1_fp32\.onnx: .* 'logits' float32 1×3×8×16×16"):
        bundle.load_bundle(save(tmp_path, whole))


def test_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "weights"
    inside.mkdir()
    values = document(inside)
    (tmp_path / "fold_0_fp32.onnx").write_bytes(b"network 0")
    values["models"][0]["file"] = "../fold_0_fp32.onnx"
    with pytest.raises(WeightsError, match=r"models\.0\.file: must be the plain name of a file"):
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


@pytest.mark.parametrize(
    "run", [{"time_limit_s": "60"}, {"time_limit_s": 1e10}, {"mirroring": "no"}]
)
def test_a_runs_defaults_are_numbers_and_truths(tmp_path: Path, run: dict[str, Any]) -> None:
    (key,) = run
    with pytest.raises(WeightsError, match=rf"run\.{key}: Input should be"):
        bundle.load_bundle(save(tmp_path, document(tmp_path) | {"run": run}))
