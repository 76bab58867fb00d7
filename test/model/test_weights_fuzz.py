"""Whatever a manifest or a network says, it is read or refused in one sentence, and soon."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_onnx import pointwise, write_pointwise

from oarseg.errors import WeightsError
from oarseg.model.bundle import load_bundle
from oarseg.model.manifest import parse_manifest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = json.loads((ROOT / "weights/manifest.json").read_text())
PATCH = (4, 6, 8)
# Far above what any of them takes, far below what a user would take for a hang.
SECONDS = 10.0
VALUES = (
    *(None, True, False, 0, -1, 1, 2, 256, 10**9, -(10**30), 2**63, 10**400),
    *(0.5, -0.5, 1e-9, 1e300, float("nan"), float("inf"), float("-inf")),
    *("", "x", "x" * 5000, "a\nb", "../x.onnx", "1e999", "\ud800"),
    *([], [[]], [0], [0, 0, 0], [1, 2, 3, 4], {}, {"x": 1}),
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every value of a document by its path; of lists the first two entries only."""
    if path:
        yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*path, key))
    if isinstance(document, list):
        for index, value in enumerate(document[:2]):
            yield from places(value, (*path, index))


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The shipped manifest with another value at one place."""
    document: dict[str, Any] = copy.deepcopy(SHIPPED)
    parent: Any = document
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return document


def read_or_refuse(text: str) -> bool:
    """Whether a manifest is read; what refuses it is one short sentence."""
    start = time.monotonic()
    refusal, manifest = "", None
    try:
        manifest = parse_manifest(text, source="manifest.json")
    except WeightsError as error:
        refusal = str(error)
    assert time.monotonic() - start < SECONDS
    if manifest is None:
        assert refusal.isprintable()
        assert len(refusal) < 600
        return False
    assert len({label.value for label in manifest.labels}) == len(manifest.labels)
    for channel in manifest.channels:
        how = channel.normalisation
        assert how.scheme != "ct" or how.lower < how.upper
    return True


@pytest.mark.parametrize("path", list(places(SHIPPED)), ids=lambda p: ".".join(map(str, p)))
def test_any_value_in_any_place_is_read_or_refused(path: tuple[Any, ...]) -> None:
    read = [value for value in VALUES if read_or_refuse(json.dumps(changed(path, value)))]
    assert len(read) < len(VALUES)
    missing = changed(path, None)
    parent: Any = missing
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    read_or_refuse(json.dumps(missing))


def test_a_manifest_of_many_unknown_keys_is_refused_soon() -> None:
    assert not read_or_refuse(json.dumps({f"k{number}": 0 for number in range(20_000)}))
    assert not read_or_refuse('{"labels": [' + ",".join(["{}"] * 80_000) + "]}")


def network(values: dict[str, Any], data: bytes, folder: Path) -> bool:
    """Whether a folder with these bytes as its network is read."""
    (folder / "a.onnx").write_bytes(data)
    values["models"] = [
        {
            "file": "a.onnx",
            "sha256": hashlib.sha256(data).hexdigest(),
            "fold": "0",
            "precision": "fp32",
        }
    ]
    (folder / "manifest.json").write_text(json.dumps(values))
    start, refusal = time.monotonic(), ""
    try:
        load_bundle(folder)
    except WeightsError as error:
        refusal = str(error)
    assert time.monotonic() - start < SECONDS
    assert refusal.isprintable()
    assert len(refusal) < 700 + len(str(folder))
    return not refusal


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    """The shipped manifest for a network of one channel and two labels."""
    write_pointwise(tmp_path / "a.onnx", PATCH)
    document: dict[str, Any] = copy.deepcopy(SHIPPED)
    document |= {"channels": SHIPPED["channels"][:1], "labels": SHIPPED["labels"][:2]}
    return document | {"patch_size": PATCH, "parity": [], "postprocessing": []}


def test_any_byte_of_a_network_may_be_another(values: dict[str, Any], tmp_path: Path) -> None:
    whole = pointwise(PATCH, (2.0, -1.0)).SerializeToString()
    assert network(values, whole, tmp_path)
    draw = np.random.default_rng(0)
    for position in range(len(whole)):
        for byte in (whole[position] ^ 1 << int(draw.integers(8)), int(draw.integers(256))):
            data = whole[:position] + bytes([byte]) + whole[position + 1 :]
            network(values, data, tmp_path)
        cut = int(draw.integers(0, 12))
        network(values, whole[:position] + draw.bytes(3) + whole[position + cut :], tmp_path)


@pytest.mark.parametrize("operator", ["Loop", "If", "Scan", "Expand", "Tile", "Range", "Resize"])
def test_any_operator_that_is_not_known_is_refused(
    values: dict[str, Any], tmp_path: Path, operator: str
) -> None:
    model = pointwise(PATCH, (2.0, -1.0))
    model.graph.node[0].op_type = operator
    assert not network(values, model.SerializeToString(), tmp_path)


@pytest.mark.parametrize("kind", range(27))
def test_any_element_type_but_float32_is_refused(
    values: dict[str, Any], tmp_path: Path, kind: int
) -> None:
    shapes = {"image": (1, 1, *PATCH), "logits": (1, 2, *PATCH)}
    for name, shape in shapes.items():
        model = pointwise(PATCH, (2.0, -1.0))
        side = model.graph.input if name == "image" else model.graph.output
        side[0].CopyFrom(helper.make_tensor_value_info(name, kind, shape))
        accepted = network(values, model.SerializeToString(), tmp_path)
        assert accepted == (kind == TensorProto.FLOAT)


@pytest.mark.parametrize("length", [0, -1, 2, 1 << 31, 1 << 62])
def test_any_other_length_is_refused(values: dict[str, Any], tmp_path: Path, length: int) -> None:
    for number, axis in ((0, 0), (0, 4), (1, 1), (1, 2)):
        model = pointwise(PATCH, (2.0, -1.0))
        side: onnx.ValueInfoProto = [model.graph.input, model.graph.output][number][0]
        if side.type.tensor_type.shape.dim[axis].dim_value == length:
            continue
        side.type.tensor_type.shape.dim[axis].dim_value = length
        assert not network(values, model.SerializeToString(), tmp_path)
        weights = pointwise(PATCH, (2.0, -1.0))
        weights.graph.initializer[0].dims[axis] = length
        assert not network(values, weights.SerializeToString(), tmp_path) or length == 2
