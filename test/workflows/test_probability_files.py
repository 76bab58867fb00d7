"""Probabilities of organs: those of nnU-Net, on the CT's grid whatever its axes are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import foreign_models as foreign
import nnunet_oracle as oracle
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from foreign_models import Foreign
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from numpy.typing import NDArray

from oarseg.errors import InputError
from oarseg.labels.find_labels import find_labels
from oarseg.results import space
from oarseg.training.exporting.ensemble import export_ensemble
from oarseg.training.exporting.manifest_entries import Card
from oarseg.training.nnunet_files.own_challenge import challenge_of_file
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

SPACING = (2.0, 1.0, 1.0)
TARGETS = {"background": 0, "PTV": [1, 2, 3], "CTV low": [2, 3], "GTV": 3}
ORGANS = {"background": 0, "left": 1, "right": 2, "cord": 3}
SIDEWAYS = (0, 0, -1, 1, 0, 0, 0, -1, 0)
PLAIN = oracle.Recipe(SPACING, labels=ORGANS)


def model(recipe: oracle.Recipe, reader: str = "SimpleITKIO") -> Foreign:
    return Foreign(
        recipe, ("CBCT", "MR"), change_plans=lambda plans: plans.update(image_reader_writer=reader)
    )


MODELS = {
    "labels, resampled": (model(PLAIN), ("right", "cord"), (2.4, 0.9, 0.8)),
    "regions, transposed": (
        model(
            oracle.Recipe(
                (1.0, 1.0, 2.0), labels=TARGETS, region_order=(1, 2, 3), transpose=(2, 1, 0)
            )
        ),
        ("CTV_low", "PTV"),
        SPACING,
    ),
    "turned": (model(PLAIN, "NibabelIOWithReorient"), ("left",), SPACING),
}


def nnunets(results: Path, files: list[Path]) -> NDArray[Any]:
    """Each class's probabilities on the grid that nnU-Net's reader gives."""
    predictor = nnUNetPredictor(
        perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(str(results), ("0",), "checkpoint_final.pth")
    reader = recursive_find_reader_writer_by_name(
        predictor.plans_manager.plans["image_reader_writer"]
    )
    image, properties = reader().read_images([str(file) for file in files])
    _, chances = predictor.predict_single_npy_array(
        image, properties, save_or_return_probabilities=True
    )
    return np.asarray(chances)


def exported(chosen: Foreign, tmp_path: Path, spacing: tuple[float, float, float]) -> list[Path]:
    results = foreign.write_results(chosen, tmp_path)
    export_ensemble(results, tmp_path / "model", card=Card(), precisions=["fp32"])
    images = oracle.images((20, 40, 36), 2, seed=3)
    return foreign.write_images(
        images, tmp_path / "in", ending=".nii.gz", spacing_mm=spacing, direction=SIDEWAYS
    )


def settings(tmp_path: Path, *organs: str) -> Settings:
    return Settings(
        tmp_path / "in",
        tmp_path / "out",
        tmp_path / "model",
        device="cpu",
        threads=2,
        probabilities=organs,
    )


@pytest.mark.parametrize("name", MODELS)
def test_they_are_nnunets(name: str, tmp_path: Path) -> None:
    chosen, organs, spacing = MODELS[name]
    files = exported(chosen, tmp_path, spacing)
    assert segment_folder(settings(tmp_path, *organs)) == ()
    theirs = nnunets(tmp_path / foreign.RESULTS, files)
    if name == "turned":
        # As nnU-Net's own reader turns a label map back.
        ct = sitk.ReadImage(str(files[0]))
        shape = sitk.GetArrayFromImage(ct).shape
        theirs = np.stack([turned_back(one, ct) for one in theirs])
        assert theirs.shape[1:] == shape
    names = [n for n in chosen.recipe.labels if n != "background" or "regions" not in name]
    report = json.loads((tmp_path / "out/reports/patient_1.json").read_text())
    assert list(report["probabilities"]) == list(organs)
    for organ in organs:
        path = tmp_path / "out/oar_masks/patient_1" / report["probabilities"][organ]
        image = sitk.ReadImage(str(path))
        assert image.GetPixelID() == sitk.sitkFloat32
        ct = sitk.ReadImage(str(files[0]))
        assert image.GetSize() == ct.GetSize()
        assert image.GetOrigin() == pytest.approx(ct.GetOrigin())
        assert image.GetDirection() == pytest.approx(ct.GetDirection())
        mine = sitk.GetArrayFromImage(image)
        assert np.array_equal(mine, mine.astype(np.float16))
        wanted = theirs[names.index(organ.replace("_", " "))]
        assert wanted.max() - wanted.min() > 0.05
        # A logit is rounded to half precision, by either of two neighbours where float32 differs.
        assert np.abs(mine - wanted).max() < 4e-3
        assert np.abs(mine - wanted).mean() < 2e-4


def turned_back(array: NDArray[Any], ct: sitk.Image) -> NDArray[Any]:
    """Turn an array (z, y, x) in RAS to the axes of an image."""
    ras = sitk.DICOMOrient(ct, "LPS")  # SimpleITK's letters say where an axis comes from
    image = sitk.GetImageFromArray(np.ascontiguousarray(array[:, ::-1, ::-1]))
    image.CopyInformation(ras)
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(ct.GetDirection())
    back = sitk.DICOMOrient(image, letters)
    return np.asarray(sitk.GetArrayFromImage(back))


def test_an_organ_that_the_model_lacks_is_refused_before_any_case(tmp_path: Path) -> None:
    exported(MODELS["turned"][0], tmp_path, SPACING)
    with pytest.raises(InputError, match="Heart: expected one of left, right, cord"):
        segment_folder(settings(tmp_path, "left", "Heart"))


def test_a_disk_without_room_for_them_fails_the_case_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two organs of 28,800 voxels take 281 KiB more than the case without them."""
    exported(MODELS["turned"][0], tmp_path, SPACING)
    monkeypatch.setattr(space, "free_bytes", lambda output: (1 << 20) + (270 << 10))
    (failure,) = segment_folder(settings(tmp_path, "left", "right"))
    assert "MiB for the outputs of this case" in failure.message
    assert segment_folder(settings(tmp_path)) == ()


def test_they_are_taken_for_no_masks(tmp_path: Path) -> None:
    files = exported(MODELS["turned"][0], tmp_path, SPACING)
    assert segment_folder(settings(tmp_path, "left")) == ()
    masks = tmp_path / "out/oar_masks"
    assert (masks / "patient_1/patient_1_PROB_left.nrrd").is_file()
    rules = challenge_of_file(tmp_path / foreign.RESULTS / "dataset.json")
    found = find_labels(tmp_path / "out", rules)
    assert found.problems == ()
    assert [sorted(labels.masks) for labels in found.cases] == [["cord", "left", "right"]]
    assert len(files) == 2
