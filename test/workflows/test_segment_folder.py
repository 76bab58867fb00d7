"""A case's whole way, on a coarse phantom and networks with random weights."""

import hashlib
import html
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnunet_oracle as oracle
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from one_fold import OneFold

from oarseg import registration
from oarseg.challenges import catalogue
from oarseg.cli import main
from oarseg.cli.commands import segment
from oarseg.errors import DeviceError, OutputError, WeightsError
from oarseg.imaging.arrays import Image
from oarseg.imaging.files.read_scan import Limits, read_volume
from oarseg.imaging.orientation import to_lps
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.slabs import SlabImage, whole_image
from oarseg.inference.engines import choice
from oarseg.inference.engines.forms import separate_networks
from oarseg.inference.engines.protocol import Engine
from oarseg.model import bundle
from oarseg.model.bundle import Bundle
from oarseg.model.manifest import write_manifest
from oarseg.phantom import write_cases
from oarseg.registration import Registration, Verdict
from oarseg.results import results_file
from oarseg.system import process_pool
from oarseg.system.memory import Need, Room
from oarseg.training.preparation import dataset
from oarseg.workflows import segment_case, segment_folder
from oarseg.workflows.computation import sums
from oarseg.workflows.journal import Finished, Journal
from oarseg.workflows.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
HAN_SEG = catalogue.load_challenge("han_seg")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds of a tiny network with random weights; the MR is optional."""
    return oracle.write_han_seg_weights(tmp_path_factory.mktemp("weights"), folds=2)


def with_required_mr(weights: Path, folder: Path) -> Path:
    """The same weights, saying that the MR is required."""
    shutil.copytree(weights, folder)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"optional": true', '"optional": false'))
    return folder


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases as in local tests of the platform's container."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_cases(folder, seeds=[3, 4], size="tiny", layout="platform")
    return folder


@pytest.fixture
def input_dir(phantoms: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(phantoms, tmp_path / "input"))


@pytest.fixture(autouse=True)
def _quick_registration(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, phantoms: Path
) -> None:
    """Registration has tests of its own; here one case's true transform serves for both."""
    if "real_registration" in request.keywords:
        return
    transform = RigidTransform.read(phantoms / "truth/case_03/case_03_ct_to_mr.tfm")

    def found(*_: object, **__: object) -> Registration:
        verdict = Verdict("good", 0.5, 0.5, 0.5, 1.0, 0.0, ())
        return Registration(transform, verdict, 0.0)

    monkeypatch.setattr(segment_case.registration, "register_mr", found)


def settings(input_dir: Path, output: Path, weights: Path) -> Settings:
    return Settings(input_dir, output, weights, device="cpu", threads=2)


def files_of(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "process.py"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_outputs_of_two_cases(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert segment_folder.segment_folder(settings(input_dir, output, weights)) == ()
    expected = {"results.json"}
    for case in ("case_03", "case_04"):
        expected |= {
            f"images/head_neck_oar/{case}_seg.mha",
            f"oar_masks/{case}.seg.nrrd",
            f"reports/{case}.json",
            *(f"oar_masks/{case}/{case}_OAR_{s.name}.seg.nrrd" for s in HAN_SEG.structures),
        }
    assert files_of(output) == expected
    labels = sitk.ReadImage(str(output / "images/head_neck_oar/case_03_seg.mha"))
    ct = sitk.ReadImage(str(input_dir / "images/ct/case_03_CT.mha"))
    assert labels.GetPixelID() == sitk.sitkUInt8
    assert labels.GetSize() == ct.GetSize()
    assert labels.GetSpacing() == ct.GetSpacing()
    assert labels.GetOrigin() == ct.GetOrigin()
    assert labels.GetDirection() == ct.GetDirection()
    array = sitk.GetArrayFromImage(labels)
    mandible = sitk.ReadImage(str(output / "oar_masks/case_03/case_03_OAR_Bone_Mandible.seg.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(mandible), array == 4)


def test_report_tells_what_was_done(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    segment_folder.segment_folder(settings(input_dir, output, weights))
    report = json.loads((output / "reports/case_03.json").read_text())
    assert report["inputs"] == {"CT": "case_03_CT.mha", "MR_T1": "case_03_MR_T1.mha"}
    assert report["device"]["device"] == "cpu"
    assert report["model"]["folds"] == ["0", "1"]
    text = (weights / "manifest.json").read_text()
    assert report["model"]["manifest_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert report["registration"]["status"] == "good"
    names = [step["name"] for step in report["steps"]]
    assert names[-3:] == ["segmentation", "checks", "writing"]
    assert names[:-3] == ["reading", "registration", "preprocessing"]
    assert all(step["peak_mib"] > 0 for step in report["steps"])
    labels = sitk.ReadImage(str(output / "images/head_neck_oar/case_03_seg.mha"))
    voxels = np.bincount(sitk.GetArrayFromImage(labels).ravel(), minlength=31)
    volume = voxels[4] * np.prod(labels.GetSpacing()) / 1000
    assert report["volumes_cm3"]["Bone_Mandible"] == pytest.approx(volume, abs=5e-4)
    checks = report["checks"]
    assert {n: o["volume_cm3"] for n, o in checks["organs"].items()} == report["volumes_cm3"]
    missing = [found["organs"] for found in checks["raised"] if found["check"] == "missing"]
    assert missing == [[name] for name, cm3 in report["volumes_cm3"].items() if cm3 == 0]
    assert any(warning.startswith("look at the masks: ") for warning in report["warnings"])
    assert report["repair"] is None
    agreement = report["fold_agreement"]
    assert agreement["folds"] == 2
    assert set(agreement["mean_pairwise_dice"]) == set(report["volumes_cm3"])
    assert all(d is None or 0 <= d <= 1 for d in agreement["mean_pairwise_dice"].values())


def test_stray_parts_are_removed_where_that_is_asked_for(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    plain, repaired = tmp_path / "plain", tmp_path / "repaired"
    segment_folder.segment_folder(settings(input_dir, plain, weights))
    asked = replace(settings(input_dir, repaired, weights), repair=("lr", "components"))
    segment_folder.segment_folder(asked)
    name = "images/head_neck_oar/case_03_seg.mha"
    before, after = (read_volume(folder / name).array for folder in (plain, repaired))
    report = json.loads((repaired / "reports/case_03.json").read_text())
    changed = report["repair"]["changed"]
    removed = sum(change["voxels"] for change in changed if change["repair"] == "components")
    assert removed == np.count_nonzero(before) - np.count_nonzero(after) > 0
    assert any("repaired as asked" in warning for warning in report["warnings"])
    raised = {found["check"] for found in report["checks"]["raised"]}
    assert "parts" not in raised


def test_pages_of_a_run(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    """One for each case and the index; a failed case's says why; they never outlive their case."""
    output = tmp_path / "output"
    asked = replace(settings(input_dir, output, weights), report_pages=True)
    assert segment_folder.segment_folder(asked) == ()
    pages = {path.name: path for path in (output / "reports").glob("*.html")}
    assert set(pages) == {"case_03.html", "case_04.html", "index.html"}
    assert "data-organ" in pages["case_03.html"].read_text(encoding="utf-8")
    ct = input_dir / "images/ct/case_04_CT.mha"
    ct.write_bytes(ct.read_bytes()[:2000])
    (failure,) = segment_folder.segment_folder(asked)
    text = pages["case_04.html"].read_text(encoding="utf-8")
    assert "Not segmented" in text
    assert failure.message.partition(";")[0].partition("found")[0] in html.unescape(text)
    assert "1 failed" in pages["index.html"].read_text(encoding="utf-8")
    segment_folder.segment_folder(settings(input_dir, output, weights))
    assert not any(page.exists() for page in pages.values())


def test_a_page_that_cannot_be_written_costs_no_case(
    input_dir: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise OutputError("no room for the page")

    monkeypatch.setattr(segment_folder, "write_case_page", fail)
    output = tmp_path / "output"
    asked = replace(settings(input_dir, output, weights), report_pages=True)
    assert segment_folder.segment_folder(asked) == ()
    assert "case_03: no page written: no room for the page" in caplog.text
    assert (output / "images/head_neck_oar/case_03_seg.mha").is_file()


def test_both_channels_and_both_folds_matter(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    """Had the MR or the second fold no effect, the labels would be the same without it."""
    one_fold = Path(shutil.copytree(weights, tmp_path / "one_fold"))
    manifest = bundle.load_bundle(weights).manifest
    write_manifest(replace(manifest, models=manifest.models[:1]), one_fold)
    without_mr = Path(shutil.copytree(input_dir, tmp_path / "without_mr"))
    shutil.rmtree(without_mr / "images/t1-mri")
    found = []
    for i, (source, model) in enumerate(
        [(input_dir, weights), (without_mr, weights), (input_dir, one_fold)]
    ):
        output = tmp_path / f"output_{i}"
        assert segment_folder.segment_folder(settings(source, output, model)) == ()
        found.append((output / "images/head_neck_oar/case_03_seg.mha").read_bytes())
    assert len(set(found)) == 3


def test_two_runs_are_equal_to_the_byte(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        segment_folder.segment_folder(settings(input_dir, tmp_path / name, weights))
        masks = [f for f in files_of(tmp_path / name) if not f.startswith("reports")]
        written.append({f: (tmp_path / name / f).read_bytes() for f in masks})
    assert written[0] == written[1]


def test_missing_optional_mr_is_a_warning(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    (input_dir / "images/t1-mri/case_03_MR_T1.mha").unlink()
    output = tmp_path / "output"
    assert segment_folder.segment_folder(settings(input_dir, output, weights)) == ()
    report = json.loads((output / "reports/case_03.json").read_text())
    assert "no MR_T1: segmented from the CT alone" in report["warnings"]
    assert report["registration"] is None


@pytest.mark.parametrize("channel", ["MR_T1", "MR_T1, required", "CT"])
def test_nan_costs_an_optional_mr_and_no_more(
    input_dir: Path, weights: Path, tmp_path: Path, channel: str
) -> None:
    folder, optional = ("ct", False) if channel == "CT" else ("t1-mri", channel == "MR_T1")
    path = input_dir / f"images/{folder}/case_03_{channel.split(',')[0]}.mha"
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
    image[1, 2, 3] = float("nan")
    sitk.WriteImage(image, str(path))
    model = weights if channel != "MR_T1, required" else with_required_mr(weights, tmp_path / "w")
    output = tmp_path / "output"
    failures = segment_folder.segment_folder(settings(input_dir, output, model))
    problem = f"{path}: expected finite values, found 1 voxels that are NaN or infinite; "
    if optional:
        assert failures == ()
        warnings = json.loads((output / "reports/case_03.json").read_text())["warnings"]
        alone = warnings.index("no MR_T1: segmented from the CT alone")
        assert warnings[alone - 1].startswith(f"MR_T1 not used: {problem}")
    else:
        (failure,) = failures
        assert failure.message.startswith(problem)


def test_missing_required_mr_fails_that_case_only(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    (input_dir / "images/t1-mri/case_03_MR_T1.mha").unlink()
    strict = with_required_mr(weights, tmp_path / "strict")
    output = tmp_path / "output"
    failures = segment_folder.segment_folder(settings(input_dir, output, strict))
    assert [f.case for f in failures] == ["case_03"]
    assert "MR_T1" in failures[0].message
    assert not any("case_03" in name for name in files_of(output))
    results = json.loads((output / "results.json").read_text())
    assert sorted(bool(r["error_messages"]) for r in results) == [False, True]
    assert (output / "images/head_neck_oar/case_04_seg.mha").is_file()


def test_damaged_ct_fails_that_case_only(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    path = input_dir / "images/ct/case_04_CT.mha"
    path.write_bytes(path.read_bytes()[:-1000])
    output = tmp_path / "output"
    failures = segment_folder.segment_folder(settings(input_dir, output, weights))
    assert [f.case for f in failures] == ["case_04"]
    assert "case_04_CT.mha" in failures[0].message
    assert (output / "images/head_neck_oar/case_03_seg.mha").is_file()
    assert not any("case_04" in name for name in files_of(output))


@pytest.mark.parametrize("optional", [True, False])
def test_failed_registration(
    input_dir: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optional: bool,
) -> None:
    verdict = Verdict("failed", 0.01, 0.01, 0.0, 0.1, 1.0, ("nothing in common",))
    monkeypatch.setattr(
        segment_case.registration,
        "register_mr",
        lambda *_, **__: Registration(RigidTransform(), verdict, 0.0),
    )
    model = weights if optional else with_required_mr(weights, tmp_path / "strict")
    output = tmp_path / "output"
    failures = segment_folder.segment_folder(settings(input_dir, output, model))
    if optional:
        assert failures == ()
        report = json.loads((output / "reports/case_03.json").read_text())
        assert "MR_T1 not used, registration failed: nothing in common" in report["warnings"]
    else:
        assert [f.case for f in failures] == ["case_03", "case_04"]
        assert "could not be registered to the CT (nothing in common)" in failures[0].message
        assert files_of(output) == {"results.json"}


def test_a_defect_of_ours_costs_one_case_and_keeps_its_traceback(
    input_dir: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = segment_case.preprocess
    calls = iter([True, False])

    def broken(*arguments: object, **options: object) -> object:
        if next(calls):
            raise ZeroDivisionError("by hand")
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(segment_case, "preprocess", broken)
    failures = segment_folder.segment_folder(settings(input_dir, tmp_path / "output", weights))
    assert [f.case for f in failures] == ["case_03"]
    assert failures[0].message.startswith("internal error (ZeroDivisionError: by hand)")
    assert (tmp_path / "output/images/head_neck_oar/case_04_seg.mha").is_file()
    assert any(r.exc_info and r.exc_info[0] is ZeroDivisionError for r in caplog.records)


def test_memory_that_ends_costs_one_case(
    input_dir: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = segment_case.preprocess
    calls = iter([True, False])

    def full(*arguments: Any, **options: Any) -> Any:
        if next(calls):
            raise MemoryError
        return real(*arguments, **options)

    monkeypatch.setattr(segment_case, "preprocess", full)
    output = tmp_path / "output"
    (failure,) = segment_folder.segment_folder(settings(input_dir, output, weights))
    assert failure.case == "case_03"
    assert "not enough memory" in failure.message
    assert (output / "images/head_neck_oar/case_04_seg.mha").is_file()


def test_what_will_not_fit_is_refused_before_the_work(
    input_dir: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room("the container's limit", 2**30, 2**30 - 2**20)
    monkeypatch.setattr(sums.memory, "tightest_room", lambda: room)
    monkeypatch.setattr(
        segment_case.registration, "register_mr", lambda *_, **__: pytest.fail("work")
    )
    failures = segment_folder.segment_folder(settings(input_dir, tmp_path / "output", weights))
    assert [f.case for f in failures] == ["case_03", "case_04"]
    assert "of memory, and the container's limit is 1.0 GiB; give it more" in failures[0].message


class FailingGpu(OneFold):
    """A stand-in for a GPU that gives up at the third tile."""

    def __init__(self, fold: Engine, calls: Iterator[int]) -> None:
        self._fold, self._calls = fold, calls

    def __call__(self, tile: Image) -> Image:
        if next(self._calls) == 4:  # the first is the trial
            raise DeviceError("fold_0.onnx: ONNX Runtime stopped: out of memory")
        return self._fold(tile)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_fails_in_the_middle(
    input_dir: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    (input_dir / "images/ct/case_04_CT.mha").unlink()
    (input_dir / "images/t1-mri/case_04_MR_T1.mha").unlink()
    expected = tmp_path / "expected"
    segment_folder.segment_folder(settings(input_dir, expected, weights))
    real = choice.open_engines

    def opened(loaded: Bundle, *, device: choice.Device, **options: Any) -> choice.Engines:
        on_cpu = real(loaded, device="cpu", **options)
        if device == "cpu":
            return on_cpu
        calls = itertools.count(1)
        folds = [FailingGpu(fold, calls) for fold in on_cpu.take()]
        stand_in = choice.DeviceChoice("cuda", "cuda", "a stand-in")
        return choice.Engines(stand_in, separate_networks(folds))

    monkeypatch.setattr(choice, "open_engines", opened)
    output = tmp_path / "output"
    chosen = replace(settings(input_dir, output, weights), device=device)  # type: ignore[arg-type]
    failures = segment_folder.segment_folder(chosen)
    label_file = "images/head_neck_oar/case_03_seg.mha"
    if device == "cuda":
        assert [f.message for f in failures] == ["fold_0.onnx: ONNX Runtime stopped: out of memory"]
        assert files_of(output) == {"results.json"}
        return
    assert failures == ()
    assert (output / label_file).read_bytes() == (expected / label_file).read_bytes()
    report = json.loads((output / "reports/case_03.json").read_text())
    assert report["device"]["device"] == "cpu"
    assert any("the GPU failed" in warning for warning in report["warnings"])


def test_a_time_limit_says_what_was_left_out(
    input_dir: Path, weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "output"
    short = replace(settings(input_dir, output, weights), time_limit_s=0.01)
    assert segment_folder.segment_folder(short) == ()
    report = json.loads((output / "reports/case_03.json").read_text())
    assert report["effort"]["folds"] == 1
    assert report["effort"]["step"] == 1.0
    assert report["effort"]["left_out"][-1] == "1 of 2 folds"
    assert any("to meet the time limit, left out: " in text for text in report["warnings"])
    assert any("the time limit will be missed" in text for text in report["warnings"])


def unsupervised(work: Callable[[Journal], int], *, output: Path, limit: object) -> int:
    """The work in this process, where a test sees what it is given."""
    return work(Journal())


def report_of(output: Path, case: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "reports" / f"{case}.json").read_text())
    return found


def label_map(output: Path, case: str) -> Any:
    path = output / f"images/head_neck_oar/{case}_seg.mha"
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_every_voxel_is_labelled_where_all_is_asked_for(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    maps = {}
    for region in ("full", "all"):
        output = tmp_path / region
        chosen = replace(settings(input_dir, output, weights), region=region)
        assert segment_folder.segment_folder(chosen) == ()
        assert report_of(output, "case_03")["region"] == region
        maps[region] = label_map(output, "case_03")
    # Air is a structure to this network; only a mask of the body keeps that from the answer.
    inside = maps["full"] > 0
    assert (maps["all"][inside] == maps["full"][inside]).all()
    assert np.count_nonzero(maps["all"]) > np.count_nonzero(inside)


def test_folds_share_a_sum_where_their_own_would_not_fit(
    input_dir: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecasts: list[bool] = []
    real = sums.forecast_memory

    def large_if_separate(*arguments: Any, joint: bool, **options: Any) -> Need:
        forecasts.append(joint)
        need = real(*arguments, joint=joint, **options)
        return need if joint else replace(need, fixed=1 << 60)

    chosen = settings(input_dir, tmp_path / "out", weights)
    assert segment_folder.segment_folder(chosen) == ()
    assert report_of(chosen.output, "case_03")["precision"]["fold_sums"] == "separate"
    monkeypatch.setattr(sums, "forecast_memory", large_if_separate)
    assert segment_folder.segment_folder(replace(chosen, output=tmp_path / "joint")) == ()
    assert report_of(tmp_path / "joint", "case_03")["precision"]["fold_sums"] == "joint"
    assert set(forecasts) == {False, True}


@pytest.mark.parametrize(
    ("options", "variable", "expected"),
    [
        ((), None, None),
        ((), "90", 90.0),
        (("--time-limit", "30"), "90", 30.0),
        (("--no-mirroring",), "", None),
    ],
)
def test_the_time_limit_comes_from_the_option_or_the_environment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    variable: str | None,
    expected: float | None,
) -> None:
    seen: list[Settings] = []

    def kept(chosen: Settings, _: Journal) -> tuple[()]:
        seen.append(chosen)
        return ()

    monkeypatch.setattr(segment_folder, "segment_folder", kept)
    monkeypatch.setattr(segment.supervisor, "run_supervised", unsupervised)
    if variable is not None:
        monkeypatch.setenv("OARSEG_TIME_LIMIT", variable)
    assert main(["segment", "--input", str(tmp_path), *options]) == 0
    assert seen[0].time_limit_s == expected
    assert seen[0].mirroring == (False if "--no-mirroring" in options else None)


@pytest.mark.parametrize("text", ["soon", "0", "-3", "inf", "nan"])
def test_a_time_limit_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(segment.supervisor, "run_supervised", unsupervised)
    monkeypatch.setenv("OARSEG_TIME_LIMIT", text)
    assert main(["segment", "--input", str(tmp_path)]) == 1
    with pytest.raises(SystemExit):
        main(["segment", "--time-limit", text])


def test_no_case_is_begun_when_the_time_is_over(
    input_dir: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last worker writes down what the ones before it have done, and loads no network."""
    output = tmp_path / "output"
    monkeypatch.setattr(choice, "open_engines", lambda *_, **__: pytest.fail("networks loaded"))
    finished = {"case_03": Finished("images/head_neck_oar/case_03_seg.mha")}
    over = Finished(messages=("the time limit of 10 s passed before this case was begun",))
    journal = Journal(finished, over=over)
    failures = segment_folder.segment_folder(settings(input_dir, output, weights), journal)
    assert [(f.case, f.message) for f in failures] == [("case_04", over.messages[0])]
    assert [len(record["outputs"]) for record in results(output)] == [1, 0]


def test_no_home_and_no_temporary_folder(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    (input_dir / "images/ct/case_04_CT.mha").unlink()
    (input_dir / "images/t1-mri/case_04_MR_T1.mha").unlink()
    nowhere = dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME"), "/nonexistent")
    folders = ("--input", input_dir, "--output", tmp_path / "output", "--weights", weights)
    done = subprocess.run(
        [sys.executable, str(ROOT / "process.py"), *map(str, folders), "--registration", "none"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | nowhere,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output/images/head_neck_oar/case_03_seg.mha").is_file()


HANGING_LIBRARY = """
import os, signal, time
class Core:
    def __init__(self):
        {what}
"""


@pytest.mark.parametrize(
    ("what", "limit_s", "message", "cases"),
    [
        ("time.sleep(600)", 1, "the time limit of 1 s passed before this case was begun", 2),
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            1000,
            "before a case was begun: a library crashed (signal 11, SIGSEGV); please report it "
            "with these files",
            0,
        ),
    ],
    ids=["hangs", "crashes"],
)
def test_a_library_that_hangs_or_crashes_as_it_loads_a_network(
    input_dir: Path,
    weights: Path,
    tmp_path: Path,
    what: str,
    limit_s: int,
    message: str,
    cases: int,
) -> None:
    (tmp_path / "fake/openvino").mkdir(parents=True)
    (tmp_path / "fake/openvino/__init__.py").write_text(HANGING_LIBRARY.format(what=what))
    command = [sys.executable, str(ROOT / "process.py"), "--device", "cpu"]
    command += ["--time-limit", str(limit_s)]
    for option, folder in (("input", input_dir), ("output", tmp_path / "out")):
        command += [f"--{option}", str(folder)]
    done = subprocess.run(
        [*command, "--weights", str(weights)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "fake"), str(ROOT)])},
    )
    assert done.returncode == 1
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert len(results(tmp_path / "out")) == cases


def test_weights_of_another_challenge(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    wrong = replace(settings(input_dir, tmp_path / "output", weights), challenge="segrap_oar")
    with pytest.raises(WeightsError, match="are for challenge han_seg, --challenge says segrap"):
        segment_folder.segment_folder(wrong)


def test_output_that_is_a_file(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("")
    with pytest.raises(OutputError, match="expected a folder that can be written"):
        segment_folder.segment_folder(settings(input_dir, tmp_path / "output", weights))


def test_command_line_explains_in_its_last_line(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    shutil.rmtree(input_dir / "images/ct")
    output = tmp_path / "output"
    done = run("--input", input_dir, "--output", output, "--weights", weights)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "case_04" in last
    assert "2 cases failed" in last
    assert not output.exists() or files_of(output) <= {"results.json"}


@pytest.mark.real_registration
def test_command_line_on_a_good_case(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    done = run("--input", input_dir, "--output", output, "--weights", weights, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    report = json.loads((output / "reports/case_03.json").read_text())
    assert report["registration"]["status"] == "good"
    # A platform marks all that comes on stderr as a warning.
    assert "INFO case case_03" in done.stdout
    assert {line.split()[1] for line in done.stderr.splitlines()} <= {"WARNING"}


def closed(number: int) -> None:
    os.close(number)


def full(number: int) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), number)


def unread(number: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, number)


@pytest.mark.parametrize("broken", [(1,), (2,), (0, 1, 2)], ids=["stdout", "stderr", "all"])
@pytest.mark.parametrize("fault", [closed, full, unread])
def test_a_broken_log_loses_no_work(
    input_dir: Path,
    weights: Path,
    tmp_path: Path,
    fault: Callable[[int], None],
    broken: tuple[int, ...],
) -> None:
    for path in (*input_dir.glob("images/t1-mri/*"), *input_dir.glob("images/ct/case_04*")):
        path.unlink()
    output = tmp_path / "output"
    options = ("--input", input_dir, "--output", output, "--weights", weights, "--device", "cpu")

    def break_streams() -> None:
        for number in broken:
            fault(number)

    done = subprocess.run(
        [sys.executable, str(ROOT / "process.py"), *map(str, options)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=break_streams,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert [record["outputs"] for record in results(output)] == [
        [{"type": "metaio_image", "filename": "case_03_seg.mha"}]
    ]
    assert (output / "images/head_neck_oar/case_03_seg.mha").is_file()


def test_sigterm_leaves_nothing_half_written(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    command = [sys.executable, "-u", str(ROOT / "process.py"), "--input", str(input_dir)]
    process = subprocess.Popen(
        [*command, "--output", str(output), "--weights", str(weights), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for line in process.stdout:
        if "case case_03" in line:
            break
    process.terminate()
    rest = process.stderr.read()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert "stopped by signal 15" in rest.splitlines()[-1]
    assert files_of(output) == {"results.json"}
    assert json.loads((output / "results.json").read_text()) == []


def test_inference_imports_neither_torch_nor_nnunet() -> None:
    code = (
        "import sys, oarseg.workflows.segment_folder\n"
        "found = [m for m in ('torch', 'nnunetv2', 'matplotlib', 'onnx') if m in sys.modules]\n"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def results(output: Path) -> list[dict[str, list[Any]]]:
    found: list[dict[str, list[Any]]] = json.loads((output / "results.json").read_text())
    return found


def test_a_failed_rerun_sets_the_earlier_outputs_aside(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    """What lies in a case's place is of this run, and results.json lists it, or it is not there."""
    output = tmp_path / "output"
    assert segment_folder.segment_folder(settings(input_dir, output, weights)) == ()
    first = (output / "images/head_neck_oar/case_04_seg.mha").read_bytes()
    path = input_dir / "images/ct/case_04_CT.mha"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    assert [
        f.case for f in segment_folder.segment_folder(settings(input_dir, output, weights))
    ] == ["case_04"]
    assert not {name for name in files_of(output) if "case_04" in name and "earlier" not in name}
    aside = output / "earlier/case_04"
    assert (aside / "images/head_neck_oar/case_04_seg.mha").read_bytes() == first
    assert len(files_of(aside)) == 33
    (failed,) = (record for record in results(output) if record["error_messages"])
    assert failed["outputs"] == []
    assert failed["error_messages"][1] == "its outputs of an earlier run are in earlier/case_04"
    # Nor are they taken for new where the case cannot even be begun, and its CT is gone.
    path.unlink()
    segment_folder.segment_folder(settings(input_dir, output, weights))
    assert (aside / "images/head_neck_oar/case_04_seg.mha").read_bytes() == first
    path.write_bytes(whole)
    assert segment_folder.segment_folder(settings(input_dir, output, weights)) == ()
    assert not (output / "earlier").exists()
    assert (output / "images/head_neck_oar/case_04_seg.mha").read_bytes() == first


def test_outputs_of_a_case_that_is_none_any_more_go_aside(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    segment_folder.segment_folder(settings(input_dir, output, weights))
    (input_dir / "images/ct/case_04_CT.mha").unlink()
    segment_folder.segment_folder(settings(input_dir, output, weights))
    assert (output / "earlier/case_04/images/head_neck_oar/case_04_seg.mha").is_file()
    assert not {name for name in files_of(output) if "case_04" in name and "earlier" not in name}


def test_results_are_true_at_every_moment(
    input_dir: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever results.json is written, the label files that it lists are there; what an earlier
    run listed is listed until this run has replaced it or failed to."""
    output = tmp_path / "output"
    path = input_dir / "images/ct/case_04_CT.mha"
    segment_folder.segment_folder(settings(input_dir, output, weights))
    path.write_bytes(path.read_bytes()[:-1000])
    seen = []
    write = results_file.write_results

    def checked(folder: Path, entries: Sequence[results_file.Entry]) -> None:
        write(folder, entries)
        names = [output["filename"] for entry in entries for output in entry["outputs"]]
        assert all((folder / "images/head_neck_oar" / name).is_file() for name in names)
        seen.append(names)

    monkeypatch.setattr(results_file, "write_results", checked)
    segment_folder.segment_folder(settings(input_dir, output, weights))
    both = ["case_03_seg.mha", "case_04_seg.mha"]
    assert seen == [both, both, both[:1], both[:1]]
    assert not [name for name in files_of(output) if "case_04" in name and "earlier" not in name]


def test_a_new_worker_goes_on_behind_the_case_that_killed_the_last(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    (output / ".oarseg/stage/case_03").mkdir(parents=True)
    journal = Journal({"case_03": Finished(messages=("killed because memory ran out",))})
    failures = segment_folder.segment_folder(settings(input_dir, output, weights), journal)
    assert [(f.case, f.message) for f in failures] == [("case_03", "killed because memory ran out")]
    assert [len(record["outputs"]) for record in results(output)] == [0, 1]
    assert not (output / ".oarseg").exists()


def test_a_case_begun_again_after_a_crash_adds_tiles_outside_of_the_networks(
    input_dir: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its report says that it was begun again."""
    opened = []
    open_engines = choice.open_engines

    def spy(*arguments: Any, **options: Any) -> Any:
        opened.append(options["adds"])
        return open_engines(*arguments, **options)

    monkeypatch.setattr(choice, "open_engines", spy)
    output = tmp_path / "output"
    for crashes, adds in (({}, True), ({"case_03": "a library crashed"}, False)):
        run = settings(input_dir, output / str(adds), weights)
        assert segment_folder.segment_folder(run, Journal(crashes=crashes)) == ()
        warnings = report_of(output / str(adds), "case_03")["warnings"]
        assert ("a library crashed; this case is begun again" in warnings) is not adds
        assert not any("crashed" in w for w in report_of(output / str(adds), "case_04")["warnings"])
    assert opened == [True, False]


@pytest.mark.parametrize("code", ["RAS", "ASL"])
def test_labels_do_not_depend_on_how_the_ct_is_stored(
    input_dir: Path, weights: Path, tmp_path: Path, code: str
) -> None:
    """Left stays left in a file that runs from right to left, or has sagittal planes."""
    plain, turned = tmp_path / "plain", tmp_path / "turned"
    shutil.rmtree(input_dir / "images/t1-mri")
    (input_dir / "images/ct/case_04_CT.mha").unlink()
    segment_folder.segment_folder(settings(input_dir, plain, weights))
    path = input_dir / "images/ct/case_03_CT.mha"
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), code), str(path))
    segment_folder.segment_folder(settings(input_dir, turned, weights))
    name = "images/head_neck_oar/case_03_seg.mha"
    expected, found = (sitk.ReadImage(str(folder / name)) for folder in (plain, turned))
    ct = sitk.ReadImage(str(path))
    assert found.GetSize() == ct.GetSize()
    assert found.GetDirection() == ct.GetDirection()
    assert found.GetOrigin() == ct.GetOrigin()
    back = sitk.DICOMOrient(found, "LPS")
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(expected))
    assert sitk.GetArrayFromImage(expected).any()


def test_raw_ct_is_refused_unless_it_is_said_to_be_hu(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    path = input_dir / "images/ct/case_03_CT.mha"
    sitk.WriteImage(sitk.ReadImage(str(path)) + 1024, str(path))
    output = tmp_path / "output"
    (failure,) = segment_folder.segment_folder(settings(input_dir, output, weights))
    assert "expected a CT in HU" in failure.message
    assert failure.message.endswith("or pass --assume-hu")
    chosen = replace(settings(input_dir, output, weights), assume_hu=True)
    assert segment_folder.segment_folder(chosen) == ()


def test_ct_and_mr_in_each_other_s_place(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    ct, mr = (
        input_dir / f"images/{name}.mha" for name in ("ct/case_03_CT", "t1-mri/case_03_MR_T1")
    )
    shutil.copy(mr, tmp_path / "mr.mha")
    shutil.copy(ct, mr)
    (failure,) = segment_folder.segment_folder(settings(input_dir, tmp_path / "output", weights))
    assert failure.message.startswith(f"{mr}: expected an MR, found a CT: values in HU")
    shutil.copy(tmp_path / "mr.mha", ct)
    (failure,) = segment_folder.segment_folder(settings(input_dir, tmp_path / "output", weights))
    assert failure.message.startswith(f"{ct}: expected a CT in HU")
    assert "check that CT and MR are not exchanged" in failure.message


def test_the_ct_s_own_voxels_in_the_place_of_the_mr(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    """Shifted, so that its values do not say that they are HU."""
    ct, mr = (
        input_dir / f"images/{name}.mha" for name in ("ct/case_03_CT", "t1-mri/case_03_MR_T1")
    )
    sitk.WriteImage(sitk.ReadImage(str(ct)) + 1024, str(mr))
    (failure,) = segment_folder.segment_folder(settings(input_dir, tmp_path / "output", weights))
    assert failure.message == (
        f"{mr}: expected an MR, found the CT's own voxels; give the MR of this patient"
    )


def test_nifti_labels_have_the_ct_s_own_geometry(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    """Stored from right to left, so that the networks' grid is another one."""
    ct = input_dir / "images/ct/case_03_CT.mha"
    path = ct.with_suffix(".nii")
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(ct)), "RAS"), str(path))
    ct.unlink()
    output = tmp_path / "output"
    assert segment_folder.segment_folder(settings(input_dir, output, weights)) == ()
    labels = output / "images/head_neck_oar/case_03_seg.nii"
    for field in (slice(76, 92), slice(252, 328)):
        assert labels.read_bytes()[field] == path.read_bytes()[field]
    sitk.Mask(sitk.ReadImage(str(path)), sitk.ReadImage(str(labels)))


def test_limits_are_the_user_s(input_dir: Path, weights: Path, tmp_path: Path) -> None:
    chosen = replace(settings(input_dir, tmp_path / "output", weights), limits=Limits(voxels=1000))
    failures = segment_folder.segment_folder(chosen)
    assert [f.case for f in failures] == ["case_03", "case_04"]
    assert "expected at most 1000 voxels" in failures[0].message


def test_a_file_that_vanishes_fails_that_case_only(
    input_dir: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = segment_folder.find_cases

    def and_lose_one(*arguments: Any, **options: Any) -> Any:
        found = find(*arguments, **options)
        (input_dir / "images/t1-mri/case_03_MR_T1.mha").unlink()
        return found

    monkeypatch.setattr(segment_folder, "find_cases", and_lose_one)
    (failure,) = segment_folder.segment_folder(settings(input_dir, tmp_path / "output", weights))
    assert failure.case == "case_03"
    assert failure.message.endswith(
        "case_03_MR_T1.mha: expected a readable file, found No such file or directory; "
        "check the file"
    )


def test_damaged_onnx_file_ends_the_run_before_any_case(
    input_dir: Path, weights: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(weights, tmp_path / "broken"))
    path = next(broken.glob("*.onnx"))
    path.write_bytes(path.read_bytes()[:-1])
    done = run(
        *("--input", input_dir, "--output", tmp_path / "output", "--weights", broken),
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert path.name in last
    assert "SHA-256" in last
    assert not (tmp_path / "output").exists()


TILT = np.reshape(sitk.Euler3DTransform((0.0, 0.0, 0.0), 0.1, -0.07, 0.13).GetMatrix(), (3, 3))


def oblique(path: Path, code: str) -> None:
    """Store an image in another order of its axes, and tilt it in the world."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), code)
    image.SetOrigin((TILT @ image.GetOrigin()).tolist())
    image.SetDirection((TILT @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    sitk.WriteImage(image, str(path), True)


@pytest.mark.parametrize("method", ["rigid", "stand-in"])
@pytest.mark.real_registration
def test_prepare_and_segment_give_the_same_channels(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """What a network is trained on is what it is given, to the bit."""
    data = tmp_path / "data"
    write_cases(data, seeds=[3], size="tiny")
    for path in data.glob("case_03/*.nrrd"):
        oblique(path, "ASR" if "_MR_" in path.name else "RPI")
    if method == "stand-in":
        true = RigidTransform.read(data / "case_03/case_03_ct_to_mr.tfm")
        rotation, shift = np.reshape(true.rotation, (3, 3)), np.array(true.translation_mm)
        tilted = RigidTransform.from_arrays(TILT @ rotation @ TILT.T, TILT @ shift)
        found = Registration(tilted, Verdict("good", 0.5, 0.5, 0.5, 1.0, 0.0, ()), 0.0)
        monkeypatch.setattr(registration, "register_mr", lambda *_, **__: found)
    # Workers see what this process was given, however they are started.
    monkeypatch.setattr(
        process_pool, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(workers)
    )
    out = tmp_path / "Dataset101_Test"
    dataset.prepare_dataset(data, out, challenge=HAN_SEG, progress=lambda _: None)
    given: list[NDArray[Any]] = []
    real = segment_case.preprocess

    def seen(channels: Sequence[SlabImage], *arguments: Any, **options: Any) -> Any:
        given.extend(whole_image(channel) for channel in channels)
        return real(channels, *arguments, **options)

    monkeypatch.setattr(segment_case, "preprocess", seen)
    assert segment_folder.segment_folder(settings(data, tmp_path / "output", weights)) == ()
    ct, mr = (read_volume(out / f"imagesTr/case_03_000{i}.nrrd") for i in (0, 1))
    assert to_lps(ct.grid).is_none
    assert not to_lps(read_volume(data / "case_03/case_03_IMG_CT.nrrd").grid).is_none
    assert np.abs(np.array(ct.grid.direction)[~np.eye(3, dtype=bool)]).min() > 0.01
    for trained_on, segmented in zip((ct.array, mr.array), given, strict=True):
        assert trained_on.dtype == segmented.dtype
        assert np.array_equal(trained_on, segmented)
    assert np.count_nonzero(mr.array) > mr.array.size / 10
