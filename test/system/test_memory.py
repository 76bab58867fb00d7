"""The limits that are found, and a forecast held against what a process really takes."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import SimpleITK as sitk
from nnunet_oracle import CT, Recipe, manifest_of
from onnx import TensorProto, helper, numpy_helper
from outside_meter import measure

from oarseg.challenges import catalogue
from oarseg.errors import ResourceError
from oarseg.imaging.files import read_scan
from oarseg.imaging.files.read_scan import read_volume
from oarseg.model.bundle import file_sha256
from oarseg.model.entries.channels import Channel, Normalisation
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import Label, write_manifest
from oarseg.system import memory
from oarseg.system.memory import (
    VIRTUAL_RESERVE,
    Need,
    Room,
    check_memory,
    memory_rooms,
    tightest_room,
)

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
SHAPE = (120, 400, 400)
PATCH = (48, 128, 128)


@pytest.fixture
def status(tmp_path: Path) -> Path:
    path = tmp_path / "status"
    path.write_text("Name:\tpython\nVmSize:\t 900 kB\nVmRSS:\t 300 kB\nVmData:\t 500 kB\n")
    return path


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 9000 kB\nMemFree: 100 kB\nMemAvailable: 4000 kB\n")
    return path


def test_the_free_ram_where_nothing_else_is_limited(
    tmp_path: Path, status: Path, meminfo: Path
) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    found = tightest_room(tmp_path, meminfo, status)
    assert found == Room("the free RAM", 4300 * 1024, 300 * 1024)
    assert found.left == 4000 * 1024


def test_the_second_cgroup_versions_limit(tmp_path: Path, status: Path, meminfo: Path) -> None:
    (tmp_path / "memory.max").write_text("2048000\n")
    (tmp_path / "memory.current").write_text("1024000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\nfile 524000\ninactive_file 24000\n")
    found = tightest_room(tmp_path, meminfo, status)
    assert found == Room("the container's limit", 2048000, 1000000)


def test_the_first_cgroup_versions_limit(tmp_path: Path, status: Path, meminfo: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text("2048000\n")
    (folder / "memory.usage_in_bytes").write_text("1024000\n")
    (folder / "memory.stat").write_text("cache 524000\ntotal_inactive_file 24000\n")
    assert tightest_room(tmp_path, meminfo, status).used == 1000000
    (folder / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")
    assert tightest_room(tmp_path, meminfo, status).name == "the free RAM"


@pytest.mark.parametrize(
    ("kind", "name", "used"),
    [(resource.RLIMIT_DATA, "RLIMIT_DATA", 500), (resource.RLIMIT_AS, "RLIMIT_AS", 900)],
)
def test_the_limits_of_the_process(
    tmp_path: Path,
    status: Path,
    meminfo: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: int,
    name: str,
    used: int,
) -> None:
    real = resource.getrlimit
    monkeypatch.setattr(
        resource, "getrlimit", lambda k: (2048000, 2048000) if k == kind else real(k)
    )
    assert Room(name, 2048000, used * 1024, VIRTUAL_RESERVE) in memory_rooms(
        tmp_path, meminfo, status
    )


def test_what_fits_is_let_through() -> None:
    check_memory(Need("segmenting this CT", 100, 10, 20), room=Room("RLIMIT_DATA", 400, 100))


def test_what_does_not_fit_is_explained_in_one_sentence() -> None:
    need = Need("segmenting this CT", GIB // 2, GIB // 40, 200)
    with pytest.raises(ResourceError) as refusal:
        check_memory(need, room=Room("RLIMIT_DATA", 4 * GIB, GIB), hint=", use --region body")
    assert str(refusal.value) == (
        "segmenting this CT needs about 6.5 GiB of memory, and RLIMIT_DATA is 4.0 GiB; "
        "give it more, use --region body, or crop it to 100 of its 200 slices"
    )
    with pytest.raises(ResourceError, match=r"RLIMIT_DATA is 1\.0 GiB; give it more$"):
        check_memory(need, room=Room("RLIMIT_DATA", GIB, GIB))


def test_an_image_that_cannot_be_held_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "case_01_CT.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((64, 256, 256), np.float32)), str(path))
    room = Room("the container's limit", 2**24, 2**20)
    monkeypatch.setattr(memory, "tightest_room", lambda: room)
    monkeypatch.setattr(read_scan, "read_voxels", lambda *_: pytest.fail("read"))
    with pytest.raises(ResourceError) as refusal:
        read_volume(path)
    # Float32 may be copied once: 8 bytes a voxel, half a MiB a slice, 1 MiB for the stream.
    assert str(refusal.value) == (
        "reading case_01_CT.mha needs about 0.0 GiB of memory, and the container's limit is "
        "0.0 GiB; give it more, or crop it to 28 of its 64 slices"
    )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CT of 120×400×400, a thin cylinder in air, as the platform lays it out."""
    folder = tmp_path_factory.mktemp("case")
    y, x = np.ogrid[:400, :400]
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, (y - 200) ** 2 + (x - 200) ** 2 < 30**2] = 40
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((1.2, 1.2, 2.5))
    path = folder / "images" / "ct" / "case_01_CT.mha"
    path.parent.mkdir(parents=True)
    sitk.WriteImage(image, str(path))
    return folder


def weights_of(folder: Path, folds: int) -> Path:
    """A network of one point-wise convolution and 31 classes, on a finer grid than the CT's."""
    draw = np.random.default_rng(0)
    kernel = draw.standard_normal((31, 2, 1, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["logits"])],
        "point",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 2, *PATCH))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 31, *PATCH))],
        [numpy_helper.from_array(kernel, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    files = []
    for fold in range(folds):
        path = folder / f"fold_{fold}.onnx"
        onnx.save(model, path)
        files.append(ModelFile(path.name, file_sha256(path), str(fold), "fp32"))
    structures = catalogue.load_challenge("han_seg").structures
    names = {"background": 0, **{s.name: s.label for s in structures}}
    recipe = Recipe((2.5, 1.1, 1.1), PATCH, (CT, Normalisation("none")), names)
    manifest = replace(
        manifest_of(recipe, tuple(files)),
        challenge="han_seg",
        channels=(Channel("CT", CT), Channel("MR_T1", Normalisation("none"), optional=True)),
        labels=tuple(Label(value, name) for name, value in names.items()),
    )
    write_manifest(manifest, folder)
    return folder


def run(
    case: Path, weights: Path, output: Path, *options: str, data_mib: int | None = None
) -> subprocess.CompletedProcess[str]:
    """``oarseg segment`` in a process of its own, its data limited as the platform does."""

    def limit() -> None:
        if data_mib is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (data_mib * 2**20, data_mib * 2**20))

    command = [sys.executable, "-m", "oarseg.cli", "--verbose", "segment", "--device", "cpu"]
    command += ["--input", str(case), "--weights", str(weights), "--output", str(output)]
    return subprocess.run(
        [*command, "--threads", "2", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


def forecast_mib(done: subprocess.CompletedProcess[str]) -> int:
    found = re.search(r"forecast: (\d+) MiB on top of (\d+) MiB", done.stdout)
    assert found, done.stdout + done.stderr
    return int(found[1]) + int(found[2])


def peak_mib(output: Path) -> int:
    report = json.loads((output / "reports" / "case_01.json").read_text())
    return max(step["peak_mib"] for step in report["steps"])


@pytest.mark.parametrize("region", ["full", "body"])
def test_the_forecast_is_what_a_case_takes(case: Path, tmp_path: Path, region: str) -> None:
    weights = weights_of(tmp_path, 1)
    output = tmp_path / "output"
    done = run(case, weights, output, "--region", region)
    assert done.returncode == 0, done.stderr
    # Never less, which would let a case be killed; nor so much that cases are refused for it.
    assert peak_mib(output) <= forecast_mib(done) <= 1.35 * peak_mib(output)


def test_the_reports_peak_is_that_of_the_process_tree_from_outside(
    case: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    command = [sys.executable, "-m", "oarseg.cli", "segment", "--device", "cpu", "--threads", "2"]
    command += ["--weights", str(weights_of(tmp_path, 1)), "--input", str(case)]
    outside, _ = measure([*command, "--output", str(output)], cwd=ROOT)
    assert outside.status == 0
    told = json.loads((output / "reports" / "case_01.json").read_text())["peak_mib"]
    assert told == pytest.approx(outside.tree_mib, rel=0.03)
    # /usr/bin/time's figure: the largest process, without its supervisor of some tens of MiB.
    assert told - 100 < outside.account_mib <= told + 2
    assert told >= peak_mib(output)


def test_memory_does_not_grow_with_folds(case: Path, tmp_path: Path) -> None:
    peaks = []
    for folds in (1, 3):
        folder = tmp_path / str(folds)
        folder.mkdir()
        output = folder / "output"
        done = run(case, weights_of(folder, folds), output)
        assert done.returncode == 0, done.stderr
        peaks.append(peak_mib(output))
    # The sum of several folds is a tile of its own: 31 classes of 48×128×128 in float32.
    assert peaks[1] < peaks[0] + 31 * np.prod(PATCH) * 4 / 2**20 + 32


def test_what_the_platforms_limit_refuses_and_what_it_lets_through(
    case: Path, tmp_path: Path
) -> None:
    weights = weights_of(tmp_path, 1)
    output = tmp_path / "output"
    refused = run(case, weights, output, "--region", "full", data_mib=900)
    assert refused.returncode == 1
    last = refused.stderr.strip().splitlines()[-1]
    found = re.search(
        r"case_01: segmenting this CT needs about (\d+\.\d) GiB of memory, and RLIMIT_DATA "
        r"is 0\.9 GiB; give it more, use --region body",
        last,
    )
    assert found, refused.stderr
    assert not (output / "reports").exists()
    enough = round(float(found[1]) * 1024) + 52  # what rounding to 0.1 may have hidden
    done = run(case, weights, output, "--region", "full", data_mib=enough)
    assert done.returncode == 0, done.stderr
