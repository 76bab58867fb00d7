"""From segmented held-out cases to the Dice that is expected of the next one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnunet_oracle as oracle
import pytest
import SimpleITK as sitk

from oarseg.challenges.catalogue import load_challenge
from oarseg.cli import main
from oarseg.errors import OutputError, WeightsError
from oarseg.inference.streaming import Effort
from oarseg.model.bundle import load_bundle
from oarseg.model.calibration import LARGEST_CALIBRATION_BYTES, write_calibration
from oarseg.phantom import write_cases
from oarseg.workflows.report import expected_dice_record
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings, describe_run

CASES = 6
LABEL, ORGAN = 5, "Brainstem"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds with random weights that work from the CT alone."""
    return oracle.write_han_seg_weights(tmp_path_factory.mktemp("weights"), folds=2)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CTs only: what is registered is not the matter here."""
    folder = tmp_path_factory.mktemp("cases")
    write_cases(folder, seeds=list(range(CASES)), size="tiny", layout="platform")
    shutil.rmtree(folder / "images/t1-mri")
    return folder


@pytest.fixture(scope="module")
def segmented(weights: Path, cases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("segmented")
    assert segment_folder(Settings(cases, output, weights, device="cpu", threads=2)) == ()
    return output


@pytest.fixture
def model(weights: Path, tmp_path: Path) -> Path:
    """A copy to calibrate."""
    return Path(shutil.copytree(weights, tmp_path / "model"))


def truths(segmented: Path, folder: Path) -> Path:
    """Truths of which every second one has half of what was found: Dice 1 and 2/3."""
    folder.mkdir()
    for number, path in enumerate(sorted((segmented / "images/head_neck_oar").glob("*.mha"))):
        image = sitk.ReadImage(str(path))
        labels = sitk.GetArrayFromImage(image)
        if number % 2:
            found = labels.ravel()
            voxels = (found == LABEL).nonzero()[0]
            found[voxels[: len(voxels) // 2]] = 0
        changed = sitk.GetImageFromArray(labels)
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(folder / path.name), useCompression=True)
    return folder


def calibrate(segmented: Path, truth: Path, model: Path, tmp_path: Path, *more: str) -> int:
    options = ["--out", str(tmp_path / "scores"), "--no-plot", "--calibrate", str(model), *more]
    return main(["evaluate", str(segmented), str(truth), *options])


def test_held_out_cases_give_the_next_one_its_expected_dice(
    segmented: Path,
    model: Path,
    cases: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Segment, evaluate, segment: 3 cases of Dice 1 and 3 of 2/3; the mean, and the error of it."""
    before = load_bundle(model)
    assert before.calibration is None
    assert calibrate(segmented, truths(segmented, tmp_path / "truth"), model, tmp_path) == 0
    said = rf"{ORGAN}: 6 cases, agreement .*, expected DC 0\.833 to 0\.833, error 0\.200"
    assert re.search(said, capsys.readouterr().out)
    calibrated = load_bundle(model)
    assert calibrated.sha256 == before.sha256
    assert calibrated.calibration is not None
    assert calibrated.calibration.compared.folds == 2
    one = tmp_path / "one"
    shutil.copytree(cases, one)
    for path in sorted((one / "images/ct").glob("*"))[1:]:
        path.unlink()
    settings = Settings(one, tmp_path / "next", model, device="cpu", threads=2, report_pages=True)
    assert segment_folder(settings) == ()
    (file,) = (tmp_path / "next/reports").glob("*.json")
    report = json.loads(file.read_text())
    expected = report["expected_dice"]
    text = (model / "calibration.json").read_bytes()
    assert expected["calibration_sha256"] == hashlib.sha256(text).hexdigest()
    assert set(expected["organs"]) == set(report["volumes_cm3"])
    brainstem = expected["organs"][ORGAN]
    assert brainstem == {"dice": 0.833, "error": 0.2, "beyond": None}
    page = file.with_suffix(".html").read_text(encoding="utf-8")
    assert "expected DC" in page
    assert "0.83 ± 0.20" in page
    (plain, *_) = (segmented / "reports").glob("*.json")
    assert json.loads(plain.read_text())["expected_dice"] is None


def test_a_model_is_calibrated_by_its_own_reports_and_in_the_whole_image(
    segmented: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model / "manifest.json"
    path.write_text(path.read_text() + "\n")
    truth = truths(segmented, tmp_path / "truth")
    assert calibrate(segmented, truth, model, tmp_path) == 1
    assert "found another's manifest_sha256; segment the case again" in capsys.readouterr().err
    assert calibrate(segmented, truth, model, tmp_path, "--mr-field", str(truth)) == 1
    assert "--calibrate: expected without --mr-field" in capsys.readouterr().err
    assert not (model / "calibration.json").exists()


def test_weights_that_cannot_be_written_to_are_refused_before_anything_is_scored(
    segmented: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / f".begun_{os.getpid()}_calibration.json").mkdir()  # stops root, too
    truth = truths(segmented, tmp_path / "truth")
    assert calibrate(segmented, truth, model, tmp_path) == 1
    assert "calibration.json: cannot be written (" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


def good(model: Path) -> dict[str, Any]:
    organ = {
        "organ": ORGAN,
        "cases": 12,
        "lowest_agreement": 0.5,
        "highest_agreement": 0.9,
        "mean_agreement": 0.7,
        "mean_dice": 0.8,
        "slope": 0.5,
        "error": 0.1,
    }
    return {
        "format_version": 1,
        "manifest_sha256": load_bundle(model).sha256,
        "compared": {
            "folds": 2,
            "mirroring": False,
            "step": 0.5,
            "region": "body",
            "repair": [],
        },
        "organs": [organ],
    }


def organ(**more: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda whole: whole | {"organs": [whole["organs"][0] | more]}


HOSTILE: list[tuple[Any, str]] = [
    (lambda whole: whole | {"manifest_sha256": "1" * 64}, "is of the model with the manifest 1111"),
    (lambda whole: whole | {"manifest_sha256": "x"}, "manifest_sha256: String should match"),
    (lambda whole: whole | {"format_version": 2}, "format_version"),
    (lambda whole: whole | {"surprise": 1}, "surprise"),
    (lambda whole: whole | {"organs": []}, "organs"),
    (lambda whole: whole | {"organs": whole["organs"] * 2}, "organs must differ"),
    (lambda whole: whole | {"organs": whole["organs"] * 5000}, "at most 262144 bytes"),
    (lambda whole: whole | {"compared": whole["compared"] | {"folds": 1}}, "folds"),
    (lambda whole: whole | {"compared": whole["compared"] | {"mirroring": 1}}, "mirroring"),
    (organ(mean_dice=1.01), r"organs.0.mean_dice: .* 1, found 1.01"),
    (organ(error=float("nan")), "organs.0.error"),
    (organ(error=-0.1), "organs.0.error"),
    (organ(slope=float("inf")), "organs.0.slope"),
    (organ(slope=-1), "organs.0.slope"),
    (organ(mean_agreement=0.95), "must lie between the lowest and the highest"),
    (organ(cases=1), "organs.0.cases"),
    (organ(organ="a\x1b[2J"), "organs.0.organ: must be printable"),
    (lambda _: [], "file: Input should be"),
]


@pytest.mark.parametrize(("change", "said"), HOSTILE)
def test_a_hostile_or_foreign_calibration_is_refused(change: Any, said: str, model: Path) -> None:
    path = model / "calibration.json"
    whole = good(model)
    path.write_text(json.dumps(whole))
    assert load_bundle(model).calibration is not None
    path.write_text(json.dumps(change(whole)))
    with pytest.raises(WeightsError, match=said) as refusal:
        load_bundle(model)
    text = str(refusal.value)
    assert text.startswith(f"{path}: ")
    assert text.endswith("calibrate again with 'oarseg evaluate --calibrate', or remove it")
    assert text.isprintable()
    assert len(text) < 600


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b" " * (1 << 20)])
def test_a_calibration_that_is_no_json_is_refused(content: bytes, model: Path) -> None:
    assert len(content) <= LARGEST_CALIBRATION_BYTES or content.isspace()
    (model / "calibration.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"calibration\.json: file: "):
        load_bundle(model)


def test_what_was_written_is_read_and_a_folder_in_its_place_is_refused(model: Path) -> None:
    path = model / "calibration.json"
    path.write_text(json.dumps(good(model)))
    known = load_bundle(model).calibration
    assert known is not None
    wider = replace(known.organs[0], cases=13)
    assert write_calibration(replace(known, organs=(wider,)), model) == path
    again = load_bundle(model).calibration
    assert again is not None
    assert again.organs == (wider,)
    path.unlink()
    path.mkdir()
    with pytest.raises(WeightsError, match=r"calibration\.json: expected a file, found none"):
        load_bundle(model)
    with pytest.raises(OutputError, match=r"calibration\.json: cannot be written \("):
        write_calibration(known, model)
    assert [file.name for file in model.glob(".*")] == []


def test_nothing_is_expected_of_an_organ_that_the_result_lacks(model: Path) -> None:
    """Single folds found it, their mean or a repair did not: its Dice is 0, if it is there."""
    (model / "calibration.json").write_text(json.dumps(good(model)))
    agreement = {"folds": 2, "mean_pairwise_dice": {ORGAN: 0.7}}
    effort = Effort(mirror=False, step=0.5)
    settings = Settings(model, model, model)
    run = describe_run(settings, load_bundle(model), load_challenge("han_seg"), threads=1)
    for volume, wanted in ((0.001, {"dice": 0.8, "error": 0.1, "beyond": None}), (0.0, None)):
        record = expected_dice_record(run, agreement, effort, {ORGAN: volume})
        assert record is not None
        assert record["organs"] == {ORGAN: wanted}
