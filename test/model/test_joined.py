"""All folds in one graph answer as each does alone, and hold no weight a second time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from small_onnx import pointwise, write_pointwise

from oarseg.model.joined import JoinedNetwork, join_networks
from oarseg.model.onnx_file import OPSETS

ROOT = Path(__file__).resolve().parents[2]
PATCH = (4, 6, 8)
SHIPPED = (32, 64, 64)
FOLDER = "session.model_external_initializers_file_folder_path"
CPU = ["CPUExecutionProvider"]
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def shipped(precision: str) -> list[Path]:
    return sorted((ROOT / "weights").glob(f"*_{precision}.onnx"))


def image(channels: int, patch: Sequence[int]) -> NDArray[np.float32]:
    draw = np.random.default_rng(0)
    return draw.standard_normal((1, channels, *patch)).astype(np.float32)


def answers(joined: JoinedNetwork, tile: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(FOLDER, str(joined.folder))
    session = onnxruntime.InferenceSession(joined.model, options, providers=CPU)
    found: list[NDArray[np.float32]] = session.run(list(joined.outputs), {"image": tile})
    return found


def alone(path: Path, tile: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(str(path), providers=CPU)
    found: NDArray[np.float32] = session.run(None, {"image": tile})[0]
    return found


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_each_fold_answers_to_the_bit_as_alone(precision: str) -> None:
    paths, tile = shipped(precision), image(2, SHIPPED)
    joined = join_networks(paths, SHIPPED)
    assert joined.outputs == ("0/logits", "1/logits", "2/logits")
    for path, found in zip(paths, answers(joined, tile), strict=True):
        assert np.array_equal(found, alone(path, tile))


@pytest.mark.parametrize("folds", [1, 2, 3, 5])
def test_the_mean_of_some_folds(tmp_path: Path, folds: int) -> None:
    paths = [tmp_path / f"fold_{fold}.onnx" for fold in range(5)]
    for fold, path in enumerate(paths):
        write_pointwise(path, PATCH, (1.0 + fold, -2.0 * fold))
    tile = image(1, PATCH)
    joined = join_networks(paths[:folds], PATCH, mean=True)
    (found,) = answers(joined, tile)
    expected = np.mean([alone(path, tile) for path in paths[:folds]], axis=0)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_large_weights_stay_in_the_folds_files() -> None:
    paths = shipped("fp32")
    joined = join_networks(paths, SHIPPED)
    model = onnx.load_from_string(joined.model)
    weights = model.graph.initializer
    inside = sum(len(weight.raw_data) for weight in weights)
    outside = sum(
        int(entry.value) for w in weights for entry in w.external_data if entry.key == "length"
    )
    total = sum(path.stat().st_size for path in paths)
    assert inside < 0.01 * total < 0.9 * total < outside
    assert {e.value for w in weights for e in w.external_data if e.key == "location"} == {
        path.name for path in paths
    }


def test_files_that_are_links_into_several_folders(tmp_path: Path) -> None:
    """As caches of downloaded models lay them out."""
    links = []
    for fold, path in enumerate(shipped("fp32")[:2]):
        there = tmp_path / "blobs" / str(fold) / f"{fold}"
        there.parent.mkdir(parents=True)
        there.write_bytes(path.read_bytes())
        links.append(tmp_path / path.name)
        links[-1].symlink_to(there)
    tile = image(2, SHIPPED)
    for path, found in zip(links, answers(join_networks(links, SHIPPED), tile), strict=True):
        assert np.array_equal(found, alone(path, tile))


def test_weights_in_pieces_and_other_operator_sets(tmp_path: Path) -> None:
    """As torch's older exporter and hand-made files have them."""
    paths = [tmp_path / "raw.onnx", tmp_path / "floats.onnx"]
    model = pointwise(PATCH, (2.0, -1.0))
    model.opset_import[0].version = OPSETS[-1]
    onnx.save(model, paths[0])
    model = pointwise(PATCH, (3.0, 0.5))
    for weight in model.graph.initializer:
        numbers = numpy_helper.to_array(weight).ravel()
        weight.ClearField("raw_data")
        weight.float_data.extend(numbers.tolist())
    onnx.save(model, paths[1])
    tile = image(1, PATCH)
    for path, found in zip(paths, answers(join_networks(paths, PATCH), tile), strict=True):
        assert np.array_equal(found, alone(path, tile))


def casts(joined: JoinedNetwork) -> int:
    nodes = onnx.load_from_string(joined.model).graph.node
    return sum(node.op_type == "Cast" for node in nodes)


def test_the_shipped_networks_without_the_conversions_round_normalisations() -> None:
    paths, tile = shipped("fp16")[:1], image(2, SHIPPED)
    plain, lean = (join_networks(paths, SHIPPED, lean=lean) for lean in (False, True))
    # Those of the image and of the logits are left.
    assert (casts(plain), casts(lean)) == (30, 2)
    # For a CPU, ONNX Runtime puts the same conversions where they were.
    (before,), (after,) = answers(plain, tile), answers(lean, tile)
    assert np.array_equal(before.argmax(1), after.argmax(1))
    assert np.abs(before - after).max() < 0.05


def normalising(scale: float, *, also: bool = False) -> onnx.ModelProto:
    """image → half → float32, normalised → half → logits; ``also``: float32 is used besides."""
    shape = (1, 2, *PATCH)
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=HALF),
        helper.make_node("Cast", ["half"], ["wide"], to=FLOAT),
        helper.make_node("InstanceNormalization", ["wide", "scale", "bias"], ["norm"]),
        helper.make_node("Cast", ["norm"], ["narrow"], to=HALF),
        helper.make_node("Relu", ["narrow"], ["relu"]),
        helper.make_node("Cast", ["relu"], ["end" if also else "logits"], to=FLOAT),
    ]
    if also:
        nodes.append(helper.make_node("Add", ["end", "norm"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "norm",
        [helper.make_tensor_value_info("image", FLOAT, shape)],
        [helper.make_tensor_value_info("logits", FLOAT, shape)],
        [
            numpy_helper.from_array(np.full(2, scale, np.float32), "scale"),
            numpy_helper.from_array(np.zeros(2, np.float32), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    ("scale", "also", "left"),
    [
        (1.5, False, 2),
        (1.0001, False, 4),  # no number of half precision
        (1e30, False, 4),
        (1.5, True, 4),  # float32 is wanted besides
    ],
)
def test_conversions_go_where_they_change_nothing(
    tmp_path: Path, scale: float, also: bool, left: int
) -> None:
    path, tile = tmp_path / "norm.onnx", image(2, PATCH)
    onnx.save(normalising(scale, also=also), path)
    joined = join_networks([path], PATCH, lean=True)
    assert casts(joined) == left
    if scale < 2:
        (found,) = answers(joined, tile)
        assert np.allclose(found, alone(path, tile), rtol=2e-3, atol=2e-3)


def test_normalisations_are_of_the_version_that_cuda_has_a_kernel_for() -> None:
    """ONNX Runtime has a CUDA kernel of InstanceNormalization's version 6 and of no newer one.

    Operator set 22 has a new version of it: the same network exported for that set would be
    normalised on the CPU, with a copy there and back each time (onnxruntime #26065).
    """

    def version(opset: int) -> int:
        return int(onnx.defs.get_schema("InstanceNormalization", opset).since_version)

    assert {version(opset) for opset in OPSETS} == {6}
    assert version(22) == 22
    for precision in ("fp32", "fp16"):
        joined = onnx.load_from_string(join_networks(shipped(precision), SHIPPED).model)
        assert {version(opset.version) for opset in joined.opset_import} == {6}
