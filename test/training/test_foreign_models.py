"""A stock results folder of nnU-Net alone: files in, files out, and nnU-Net's own answer."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign_models as foreign
import nnunet_oracle as oracle
import numpy as np
import pytest
import SimpleITK as sitk
from foreign_models import Foreign
from numpy.typing import NDArray

from oarseg.challenges import catalogue
from oarseg.challenges.toml_text import challenge_toml
from oarseg.cli import main
from oarseg.errors import InputError
from oarseg.model.agreement import dataset_record
from oarseg.model.conditioning import Conditioning
from oarseg.model.manifest import RunDefaults, parse_manifest
from oarseg.training.exporting.ensemble import export_ensemble
from oarseg.training.exporting.manifest_entries import Card
from oarseg.training.exporting.read_model import read_model
from oarseg.training.nnunet_files.own_challenge import challenge_of_file
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

SPACING = (2.0, 1.0, 1.0)
SHAPE = (20, 40, 36)
# Two logits of which half precision makes one value may fall either way.
MOST_TIES = 1e-4
ZSCORE = oracle.ZSCORE
MASKED = replace(oracle.ZSCORE, use_mask=True)
TARGETS = {"background": 0, "PTV": [1, 2, 3], "CTV low": [2, 3], "GTV": 3}
BRAIN = replace(oracle.CT, mean=35.0, std=12.0, lower=0.0, upper=80.0)


def reader(name: str) -> foreign.Change:
    """Set the class with which nnU-Net reads images."""
    return lambda plans: plans.update(image_reader_writer=name)


def padded(model: Foreign) -> list[NDArray[Any]]:
    """Images that are 0 around the head, as after skull stripping."""
    return oracle.images(SHAPE, len(model.names), seed=3, margin=5)


def whole(model: Foreign) -> list[NDArray[Any]]:
    return oracle.images(SHAPE, len(model.names), seed=3)


def brains(model: Foreign) -> list[NDArray[Any]]:
    """CTs of a brain in a fill of 0."""
    return [
        np.where(image == 0, 0, np.clip(35 + image // 30, 1, 90)).astype(np.int16)
        for image in padded(model)
    ]


PLAIN = oracle.Recipe(SPACING)
MODELS = {
    "CBCT and MR, nested targets": (
        Foreign(
            oracle.Recipe(SPACING, labels=TARGETS, region_order=(1, 2, 3)),
            ("CBCT", "MR"),
            ".mha",
        ),
        whole,
    ),
    "two regions painted alike": (
        Foreign(
            oracle.Recipe(SPACING, labels=TARGETS, region_order=(1, 2, 3)),
            ("CBCT", "MR"),
            change_dataset=lambda d: d.update(regions_class_order=[1, 1, 3]),
        ),
        whole,
    ),
    "one region": (
        Foreign(
            oracle.Recipe(SPACING, labels={"background": 0, "all": [1, 2]}, region_order=(1,)),
            ("CBCT", "MR"),
        ),
        whole,
    ),
    "CT in a fill of 0": (Foreign(replace(PLAIN, channels=(BRAIN,)), ("CT",)), brains),
    "skull-stripped": (
        Foreign(replace(PLAIN, channels=(MASKED, MASKED)), ("T1", "FLAIR"), ".nrrd"),
        padded,
    ),
    "zero padding without mask": (
        Foreign(replace(PLAIN, channels=(ZSCORE, ZSCORE)), ("T1", "T1"), ".nrrd"),
        padded,
    ),
    "a single slice": (
        Foreign(replace(PLAIN, channels=(ZSCORE, ZSCORE)), ("T1", "T2"), ".nrrd"),
        lambda model: [image[:1] for image in whole(model)],
    ),
    "an empty mask as a channel": (
        Foreign(replace(PLAIN, channels=(ZSCORE, ZSCORE)), ("T1", "T2"), ".nrrd"),
        lambda model: [whole(model)[0], np.zeros(SHAPE, np.uint8)],
    ),
    "four channels": (
        Foreign(replace(PLAIN, channels=(ZSCORE,) * 4), ("T1", "T1", "PET", "US")),
        whole,
    ),
    "ignore label": (
        Foreign(PLAIN, ("PET", "MR"), change_dataset=lambda d: d["labels"].update(ignore=6)),
        whole,
    ),
    "transposed": (
        Foreign(oracle.Recipe((1.0, 1.0, 2.0), transpose=(2, 1, 0)), ("CBCT", "MR"), ".mha"),
        whole,
    ),
    "old plans": (
        Foreign(
            replace(PLAIN, features=(8, 16, 16)), ("CBCT", "MR"), change_plans=foreign.as_old_plans
        ),
        whole,
    ),
    "fold all": (Foreign(PLAIN, ("CBCT", "MR"), folds=("all",)), whole),
    "best of two folds, mirrored": (
        Foreign(
            replace(PLAIN, folds=2, mirror_axes=(0, 2)),
            ("CBCT", "MR"),
            folds=("0", "3"),
            checkpoint="checkpoint_best.pth",
        ),
        whole,
    ),
    "Nibabel": (Foreign(PLAIN, ("CBCT", "MR"), change_plans=reader("NibabelIO")), whole),
    "turned to RAS": (
        Foreign(PLAIN, ("CBCT", "MR"), change_plans=reader("NibabelIOWithReorient")),
        whole,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_files_give_nnunets_label_map(name: str, tmp_path: Path) -> None:
    model, draw = MODELS[name]
    results = foreign.write_results(model, tmp_path, numpy_1=name == "old plans")
    best = "best" in model.checkpoint
    manifest = export_ensemble(
        results,
        tmp_path / "model",
        card=Card(),
        checkpoint="best" if best else "final",
        precisions=["fp32"],
    )
    assert manifest.folds == model.folds
    turned = "turned" in name
    assert manifest.conditioning == Conditioning(axes="RAS" if turned else "stored")
    # From feet to head, and sagittal: no axis is where a reader that turns would leave it.
    direction = (
        (0, 0, -1, 1, 0, 0, 0, -1, 0) if model.ending == ".nii.gz" else (1, 0, 0, 0, 1, 0, 0, 0, 1)
    )
    files = foreign.write_images(
        draw(model), tmp_path / "in", ending=model.ending, spacing_mm=SPACING, direction=direction
    )
    wanted = tmp_path / f"wanted{model.ending}"
    foreign.nnunets_answer(results, files, wanted, folds=model.folds, checkpoint=model.checkpoint)
    found = segmented(tmp_path)
    assert found == tmp_path / "out" / f"patient_1{model.ending}"
    mine, theirs = foreign.read_labels(found), foreign.read_labels(wanted)
    assert len(np.unique(theirs)) > 1
    assert np.count_nonzero(mine != theirs) <= MOST_TIES * theirs.size
    assert sitk.ReadImage(str(found)).GetDirection() == pytest.approx(direction)


def segmented(folder: Path) -> Path:
    """Segment the one case of a folder as a platform does, without a choice of the user's."""
    settings = Settings(folder / "in", folder / "out", folder / "model", device="cpu", threads=2)
    assert segment_folder(settings) == ()
    (record,) = json.loads((folder / "out" / "results.json").read_text())
    return Path(folder / "out" / record["outputs"][0]["filename"])


def exported(tmp_path: Path, model: Foreign) -> Path:
    results = foreign.write_results(model, tmp_path)
    export_ensemble(results, tmp_path / "model", card=Card(), precisions=["fp32"])
    return results


def test_masks_and_volumes_are_of_whole_regions(tmp_path: Path) -> None:
    model, draw = MODELS["CBCT and MR, nested targets"]
    exported(tmp_path, model)
    foreign.write_images(draw(model), tmp_path / "in", ending=".mha", spacing_mm=SPACING)
    labels = foreign.read_labels(segmented(tmp_path))
    report = json.loads((tmp_path / "out/reports/patient_1.json").read_text())
    for name, members in (("PTV", (1, 2, 3)), ("CTV_low", (2, 3)), ("GTV", (3,))):
        inside = np.isin(labels, members)
        mask = tmp_path / f"out/oar_masks/patient_1/patient_1_OAR_{name}.seg.nrrd"
        assert np.array_equal(foreign.read_labels(mask) > 0, inside)
        assert report["volumes_cm3"][name] == pytest.approx(inside.sum() * 2 / 1000, abs=1e-3)


def test_the_command_alone_exports_and_shows_what_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = MODELS["CBCT and MR, nested targets"]
    results = foreign.write_results(model, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(results)]) == 0
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert "   1 PTV = 1 + 2 + 3" in lines
    assert "input: CBCT (CBCT) in images/cbct/, in a folder <case>_0000" in lines
    assert len(set(lines)) == len(lines)
    assert told.err.count("--title, --training, --licence") == 1
    assert "FutureWarning" not in told.err
    manifest = parse_manifest((tmp_path / "model/manifest.json").read_text(), source="it")
    assert manifest.challenge == "Dataset501_Foreign"
    assert (manifest.title, manifest.training, manifest.licence) == ("not stated",) * 3
    assert [channel.name for channel in manifest.channels] == ["CBCT", "MR"]
    assert [label.members for label in manifest.labels] == [(1, 2, 3), (2, 3), (3,)]


def test_a_challenge_that_is_asked_for_must_have_the_models_channels(tmp_path: Path) -> None:
    results = foreign.write_results(MODELS["fold all"][0], tmp_path)
    with pytest.raises(InputError, match="channel 0 is CBCT, challenge han_seg gives CT there"):
        read_model(results, card=Card(), challenge=catalogue.load_challenge("han_seg"))


def test_a_body_that_no_ct_shows_cannot_be_a_models_default(tmp_path: Path) -> None:
    results = foreign.write_results(MODELS["fold all"][0], tmp_path)
    with pytest.raises(InputError, match=r"--region body: finds the body in a CT.* is CBCT; pass"):
        read_model(results, card=Card(run=RunDefaults(region="body")))


def test_images_of_a_reader_of_other_files_are_refused(tmp_path: Path) -> None:
    model = replace(MODELS["fold all"][0], change_plans=reader("Tiff3DIO"))
    with pytest.raises(InputError, match=r"image_reader_writer: expected one of .* found Tiff3DIO"):
        read_model(foreign.write_results(model, tmp_path), card=Card())


def test_a_ct_that_is_surely_not_in_hu_is_refused_unless_asked(tmp_path: Path) -> None:
    model = Foreign(replace(PLAIN, channels=(oracle.CT,)), ("CT",))
    results = exported(tmp_path, model)
    raw = [np.where(image > 0, 1064, 24).astype(np.int16) for image in whole(model)]
    files = foreign.write_images(raw, tmp_path / "in", ending=".nii.gz", spacing_mm=SPACING)
    settings = Settings(tmp_path / "in", tmp_path / "out", tmp_path / "model", device="cpu")
    (failure,) = segment_folder(settings)
    assert "expected a CT in HU" in failure.message
    assert segment_folder(replace(settings, assume_hu=True)) == ()
    foreign.nnunets_answer(results, files, tmp_path / "wanted.nii.gz", folds=("0",))
    mine = foreign.read_labels(tmp_path / "out/patient_1.nii.gz")
    theirs = foreign.read_labels(tmp_path / "wanted.nii.gz")
    assert np.count_nonzero(mine != theirs) <= MOST_TIES * theirs.size


def test_regions_are_scored_whole_and_a_picture_needs_no_hu(tmp_path: Path) -> None:
    """By the challenge that ``challenges --from`` prints."""
    model, draw = MODELS["CBCT and MR, nested targets"]
    results = exported(tmp_path, model)
    rules = challenge_of_file(results / "dataset.json")
    (tmp_path / "mine.toml").write_text(challenge_toml(rules))
    bright = [image.astype(np.float32) * 50 for image in draw(model)]
    foreign.write_images(bright, tmp_path / "in", ending=".mha", spacing_mm=SPACING)
    labels = tmp_path / "labelsTr" / "patient_1.mha"
    labels.parent.mkdir()
    labels.write_bytes(segmented(tmp_path).read_bytes())
    options = ["--challenge", str(tmp_path / "mine.toml")]
    out, scores = str(tmp_path / "out"), tmp_path / "scores"
    assert main(["evaluate", out, str(labels.parent), "--out", str(scores), *options]) == 0
    rows = list(csv.DictReader((scores / "scores.csv").read_text().splitlines()))
    assert {row["structure"]: row["dsc"] for row in rows} == dict.fromkeys(
        ("PTV", "CTV_low", "GTV"), "1.0"
    )
    picture = tmp_path / "look.png"
    asked = ["--input", str(tmp_path / "in"), "--output", out, "--png", str(picture)]
    assert main(["picture", *asked, *options]) == 0
    assert picture.stat().st_size > 0


def test_a_model_of_prepare_keeps_what_prepare_did(tmp_path: Path) -> None:
    model = MODELS["fold all"][0]
    plain = read_model(foreign.write_results(model, tmp_path / "plain"), card=Card())
    rules = replace(plain.challenge, name="ours", orientation="LPS")
    noted = replace(
        model, change_dataset=lambda document: document.update(oarseg=dataset_record(rules))
    )
    found = read_model(foreign.write_results(noted, tmp_path / "noted"), card=Card())
    assert found.challenge == rules
    assert found.conditioning == Conditioning(clip_hu=True, padding_is_air=True, axes="LPS")
