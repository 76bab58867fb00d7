"""Cascades and ensembles of configurations on a GPU that is not there give the CPU's labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_device import FakeDevice, install
from nnunet_oracle import CT, Recipe, images, manifest_of
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from oarseg.challenges import catalogue
from oarseg.imaging.volume import Grid
from oarseg.inference.configurations.case_input import preprocess_case
from oarseg.inference.configurations.segment import segment_case_input
from oarseg.inference.engines.choice import Engines, open_engines
from oarseg.model.bundle import Bundle
from oarseg.model.entries.networks import ModelFile, Resampling, Stage
from oarseg.model.manifest import Manifest, describe_member, describe_network
from oarseg.workflows.computation.sums import CaseSize, place_sums
from oarseg.workflows.settings import RunDescription, Settings

PATCH = (4, 6, 8)
SHAPE, SPACING_MM = (9, 14, 15), (2.0, 1.0, 1.0)


def network(
    folder: Path, name: str, spacing: tuple[float, float, float], weights: list[list[float]]
) -> Manifest:
    """A configuration of one fold: a point-wise convolution of weights (classes, channels)."""
    kernel = np.array(weights, np.float32)[..., None, None, None]
    shapes = [(1, kernel.shape[1 - axis], *PATCH) for axis in (0, 1)]
    image, logits = (
        helper.make_tensor_value_info(key, TensorProto.FLOAT, shape)
        for key, shape in zip(("image", "logits"), shapes, strict=True)
    )
    node = helper.make_node("Conv", ["image", "w"], ["logits"])
    graph = helper.make_graph(
        [node], name, [image], [logits], [numpy_helper.from_array(kernel, "w")]
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / f"{name}.onnx")
    recipe = Recipe(spacing, PATCH, (CT,), {"background": 0, "a": 1, "b": 2})
    file = ModelFile(f"{name}.onnx", "0" * 64, "0", "fp32")
    return replace(manifest_of(recipe, (file,)), configuration=name)


@pytest.fixture
def cascade(tmp_path: Path) -> Bundle:
    low = network(tmp_path, "3d_lowres", (3.0, 2.0, 2.0), [[0.0], [2.0], [-1.0]])
    last = network(
        tmp_path, "3d_cascade", SPACING_MM, [[0.0, 0.2, 0.0], [-1.0, 1.0, 0.0], [0.5, 0.0, 0.4]]
    )
    stage = Stage(describe_network(low), (1, 2), Resampling(order=1))
    return Bundle(tmp_path, replace(last, stage=stage), "0" * 64)


@pytest.fixture
def ensemble(cascade: Bundle) -> Bundle:
    full = network(cascade.folder, "3d_fullres", SPACING_MM, [[0.1], [-1.5], [0.9]])
    manifest = replace(full, further=(describe_member(cascade.manifest),))
    return replace(cascade, manifest=manifest)


def labels_of(bundle: Bundle, engines: Engines) -> NDArray[np.uint8]:
    case = preprocess_case(images(SHAPE, 1), SPACING_MM, bundle.manifest)
    return segment_case_input(case, engines, bundle.manifest)


def placed(bundle: Bundle, engines: Engines) -> str:
    folder = bundle.folder
    rules = catalogue.load_challenge("han_seg")
    run = RunDescription(Settings(folder, folder, folder), bundle, rules, threads=1)
    return place_sums(CaseSize(Grid(SHAPE, SPACING_MM), None, 0, 0), engines, run).where


def test_a_cascade_runs_on_the_gpu(cascade: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    wanted = labels_of(cascade, open_engines(cascade, device="cpu", threads=1))
    opened = open_engines(cascade, device="cuda", threads=1)
    assert placed(cascade, opened) == "gpu"
    launches = device.count("launch")
    assert np.array_equal(labels_of(cascade, opened), wanted)
    assert device.count("launch") > launches
    assert len(np.unique(wanted)) == 3
    alone = replace(cascade.manifest, stage=None)
    assert (alone.inputs, cascade.manifest.inputs) == (1, 3)


def test_averaged_configurations_are_summed_on_the_host(
    ensemble: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    wanted = labels_of(ensemble, open_engines(ensemble, device="cpu", threads=1))
    opened = open_engines(ensemble, device="cuda", threads=1)
    assert [engines.choice.device for engines in opened.all] == ["cuda"] * 3
    assert placed(ensemble, opened) == "host"
    hosted = opened.hosted()
    assert all(engines.gpu is None for engines in hosted.all)
    launches = device.count("launch")
    assert np.array_equal(labels_of(ensemble, hosted), wanted)
    assert device.count("launch") == launches
    assert all(engines.measured for engines in opened.as_measured().all)
