"""The cross-validated Dice of organs, from what nnU-Net's training left in each fold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import foreign_models as foreign
import nnunet_oracle as oracle
import numpy as np
import pytest
import SimpleITK as sitk
from foreign_models import Foreign
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from oarseg.errors import InputError
from oarseg.model.entries.cross_validation import CrossValidation, ValidatedDice
from oarseg.model.manifest import Manifest, parse_manifest, write_manifest
from oarseg.training.exporting.manifest_entries import OF_SEVERAL, Card, join_members, outline
from oarseg.training.exporting.read_model import read_model, trained_challenge
from oarseg.training.nnunet_files.results_folder import open_results
from oarseg.training.validation_summaries import STATEMENT, cross_validation_of

SPACING = (2.0, 1.0, 1.0)
TARGETS = {"background": 0, "PTV": [1, 2, 3], "CTV low": [2, 3], "GTV": 3}
NAN = float("nan")


def two_folds(parent: Path, **recipe: Any) -> Path:
    return foreign.write_results(
        Foreign(oracle.Recipe(SPACING, folds=2, **recipe), ("CBCT", "MR"), folds=("0", "1")), parent
    )


def case(name: str, /, **dice: Any) -> dict[str, Any]:
    """A case as nnU-Net describes it; labels are written ``l1``, regions ``r1_2``."""
    return {
        "prediction_file": f"/home/somebody/fold_0/validation/{name}.nii.gz",
        "reference_file": f"/home/somebody/gt_segmentations/{name}.nii.gz",
        "metrics": {_name(key): {"Dice": value, "TP": 1} for key, value in dice.items()},
    }


def _name(key: str) -> str:
    numbers = key[1:].split("_")
    return numbers[0] if key[0] == "l" else f"({', '.join(numbers)}{',' * (len(numbers) == 1)})"


def leave(results: Path, fold: int, *cases: Any) -> Path:
    path = results / f"fold_{fold}" / "validation" / "summary.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"mean": {}, "metric_per_case": list(cases)}))
    return path


def found(folder: Path, *, folds: tuple[str, ...] = ("0", "1")) -> CrossValidation:
    results = open_results(folder)
    return cross_validation_of(results, trained_challenge(results), folds, "final")


def rows(folder: Path) -> dict[str, ValidatedDice]:
    return {row.organ: row for row in found(folder).organs}


def test_every_case_counts_once_and_absent_organs_do_not(tmp_path: Path) -> None:
    """1: 0.8, 0.6 and 1.0; 2: absent once, found where it is not once; 3: absent everywhere."""
    folder = two_folds(tmp_path)
    leave(folder, 0, case("a", l1=0.8, l2=NAN, l3=NAN), case("b", l1=0.6, l2=0, l3=None))
    leave(folder, 1, case("c", l1=1.0, l2=0.5, l3=NAN))
    known = rows(folder)
    one, two = (f"s{label}" for label in (1, 2))
    assert known[one] == ValidatedDice(one, 3, 0.8, 0.2)
    assert known[two] == ValidatedDice(two, 2, 0.25, 0.3536)
    assert set(known) == {one, two}
    assert found(folder).note == STATEMENT


def test_nnunets_own_file_gives_nnunets_own_means(tmp_path: Path) -> None:
    """Labels that are absent on both sides, on one side, and on none."""
    folder = two_folds(tmp_path / "results")
    generator = np.random.default_rng(3)
    truth, guess = tmp_path / "truth", tmp_path / "guess"
    for side in (truth, guess):
        side.mkdir()
        for number in range(2):
            labels = generator.integers(0, 3 + number, (4, 6, 6)).astype(np.uint8)
            if side == guess and number == 0:
                labels[labels == 2] = 0
            sitk.WriteImage(sitk.GetImageFromArray(labels), str(side / f"c{number}.nii.gz"))
    path = folder / "fold_0" / "validation" / "summary.json"
    path.parent.mkdir()
    written = compute_metrics_on_folder(
        str(truth), str(guess), str(path), SimpleITKIO(), ".nii.gz", [1, 2, 3], num_processes=1
    )
    known = {row.organ: row.mean for row in found(folder, folds=("0",)).organs}
    theirs = {f"s{label}": written["mean"][label]["Dice"] for label in (1, 2, 3)}
    assert 0 < theirs["s2"] < 0.3
    assert known == {name: round(dice, 4) for name, dice in theirs.items()}


def test_regions_are_found_by_their_labels(tmp_path: Path) -> None:
    folder = two_folds(tmp_path, labels=TARGETS, region_order=(1, 2, 3))
    for fold in (0, 1):
        leave(folder, fold, case(f"c{fold}", r1_2_3=0.9, r2_3=0.7, r3=0.5))
    assert {name: row.mean for name, row in rows(folder).items()} == {
        "PTV": 0.9,
        "CTV_low": 0.7,
        "GTV": 0.5,
    }


def test_what_was_not_contoured_does_not_count(tmp_path: Path) -> None:
    """Case a has no contour of s2, which hides in s3 there; its Dice says nothing of either."""
    folder = two_folds(tmp_path)
    path = folder / "dataset.json"
    document = json.loads(path.read_text())
    document["oarseg"] = {"unlabelled": {"a": {"2": 3, "4": 0}}}
    path.write_text(json.dumps(document))
    leave(folder, 0, case("a", l1=0.8, l2=0.0, l3=0.1, l4=0.0))
    leave(folder, 1, case("b", l1=0.6, l2=0.9, l3=0.9))
    known = rows(folder)
    assert {name: (row.cases, row.mean) for name, row in known.items()} == {
        "s1": (2, 0.7),
        "s2": (1, 0.9),
        "s3": (1, 0.9),
    }
    assert known["s2"].sd is None


@pytest.mark.parametrize(
    ("folds", "which", "reason"),
    [
        (("0", "1"), "final", "none: fold 1 has no validation/summary.json"),
        (("0", "0"), "final", "none: some cases were validated by two folds"),
        (("0",), "best", "none: nnU-Net validated the last checkpoints, these are the best ones"),
        (("all",), "final", "none: fold all was trained on its own validation cases"),
        (
            ("0_old",),
            "final",
            "none: fold 0_old is no number, so that it is not known what it saw",
        ),
    ],
)
def test_without_a_cross_validation_the_manifest_says_why(
    folds: tuple[str, ...], which: Any, reason: str, tmp_path: Path
) -> None:
    folder = two_folds(tmp_path)
    leave(folder, 0, case("a", l1=0.8))
    results = open_results(folder)
    known = cross_validation_of(results, trained_challenge(results), folds, which)
    assert known == CrossValidation(reason)


def test_no_organ_with_a_dice_is_no_cross_validation(tmp_path: Path) -> None:
    """As of validation cases that all lack what the model found nowhere either."""
    folder = two_folds(tmp_path)
    leave(folder, 0, case("a", l1=NAN, l2=NAN))
    leave(folder, 1)
    assert found(folder) == CrossValidation(
        "none: no organ of the challenge was validated as a label or region by itself"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "expected a JSON object, found a list"),
        ("{", "expected a JSON file"),
        ("{}", "metric_per_case: Field required"),
        (json.dumps({"metric_per_case": 3}), "metric_per_case: Input should be a valid tuple"),
        (json.dumps({"metric_per_case": [case("a", l1=1.5)]}), "Dice of 1: expected 0 to 1"),
        (json.dumps({"metric_per_case": [case("a", l1=math.inf)]}), "expected 0 to 1, found inf"),
        (json.dumps({"metric_per_case": [case("a", l1=-0.1)]}), "expected 0 to 1, found -0.1"),
        (json.dumps({"metric_per_case": [case("a", l1="0.5")]}), "Input should be a valid number"),
        (json.dumps({"metric_per_case": [case("a"), case("a")]}), "expected each case once"),
        (
            json.dumps({"metric_per_case": [case("a", lx=0.5)]}),
            "labels or regions, found x",
        ),
    ],
)
def test_a_damaged_summary_is_refused_in_one_sentence(
    content: str, said: str, tmp_path: Path
) -> None:
    folder = two_folds(tmp_path)
    leave(folder, 0)
    path = leave(folder, 1)
    path.write_text(content)
    with pytest.raises(InputError) as refusal:
        read_model(folder, card=Card())
    text = str(refusal.value)
    assert text.startswith(f"{path}: ")
    assert said in text
    assert text.isprintable()
    assert len(text) < 600
    assert text.endswith("; let 'nnUNetv2_train --val' write it again, or remove it")


def test_the_manifest_keeps_it_and_several_configurations_have_none(tmp_path: Path) -> None:
    folder = two_folds(tmp_path)
    for fold in (0, 1):
        leave(folder, fold, case(f"c{fold}", l1=0.5 + fold / 4))
    manifest = outline(read_model(folder, card=Card()), Card())
    row = ValidatedDice("s1", 2, 0.625, 0.1768)
    assert read_back(manifest, tmp_path).cross_validation == CrossValidation(STATEMENT, (row,))
    several = join_members([manifest, manifest])
    assert several.cross_validation == CrossValidation(OF_SEVERAL)


def read_back(manifest: Manifest, folder: Path) -> Manifest:
    write_manifest(manifest, folder)
    return parse_manifest((folder / "manifest.json").read_text(), source="it")
