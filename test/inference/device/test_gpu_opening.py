"""Opening an ensemble on a GPU that is not there: all that a case does is tried before any case."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_device import (
    CUDA_DRIVER,
    FakeDevice,
    install,
)
from nnunet_oracle import CT, Recipe, manifest_of
from small_onnx import write_pointwise

from oarseg.errors import ResourceError
from oarseg.inference.device.vram import tile_bytes
from oarseg.inference.engines import choice, cuda
from oarseg.inference.engines.choice import Engines, open_engines
from oarseg.inference.engines.cuda_choice import CudaForm
from oarseg.inference.engines.onnx_runtime import NoCudaError
from oarseg.inference.preprocessing import NetworkInput, Placement
from oarseg.inference.streaming import segment_streaming
from oarseg.model.bundle import Bundle
from oarseg.model.entries.networks import ModelFile

PATCH = (4, 6, 8)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    files = []
    for fold, pair in (("0", (2.0, -1.0)), ("1", (1.0, 0.5))):
        write_pointwise(tmp_path / f"fold_{fold}.onnx", PATCH, pair)
        files.append(ModelFile(f"fold_{fold}.onnx", "0" * 64, fold, "fp32"))
    recipe = Recipe((2.0, 1.0, 1.0), PATCH, (CT,), {"background": 0, "a": 1})
    return Bundle(tmp_path, manifest_of(recipe, tuple(files)), "0" * 64)


def case(bundle: Bundle) -> NetworkInput:
    shape = (7, 9, 10)
    place = Placement(
        shape, (2.0, 1.0, 1.0), (0, 1, 2), ((0, 7), (0, 9), (0, 10)), shape, (2.0, 1.0, 1.0)
    )
    noise = np.random.default_rng(3).standard_normal((1, *shape)).astype(np.float32)
    return NetworkInput(noise, place)


def segmented(bundle: Bundle, opened: Engines, *, joint: bool = False) -> Any:
    engines = opened.take(mean=joint)
    return segment_streaming(case(bundle), engines, bundle.manifest, joint=joint, gpu=opened.gpu)


@pytest.mark.parametrize("exactness", ["exact", "fast"])
def test_a_gpu_gives_the_cpus_labels(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, exactness: Any
) -> None:
    joint = exactness == "fast"
    device = FakeDevice()
    install(monkeypatch, device)
    opened = open_engines(bundle, exactness=exactness, threads=1)
    assert (opened.choice.device, opened.choice.engine) == ("cuda", "cuda")
    (engine,) = opened.take(mean=joint)
    assert engine.answers == (1 if joint else 2)
    expected = segmented(bundle, open_engines(bundle, device="cpu", threads=1))
    assert np.array_equal(segmented(bundle, opened, joint=joint), expected)
    assert device.count("session") == 1, "the form that was tried is the one that is used"


def test_networks_queue_on_the_rings_stream_within_their_share(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice(memory=1 << 30)
    install(monkeypatch, device)
    opened = open_engines(bundle, device="cuda", threads=1)
    assert opened.gpu is not None
    assert device.options["user_compute_stream"] == str(opened.gpu.stream.ptr)
    assert 0.7 * (1 << 30) < int(device.options["gpu_mem_limit"]) < 0.8 * (1 << 30)
    assert device.options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    assert device.calls.index("release") < device.calls.index("session"), "the pool's is free"


def test_the_cuda_libraries_are_loaded_before_cupy(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeDevice())
    order: list[str] = []
    real = importlib.import_module
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: order.append("libraries"))
    monkeypatch.setattr(
        cuda.importlib, "import_module", lambda name: order.append(name) or real(name)
    )
    open_engines(bundle, device="cuda", threads=1)
    assert order == ["libraries", "cupy"]


def test_the_trial_runs_everything_that_a_case_runs(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    launched: set[str] = set()
    real = FakeDevice._kernel

    def kernel(self: FakeDevice, function: Any) -> Any:
        launch = real(self, function)
        name = function.definition.decl.name
        return lambda *given: launched.add(name) or launch(*given)

    monkeypatch.setattr(FakeDevice, "_kernel", kernel)
    open_engines(bundle, device="cuda", threads=1)
    assert launched == {"add_logits", "add_tile", "finish_plane", "paint_plane"}


def test_whichever_call_of_the_opening_fails_the_cpu_is_taken(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call, from the stream that is made to the labels that come back."""
    device = FakeDevice()
    install(monkeypatch, device)
    open_engines(bundle, device="cuda", threads=1)
    assert len(device.calls) > 50
    for number in range(1, len(device.calls) + 1):
        failing = FakeDevice(fail_at=number)
        failing.fault = CUDA_DRIVER("something broke\nin detail")
        install(monkeypatch, failing)
        with pytest.raises(NoCudaError) as failure:
            cuda.open_cuda(bundle, CudaForm("fp32", False, {"use_tf32": "0"}), 1)
        assert "\n" not in str(failure.value)
    opened = open_engines(bundle, threads=1)
    assert opened.choice.device == "cpu"
    assert opened.choice.reason.startswith("no GPU: ")


def test_a_gpu_that_computes_other_labels_is_not_taken(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    real = FakeDevice.asnumpy

    def wrong(self: FakeDevice, array: Any) -> Any:
        host = real(self, array)
        if host.dtype == np.uint8:
            host[0] ^= 1
        return host

    monkeypatch.setattr(FakeDevice, "asnumpy", wrong)
    with pytest.raises(ResourceError, match="it gives other labels than the host from the same"):
        open_engines(bundle, device="cuda", threads=1)
    assert open_engines(bundle, threads=1).choice.device == "cpu"


def test_networks_that_no_case_fits_beside_are_refused_with_what_would_do(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [path.stat().st_size for path in bundle.paths("fp32")]
    tile = tile_bytes(bundle.manifest, answers=2)
    cuda.check_networks(bundle, "fp32", sum(sizes) + tile)
    with pytest.raises(NoCudaError, match=r"free: export 1 of the 2 folds, or take a larger GPU"):
        cuda.check_networks(bundle, "fp32", sum(sizes) + tile - 1)
    with pytest.raises(NoCudaError, match=r"free: use the CPU, or take a larger GPU"):
        cuda.check_networks(bundle, "fp32", 100)
    install(monkeypatch, FakeDevice(memory=100))
    with pytest.raises(ResourceError, match="the networks take at least"):
        open_engines(bundle, device="cuda", threads=1)


def test_sums_on_the_host_use_the_same_networks(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    opened = open_engines(bundle, device="cuda", threads=1)
    hosted = opened.hosted()
    assert hosted.gpu is None
    assert hosted.choice == opened.choice
    expected = segmented(bundle, open_engines(bundle, device="cpu", threads=1))
    launches = device.count("launch")
    assert np.array_equal(segmented(bundle, hosted), expected)
    assert device.count("launch") == launches
    on_cpu = open_engines(bundle, device="cpu", threads=1)
    assert on_cpu.hosted() is on_cpu


def test_what_a_network_takes_on_the_host_is_measured_on_a_gpu_too(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    opened = open_engines(bundle, device="cuda", threads=1)
    assert 0 <= choice.activation_bytes(opened, bundle.manifest) < 2**28
