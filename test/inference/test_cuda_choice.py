"""The arithmetic on a GPU: which files, casts or none, TF32 or not, and the user's options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_device import FakeDevice, install
from nnunet_oracle import CT, Recipe, manifest_of
from onnx import TensorProto, helper, numpy_helper
from small_onnx import write_pointwise

from oarseg.errors import InputError
from oarseg.inference.engines.choice import open_engines, open_reference
from oarseg.inference.engines.cuda_choice import (
    CudaForm,
    choose_form,
    is_measured,
    reference_form,
)
from oarseg.inference.engines.cuda_options import OPTIONS_VARIABLE, asked_options
from oarseg.model.bundle import Bundle
from oarseg.model.entries.networks import Arithmetic, ModelFile, Parity, Precision, Runtime
from oarseg.model.manifest import Exactness, Manifest

PATCH = (4, 6, 8)
OURS = {"cudnn_conv_algo_search": "EXHAUSTIVE"}


@pytest.fixture(autouse=True)
def _nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OPTIONS_VARIABLE, raising=False)


def files(*precisions: Precision) -> tuple[ModelFile, ...]:
    return tuple(
        ModelFile(f"fold_{fold}_{precision}.onnx", "0" * 64, fold, precision)
        for fold in ("0", "1")
        for precision in precisions
    )


def manifest(*precisions: Precision, parity: tuple[Parity, ...] = ()) -> Manifest:
    recipe = Recipe((1.0, 1.0, 1.0), PATCH, (CT,), {"background": 0, "s1": 1})
    return replace(manifest_of(recipe, files(*precisions)), parity=parity)


def measured(
    precision: Precision,
    arithmetic: Arithmetic,
    *,
    runtime: Runtime = "cuda",
    agreement: float = 1.0,
    dice: float = 1.0,
    folds: tuple[str, ...] = ("0", "1"),
) -> tuple[Parity, ...]:
    return tuple(
        Parity(f"fold_{n}_{precision}.onnx", "x", 6, 0.1, agreement, dice, arithmetic, runtime)
        for n in folds
    )


BOTH: tuple[Precision, ...] = ("fp32", "fp16")


@pytest.mark.parametrize("exactness", ["exact", "fast"])
def test_half_precision_is_taken_without_casts_and_with_tensor_cores(exactness: Exactness) -> None:
    form = choose_form(manifest(*BOTH), exactness)
    assert form == CudaForm("fp16", True, {**OURS, "use_tf32": "1"})
    assert form.arithmetic == "float16"
    assert form.text == "fp16, normalised in half precision"


@pytest.mark.parametrize(
    ("runtime", "precision", "lean"), [("onnxruntime", "fp16", False), ("cuda", "fp32", False)]
)
@pytest.mark.parametrize(("agreement", "dice"), [(0.989, 1.0), (1.0, 0.979)])
def test_what_the_export_found_below_the_bar_is_not_taken(
    runtime: Runtime, precision: Precision, lean: bool, agreement: float, dice: float
) -> None:
    figures = measured("fp16", "f16", runtime=runtime, agreement=agreement, dice=dice)
    form = choose_form(manifest(*BOTH, parity=figures), "exact")
    assert (form.precision, form.lean) == (precision, lean)
    # Without float32 files there is nothing else to take; the casts come back.
    only = choose_form(manifest("fp16", parity=figures), "exact")
    assert (only.precision, only.lean) == ("fp16", False)


def test_at_the_bar_half_precision_is_taken() -> None:
    figures = measured("fp16", "f16", agreement=0.99, dice=0.98)
    assert choose_form(manifest(*BOTH, parity=figures), "exact").precision == "fp16"


@pytest.mark.parametrize(
    ("exactness", "parity", "arithmetic", "known"),
    [
        ("exact", (), "float32", True),
        ("fast", (), "tf32", False),
        ("fast", measured("fp32", "tf32"), "tf32", True),
        ("fast", measured("fp32", "tf32", folds=("0",)), "tf32", False),
        ("fast", measured("fp32", "tf32", dice=0.99), "float32", True),
        ("fast", measured("fp32", "tf32", agreement=0.998), "float32", True),
    ],
)
def test_tf32_is_an_arithmetic_of_its_own(
    exactness: Exactness, parity: tuple[Parity, ...], arithmetic: str, known: bool
) -> None:
    described = manifest("fp32", parity=parity)
    form = choose_form(described, exactness)
    assert form.arithmetic == arithmetic
    assert form.options["use_tf32"] == ("1" if arithmetic == "tf32" else "0")
    assert form.text == f"fp32, TF32 {'on' if arithmetic == 'tf32' else 'off'}"
    assert is_measured(described, form) == known


@pytest.mark.parametrize(
    ("parity", "known"),
    [
        ((), False),
        (measured("fp16", "f16"), True),
        (measured("fp16", "f16", folds=("1",)), False),
        # The CPU's figures say that the graph is right, and nothing of the GPU's kernels.
        (measured("fp16", "f16", runtime="onnxruntime"), False),
    ],
)
def test_half_precision_is_known_where_the_export_ran_it_on_a_gpu(
    parity: tuple[Parity, ...], known: bool
) -> None:
    described = manifest(*BOTH, parity=parity)
    assert is_measured(described, choose_form(described, "exact")) == known


def test_what_others_are_judged_by_is_float32_whatever_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(OPTIONS_VARIABLE, '{"use_tf32": true, "fuse_conv_bias": 1}')
    form = reference_form(manifest(*BOTH))
    assert form == CudaForm("fp32", False, {**OURS, "use_tf32": "0", "fuse_conv_bias": "1"})
    assert reference_form(manifest("fp16")) is None


def test_the_environment_comes_before_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": 1, "gpu_mem_limit": 1 << 33}
    monkeypatch.setenv(OPTIONS_VARIABLE, json.dumps(asked))
    form = choose_form(manifest("fp32"), "exact")
    assert form.options == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "1",
        "gpu_mem_limit": str(1 << 33),
    }
    # Named as what it is then, and compared with float32.
    assert form.arithmetic == "tf32"
    assert not is_measured(manifest("fp32"), form)


@pytest.mark.parametrize("text", ["", "  ", "{}"])
def test_nothing_is_asked_for(text: str) -> None:
    assert asked_options({OPTIONS_VARIABLE: text}) == asked_options({}) == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("EXHAUSTIVE", "a JSON object of at most 10000 characters, found 'EXHAUSTIVE'"),
        ("[1]", "a JSON object, found '[1]'"),
        ("null", "a JSON object, found 'null'"),
        ("NaN", "a JSON object, found 'NaN'"),
        ("[" * 9_000, "a JSON object of at most"),
        ('{"use_tf32": ' * 700 + "0" + "}" * 700, "0 or 1 for use_tf32, found a list or an object"),
        (" " * 10_000 + "{}", "a JSON object of at most 10000 characters"),
        ('{"device_id": 1}', "options out of arena_extend_strategy, "),
        ('{"user_compute_stream": "1"}', "found 'user_compute_stream'"),
        ('{"use_tf32": 2}', "0 or 1 for use_tf32, found 2"),
        ('{"use_tf32": null}', "0 or 1 for use_tf32, found None"),
        ('{"use_tf32": 1.0}', "0 or 1 for use_tf32, found 1.0"),
        ('{"use_tf32": [1]}', "0 or 1 for use_tf32, found a list or an object"),
        ('{"use_tf32": {"a": 1}}', "0 or 1 for use_tf32, found a list or an object"),
        ('{"use_tf32": 0, "use_tf32": 1}', "each option once, found 'use_tf32'"),
        ('{"cudnn_conv_algo_search": "exhaustive"}', "EXHAUSTIVE or HEURISTIC or DEFAULT"),
        ('{"gpu_mem_limit": 0}', "a number of bytes for gpu_mem_limit, found 0"),
        ('{"gpu_mem_limit": -1}', "a number of bytes for gpu_mem_limit, found -1"),
        ('{"gpu_mem_limit": "8 GB"}', "a number of bytes for gpu_mem_limit, found '8 GB'"),
        ('{"gpu_mem_limit": "²"}', r"a number of bytes for gpu_mem_limit, found '\xb2'"),
        ('{"gpu_mem_limit": 1' + "0" * 30 + "}", "a number of bytes for gpu_mem_limit, found 10"),
        ('{"gpu_mem_limit": 1' + "0" * 9_000 + "}", "a JSON object of at most 10000 characters"),
    ],
)
def test_a_bad_option_is_one_sentence(text: str, found: str) -> None:
    with pytest.raises(InputError) as refusal:
        asked_options({OPTIONS_VARIABLE: text})
    message = str(refusal.value)
    assert message.startswith(f"{OPTIONS_VARIABLE}: expected ")
    assert found in message
    assert message.endswith("; correct it, or leave it unset")
    assert "\n" not in message
    assert len(message) < 400


def half_network(path: Path, bias: float) -> None:
    """A convolution and a normalisation as ``oarseg export`` writes them in half precision."""
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=half),
        helper.make_node("Conv", ["half", "w", "b"], ["conv"], kernel_shape=[1, 1, 1]),
        helper.make_node("Cast", ["conv"], ["wide"], to=single),
        helper.make_node("InstanceNormalization", ["wide", "scale", "shift"], ["norm"]),
        helper.make_node("Cast", ["norm"], ["narrow"], to=half),
        helper.make_node("Cast", ["narrow"], ["logits"], to=single),
    ]
    arrays: dict[str, Any] = {
        "w": np.array([1, -1], np.float16).reshape(2, 1, 1, 1, 1),
        "b": np.zeros(2, np.float16),
        "scale": np.ones(2, np.float32),
        "shift": np.array([bias, 0], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info("image", single, (1, 1, *PATCH))],
        [helper.make_tensor_value_info("logits", single, (1, 2, *PATCH))],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    for fold in (0, 1):
        half_network(tmp_path / f"fold_{fold}_fp16.onnx", 0.5 * fold)
        write_pointwise(tmp_path / f"fold_{fold}_fp32.onnx", PATCH, (1.0, -1.0))
    return Bundle(tmp_path, manifest(*BOTH), "0" * 64)


def test_the_choice_reaches_the_library_and_the_report(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPTIONS_VARIABLE, '{"gpu_mem_limit": 123456789}')
    device = FakeDevice()
    install(monkeypatch, device)
    opened = open_engines(bundle, device="cuda", threads=1)
    assert opened.choice.arithmetic == "float16"
    assert opened.choice.reason == "the GPU works; fp16, normalised in half precision"
    assert opened.choice.options == {**OURS, "use_tf32": "1", "gpu_mem_limit": "123456789"}
    assert not opened.measured
    assert opened.choice.options.items() <= device.options.items()
    exact = open_reference(bundle, threads=1)
    assert (exact.choice.arithmetic, exact.measured) == ("float32", True)
    assert device.options["use_tf32"] == "0"


def test_a_bad_option_is_told_before_any_gpu_is_looked_for(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPTIONS_VARIABLE, "fast, please")
    with pytest.raises(InputError, match=OPTIONS_VARIABLE):
        open_engines(bundle, threads=1)
    assert open_engines(bundle, device="cpu", threads=1).choice.device == "cpu"
