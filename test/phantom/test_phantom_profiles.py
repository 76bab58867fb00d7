"""Phantoms of every challenge; and HaN-Seg's, which must not change."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import SimpleITK as sitk
from kept_phantoms import NUMBER, ROUNDED_OTHERWISE, assert_same_sums, digest, rounded
from numpy.typing import NDArray

from oarseg.cases.find_cases import find_cases
from oarseg.challenges import catalogue
from oarseg.challenges.overlaps import Exclusive
from oarseg.errors import InputError
from oarseg.imaging.volume import Volume
from oarseg.phantom import Phantom, PhantomSpec, make_phantom, write_cases
from oarseg.phantom.labelling import Labelling
from oarseg.phantom.organs import known_organs
from oarseg.phantom.patient.anatomy import make_anatomy
from oarseg.phantom.patient.structures import VOLUMES_CM3

SEGRAP = catalogue.load_challenge("segrap_oar")
OWN = [name for name in catalogue.challenge_names() if name not in ("han_seg", "han5k")]


# --- HaN-Seg's phantoms are what models were trained on

EXPECTED = Path(__file__).resolve().parents[1] / "expected" / "phantom_7_tiny.npz"


def patient_text(seed: int) -> str:
    anatomy = make_anatomy(seed)
    parts = [(part.shape, part.layers, part.label) for part in anatomy.parts]
    # The texts are older than pushes, which only randomised patients have.
    assert anatomy.pose.pushes == ()
    pose = repr(anatomy.pose).replace(", pushes=()", "")
    return repr(parts) + repr(anatomy.body) + pose + repr(anatomy.metal)


@pytest.mark.parametrize(("seed", "expected"), [(7, "0dc8a0e2dc1b87ec"), (103, "76857b06402311aa")])
def test_patients_of_han_seg_stay_as_they_are(seed: int, expected: str) -> None:
    assert digest(rounded(patient_text(seed)).encode()) == expected


def test_last_digits_do_not_make_another_patient_and_a_micrometre_does() -> None:
    text = patient_text(103)

    def moved(share: float) -> str:
        def one(found: re.Match[str]) -> str:
            if "." not in found[0]:
                return found[0]
            value = float(found[0])
            return repr(math.nextafter(value, math.inf) if share == 0 else value + share)

        return NUMBER.sub(one, text)

    assert moved(0) != text
    assert rounded(moved(0)) == rounded(text)
    assert rounded(moved(1e-3)) != rounded(text)


def assert_as_shipped(ct: NDArray[Any], mr: NDArray[Any], labels: NDArray[Any]) -> None:
    """Voxels as they were, but for a few that another CPU rounds to the next whole number."""
    with np.load(EXPECTED) as expected:
        assert_same_sums(ct, "ct", expected)
        assert_same_sums(mr, "mr", expected)
        assert labels.shape == expected["labels"].shape
        assert np.count_nonzero(labels != expected["labels"]) <= ROUNDED_OTHERWISE


def test_scans_of_han_seg_stay_as_they_are() -> None:
    made = make_phantom(PhantomSpec(7, "tiny"))
    assert made.mr is not None
    ct, mr, labels = (v.array for v in (made.ct, made.mr, made.labels))
    assert_as_shipped(ct, mr, labels)
    # What is let through is less than any change of a patient or of the noise on it.
    one = np.zeros_like(ct)
    one[20, 30:35, 30] = 1
    with pytest.raises(AssertionError, match="ct_"):
        assert_as_shipped(ct + one, mr, labels)
    with pytest.raises(AssertionError, match="ct_"):
        assert_as_shipped(ct[::-1], mr, labels)
    with pytest.raises(AssertionError):
        assert_as_shipped(ct, mr, np.roll(labels, 1, 2))


# --- what the others need


@pytest.fixture(scope="module")
def segrap() -> Phantom:
    return make_phantom(PhantomSpec(201), SEGRAP)


def volume_cm3(labels: Volume, values: tuple[int, ...]) -> float:
    return float(np.isin(labels.array, values).sum()) * labels.grid.voxel_volume_mm3 / 1000


@pytest.mark.parametrize("name", OWN)
def test_phantoms_know_every_organ(name: str) -> None:
    rules = catalogue.load_challenge(name)
    labelling = Labelling(rules)
    assert labelling.of_chest == (name in ("structseg_thoracic_oar", "structseg_lung_gtv"))
    assert set(VOLUMES_CM3) <= set(known_organs())


@pytest.mark.parametrize("organ", SEGRAP.organs, ids=lambda organ: organ.name)
def test_organs_of_segrap_are_about_as_large_as_patients(segrap: Phantom, organ) -> None:  # type: ignore[no-untyped-def]
    found = volume_cm3(segrap.labels, organ.labels)
    typical = known_organs()[organ.phantom_name].volume_cm3
    cut = segrap.truth.presence[organ.name] < 1
    assert (0.15 if cut else 0.4) * typical <= found <= 1.8 * typical


def test_every_label_of_segrap_is_there(segrap: Phantom) -> None:
    assert set(np.unique(segrap.labels.array)) == set(range(55))


def test_left_and_right_of_segrap(segrap: Phantom) -> None:
    middle = make_anatomy(201).pose.rigid.translation_mm[0]
    for organ in SEGRAP.organs:
        if organ.side:
            points = np.argwhere(np.isin(segrap.labels.array, organ.labels)).astype(float)
            x = segrap.labels.grid.to_world(points).mean(axis=0)[0]
            assert (x > middle) == (organ.side == "left"), organ.name


def test_second_ct_of_segrap_is_the_same_patient_with_contrast(segrap: Phantom) -> None:
    plain, enhanced = (segrap.images[s.channel] for s in SEGRAP.sockets)
    assert plain.grid == enhanced.grid
    assert (plain.array != enhanced.array).mean() > 0.5  # noise of its own
    brain = np.isin(segrap.labels.array, SEGRAP.organs[0].labels)
    assert abs(plain.array[brain].mean() - enhanced.array[brain].mean()) < 1
    brighter = enhanced.array.astype(int) - plain.array > 60
    assert brighter.sum() * plain.grid.voxel_volume_mm3 / 1000 > 10  # vessels, in cm³


def test_tumours_stand_out_with_contrast() -> None:
    rules = catalogue.load_challenge("segrap_gtv")
    case = make_phantom(PhantomSpec(5, "tiny"), rules)
    plain, enhanced = (case.images[s.channel].array for s in rules.sockets)
    for label in (1, 2):
        inside = case.labels.array == label
        assert inside.sum() > 30
        assert 25 < (enhanced[inside].astype(float) - plain[inside]).mean() < 50


def test_chest_holds_what_structseg_outlines() -> None:
    rules = catalogue.load_challenge("structseg_thoracic_oar")
    case = make_phantom(PhantomSpec(6, "tiny"), rules)
    ct = case.images["CT"]
    for structure in rules.structures:
        inside = case.labels.array == structure.label
        assert inside.sum() * ct.grid.voxel_volume_mm3 / 1000 > 15, structure.name
    lungs = np.isin(case.labels.array, (1, 2))
    assert ct.array[lungs].mean() < -650
    right, left = (np.argwhere(case.labels.array == k).mean(axis=0)[2] for k in (1, 2))
    assert right < left  # +x is the patient's left


def test_lung_tumour_lies_in_a_lung() -> None:
    case = make_phantom(PhantomSpec(6, "tiny"), catalogue.load_challenge("structseg_lung_gtv"))
    ct, inside = case.images["CT"], case.labels.array == 1
    assert -150 < np.median(ct.array[inside]) < 120
    around = sitk.GetArrayFromImage(
        sitk.BinaryDilate(sitk.GetImageFromArray(inside.astype(np.uint8)), [2, 2, 1])
    )
    assert np.median(ct.array[(around > 0) & ~inside]) < -400


def test_the_rule_for_claims_that_no_label_fits() -> None:
    names = [organ.name for organ in SEGRAP.organs]
    rule = Exclusive(SEGRAP, {"Mandible_L": 45.0, "TMjoint_L": 2.0})

    def code(*claims: str) -> int:
        return sum(1 << names.index(name) for name in claims)

    assert rule.label(0) == 0
    assert rule.label(code("Brain", "TemporalLobe_L", "Hippocampus_L")) == 6
    assert rule.fits(code("Brain", "Hippocampus_L"))
    assert not rule.fits(code("Mandible_L", "TMjoint_L"))
    assert rule.label(code("Mandible_L", "TMjoint_L")) == 44
    # A temporal lobe that somebody has not called brain is a temporal lobe all the same.
    assert rule.label(code("TemporalLobe_R")) == 5


def test_an_unknown_organ_is_named() -> None:
    rules = catalogue.load_challenge("structseg_naso_gtv")
    spleen = replace(rules.structures[0], name="Spleen", phantom="")
    with pytest.raises(InputError, match="'Spleen': phantoms do not know 'Spleen'; set its key"):
        Labelling(replace(rules, structures=(spleen,)))


# --- written


def test_segrap_as_published(tmp_path: Path) -> None:
    (folder,) = write_cases(tmp_path, seeds=[3], size="tiny", challenge=SEGRAP)
    assert folder == tmp_path / "segrap_0003"
    names = {path.name for path in folder.iterdir()}
    assert {"image.nii.gz", "image_contrast.nii.gz", "segrap_0003_truth.json"} <= names
    assert {f"{organ.name}.nii.gz" for organ in SEGRAP.organs} <= names
    brain, stem = (
        sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{n}.nii.gz")))
        for n in ("Brain", "BrainStem")
    )
    assert set(np.unique(brain)) == {0, 1}
    assert (brain[stem > 0] == 1).all()
    (case,) = find_cases(tmp_path, SEGRAP).cases
    assert case.name == "segrap_0003"


def test_structseg_as_published(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("structseg_lung_gtv")
    write_cases(tmp_path, seeds=[3, 12], size="tiny", challenge=rules)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["12", "3"]
    names = {path.name for path in (tmp_path / "12").iterdir()}
    assert names == {"data.nii.gz", "label.nii.gz", "12_truth.json"}


def test_platform_layout_of_a_challenge(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("segrap_gtv")
    write_cases(tmp_path, seeds=[3], size="tiny", layout="platform", challenge=rules)
    (case,) = find_cases(tmp_path, rules).cases
    assert {path.parent.name for path in case.files.values()} == {s.slug for s in rules.sockets}
    assert (tmp_path / "truth/segrap_0003/label.nrrd").is_file()


def test_cases_labelled_in_part(tmp_path: Path) -> None:
    table = tmp_path / "dataset.json"
    names = ["Brain", "Brainstem", "Parotid_L", "Parotid_R", "Mandible_L", "Larynx"]
    table.write_text(json.dumps({"labels": {n: i for i, n in enumerate(["background", *names])}}))
    rules = catalogue.load_challenge("han5k", table=table)
    folders = write_cases(tmp_path / "data", seeds=[3, 4], size="tiny", challenge=rules, share=0.5)
    masks = [{p.name.removesuffix(".nii.gz") for p in f.glob("*.nii.gz")} for f in folders]
    assert masks[0] != masks[1]
    for found in masks:
        assert "image" in found
        assert 1 <= len(found & set(names)) < len(names)
    with pytest.raises(InputError, match="share 0: expected more than 0"):
        write_cases(tmp_path / "data", seeds=[3], size="tiny", challenge=rules, share=0.0)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("layout", ["dataset", "platform"])
def test_han_seg_is_written_as_a_challenge_of_any_other_name(
    tmp_path: Path, layout: Literal["dataset", "platform"]
) -> None:
    rules = replace(catalogue.load_challenge("han_seg"), name="clinic", title="Our clinic")
    for folder, chosen in (("clinic", rules), ("han_seg", None)):
        write_cases(tmp_path / folder, seeds=[7], size="tiny", layout=layout, challenge=chosen)
    assert contents(tmp_path / "clinic") == contents(tmp_path / "han_seg")


def test_masks_that_slicer_opens_tell_where_the_organ_lies(tmp_path: Path) -> None:
    data_set = replace(SEGRAP.data_set, mask="{structure}.seg.nrrd")
    seed = next(s for s in range(300) if make_anatomy(s).low_top is not None)  # no chiasm
    (folder,) = write_cases(
        tmp_path, seeds=[seed], size="tiny", challenge=replace(SEGRAP, data_set=data_set)
    )
    extents = {}
    for organ in SEGRAP.organs:
        image = sitk.ReadImage(str(folder / f"{organ.name}.seg.nrrd"))
        places = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1]
        ends = zip(places.min(0), places.max(0), strict=True) if len(places) else [(0, -1)] * 3
        extents[organ.name] = image.GetMetaData("Segment0_Extent")
        assert extents[organ.name] == " ".join(f"{a} {b}" for a, b in ends), organ.name
    assert extents["Chiasm"] == "0 -1 0 -1 0 -1"
    assert extents["Brain"] != extents["BrainStem"]


def test_organs_that_a_table_lists_are_all_labelled(tmp_path: Path) -> None:
    for share in (1.0, 0.5):
        write_cases(tmp_path / str(share), seeds=[7], size="tiny", with_mr=False, share=share)
    assert contents(tmp_path / "0.5") == contents(tmp_path / "1.0")
