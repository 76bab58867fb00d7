"""Peak memory of cascades and ensembles of configurations, and its forecast."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import SimpleITK as sitk
from nnunet_oracle import CT, Recipe, manifest_of
from onnx import TensorProto, helper, numpy_helper

from oarseg.challenges import catalogue
from oarseg.model.bundle import file_sha256
from oarseg.model.entries.channels import Channel, Normalisation
from oarseg.model.entries.networks import ModelFile, Resampling, Stage
from oarseg.model.manifest import Label, Manifest, describe_member, describe_network, write_manifest

ROOT = Path(__file__).resolve().parents[2]
SHAPE, SPACING_MM = (100, 360, 360), (2.5, 1.2, 1.2)
FULL, LOW = ((2.5, 1.1, 1.1), (32, 160, 160)), ((4.0, 2.6, 2.6), (40, 96, 96))
# No configuration may take much more than 3d_fullres alone.
MOST = 1.3
NONE = Normalisation("none")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT of a cylinder in air, as the platform lays it out."""
    folder = tmp_path_factory.mktemp("case")
    y, x = np.ogrid[: SHAPE[1], : SHAPE[2]]
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, (y - 180) ** 2 + (x - 180) ** 2 < 90**2] = 40
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING_MM[::-1])
    path = folder / "images" / "ct" / "case_01_CT.mha"
    path.parent.mkdir(parents=True)
    sitk.WriteImage(image, str(path))
    return folder


def network(
    folder: Path,
    name: str,
    where: tuple[tuple[float, float, float], tuple[int, int, int]],
    inputs: int = 2,
) -> Manifest:
    """A configuration of one point-wise convolution of 31 classes."""
    spacing, patch = where
    kernel = np.random.default_rng(inputs).standard_normal((31, inputs, 1, 1, 1))
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["logits"])],
        "point",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, inputs, *patch))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 31, *patch))],
        [numpy_helper.from_array(kernel.astype(np.float32), "w")],
    )
    path = folder / f"{name}.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    structures = catalogue.load_challenge("han_seg").structures
    names = {"background": 0, **{s.name: s.label for s in structures}}
    file = ModelFile(path.name, file_sha256(path), "0", "fp32")
    return replace(
        manifest_of(Recipe(spacing, patch, (CT, NONE), names), (file,)),
        challenge="han_seg",
        configuration=name,
        channels=(Channel("CT", CT), Channel("MR_T1", NONE, optional=True)),
        labels=tuple(Label(value, label) for label, value in names.items()),
    )


def alone(folder: Path) -> Manifest:
    return network(folder, "3d_fullres", FULL)


def ensemble(folder: Path) -> Manifest:
    low = network(folder, "3d_lowres", LOW)
    return replace(alone(folder), further=(describe_member(low),))


def cascade(folder: Path) -> Manifest:
    low = describe_network(network(folder, "3d_lowres", LOW))
    last = network(folder, "3d_cascade_fullres", FULL, inputs=32)
    return replace(last, stage=Stage(low, tuple(range(1, 31)), Resampling(order=1)))


def run(case: Path, folder: Path, make: Callable[[Path], Manifest]) -> tuple[int, int]:
    """Segment in a process of its own; returns its peak and its forecast in MiB."""
    folder.mkdir()
    write_manifest(make(folder), folder)
    command = [sys.executable, "-m", "oarseg.cli", "--verbose", "segment", "--device", "cpu"]
    command += ["--input", str(case), "--weights", str(folder), "--output", str(folder / "out")]
    command += ["--region", "all", "--threads", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "out" / "reports" / "case_01.json").read_text())
    found = re.search(r"forecast: (\d+) MiB on top of (\d+) MiB", done.stdout)
    assert found, done.stdout
    return max(step["peak_mib"] for step in report["steps"]), int(found[1]) + int(found[2])


def test_memory_is_nearly_that_of_one_configuration_and_is_forecast(
    case: Path, tmp_path: Path
) -> None:
    peaks = {}
    for make in (alone, ensemble, cascade):
        peak, forecast = run(case, tmp_path / make.__name__, make)
        assert peak <= forecast <= 1.35 * peak, make.__name__
        peaks[make.__name__] = peak
    assert peaks["ensemble"] <= MOST * peaks["alone"], peaks
    assert peaks["cascade"] <= MOST * peaks["alone"], peaks
