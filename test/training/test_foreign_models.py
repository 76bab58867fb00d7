"""A stock results folder of nnU-Net alone: files in, files out, and nnU-Net's own answer."""

from __future__ import annotations

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

from oarseg.model.conditioning import UNTOUCHED, Conditioning
from oarseg.training.export import Card, export_ensemble
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


def as_old_plans(plans: dict[str, Any]) -> None:
    """Describe the network as nnU-Net did before 2.4."""
    configuration = plans["configurations"]["3d_fullres"]
    new = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": new["features_per_stage"][0],
        "unet_max_num_features": new["features_per_stage"][-1],
        "n_conv_per_stage_encoder": new["n_conv_per_stage"],
        "n_conv_per_stage_decoder": new["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": new["strides"],
        "conv_kernel_sizes": new["kernel_sizes"],
    }


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
    "CT in a fill of 0": (Foreign(replace(PLAIN, channels=(BRAIN,)), ("CT",)), brains),
    "skull-stripped": (
        Foreign(replace(PLAIN, channels=(MASKED, MASKED)), ("T1", "FLAIR"), ".nrrd"),
        padded,
    ),
    "zero padding without mask": (
        Foreign(replace(PLAIN, channels=(ZSCORE, ZSCORE)), ("T1", "T1"), ".nrrd"),
        padded,
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
        Foreign(replace(PLAIN, features=(8, 16, 16)), ("CBCT", "MR"), change_plans=as_old_plans),
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
    assert manifest.conditioning == (Conditioning(axes="RAS") if turned else UNTOUCHED)
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
    assert len(np.unique(theirs)) > 2
    assert np.count_nonzero(mine != theirs) <= MOST_TIES * theirs.size
    assert sitk.ReadImage(str(found)).GetDirection() == pytest.approx(direction)


def segmented(folder: Path) -> Path:
    """Segment the one case of a folder as a platform does, without a choice of the user's."""
    settings = Settings(folder / "in", folder / "out", folder / "model", device="cpu", threads=2)
    assert segment_folder(settings) == ()
    (record,) = json.loads((folder / "out" / "results.json").read_text())
    return Path(folder / "out" / record["outputs"][0]["filename"])
