"""Whole cases on a GPU that is not there, from files to files, and what its failures cost."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nnunet_oracle as oracle
import pytest
import SimpleITK as sitk
from fake_device import FakeDevice, install

from oarseg.imaging.rigid import RigidTransform
from oarseg.inference.device import vram
from oarseg.inference.engines import choice
from oarseg.phantom import write_cases
from oarseg.registration import Registration, Verdict
from oarseg.workflows import segment_case, segment_folder
from oarseg.workflows.journal import Journal, LeftGpuError
from oarseg.workflows.settings import Settings

CASES = ("case_03", "case_04")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oracle.write_han_seg_weights(tmp_path_factory.mktemp("weights"), folds=2)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_cases(folder, seeds=[3, 4], size="tiny", layout="platform")
    return folder


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, phantoms: Path) -> None:
    patch_out(monkeypatch, phantoms)


def patch_out(monkeypatch: pytest.MonkeyPatch, phantoms: Path) -> None:
    """Registration, and OpenVINO, whose last digits are not those of the stand-in's networks."""
    monkeypatch.setattr(choice, "_objection_to_openvino", lambda _: "a test")
    transform = RigidTransform.read(phantoms / "truth/case_03/case_03_ct_to_mr.tfm")
    verdict = Verdict("good", 0.5, 0.5, 0.5, 1.0, 0.0, ())
    monkeypatch.setattr(
        segment_case.registration,
        "register_mr",
        lambda *_, **__: Registration(transform, verdict, 0.0),
    )


@pytest.fixture(scope="module")
def expected(
    weights: Path, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The CPU's label files."""
    output = tmp_path_factory.mktemp("cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch_out(patch, phantoms)
        assert (
            segment_folder.segment_folder(Settings(phantoms, output, weights, device="cpu")) == ()
        )
    return {case: label_file(output, case).read_bytes() for case in CASES}


@pytest.fixture
def one(phantoms: Path, tmp_path: Path) -> Path:
    """The first case alone."""
    for slug, name in (("ct", "case_03_CT.mha"), ("t1-mri", "case_03_MR_T1.mha")):
        folder = tmp_path / "one/images" / slug
        folder.mkdir(parents=True)
        os.link(phantoms / "images" / slug / name, folder / name)
    return tmp_path / "one"


def label_file(output: Path, case: str) -> Path:
    return output / f"images/head_neck_oar/{case}_seg.mha"


def report(output: Path, case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "reports" / f"{case}.json").read_text())
    return found


@dataclass(frozen=True)
class Supervised:
    """A worker without its supervisor, and the pipe between them."""

    reading: int
    writing: int

    def journal(self, **known: Any) -> Journal:
        return Journal(pipe=self.writing, **known)

    def told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in os.read(self.reading, 1 << 16).splitlines()]


@pytest.fixture
def supervised() -> Iterator[Supervised]:
    pipe = Supervised(*os.pipe())
    yield pipe
    os.close(pipe.reading)
    os.close(pipe.writing)


def test_a_case_on_a_gpu_has_the_cpus_labels(
    weights: Path,
    one: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, bytes],
) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    assert segment_folder.segment_folder(Settings(one, tmp_path / "out", weights)) == ()
    assert label_file(tmp_path / "out", "case_03").read_bytes() == expected["case_03"]
    found = report(tmp_path / "out", "case_03")
    assert found["device"]["device"] == "cuda"
    how = found["precision"]
    assert (how["fold_sums"], how["sums_on"]) == ("separate", "gpu")
    assert device.count("session") == 1
    assert found["fold_agreement"] is None


def test_probabilities_are_taken_from_sums_on_the_host(
    weights: Path,
    one: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, bytes],
) -> None:
    install(monkeypatch, FakeDevice())
    settings = Settings(one, tmp_path / "out", weights, probabilities=("Parotid_L",))
    assert segment_folder.segment_folder(settings) == ()
    found = report(tmp_path / "out", "case_03")
    assert (found["device"]["device"], found["precision"]["sums_on"]) == ("cuda", "host")
    assert label_file(tmp_path / "out", "case_03").read_bytes() == expected["case_03"]
    path = tmp_path / "out/oar_masks/case_03" / found["probabilities"]["Parotid_L"]
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).max() > 0
    assert found["fold_agreement"]["folds"] == 2


@pytest.mark.parametrize(
    ("sums", "fold_sums", "sums_on"), [("joint", "joint", "gpu"), (None, "separate", "host")]
)
def test_where_memory_is_short_sums_are_shared_or_on_the_host(
    weights: Path,
    one: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, bytes],
    sums: vram.Sums | None,
    fold_sums: str,
    sums_on: str,
) -> None:
    install(monkeypatch, FakeDevice())
    monkeypatch.setattr("oarseg.workflows.computation.sums.choose_sums", lambda *_, **__: sums)
    assert segment_folder.segment_folder(Settings(one, tmp_path / "out", weights)) == ()
    found = report(tmp_path / "out", "case_03")
    assert found["device"]["device"] == "cuda"
    assert (found["precision"]["fold_sums"], found["precision"]["sums_on"]) == (fold_sums, sums_on)
    if sums is None:
        assert label_file(tmp_path / "out", "case_03").read_bytes() == expected["case_03"]


def failing(monkeypatch: pytest.MonkeyPatch, number: int, call: str = "run") -> FakeDevice:
    """A GPU that fails in a call of that number; a network's first run is the trial's."""
    device = FakeDevice()
    install(monkeypatch, device)
    real = device.called

    def called(what: str) -> None:
        if what == call and device.count(call) + 1 == number:
            device.fail_at = 0
        real(what)

    monkeypatch.setattr(device, "called", called)
    return device


def test_a_gpu_that_fails_is_left_to_another_worker(
    weights: Path,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, bytes],
    supervised: Supervised,
) -> None:
    settings = Settings(phantoms, tmp_path, weights)
    failing(monkeypatch, 5)
    with pytest.raises(LeftGpuError):
        segment_folder.segment_folder(settings, supervised.journal())
    tries, begins, leaves = supervised.told()
    assert tries == {"tries": "gpu"}
    assert begins == {"begins": "case_03", "on_gpu": True}
    assert leaves["leaves"] == "case_03"
    assert "cudaErrorIllegalAddress" in leaves["reason"]
    assert not label_file(tmp_path, "case_03").exists()
    device = FakeDevice()
    install(monkeypatch, device)
    failures = {"case_03": leaves["reason"]}
    journal = supervised.journal(gpu_failures=failures)
    assert segment_folder.segment_folder(settings, journal) == ()
    for case in CASES:
        assert label_file(tmp_path, case).read_bytes() == expected[case]
    first, second = (report(tmp_path, case) for case in CASES)
    assert (first["device"]["device"], second["device"]["device"]) == ("cpu", "cuda")
    (warning,) = (text for text in first["warnings"] if "GPU" in text)
    assert warning.startswith("the GPU failed (")
    assert warning.endswith("; this case is computed on the CPU from its start")
    assert not any("GPU" in text for text in second["warnings"])
    assert [line.get("on_gpu") for line in supervised.told() if "begins" in line] == [False, True]


def test_a_gpu_that_is_given_up_is_not_tried(
    weights: Path,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    supervised: Supervised,
) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    journal = supervised.journal(no_gpu="it failed in 3 cases before")
    assert segment_folder.segment_folder(Settings(phantoms, tmp_path, weights), journal) == ()
    assert device.calls == []
    expected = "computed on the CPU: the GPU is not tried, it failed in 3 cases before"
    for case in CASES:
        assert expected in report(tmp_path, case)["warnings"]


def test_a_gpu_that_was_asked_for_costs_its_case_and_the_next_gets_another_worker(
    weights: Path,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    supervised: Supervised,
) -> None:
    settings = Settings(phantoms, tmp_path, weights, device="cuda")
    failing(monkeypatch, 5)
    with pytest.raises(LeftGpuError):
        segment_folder.segment_folder(settings, supervised.journal())
    begins, ends, leaves = supervised.told()
    assert begins == {"begins": "case_03", "on_gpu": False}
    assert ends["file"] is None
    assert "cudaErrorIllegalAddress" in ends["messages"][0]
    assert leaves == {"leaves": None}


@pytest.mark.parametrize(("call", "number"), [("run", 5), ("memory", 2)])
def test_without_a_supervisor_the_rest_is_computed_on_the_cpu(
    weights: Path,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, bytes],
    call: str,
    number: int,
) -> None:
    failing(monkeypatch, number, call)
    assert segment_folder.segment_folder(Settings(phantoms, tmp_path, weights)) == ()
    for case in CASES:
        assert label_file(tmp_path, case).read_bytes() == expected[case]
        assert report(tmp_path, case)["device"]["device"] == "cpu"


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_networks_that_stay_open_are_not_used_again_after_a_failure(
    weights: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Any
) -> None:
    """As a server needs to know, which has no supervisor over its worker."""
    failing(monkeypatch, 5)
    networks = segment_folder.OpenNetworks()
    chosen = Settings(one, tmp_path / "out", weights, device=device)
    failures = segment_folder.segment_folder(chosen, networks=networks)
    assert len(failures) == (device == "cuda")
    assert not networks.usable


def test_a_defect_of_ours_on_a_gpu_keeps_its_name(
    weights: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    install(monkeypatch, device)
    real = device.called

    def called(what: str) -> None:
        if what == "run" and device.count("run") == 4:
            raise TypeError("Implicit conversion")
        real(what)

    monkeypatch.setattr(device, "called", called)
    failures = segment_folder.segment_folder(Settings(one, tmp_path / "out", weights))
    assert failures[0].message.startswith("internal error (TypeError: Implicit conversion)")


def test_a_time_limit_is_kept_on_a_gpu(
    weights: Path, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, FakeDevice())
    chosen = replace(Settings(one, tmp_path / "out", weights), time_limit_s=0.01)
    assert segment_folder.segment_folder(chosen) == ()
    found = report(tmp_path / "out", "case_03")
    assert (found["device"]["device"], found["effort"]["folds"]) == ("cuda", 1)
