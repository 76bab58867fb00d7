"""What no export has run on a GPU is compared with float32 there, on tiles of the first case."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from fake_device import FakeDevice, install
from nnunet_oracle import CT, Recipe, images, manifest_of
from onnx import TensorProto, helper
from small_onnx import pointwise

from oarseg.challenges import catalogue
from oarseg.inference.configurations.case_input import CaseInput
from oarseg.inference.engines import choice
from oarseg.inference.engines.choice import Engines, open_engines
from oarseg.inference.preprocessing import preprocess
from oarseg.model.bundle import Bundle
from oarseg.model.entries.networks import ModelFile, Precision
from oarseg.workflows.computation.effort import Computation
from oarseg.workflows.report import Notes
from oarseg.workflows.settings import RunDescription, Settings

PATCH = (6, 8, 10)
# Of class 0 and 1; the labels depend on the sign of the image.
PAIR, TURNED = (-1.0, 1.0), (1.0, -1.0)


def write(path: Path, precision: Precision, pair: tuple[float, float]) -> None:
    """logits[k] = pair[k] · image + k, of the image in half precision or not."""
    model = pointwise(PATCH, pair)
    if precision == "fp16":
        casts = [
            helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["half"], ["wide"], to=TensorProto.FLOAT),
        ]
        model.graph.node[0].input[0] = "wide"
        for number, node in enumerate(casts):
            model.graph.node.insert(number, node)
    onnx.save(model, path)


def run_of(
    folder: Path, half: tuple[float, float], *precisions: Precision, folds: int = 2
) -> RunDescription:
    files = []
    for fold in range(folds):
        for precision in precisions:
            name = f"fold_{fold}_{precision}.onnx"
            write(folder / name, precision, half if precision == "fp16" else PAIR)
            files.append(ModelFile(name, "0" * 64, str(fold), precision))
    recipe = Recipe((2.0, 1.0, 1.0), PATCH, (CT,), {"background": 0, "a": 1})
    bundle = Bundle(folder, manifest_of(recipe, tuple(files)), "0" * 64)
    rules = catalogue.load_challenge("han_seg")
    return RunDescription(Settings(folder, folder, folder), bundle, rules, threads=1)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    device = FakeDevice()
    install(monkeypatch, device)
    return device


def proven(run: RunDescription, engines: Engines) -> tuple[Engines, Notes]:
    notes = Notes()
    network = preprocess(images((12, 24, 30), 1), (2.0, 1.1, 1.1), run.weights.manifest)
    return Computation(CaseInput((network,)), None, run, notes).prove(engines), notes


@pytest.mark.usefixtures("device")
def test_half_precision_that_agrees_is_taken_for_the_whole_run(tmp_path: Path) -> None:
    run = run_of(tmp_path, PAIR, "fp32", "fp16")
    engines = open_engines(run.weights, device="cuda", threads=1)
    assert (engines.choice.arithmetic, engines.measured) == ("float16", False)
    kept, notes = proven(run, engines)
    assert kept == replace(engines, measured=True)
    assert notes.comparison.startswith("on 6 tiles ")
    assert notes.warnings == []
    again, notes = proven(run, kept)
    assert again is kept
    assert notes.comparison == ""


def test_half_precision_that_answers_otherwise_is_left_for_float32_on_the_gpu(
    tmp_path: Path, device: FakeDevice
) -> None:
    run = run_of(tmp_path, TURNED, "fp32", "fp16")
    kept, notes = proven(run, open_engines(run.weights, device="cuda", threads=1))
    assert (kept.choice.device, kept.choice.arithmetic, kept.measured) == ("cuda", "float32", True)
    assert kept.choice.options["use_tf32"] == device.options["use_tf32"] == "0"
    (warning,) = notes.warnings
    assert warning.startswith("computed in float32: float16 is not exact enough, on 6 tiles")


@pytest.mark.usefixtures("device")
def test_tf32_is_compared_as_well(tmp_path: Path) -> None:
    run = replace(run_of(tmp_path, PAIR, "fp32"), precision="fast")
    engines = open_engines(run.weights, exactness="fast", device="cuda", threads=1)
    assert (engines.choice.arithmetic, engines.measured) == ("tf32", False)
    kept, notes = proven(run, engines)
    assert kept.measured
    assert notes.comparison


def test_a_gpu_without_room_for_both_goes_on_with_what_it_has(
    tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, PAIR, "fp32", "fp16")
    engines = open_engines(run.weights, device="cuda", threads=1)
    real = choice.open_reference

    def opened(*arguments: Any, **options: Any) -> Engines:
        reference = real(*arguments, **options)
        device.memory = device.held
        return reference

    monkeypatch.setattr(choice, "open_reference", opened)
    kept, notes = proven(run, engines)
    assert kept is engines
    (warning,) = notes.warnings
    assert warning.startswith("float16 was not compared with float32: the GPU failed ")
    assert notes.comparison == ""


@pytest.mark.usefixtures("device")
def test_without_float32_files_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    run = run_of(tmp_path, PAIR, "fp16")
    engines = open_engines(run.weights, device="cuda", threads=1)
    kept, notes = proven(run, engines)
    assert kept is engines
    assert notes.warnings == [
        "float16 was not compared with float32: the model has no float32 files"
    ]
