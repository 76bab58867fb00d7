"""Scoring folders: layouts, rules, and what is wrong with them."""

import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.cli import main
from oarseg.errors import InputError
from oarseg.evaluation.evaluate import EvaluationSettings, Summary, evaluate_folders
from oarseg.evaluation.mr_field import make_mr_field, read_truth_field
from oarseg.evaluation.scoring import Score
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, set_geometry
from oarseg.labels.mask import CroppedMask

HAN_SEG = catalogue.load_challenge("han_seg")
GRID = Grid((12, 20, 30), (2.0, 1.0, 1.0), (-10.0, 5.0, 7.0))
MANDIBLE, PAROTID_L, PAROTID_R, LIPS = 4, 27, 28, 23
Labels = NDArray[np.uint8]


def truth() -> Labels:
    """Parotids on either side (x runs to the patient's left), a mandible between them."""
    labels = np.zeros(GRID.shape, np.uint8)
    labels[3:7, 5:10, 22:27] = PAROTID_L
    labels[3:7, 5:10, 3:8] = PAROTID_R
    labels[4:8, 12:16, 10:20] = MANDIBLE
    return labels


def write(path: Path, labels: NDArray[np.generic], grid: Grid = GRID) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(set_geometry(sitk.GetImageFromArray(labels), grid), str(path), True)


def write_masks(folder: Path, labels: Labels, pattern: str) -> None:
    for structure in HAN_SEG.structures:
        mask = (labels == structure.label).astype(np.uint8)
        if mask.any():
            write(folder / pattern.format(structure.name), mask)


def run(
    tmp_path: Path, settings: EvaluationSettings | None = None, *, rules: Challenge = HAN_SEG
) -> Summary:
    return evaluate_folders(
        tmp_path / "p",
        tmp_path / "r",
        challenge=rules,
        out=tmp_path / "out",
        settings=settings or EvaluationSettings(plot=False),
    )


def by_structure(summary: Summary, case: str = "case_01") -> dict[str, Score]:
    return {score.structure: score for score in summary.scores if score.case == case}


def messages(summary: Summary) -> list[str]:
    return [f"{problem.name}: {problem.message}" for problem in summary.problems]


@pytest.mark.parametrize(
    "layout",
    [
        "images/head_neck_oar/case_01_seg.mha",
        "images/head_neck_oar/case_01_IMG_seg.mha",
        "oar_masks/case_01/case_01_OAR_{}.seg.nrrd",
        "case_01/case_01_OAR_{}.seg.nrrd",
        "case_01/{}.nii.gz",
        "case_01/label.nrrd",
        "truth/case_01/label.nrrd",
        "case_01.nii.gz",
        "CASE_01_seg.nrrd",
    ],
)
@pytest.mark.parametrize("side", ["p", "r"])
def test_every_layout_on_either_side(tmp_path: Path, layout: str, side: str) -> None:
    if "{}" in layout:
        write_masks(tmp_path / side, truth(), layout)
    else:
        write(tmp_path / side / layout, truth())
    # Images in the data set's or nnU-Net's naming are no labels.
    write(tmp_path / side / "case_01" / "case_01_IMG_CT.nrrd", truth())
    write(tmp_path / side / "imagesTr" / "case_01_0000.nii.gz", truth())
    other = "r" if side == "p" else "p"
    write(tmp_path / other / "case_01.mha", truth())
    summary = run(tmp_path)
    assert summary.problems == ()
    scores = by_structure(summary, summary.scores[0].case)
    assert summary.scores[0].case.casefold() == "case_01"
    found = {name for name, score in scores.items() if score.status == "scored"}
    assert found == {"Bone_Mandible", "Parotid_L", "Parotid_R"}
    for name in found:
        assert (scores[name].dsc, scores[name].hd95_mm, scores[name].nsd) == (1.0, 0.0, 1.0)


def test_figures_by_hand(tmp_path: Path) -> None:
    prediction = truth()
    prediction[4:8, 12:16, 10] = 0
    prediction[4:8, 12:16, 20:22] = MANDIBLE
    write(tmp_path / "p" / "case_01.mha", prediction)
    write(tmp_path / "r" / "case_01.mha", truth())
    score = by_structure(run(tmp_path))["Bone_Mandible"]
    # 4·4·10 voxels of 2 mm³, one column of 10 gone and two new ones.
    assert score.reference_cm3 == pytest.approx(0.32)
    assert score.volume_difference_cm3 == pytest.approx(0.032)
    assert score.dsc == pytest.approx(2 * 9 / (10 + 11))
    assert score.hd95_mm == 2.0


def test_empty_masks_by_the_rules(tmp_path: Path) -> None:
    prediction = truth()
    prediction[prediction == MANDIBLE] = 0
    prediction[1, 1:4, 1:4] = LIPS
    write(tmp_path / "p" / "case_01.mha", prediction)
    write(tmp_path / "r" / "case_01.mha", truth())
    summary = run(tmp_path)
    scores = by_structure(summary)
    missed, extra, absent = (scores[n] for n in ("Bone_Mandible", "Lips", "Brainstem"))
    assert (missed.status, missed.dsc, missed.nsd, missed.hd95_mm) == ("missed", 0, 0, math.inf)
    assert missed.volume_difference_cm3 == pytest.approx(-0.32)
    assert (extra.status, absent.status) == ("extra", "absent")
    assert messages(summary) == [
        "case_01: only the reference has Bone_Mandible: missed",
        "case_01: only the prediction has Lips: not scored",
    ]
    assert math.isnan(extra.dsc)
    assert math.isnan(absent.dsc)
    line = next(line for line in summary.lines if line.name == "Bone_Mandible")
    assert (line.n, line.missed, line.dsc.mean) == (1, 1, 0.0)
    assert math.isnan(line.hd95_mm.mean)
    strict = replace(
        HAN_SEG.evaluation, both_empty="best", reference_empty="worst", missed_distance_mm=99.0
    )
    other = evaluate_folders(
        tmp_path / "p",
        tmp_path / "r",
        challenge=replace(HAN_SEG, evaluation=strict),
        out=tmp_path / "out",
        settings=EvaluationSettings(plot=False),
    )
    scores = by_structure(other)
    assert (scores["Lips"].dsc, scores["Lips"].hd95_mm) == (0.0, 99.0)
    assert (scores["Brainstem"].dsc, scores["Brainstem"].hd95_mm) == (1.0, 0.0)


def test_swapped_sides_are_told(tmp_path: Path) -> None:
    swapped = truth()
    swapped[truth() == PAROTID_L] = PAROTID_R
    swapped[truth() == PAROTID_R] = PAROTID_L
    for wrong, right in (("p", "r"), ("r", "p")):
        write(tmp_path / wrong / "case_01.mha", swapped)
        write(tmp_path / right / "case_01.mha", truth())
        side = "prediction" if wrong == "p" else "reference"
        assert messages(run(tmp_path)) == [
            "case_01: left and right are swapped in 1 of 1 pairs (Parotid): what the "
            f"{side} calls left lies on the patient's right; scored as it is"
        ]


def test_sides_swapped_on_both_sides_are_told(tmp_path: Path) -> None:
    swapped = np.flip(truth(), axis=2)
    for side in ("p", "r"):
        write(tmp_path / side / "case_01.mha", swapped)
    assert messages(run(tmp_path)) == [
        "case_01: left and right are swapped in 1 of 1 pairs (Parotid): what the reference, "
        "like the prediction, calls left lies on the patient's right; scored as it is"
    ]


def test_blob_on_the_wrong_side_is_no_swap(tmp_path: Path) -> None:
    prediction = truth()
    prediction[prediction == PAROTID_L] = 0
    prediction[4, 6, 4] = PAROTID_L
    write(tmp_path / "p" / "case_01.mha", prediction)
    write(tmp_path / "r" / "case_01.mha", truth())
    assert messages(run(tmp_path)) == []


def test_other_grid_is_refused_or_resampled(tmp_path: Path) -> None:
    doubled = np.repeat(truth(), 2, axis=0)
    fine = replace(GRID, shape=doubled.shape, spacing_mm=(1.0, 1.0, 1.0), origin_mm=(-10, 5, 6.5))
    for side, case in (("p", "case_01"), ("p", "case_02"), ("r", "case_01"), ("r", "case_02")):
        write(tmp_path / side / f"{case}.mha", truth())
    write(tmp_path / "p" / "case_02.mha", doubled, fine)
    summary = run(tmp_path)
    assert by_structure(summary)["Parotid_L"].dsc == 1.0
    (message,) = messages(summary)
    assert message.startswith("case_02: prediction: ")
    assert "expected the reference's grid, 30×20×12 voxels of 1×1×2 mm" in message
    assert "found 30×20×24 voxels of 1×1×1 mm" in message
    assert "pass --resample; all of it counts as missed" in message
    mirrored = replace(GRID, direction=((-1, 0, 0), (0, 1, 0), (0, 0, 1)))
    write(tmp_path / "p" / "case_02.mha", truth(), mirrored)
    (message,) = messages(run(tmp_path))
    assert "along [1 0 0; 0 1 0; 0 0 1], found" in message
    assert "along [-1 0 0; 0 1 0; 0 0 1]" in message
    write(tmp_path / "p" / "case_02.mha", doubled, fine)
    resampled = by_structure(
        run(tmp_path, EvaluationSettings(plot=False, resample=True)), "case_02"
    )
    assert resampled["Parotid_L"].dsc == 1.0


def test_unknown_values_and_structures_are_told(tmp_path: Path) -> None:
    wrong = truth().astype(np.int16)
    wrong[0, 0, 0], wrong[0, 0, 1] = 77, -3
    write(tmp_path / "p" / "case_01.mha", wrong)
    write(tmp_path / "r" / "case_01.mha", truth())
    write_masks(tmp_path / "p" / "case_02", truth(), "case_02_OAR_{}.seg.nrrd")
    write(tmp_path / "p" / "case_02" / "case_02_OAR_Tail.seg.nrrd", truth())
    write(tmp_path / "r" / "case_02.mha", truth())
    summary = run(tmp_path)
    told = messages(summary)
    assert any("not in han_seg's table (-3, 77); they count as background" in m for m in told)
    assert any("found 'Tail', which it does not have" in m for m in told)
    assert by_structure(summary)["Parotid_L"].dsc == 1.0
    assert by_structure(summary, "case_02")["Parotid_L"].dsc == 1.0


def test_duplicates_and_unpaired_cases_are_told_and_the_rest_scored(tmp_path: Path) -> None:
    for name in ("case_01.mha", "case_02.mha", "case_02.nii.gz", "case_03.mha"):
        write(tmp_path / "p" / name, truth())
    for name in ("case_01.mha", "case_02.mha", "case_04.mha"):
        write(tmp_path / "r" / name, truth())
    summary = run(tmp_path, EvaluationSettings(missing="skip", plot=False))
    assert {score.case for score in summary.scores} == {"case_01"}
    told = messages(summary)
    assert len(told) == 4
    assert any(m.startswith("case_02: prediction: ") and "keep one of them" in m for m in told)
    assert any("case_02.mha: expected a prediction" in m and "no usable one" in m for m in told)
    assert any("case_03.mha: expected a reference of the same name" in m for m in told)
    assert any("case_04.mha: expected a prediction of the same name" in m for m in told)


def test_case_without_usable_prediction_counts_as_missed(tmp_path: Path) -> None:
    """No file, two files and a damaged one: to fail must not pay."""
    for case in ("case_01", "case_02", "case_03", "case_04"):
        write(tmp_path / "r" / f"{case}.mha", truth())
    for name in ("case_01.mha", "case_02.mha", "case_02.nii.gz"):
        write(tmp_path / "p" / name, truth())
    (tmp_path / "p" / "case_03.mha").write_bytes(b"nothing")
    summary = run(tmp_path)
    assert summary.unanswered == ("case_02", "case_03", "case_04")
    for case, note in (
        ("case_02", "no case in the prediction"),
        ("case_03", "no usable file in the prediction"),
        ("case_04", "no case in the prediction"),
    ):
        score = by_structure(summary, case)["Bone_Mandible"]
        assert (score.status, score.dsc, score.nsd, score.hd95_mm) == ("missed", 0, 0, math.inf)
        assert score.note == note
        assert by_structure(summary, case)["Lips"].status == "absent"
    line = next(line for line in summary.lines if line.name == "Bone_Mandible")
    assert (line.n, line.missed, line.dsc.mean) == (4, 3, 0.25)
    assert "no usable prediction of a case or structure: missed" in summary.rules
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert record["cases_without_prediction"] == ["case_02", "case_03", "case_04"]
    skipped = run(tmp_path, EvaluationSettings(missing="skip", plot=False))
    assert ({score.case for score in skipped.scores}, skipped.unanswered) == ({"case_01"}, ())
    assert len(skipped.problems) == len(summary.problems)
    assert "no usable prediction of a case or structure: not scored" in skipped.rules


def test_not_to_answer_is_no_right_answer(tmp_path: Path) -> None:
    """Where an absent structure found absent is worth 1, a missing case is worth 0."""
    for case in ("case_01", "case_02"):
        write(tmp_path / "r" / f"{case}.mha", truth())
    write(tmp_path / "p" / "case_01.mha", truth())
    rules = replace(HAN_SEG.evaluation, both_empty="best")
    summary = run(tmp_path, rules=replace(HAN_SEG, evaluation=rules))
    answered, missing = (by_structure(summary, case)["Lips"] for case in ("case_01", "case_02"))
    assert (answered.status, answered.dsc) == ("absent", 1.0)
    assert (missing.status, missing.dsc, missing.nsd) == ("missed", 0.0, 0.0)


def test_damaged_mask_costs_its_structure_only(tmp_path: Path) -> None:
    write_masks(tmp_path / "p" / "case_01", truth(), "{}.nii.gz")
    (tmp_path / "p" / "case_01" / "Parotid_L.nii.gz").write_bytes(b"\x1f\x8bnothing")
    (tmp_path / "p" / "case_01" / "Parotid_R.nii.gz").unlink()
    write(tmp_path / "r" / "case_01.mha", truth())
    summary = run(tmp_path)
    scores = by_structure(summary)
    unusable = scores["Parotid_L"]
    assert (unusable.status, unusable.dsc, unusable.hd95_mm) == ("unusable", 0.0, math.inf)
    assert unusable.note.endswith("; counts as missed")
    assert (scores["Parotid_R"].status, scores["Parotid_R"].note) == (
        "missed",
        "no file in the prediction",
    )
    assert scores["Bone_Mandible"].dsc == 1.0
    assert "Parotid_L.nii.gz" in messages(summary)[0]
    line = next(line for line in summary.lines if line.name == "Parotid_L")
    assert (line.n, line.missed) == (1, 1)
    skipped = run(tmp_path, EvaluationSettings(missing="skip", plot=False))
    assert math.isnan(by_structure(skipped)["Parotid_L"].dsc)
    line = next(line for line in skipped.lines if line.name == "Parotid_L")
    assert (line.n, line.missed, line.not_scored) == (0, 0, 1)


def test_damaged_reference_is_nobodys_fault(tmp_path: Path) -> None:
    write_masks(tmp_path / "r" / "case_01", truth(), "{}.nii.gz")
    (tmp_path / "r" / "case_01" / "Parotid_L.nii.gz").write_bytes(b"\x1f\x8bnothing")
    write(tmp_path / "r" / "case_02.mha", truth())
    whole = (tmp_path / "r" / "case_02.mha").read_bytes()
    (tmp_path / "r" / "case_02.mha").write_bytes(whole[:-9])
    for case in ("case_01", "case_02"):
        write(tmp_path / "p" / f"{case}.mha", truth())
    summary = run(tmp_path)
    assert {score.case for score in summary.scores} == {"case_01"}
    assert by_structure(summary)["Parotid_L"].status == "unusable"
    assert math.isnan(by_structure(summary)["Parotid_L"].dsc)
    assert any(m.startswith("case_02: ") for m in messages(summary))


def test_many_files_on_another_grid_are_one_problem(tmp_path: Path) -> None:
    labels = (np.arange(GRID.voxels) % 31).reshape(GRID.shape).astype(np.uint8)
    write_masks(tmp_path / "p" / "case_01", labels, "{}.nii.gz")
    for structure in HAN_SEG.structures:
        mask = (labels[1:] == structure.label).astype(np.uint8)
        write(tmp_path / "p" / "case_02" / f"{structure.name}.nii.gz", mask)
    for case in ("case_01", "case_02"):
        write(tmp_path / "r" / f"{case}.mha", labels)
    (message,) = (m for m in messages(run(tmp_path)) if "grid" in m)
    assert message.startswith("case_02: ")
    assert "30 files cannot be used (A_Carotid_L, A_Carotid_R," in message


def test_fractions_are_no_labels(tmp_path: Path) -> None:
    write(tmp_path / "p" / "case_01.nii.gz", truth().astype(np.float32))
    write(tmp_path / "p" / "case_02.nii.gz", truth().astype(np.float32) / 3)
    for case in ("case_01", "case_02"):
        write(tmp_path / "r" / f"{case}.nii.gz", truth())
    summary = run(tmp_path)
    assert by_structure(summary)["Parotid_L"].dsc == 1.0
    assert summary.unanswered == ("case_02",)
    assert "expected labels, which are whole numbers" in messages(summary)[0]


def write_scaled(path: Path, labels: NDArray[np.generic], dtype: str) -> None:
    """As nibabel stores an array of floats in a file of integers: over the type's range."""
    held, highest = np.iinfo(dtype), int(labels.max())
    slope = np.float32(highest / (int(held.max) - int(held.min)))
    intercept = np.float32(-int(held.min) * float(slope))
    stored = np.clip(np.rint((labels - intercept) / slope), held.min, held.max)
    write(path, stored.astype(dtype))
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint16"])
def test_labels_that_were_scaled_to_be_stored(tmp_path: Path, dtype: str) -> None:
    """https://github.com/nipy/nibabel/issues/1344"""
    write_scaled(tmp_path / "p" / "case_01.nii", truth(), dtype)
    write(tmp_path / "r" / "case_01.mha", truth())
    summary = run(tmp_path)
    assert messages(summary) == []
    for name in ("Parotid_L", "Parotid_R", "Bone_Mandible"):
        assert by_structure(summary)[name].dsc == 1.0


def test_a_scaled_image_is_no_label_map(tmp_path: Path) -> None:
    """Steps of 0.7 are within half a step of a whole number, and no labels."""
    path = tmp_path / "p" / "case_01.nii"
    write(path, truth().astype(np.int16))
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([0.7, 0.0], "<f4").tobytes()
    path.write_bytes(data)
    write(tmp_path / "r" / "case_01.mha", truth())
    with pytest.raises(InputError, match="expected labels, which are whole numbers"):
        run(tmp_path)


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    write(tmp_path / "r" / "case_01.mha", truth())
    with pytest.raises(InputError, match="in one of the known layouts"):
        run(tmp_path)
    write(tmp_path / "p" / "case_02.mha", truth())
    with pytest.raises(InputError, match=r"could score none: case_02: .*same name"):
        run(tmp_path)


def truth_json(folder: Path, low: list[float], high: list[float]) -> None:
    identity = np.eye(3).tolist()
    record = {
        "mr_field_mm": [low, high],
        "ct_to_mr": {"rotation": identity, "translation_mm": [100.0, 0.0, 0.0]},
    }
    (folder / "case_01_truth.json").write_text(json.dumps(record))


def test_field_of_the_mr_cuts_and_leaves_out(tmp_path: Path) -> None:
    for side in ("p", "r"):
        write(tmp_path / side / "case_01.mha", truth())
    prediction = truth()
    prediction[7, 12:16, 10:20] = 0
    write(tmp_path / "p" / "case_01.mha", prediction)
    # World x = index − 10 in the CT, + 100 in the MR: the field ends behind index x = 12,
    # which leaves 3 of the mandible's 10 columns, all of one parotid, none of the other.
    # World z = 7 + 2 · index: it ends above index z = 6.
    truth_json(tmp_path, [0, 0, 0], [102.5, 100, 20])
    scores = by_structure(run(tmp_path, EvaluationSettings(mr_field=(tmp_path,), plot=False)))
    assert scores["Parotid_L"].status == "outside"
    assert scores["Parotid_L"].kept == 0.0
    assert (scores["Parotid_R"].kept, scores["Parotid_R"].dsc) == (1.0, 1.0)
    mandible = scores["Bone_Mandible"]
    assert mandible.kept == pytest.approx(0.3 * 3 / 4)
    # What the prediction lacks lies outside the field.
    assert mandible.dsc == 1.0
    truth_json(tmp_path, [0, 0, 0], [101.5, 100, 20])
    scores = by_structure(run(tmp_path, EvaluationSettings(mr_field=(tmp_path,), plot=False)))
    assert scores["Bone_Mandible"].kept == pytest.approx(0.2 * 3 / 4)
    assert scores["Bone_Mandible"].status == "outside"


def test_field_from_transform_and_image_is_that_of_the_truth(tmp_path: Path) -> None:
    turned = RigidTransform.about((5.0, 15.0, 18.0), angles_deg=(8.0, -5.0, 12.0))
    mr = Grid((5, 9, 11), (3.0, 1.5, 1.2), (-2.0, 8.0, 10.0))
    write(tmp_path / "case_01_IMG_MR_T1.nrrd", np.ones(mr.shape, np.uint8), mr)
    write(tmp_path / "case_01_IMG_CT.nrrd", truth())
    turned.write(tmp_path / "case_01_ct_to_mr.tfm")
    for side in ("p", "r"):
        write(tmp_path / side / "case_01.mha", truth())
    by_files = run(tmp_path, EvaluationSettings(mr_field=(tmp_path,), plot=False))
    ends = mr.to_world(np.array([[-0.5] * 3, [n - 0.5 for n in mr.shape]]))
    record = {
        "mr_field_mm": ends.tolist(),
        "ct_to_mr": {"rotation": turned.rotation, "translation_mm": turned.translation_mm},
    }
    path = tmp_path / "case_01_truth.json"
    path.write_text(json.dumps(record))
    everywhere = CroppedMask(np.ones(GRID.shape, bool))
    one, other = (
        f.cut(everywhere, GRID) for f in (make_mr_field(mr, turned), read_truth_field(path))
    )
    np.testing.assert_array_equal(one.array, other.array)
    assert 0 < one.voxels < GRID.voxels
    by_truth = run(tmp_path, EvaluationSettings(mr_field=(tmp_path,), plot=False))
    assert [s.kept for s in by_files.scores] == [s.kept for s in by_truth.scores]


def test_field_from_the_containers_own_report(tmp_path: Path) -> None:
    """What a team has: the data set in one folder, what its container wrote in another."""
    turned = RigidTransform.about((5.0, 15.0, 18.0), angles_deg=(8.0, -5.0, 12.0))
    mr = Grid((5, 9, 11), (3.0, 1.5, 1.2), (-2.0, 8.0, 10.0))
    data, out = tmp_path / "data" / "case_01", tmp_path / "p"
    write(data / "case_01_IMG_MR_T1.nrrd", np.ones(mr.shape, np.uint8), mr)
    write(data / "case_01_IMG_CT.nrrd", truth())
    write(tmp_path / "r" / "case_01.mha", truth())
    write(out / "images" / "head_neck_oar" / "case_01_seg.mha", truth())
    how = EvaluationSettings(mr_field=(tmp_path / "data", out), plot=False)
    report = {"status": "doubtful", **asdict(turned)}
    path = out / "reports" / "case_01.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"registration": report}))
    by_report = run(tmp_path, how)
    turned.write(data / "case_01_ct_to_mr.tfm")
    by_file = run(tmp_path, how)
    assert [s.kept for s in by_report.scores] == [s.kept for s in by_file.scores]
    assert any(0 < s.kept < 1 for s in by_report.scores)
    (data / "case_01_ct_to_mr.tfm").unlink()
    for record, message in (
        ({"registration": report | {"status": "failed"}}, "found a failed one"),
        ({"registration": None}, "expected a report with a registration"),
    ):
        path.write_text(json.dumps(record))
        with pytest.raises(InputError, match=message):
            run(tmp_path, how)


def test_case_without_a_field_is_told(tmp_path: Path) -> None:
    for side in ("p", "r"):
        write(tmp_path / side / "case_01.mha", truth())
    with pytest.raises(InputError, match="expected case_01_truth"):
        run(tmp_path, EvaluationSettings(mr_field=(tmp_path,), plot=False))


def test_command_writes_table_json_csv_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = truth()
    prediction[prediction == MANDIBLE] = 0
    write(tmp_path / "p" / "case_01.mha", prediction)
    write(tmp_path / "r" / "case_01.mha", truth())
    out = tmp_path / "out"
    arguments = ["evaluate", str(tmp_path / "p"), str(tmp_path / "r"), "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "HD95: 95th percentile of surface distances weighted by surface area" in printed
    assert "only the reference has the structure (missed): DC 0, NSD 0" in printed
    table = (out / "table.md").read_text()
    assert "| Parotid | 2 | 100.0 ± 0.0 | 0.0 ± 0.0 |" in table
    assert "| 86.3 ± 3.6 | 5.3 ± 3.6 |" in table
    assert "google-deepmind's surface-distance" in table
    record = json.loads((out / "summary.json").read_text())
    assert record["status"] == {"absent": 27, "missed": 1, "scored": 2}
    assert record["mean_over_structures"]["dsc"] == pytest.approx(2 / 3)
    with (out / "scores.csv").open() as stream:
        rows = {row["structure"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 30
    assert (rows["Bone_Mandible"]["hd95_mm"], rows["Lips"]["hd95_mm"]) == ("inf", "")
    assert sitk.ReadImage(str(out / "plot.png")).GetSize()[0] > 1000


def test_table_goes_between_the_marks_of_a_page(tmp_path: Path) -> None:
    for side in ("p", "r"):
        write(tmp_path / side / "case_01.mha", truth())
    card = tmp_path / "card.md"
    card.write_text("# Card\n\n<!-- scores -->\nold\n<!-- /scores -->\n\nend\n")
    summary = run(tmp_path, EvaluationSettings(plot=False, insert=card))
    page = card.read_text()
    assert page.startswith("# Card\n\n<!-- scores -->\n\n| Structure | N | DC (%) |")
    assert "old" not in page
    assert all(f"\n- {rule}\n" in page for rule in summary.rules)
    assert page.endswith("\n\n<!-- /scores -->\n\nend\n")
    run(tmp_path, EvaluationSettings(plot=False, insert=card))
    assert card.read_text() == page
    card.write_text("<!-- scores -->\n")
    with pytest.raises(InputError, match="expected <!-- scores --> and below it"):
        run(tmp_path, EvaluationSettings(plot=False, insert=card))
    with pytest.raises(InputError, match="expected a Markdown file to insert into"):
        run(tmp_path, EvaluationSettings(plot=False, insert=tmp_path / "none.md"))
