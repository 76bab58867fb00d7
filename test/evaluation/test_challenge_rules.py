"""The challenges' own rules, by cases derived by hand, and what the container writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.evaluation.evaluate import EvaluationSettings, Summary, evaluate_folders
from oarseg.evaluation.scoring import Score
from oarseg.imaging.volume import Grid, Volume, set_geometry
from oarseg.results.write_case import write_case

GRID = Grid((12, 16, 20), (1.0, 1.0, 1.0), (-10.0, 20.5, -300.25))
Labels = NDArray[np.uint8]
PROFILES = [
    name for name in catalogue.challenge_names() if not catalogue.load_challenge(name).own_labels
]


def score(
    tmp_path: Path, rules: Challenge, prediction: Labels, reference: Labels, case: str = "a"
) -> Summary:
    for side, labels in (("p", prediction), ("r", reference)):
        (tmp_path / side).mkdir(exist_ok=True)
        image = set_geometry(sitk.GetImageFromArray(labels), GRID)
        sitk.WriteImage(image, str(tmp_path / side / f"{case}.nii.gz"), True)
    return evaluate_folders(
        tmp_path / "p",
        tmp_path / "r",
        challenge=rules,
        out=tmp_path / "out",
        settings=EvaluationSettings(plot=False),
    )


def by_organ(summary: Summary) -> dict[str, Score]:
    return {score.structure: score for score in summary.scores}


def blank() -> Labels:
    return np.zeros(GRID.shape, np.uint8)


def voxels_apart(label: int, steps: int) -> tuple[Labels, Labels]:
    """One voxel a side, so many millimetres apart along z.

    Half of each one's corners lie ``steps`` mm from the other's nearest, half 1 mm less.
    """
    one, other = blank(), blank()
    one[2, 8, 8] = other[2 + steps, 8, 8] = label
    return one, other


@pytest.mark.parametrize(
    ("organ", "steps", "nsd"),
    [
        ("Trachea", 1, 1.0),
        ("Trachea", 2, 0.5),
        ("Trachea", 3, 0.0),
        ("Larynx", 2, 1.0),
        ("Larynx", 3, 0.5),
        ("Larynx_Glottic", 2, 0.5),
        ("Larynx_Supraglot", 2, 0.5),
        ("OralCavity", 3, 1.0),
        ("OralCavity", 4, 0.5),
    ],
)
def test_segrap_tolerances(tmp_path: Path, organ: str, steps: int, nsd: float) -> None:
    rules = catalogue.load_challenge("segrap_oar")
    label = next(o for o in rules.organs if o.name == organ).labels[0]
    found = by_organ(score(tmp_path, rules, *voxels_apart(label, steps)))[organ]
    assert (found.dsc, found.nsd) == (0.0, nsd)


@pytest.mark.parametrize(("organ", "label"), [("GTVp", 1), ("GTVnd", 2)])
def test_segrap_tumours(tmp_path: Path, organ: str, label: int) -> None:
    found = by_organ(
        score(tmp_path, catalogue.load_challenge("segrap_gtv"), *voxels_apart(label, 2))
    )
    other = next(name for name in found if name != organ)
    assert (found[organ].dsc, found[organ].nsd) == (0.0, 0.5)
    assert (found[other].status, found[other].dsc, found[other].nsd) == ("absent", 1.0, 1.0)


def test_segrap_empty_masks(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("segrap_gtv")
    both = blank()
    both[1:4, 2:6, 2:6] = 1
    extra = blank()
    extra[6:8, 2:6, 2:6] = 2
    found = by_organ(score(tmp_path, rules, both + extra, both))
    assert (found["GTVp"].dsc, found["GTVp"].nsd) == (1.0, 1.0)
    assert (found["GTVnd"].status, found["GTVnd"].dsc, found["GTVnd"].nsd) == ("extra", 0.0, 0.0)
    found = by_organ(score(tmp_path, rules, both, both + extra))
    assert (found["GTVnd"].status, found["GTVnd"].dsc, found["GTVnd"].nsd) == ("missed", 0.0, 0.0)
    found = by_organ(score(tmp_path, rules, blank(), blank()))
    assert [(s.dsc, s.nsd) for s in found.values()] == [(1.0, 1.0), (1.0, 1.0)]


def test_segrap_organs_are_unions(tmp_path: Path) -> None:
    """A hippocampus that is called temporal lobe alone: the lobe is right, it is not."""
    rules = catalogue.load_challenge("segrap_oar")
    reference = blank()
    reference[2:6, 2:6, 2:6] = 4
    reference[3:5, 3:5, 3:5] = 6  # temporal lobe and hippocampus, left
    prediction = np.where(reference == 6, 4, reference).astype(np.uint8)
    found = by_organ(score(tmp_path, rules, prediction, reference))
    assert found["TemporalLobe_L"].dsc == found["Brain"].dsc == 1.0
    assert found["Hippocampus_L"].status == "missed"
    assert found["Hippocampus_L"].reference_cm3 == pytest.approx(0.008)


def test_structseg_weights(tmp_path: Path) -> None:
    """Slabs of ten planes a structure; of each the prediction lacks some."""
    rules = catalogue.load_challenge("structseg_thoracic_oar")
    kept = {"RightLung": 10, "LeftLung": 9, "Heart": 8, "Trachea": 5, "Esophagus": 2}
    reference, prediction = blank(), blank()
    for organ in rules.organs:
        (label,) = organ.labels
        reference[1:11, 2:5, 3 * label - 1] = label
        prediction[1 : 1 + kept.get(organ.name, 10), 2:5, 3 * label - 1] = label
    summary = score(tmp_path, rules, prediction, reference)
    found = by_organ(summary)
    # n of ten planes: Dice 2n / (n + 10).
    dice = {name: 2 * n / (n + 10) for name, n in kept.items()} | {"SpinalCord": 1.0}
    assert {name: s.dsc for name, s in found.items()} == pytest.approx(dice)
    weights = {"Trachea": 80, "Esophagus": 70}
    expected = sum(weights.get(name, 100) * d for name, d in dice.items()) / 550
    record = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert record["mean_over_structures"]["dsc"] == pytest.approx(expected)
    assert any("Trachea 80, Esophagus 70" in rule for rule in summary.rules)


@pytest.mark.parametrize("part", ["everything", "segmentation", "masks"])
@pytest.mark.parametrize("name", PROFILES)
def test_what_the_container_writes_is_what_is_scored(tmp_path: Path, name: str, part: str) -> None:
    rules = catalogue.load_challenge(name)
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(GRID.voxels) % (len(rules.structures) + 1))
    truth = labels.astype(np.uint8).reshape(GRID.shape)
    file = Path("/input") / "a.nii.gz"
    case = Case("a", {socket.channel: file for socket in rules.sockets})
    out = tmp_path / "container"
    write_case(out, case=case, challenge=rules, labels=Volume(truth, GRID), report={})
    predictions = tmp_path / "p"
    if part == "everything":
        out.rename(predictions)
    elif part == "masks":
        shutil.copytree(out / "oar_masks" / "a", predictions / "a")
    else:
        predictions.mkdir()
        shutil.copy(out / "oar_masks" / "a.seg.nrrd", predictions)
    (tmp_path / "r").mkdir()
    image = set_geometry(sitk.GetImageFromArray(truth), GRID)
    sitk.WriteImage(image, str(tmp_path / "r" / "a.nrrd"), True)
    summary = evaluate_folders(
        predictions,
        tmp_path / "r",
        challenge=rules,
        out=tmp_path / "scores",
        settings=EvaluationSettings(plot=False),
    )
    assert [p for p in summary.problems if "swapped" not in p.message] == []
    assert {(s.status, s.dsc) for s in summary.scores} == {("scored", 1.0)}
