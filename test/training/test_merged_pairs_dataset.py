"""A prepared data set whose pairs become one class each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.challenges import catalogue
from oarseg.challenges.pairs import name_pairs
from oarseg.errors import InputError, WeightsError
from oarseg.model.agreement import check_agreement, dataset_record
from oarseg.training.exporting import read_model
from oarseg.training.nnunet_files.dataset_file import read_dataset_file
from oarseg.training.preparation.merged_pairs import check_work, merge_pairs

HAN_SEG = catalogue.load_challenge("han_seg")
LABELS = {structure.name: structure.label for structure in HAN_SEG.structures}


def document(**record: Any) -> dict[str, Any]:
    return {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | LABELS,
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "oarseg": {
            **dataset_record(HAN_SEG),
            "channels": [{"name": "CT"}],
            "unlabelled": {},
            **record,
        },
    }


def raw_dataset(tmp_path: Path, given: dict[str, Any]) -> Path:
    raw = tmp_path / "Dataset101_X"
    for name in ("imagesTr", "labelsTr"):
        (raw / name).mkdir(parents=True)
    (raw / "dataset.json").write_text(json.dumps(given))
    array = np.arange(31, dtype=np.uint8).reshape(1, 1, 31)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.7, 2.0))
    image.SetOrigin((3.0, -4.0, 5.0))
    sitk.WriteImage(image, str(raw / "labelsTr/case_01.nii.gz"))
    (raw / "imagesTr/case_01_0000.nii.gz").write_bytes(b"an image")
    return raw


def test_pairs_are_one_class_and_numbers_have_no_gaps(tmp_path: Path) -> None:
    out = merge_pairs(raw_dataset(tmp_path, document()), tmp_path / "work")
    assert out.name == "Dataset101_X"
    assert (out / "imagesTr/case_01_0000.nii.gz").read_bytes() == b"an image"
    dataset = read_dataset_file(out / "dataset.json")
    assert dataset.values == tuple(range(23))
    image = sitk.ReadImage(str(out / "labelsTr/case_01.nii.gz"))
    assert image.GetOrigin() == (3.0, -4.0, 5.0)
    merged = sitk.GetArrayFromImage(image).ravel()
    assert sorted(set(merged)) == list(range(23))
    by_value = {label.value: label for label in dataset.classes}
    for left, right in name_pairs(LABELS):
        one, other = LABELS[left], LABELS[right]
        assert merged[one] == merged[other]
        assert (by_value[one].name, by_value[one].right) == (f"{left}+{right}", other)
    assert dataset.classes[merged[LABELS["Brainstem"]]].value == LABELS["Brainstem"]


def test_it_fits_the_challenge_and_only_with_the_right_names(tmp_path: Path) -> None:
    class Model:
        channels = ()
        regions = False

        def __init__(self, labels: Any) -> None:
            self.labels = labels

    raw = raw_dataset(tmp_path, document())
    labels = read_dataset_file(merge_pairs(raw, tmp_path / "work") / "dataset.json").classes
    check_agreement(Model(labels), HAN_SEG, source="it")
    swapped = json.loads((tmp_path / "work/merged/Dataset101_X/dataset.json").read_text())
    swapped["oarseg"]["classes"][1].reverse()
    (tmp_path / "swapped.json").write_text(json.dumps(swapped))
    wrong = read_dataset_file(tmp_path / "swapped.json").classes
    with pytest.raises(WeightsError, match="label 1 is A_Carotid_R to it and A_Carotid_L there"):
        check_agreement(Model(wrong), HAN_SEG, source="it")


def test_what_a_case_lacks_is_numbered_anew(tmp_path: Path) -> None:
    left, right = LABELS["Parotid_L"], LABELS["Parotid_R"]
    given = {"case_01": {str(left): 0, str(right): 0, str(LABELS["Lips"]): 0}}
    out = merge_pairs(raw_dataset(tmp_path, document(unlabelled=given)), tmp_path / "work")
    merged = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "labelsTr/case_01.nii.gz"))).ravel()
    record = json.loads((out / "dataset.json").read_text())["oarseg"]["unlabelled"]
    numbers = read_dataset_file(out / "dataset.json").labels
    assert record == {"case_01": {str(numbers["Parotid_L+Parotid_R"]): 0, str(numbers["Lips"]): 0}}
    assert merged[left] == merged[right] == merged[LABELS["Lips"]] == 0


def test_a_case_with_one_side_contoured_teaches_neither(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its left parotid is no parotid of both sides, and no background either."""
    left, right = LABELS["Parotid_L"], LABELS["Parotid_R"]
    raw = raw_dataset(tmp_path, document(unlabelled={"case_01": {str(right): 0}}))
    out = merge_pairs(raw, tmp_path / "work")
    merged = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "labelsTr/case_01.nii.gz"))).ravel()
    assert merged[left] == merged[right] == 0
    number = read_dataset_file(out / "dataset.json").labels["Parotid_L+Parotid_R"]
    record = json.loads((out / "dataset.json").read_text())["oarseg"]["unlabelled"]
    assert record == {"case_01": {str(number): 0}}
    assert f"teaches neither: labels {left}+{right}" in caplog.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (document() | {"oarseg": {}}, "expected a data set of 'oarseg prepare'"),
        (document(classes=[[0], [1, 2]]), "expected one for each label"),
        (
            {
                **document(),
                "labels": {"background": 0, "Brainstem": 1, "all": [1, 2]},
                "regions_class_order": [1, 2],
            },
            "expected organs that do not overlap",
        ),
        (
            {**document(), "labels": {"background": 0, "Brainstem": 1}},
            "expected a left and a right organ",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        merge_pairs(raw_dataset(tmp_path, given), tmp_path / "work")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([[0], [1, 1]], "no label twice"),
        ([[1], [0]], "background first"),
        ([[0]], "expected one for each label"),
        ([[0], [1, 2, 3]], "at most 2"),
        ([[0], [256]], "255"),
    ],
)
def test_damaged_classes_are_refused(classes: Any, said: str, tmp_path: Path) -> None:
    given = {**document(classes=classes), "labels": {"background": 0, "a": 1}}
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(given))
    with pytest.raises(InputError, match=said):
        read_dataset_file(path)


def test_a_work_folder_of_separate_labels_is_not_gone_on_with(tmp_path: Path) -> None:
    raw = raw_dataset(tmp_path, document())
    merged = merge_pairs(raw, tmp_path / "work")
    check_work(merged, tmp_path / "work/preprocessed/Dataset101_X")
    check_work(raw, raw)
    with pytest.raises(InputError, match="pass another --work for a training with merge_pairs"):
        check_work(merged, raw)


def test_images_of_another_data_set_are_not_gone_on_with(tmp_path: Path) -> None:
    """The same name in another folder; a link to the same one is the same one."""
    raw = raw_dataset(tmp_path / "first", document())
    other = raw_dataset(tmp_path / "second", document())
    out = merge_pairs(raw, tmp_path / "work")
    (tmp_path / "link").symlink_to(tmp_path / "first")
    assert merge_pairs(tmp_path / "link" / raw.name, tmp_path / "work") == out
    before = (out / "dataset.json").read_bytes()
    (other / "dataset.json").write_text(json.dumps(document() | {"numTraining": 2}))
    for _ in range(2):
        with pytest.raises(InputError, match=r"imagesTr: expected the images of .*second") as said:
            merge_pairs(other, tmp_path / "work")
        assert f"found {raw / 'imagesTr'} of an earlier training" in str(said.value)
    assert (out / "dataset.json").read_bytes() == before
    shutil.move(tmp_path / "first", tmp_path / "moved")
    with pytest.raises(InputError, match=r"if the data set was only moved"):
        merge_pairs(tmp_path / "moved" / raw.name, tmp_path / "work")
    (out / "imagesTr").unlink()
    (out / "imagesTr").mkdir()
    with pytest.raises(InputError, match=r"pass another --work"):
        merge_pairs(other, tmp_path / "work")


def test_postprocessing_of_merged_pairs_is_refused(tmp_path: Path) -> None:
    """It would leave the larger organ of each pair."""
    merged = merge_pairs(raw_dataset(tmp_path, document()), tmp_path / "work")
    results: Any = SimpleNamespace(
        folder=merged, dataset=read_dataset_file(merged / "dataset.json")
    )
    with pytest.raises(InputError, match="no postprocessing for a model with merged pairs"):
        read_model._postprocessing(results, ("0",), tmp_path / "postprocessing.json")
    assert read_model._postprocessing(results, ("0",), "auto") == ()
