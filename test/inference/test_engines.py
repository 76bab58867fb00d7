from __future__ import annotations

import importlib.util
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

import instruction_sets
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from fake_device import FakeDevice
from nnunet_oracle import CT, Recipe, manifest_of
from onnx import TensorProto, helper, numpy_helper
from small_onnx import write_pointwise

from oarseg.errors import ResourceError, WeightsError
from oarseg.inference.engines import choice as engines
from oarseg.inference.engines import cuda
from oarseg.inference.engines.buffers import allocate_tile
from oarseg.inference.engines.choice import open_engines
from oarseg.inference.engines.openvino import OpenVinoEngine, has_bf16
from oarseg.inference.half_precision import PlainArithmetic, half_arithmetic
from oarseg.model.bundle import Bundle
from oarseg.model.entries.networks import ModelFile, Parity
from oarseg.system.cpus import _cgroup_quota, available_cpus

PATCH = (3, 4, 5)
WEIGHTS = (2.0, -1.0)


def write_network(path: Path, patch: tuple[int, int, int] = PATCH) -> None:
    """logits[k] = WEIGHTS[k] · image + k."""
    write_pointwise(path, patch, WEIGHTS)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    files = []
    for fold in ("0", "1"):
        write_network(tmp_path / f"fold_{fold}.onnx")
        files.append(ModelFile(f"fold_{fold}.onnx", "0" * 64, fold, "fp32"))
    recipe = Recipe((1.0, 1.0, 1.0), PATCH, (CT,), {"background": 0, "s1": 1})
    return Bundle(tmp_path, manifest_of(recipe, tuple(files)), "0" * 64)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_engine_computes_its_network(bundle: Bundle, backend: engines.Backend) -> None:
    opened = open_engines(bundle, device="cpu", backend=backend, threads=1)
    assert [fold.name for fold in opened.take()] == ["fold_0.onnx", "fold_1.onnx"]
    assert (opened.choice.device, opened.choice.engine) == ("cpu", backend)
    image = np.linspace(-3, 3, 60, dtype=np.float32).reshape(1, 1, *PATCH)
    for fold in opened.take():
        expected = np.concatenate([2 * image, 1 - image], axis=1)
        assert np.allclose(fold(image), expected, atol=1e-6)
        first = fold(image).copy()
        assert np.array_equal(fold(image), first)


def write_many_classes(path: Path, classes: int) -> None:
    """logits[k] = a smooth function of the image, k and a border of one voxel."""
    draw = np.random.default_rng(0)
    shape = (classes, 1, 3, 3, 3)
    kernel = numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32), "w")
    bias = numpy_helper.from_array(draw.standard_normal(classes).astype(np.float32), "b")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["logits"], pads=[1] * 6)],
        "many",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 1, *PATCH))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, classes, *PATCH))],
        [kernel, bias],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)


@pytest.mark.parametrize("classes", [1, 8, 9, 31])
def test_classes_computed_in_pieces_are_the_same_classes(tmp_path: Path, classes: int) -> None:
    path = tmp_path / "many.onnx"
    write_many_classes(path, classes)
    image = np.random.default_rng(1).standard_normal((1, 1, *PATCH)).astype(np.float32)
    logits = np.full((1, classes, *PATCH), np.nan, np.float32)
    engine = OpenVinoEngine([path], image, logits, threads=1)
    assert len(engine._compiled.outputs) == -(-classes // 8)
    found = engine(image)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert np.allclose(found, session.run(None, {"image": image})[0], atol=1e-5)


def test_auto_takes_openvino_without_a_gpu_and_says_why(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("oarseg"), "propagate", True)
    with caplog.at_level(logging.INFO):
        choice = open_engines(bundle, threads=1).choice
    assert (choice.device, choice.engine) == ("cpu", "openvino")
    assert choice.reason == "no GPU: this onnxruntime has no CUDA provider; 1 thread(s); f32"
    assert caplog.messages == [f"device cpu, engine openvino: {choice.reason}"]


def test_auto_takes_onnxruntime_without_openvino(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert open_engines(bundle, threads=1).choice.engine == "onnxruntime"


def test_cuda_is_refused_without_a_gpu(bundle: Bundle) -> None:
    with pytest.raises(ResourceError) as refusal:
        open_engines(bundle, device="cuda")
    assert str(refusal.value) == (
        "--device cuda: expected a working CUDA GPU, found none (this onnxruntime has no CUDA "
        "provider); pass the GPU to the container or use --device cpu"
    )


def test_a_silent_fall_back_is_not_taken_for_cuda(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build with CUDA on a machine without: listed, and dropped when a session starts."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", FakeDevice())
    real = onnxruntime.InferenceSession

    def falls_back(path: str, options: object, providers: object) -> object:
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(ResourceError, match="could not start its CUDA provider"):
        open_engines(bundle, device="cuda")
    assert open_engines(bundle, threads=1).choice.device == "cpu"


def measured(*min_dice: float) -> tuple[Parity, ...]:
    return tuple(
        Parity(f"fold_{fold}.onnx", "patches", 6, 0.1, 0.99, dice, "bf16", "openvino")
        for fold, dice in enumerate(min_dice)
    )


@pytest.mark.parametrize(
    ("parity", "hardware", "expected", "known"),
    [
        (measured(0.996, 0.999), True, "bf16", True),
        (measured(0.996, 0.999), False, "f32", True),
        (measured(0.996, 0.994), True, "f32", True),
        # The export's CPU had no bfloat16: a case has to show that it does.
        (measured(0.999), True, "bf16", False),
        (measured(0.99), True, "f32", False),
        ((), True, "bf16", False),
    ],
)
def test_bfloat16_needs_the_hardware_and_no_figures_against_it(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    parity: tuple[Parity, ...],
    hardware: bool,
    expected: str,
    known: bool,
) -> None:
    monkeypatch.setattr(engines, "has_bf16", lambda: hardware)
    in_f32 = tuple(replace(figures, arithmetic="f32", min_dice=1.0) for figures in parity)
    manifest = replace(bundle.manifest, parity=(*in_f32, *parity))
    assert engines.fast_arithmetic(manifest) == expected
    assert engines.is_measured_in_bf16(manifest) == known


@pytest.mark.parametrize(
    ("agreement", "dice", "expected"),
    [(0.99995, 0.9995, "openvino"), (0.9998, 1.0, "onnxruntime"), (1.0, 0.998, "onnxruntime")],
)
def test_openvino_is_taken_only_if_the_export_found_it_good(
    bundle: Bundle, agreement: float, dice: float, expected: str
) -> None:
    ort = Parity("fold_0.onnx", "patches", 6, 0.1, 0.99, 0.9)
    found = Parity("fold_0.onnx", "patches", 6, 0.1, agreement, dice, "f32", "openvino")
    compared = replace(bundle, manifest=replace(bundle.manifest, parity=(ort, found)))
    choice = open_engines(compared, device="cpu", threads=1).choice
    assert choice.engine == expected
    assert ("differ from torch" in choice.reason) == (expected == "onnxruntime")


def test_what_this_cpu_says_of_bfloat16(bundle: Bundle) -> None:
    flags = instruction_sets.cpu_flags()
    if "ONEDNN_MAX_CPU_ISA" not in os.environ:
        assert has_bf16() >= bool(flags & {"avx512_bf16", "amx_bf16"})
    # Other CPUs may have it by a flag that the kernel does not list: OpenVINO then takes it.
    if has_bf16():
        core = openvino.Core()
        hint = {"INFERENCE_PRECISION_HINT": "bf16"}
        compiled = core.compile_model(bundle.folder / "fold_0.onnx", "CPU", hint)
        taken = compiled.get_property("INFERENCE_PRECISION_HINT")
        assert taken == openvino.Type.bf16


@pytest.mark.parametrize("figures", [(), (0.999, 0.999)])
def test_exact_is_float32_whatever_the_cpu_has(
    bundle: Bundle, bfloat16: bool, figures: tuple[float, ...]
) -> None:
    assert has_bf16() == bfloat16
    compared = replace(bundle, manifest=replace(bundle.manifest, parity=measured(*figures)))
    opened = open_engines(compared, device="cpu", threads=1)
    assert (opened.choice.arithmetic, opened.measured) == ("float32", True)
    image = np.full((1, 1, *PATCH), 1 + 1 / 512, np.float32)
    for fold in opened.take():
        assert np.allclose(fold(image)[0, 0], 2 + 1 / 256, rtol=1e-6, atol=0)


@pytest.mark.parametrize("figures", [(), (0.999, 0.999)])
def test_fast_is_bfloat16_where_the_cpu_has_it(
    bundle: Bundle, bfloat16: bool, figures: tuple[float, ...]
) -> None:
    assert has_bf16() == bfloat16
    compared = replace(bundle, manifest=replace(bundle.manifest, parity=measured(*figures)))
    opened = open_engines(compared, exactness="fast", device="cpu", backend="openvino", threads=1)
    assert opened.choice.reason.endswith("; bf16" if bfloat16 else "; f32")
    assert opened.choice.arithmetic == ("bfloat16" if bfloat16 else "float32")
    assert opened.measured == (not bfloat16 or bool(figures))
    # 1 + 1/512 lies between two values of bfloat16, whose step there is 1/128.
    image = np.full((1, 1, *PATCH), 1 + 1 / 512, np.float32)
    for fold in opened.take():
        doubled = fold(image)[0, 0]
        assert np.allclose(doubled, 2 + 1 / 256, rtol=1 / 256 if bfloat16 else 1e-6, atol=0)
        if bfloat16 and not instruction_sets.bfloat16_in_hardware():
            assert (doubled == 2).all()  # as emulated; a CPU's own may keep a part in float32


def test_without_cupy_the_gpu_is_not_taken(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ResourceError, match="CuPy cannot be loaded"):
        open_engines(bundle, device="cuda")


@pytest.mark.parametrize(
    "fault",
    [
        "raise FileNotFoundError(2, 'No usable temporary directory found in', ['/tmp'])",
        "raise RuntimeError('CUDA driver version is insufficient')",
        "raise PermissionError(13, 'Permission denied', '/nonexistent')",
        "import absent_library",
        "def RawModule(**_): raise OSError(30, 'Read-only file system')",
        "cuda = None",
    ],
)
def test_cupy_that_fails_in_any_way_gives_the_cpu_and_says_why(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (tmp_path / "cupy.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    choice = open_engines(bundle, threads=1).choice
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert choice.device == "cpu"
    assert choice.reason.startswith("no GPU: CuPy ")
    with pytest.raises(ResourceError, match=r"found none \(CuPy "):
        open_engines(bundle, device="cuda")
    monkeypatch.delitem(sys.modules, "cupy", raising=False)


@pytest.mark.parametrize("writable", [True, False])
def test_kernels_stay_in_memory_where_there_is_no_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "")
    monkeypatch.delenv("CUPY_CACHE_IN_MEMORY")
    monkeypatch.setattr(os, "access", lambda *_: writable)
    cuda._keep_kernels_in_memory()
    assert os.environ.get("CUPY_CACHE_IN_MEMORY") == (None if writable else "1")


@pytest.mark.parametrize("fault", ["import absent_library", "def Core(): raise RuntimeError('no')"])
def test_openvino_that_cannot_be_loaded_gives_onnxruntime_and_says_why(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (tmp_path / "openvino.py").write_text(fault)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    choice = open_engines(bundle, device="cpu", threads=1).choice
    arithmetic = half_arithmetic()
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    assert isinstance(arithmetic, PlainArithmetic)
    assert choice.engine == "onnxruntime"
    assert "; OpenVINO cannot be loaded (" in choice.reason


def test_memory_that_does_not_do_for_one_tile_is_an_error(bundle: Bundle) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    device = FakeDevice()
    device.zeros = full
    with pytest.raises(ResourceError, match="not enough memory for one tile of the model"):
        allocate_tile(bundle.manifest, device)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("side", "kind"), [("input", TensorProto.FLOAT16), ("output", TensorProto.FLOAT16)]
)
def test_a_network_of_another_element_type_is_named(
    bundle: Bundle, backend: engines.Backend, side: str, kind: int
) -> None:
    """What ``load_bundle`` refuses already, an engine does too."""
    path = bundle.folder / "fold_1.onnx"
    model = onnx.load(path)
    value = getattr(model.graph, side)[0]
    value.type.tensor_type.elem_type = kind
    node = model.graph.node[0]
    if side == "input":
        node.input[0] = "cast"
        cast = helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT)
        model.graph.node.insert(0, cast)
    else:
        node.output[0] = "plain"
        cast = helper.make_node("Cast", ["plain"], ["logits"], to=kind)
        model.graph.node.append(cast)
    onnx.save(model, path)
    with pytest.raises(WeightsError, match=r"fold_1\.onnx: expected the static shapes .*float16"):
        open_engines(bundle, device="cpu", backend=backend)


def test_what_a_network_takes_while_it_runs(bundle: Bundle) -> None:
    opened = open_engines(bundle, device="cpu", threads=1)
    assert 0 <= engines.activation_bytes(opened, bundle.manifest) < 2**26


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_damaged_file_is_named(bundle: Bundle, backend: engines.Backend) -> None:
    (bundle.folder / "fold_1.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"fold_1\.onnx: not a usable ONNX file"):
        open_engines(bundle, device="cpu", backend=backend)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_a_network_of_another_patch_is_named(bundle: Bundle, backend: engines.Backend) -> None:
    write_network(bundle.folder / "fold_1.onnx", (3, 4, 6))
    with pytest.raises(WeightsError, match=r"fold_1\.onnx: expected the static shapes"):
        open_engines(bundle, device="cpu", backend=backend)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", None), ("200000 100000\n", 2.0), ("50000 100000\n", 0.5)],
)
def test_the_cgroups_quota(tmp_path: Path, text: str, expected: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert _cgroup_quota(tmp_path) == expected


def test_the_first_cgroup_versions_quota(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert _cgroup_quota(tmp_path) == 1.5
    assert available_cpus() >= 1
