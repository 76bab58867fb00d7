"""An ONNX file is refused unless it is a network as export writes it; nothing of it has run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nnunet_oracle as oracle
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_onnx import pointwise

from oarseg.errors import WeightsError
from oarseg.model import bundle
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import Manifest
from oarseg.model.network import check_network

ROOT = Path(__file__).resolve().parents[2]
PATCH = (4, 6, 8)
Change = Callable[[onnx.ModelProto], None]


def described(patch: tuple[int, int, int] = PATCH) -> Manifest:
    """A manifest of one channel and two labels."""
    recipe = oracle.Recipe((1.0, 1.0, 1.0), patch, (oracle.CT,), {"background": 0, "s1": 1})
    return oracle.manifest_of(recipe, (ModelFile("a.onnx", "0" * 64, "0", "fp32"),))


def array(name: str, kind: int, shape: tuple[object, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def check(folder: Path, data: bytes) -> None:
    path = folder / "a.onnx"
    path.write_bytes(data)
    check_network(path, described())


def refuse(folder: Path, change: Change, message: str) -> None:
    model = pointwise(PATCH, (2.0, -1.0))
    change(model)
    with pytest.raises(WeightsError, match=message) as refusal:
        check(folder, model.SerializeToString())
    assert str(refusal.value).startswith(f"{folder / 'a.onnx'}: ")
    assert len(str(refusal.value)) < 500
    assert "\n" not in str(refusal.value)


def test_shipped_networks_are_accepted() -> None:
    assert len(bundle.load_bundle(ROOT / "weights").manifest.models) == 6


def test_a_plain_network_is_accepted(tmp_path: Path) -> None:
    check(tmp_path, pointwise(PATCH, (2.0, -1.0)).SerializeToString())


def endless_loop(model: onnx.ModelProto) -> None:
    """``Loop`` without a trip count, whose condition stays true."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [array("count", TensorProto.INT64, ()), array("go", TensorProto.BOOL, ())],
        [array("on", TensorProto.BOOL, ())],
    )
    model.graph.node.append(helper.make_node("Loop", ["", "yes"], [], body=body))


def untold_operator(name: str, **attributes: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node(name, ["logits"], ["more"], **attributes))

    return change


def own_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def another_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def second_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def function(model: onnx.ModelProto) -> None:
    model.functions.add().name = "f"


def training(model: onnx.ModelProto) -> None:
    model.training_info.add().initialization.name = "t"


def sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().dims.append(1)


def quantised(model: onnx.ModelProto) -> None:
    model.graph.quantization_annotation.add().tensor_name = "w"


def external(model: onnx.ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="secrets.bin")


def external_entry_only(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="secrets.bin")


def huge_constant(model: onnx.ModelProto) -> None:
    model.graph.initializer.add(name="c", data_type=TensorProto.FLOAT, dims=[1 << 24, 1 << 24])


def negative_dimension(model: onnx.ModelProto) -> None:
    model.graph.initializer.add(name="c", data_type=TensorProto.FLOAT, dims=[-1])


def data_twice(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].float_data.extend([1.0, 2.0])


def weights_of_type(kind: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[1].data_type = kind

    return change


def input_of(kind: int, shape: tuple[object, ...] = (1, 1, *PATCH)) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].CopyFrom(array("image", kind, shape))

    return change


def output_of(kind: int, shape: tuple[object, ...] = (1, 2, *PATCH)) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.output[0].CopyFrom(array("logits", kind, shape))

    return change


def two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(array("second", TensorProto.FLOAT, (1,)))


def attribute(name: str, value: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        kept = [a for a in model.graph.node[0].attribute if a.name != name]
        del model.graph.node[0].attribute[:]
        model.graph.node[0].attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def a_tensor_attribute(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "t")
    attribute("value", tensor)(model)


def doubled(times: int) -> Change:
    """The channels doubled by ``Concat`` so many times: 2^times from a few bytes."""

    def change(model: onnx.ModelProto) -> None:
        name = "image"
        for number in range(times):
            node = helper.make_node("Concat", [name, name], [f"c{number}"], axis=1)
            model.graph.node.append(node)
            name = f"c{number}"

    return change


def grown(model: onnx.ModelProto) -> None:
    """A transposed convolution that makes more than the patch."""
    weight = numpy_helper.from_array(np.ones((2, 1, 2, 2, 2), np.float32), "up")
    model.graph.initializer.append(weight)
    node = helper.make_node("ConvTranspose", ["logits", "up"], ["more"], strides=[2, 2, 2])
    model.graph.node.append(node)


def made_twice(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[0])


def of_nothing(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def no_nodes(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


def another_shape_declared(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["logits"], ["more"]))
    model.graph.value_info.append(array("more", TensorProto.FLOAT, (1, 3, *PATCH)))


FLOAT = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (endless_loop, "the operator 'Loop' with the attribute 'body' of a kind"),
        (untold_operator("Loop"), "found the operator 'Loop', where only Add, "),
        (untold_operator("If"), "the operator 'If'"),
        (untold_operator("Scan"), "the operator 'Scan'"),
        (untold_operator("ConstantOfShape"), "the operator 'ConstantOfShape'"),
        (untold_operator("x" * 5000), r"the operator 'x{40}'…,"),
        (untold_operator("a\nb"), r"the operator 'a\\nb'"),
        (own_domain, "the operator 'Conv' of a domain of its own"),
        (another_opset, "operator sets '' 99 instead of ONNX's 17 or 18"),
        (second_opset, "operator sets '' 17, 'com.microsoft' 1 instead"),
        (function, "field 25 of file, which export does not write"),
        (training, "field 20 of file"),
        (sparse, "field 15 of graph"),
        (quantised, "field 14 of graph"),
        (external, "weights 'w' that lie in another file"),
        (external_entry_only, "weights 'w' that lie in another file"),
        (huge_constant, "0 bytes for the weights 'c', which are float32 16777216×16777216"),
        (negative_dimension, r"'c' of the shape \(-1,\)"),
        (data_twice, "16 bytes for the weights 'w'"),
        (weights_of_type(TensorProto.INT32), "'b' of element type 6 instead of float32 or"),
        (weights_of_type(TensorProto.DOUBLE), "'b' of element type 11"),
        (weights_of_type(TensorProto.FLOAT16), "8 bytes for the weights 'b'"),
        (input_of(TensorProto.INT32), "'image' of element type 6"),
        (input_of(TensorProto.FLOAT16), "'image' float16 1×1×4×6×8 → 'logits'"),
        (input_of(FLOAT, (1, 2, *PATCH)), "where the manifest has 'image' float32 1×1×4×6×8"),
        (input_of(FLOAT, (1, 1, "n", 6, 8)), r"'image' of the shape \(1, 1, 0, 6, 8\)"),
        (output_of(TensorProto.DOUBLE), "'logits' of element type 11"),
        (output_of(FLOAT, (1, 3, *PATCH)), "'logits' float32 1×3×4×6×8 where the manifest"),
        (two_inputs, "'image' float32 1×1×4×6×8, 'second' float32 1 →"),
        (attribute("pads", [0, 0, 0, 1 << 40, 0, 0]), "Conv of float32"),
        (attribute("strides", [0, 1, 1]), "Conv of float32"),
        (attribute("dilations", [-1, 1, 1]), "Conv of float32"),
        (attribute("kernel_shape", [3, 3, 3]), "Conv of float32"),
        (attribute("group", 3), "Conv of float32"),
        (attribute("auto_pad", "SAME_UPPER"), "Conv of float32 .*SAME_UPPER"),
        (attribute("surprise", 1), "Conv of float32 .*surprise=1"),
        (a_tensor_attribute, "the attribute 'value' of a kind"),
        (doubled(40), "too large for the patch"),
        (grown, "'more' float32 1×1×8×12×16, larger than the patch"),
        (made_twice, "the array 'logits' made twice"),
        (of_nothing, "Conv of 'nowhere', which is not there"),
        (no_nodes, "'logits' made by nothing where it says float32 1×2×4×6×8"),
        (another_shape_declared, "'more' float32 1×2×4×6×8 where it says float32 1×3×4×6×8"),
    ],
)
def test_what_export_does_not_write_is_refused(
    tmp_path: Path, change: Change, message: str
) -> None:
    refuse(tmp_path, change, message)


def test_a_graph_given_twice_is_refused(tmp_path: Path) -> None:
    """Protobuf merges the two; every reader must see the same network."""
    data = pointwise(PATCH, (2.0, -1.0)).SerializeToString()
    with pytest.raises(WeightsError, match="found ir_version twice"):
        check(tmp_path, data + data)


def test_any_part_of_a_file_is_refused(tmp_path: Path) -> None:
    data = pointwise(PATCH, (2.0, -1.0)).SerializeToString()
    for length in range(len(data)):
        with pytest.raises(WeightsError, match="export it again"):
            check(tmp_path, data[:length])


@pytest.mark.parametrize(
    "data",
    [b"ORTM" * 10, b"\xff" * 100, b"\x0b" * 10, b"\x12\xff\xff\xff\xff\x0f", b"<?xml?>"],
)
def test_other_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(WeightsError, match="not a usable ONNX file"):
        check(tmp_path, data)


def test_empty_fields_without_end_are_refused(tmp_path: Path) -> None:
    """Half a million nodes without content: 1 MB."""
    nodes = b"\x0a\x00" * 500_000
    size = len(nodes)
    length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21])
    with pytest.raises(WeightsError, match="more than 200000 fields"):
        check(tmp_path, b"\x3a" + length + nodes)


def test_each_operator_has_the_shape_that_onnx_gives_it(tmp_path: Path) -> None:
    """A network with every operator, against ONNX's own shape inference."""
    draw = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w1"], ["a"], strides=[1, 2, 2], pads=[0, 1, 1, 0, 1, 1]),
        node("InstanceNormalization", ["a", "c4", "c4"], ["b"], epsilon=1e-5),
        node("LeakyRelu", ["b"], ["c"], alpha=0.01),
        node("Conv", ["c", "w2", "c4"], ["d"], group=2, dilations=[1, 1, 2], pads=[0] * 6),
        node("AveragePool", ["c"], ["p"], kernel_shape=[2, 1, 1], strides=[2, 1, 1]),
        node("ConvTranspose", ["p", "w3"], ["u"], strides=[2, 2, 2], output_padding=[0, 0, 0]),
        node("Cast", ["u"], ["h"], to=TensorProto.FLOAT16),
        node("Cast", ["h"], ["f"], to=TensorProto.FLOAT),
        node("Identity", ["c4"], ["shared"]),
        node("BatchNormalization", ["f", "shared", "c4", "c4", "c4"], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("Concat", ["r", "image"], ["k"], axis=1),
        node("Conv", ["k", "w4"], ["s"], kernel_shape=[1, 1, 1]),
        node("Add", ["s", "s"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "all",
        [array("image", FLOAT, (1, 1, *PATCH))],
        [array("logits", FLOAT, (1, 2, *PATCH))],
        [
            *(weight("w1", 4, 1, 1, 3, 3), weight("w2", 4, 2, 1, 1, 2), weight("c4", 4)),
            *(weight("w3", 4, 4, 2, 2, 2), weight("w4", 2, 5, 1, 1, 1)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    assert len(inferred.graph.value_info) == len(nodes) - 1
    check(tmp_path, inferred.SerializeToString())


def test_a_manifest_of_other_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(pointwise(PATCH, (1.0, 2.0, 3.0)).SerializeToString())
    with pytest.raises(WeightsError, match="'logits' float32 1×3×4×6×8 where the manifest has"):
        check_network(path, described())
    with pytest.raises(WeightsError, match="No such file"):
        check_network(tmp_path / "b.onnx", described())
