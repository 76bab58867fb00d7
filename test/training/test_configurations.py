"""Configurations of nnU-Net, one by one and together, files to files, as nnU-Net answers."""

from __future__ import annotations

import json
from pathlib import Path

import foreign_models as foreign
import nnunet_oracle as oracle
import numpy as np
import planned_models as planned
import pytest

from oarseg.model.manifest import parse_manifest
from oarseg.training.export import Card, export_ensemble
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

SHAPE = (22, 104, 70)
SPACING_MM = (2.2, 0.9, 1.0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set's results: each configuration that nnU-Net plans, two folds of 3d_fullres."""
    found = planned.write_dataset(tmp_path_factory.mktemp("planned"))
    for configuration in planned.CONFIGURATIONS:
        planned.train(found, configuration, folds=1 + (configuration == "3d_fullres"))
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One case of two channels, at another spacing than any network's."""
    folder = tmp_path_factory.mktemp("images")
    foreign.write_images(
        oracle.images(SHAPE, 2, seed=4), folder, ending=".nrrd", spacing_mm=SPACING_MM, case="a"
    )
    return folder


def segmented(images: Path, weights: Path, out: Path) -> Path:
    settings = Settings(images, out, weights, device="cpu", threads=2)
    assert segment_folder(settings) == ()
    (record,) = json.loads((out / "results.json").read_text())
    return Path(out / record["outputs"][0]["filename"])


def differing(found: Path, wanted: Path) -> int:
    """Count the voxels that have another label, in a map of several labels."""
    mine, theirs = foreign.read_labels(found), foreign.read_labels(wanted)
    assert len(np.unique(theirs)) > 3
    return int(np.count_nonzero(mine != theirs))


@pytest.mark.parametrize("configuration", ["2d", "3d_lowres"])
def test_one_configuration(configuration: str, results: Path, images: Path, tmp_path: Path) -> None:
    folder = planned.results_of(results, configuration)
    export_ensemble(folder, tmp_path / "model", card=Card(), precisions=["fp32"])
    found = segmented(images, tmp_path / "model", tmp_path / "out")
    wanted = planned.predict(folder, images, tmp_path / "wanted") / "a.nrrd"
    assert differing(found, wanted) == 0


def test_a_2d_network_keeps_the_images_slices(results: Path, tmp_path: Path) -> None:
    folder = planned.results_of(results, "2d")
    manifest = export_ensemble(folder, tmp_path / "model", card=Card())
    assert (manifest.patch_size, manifest.spacing_mm) == ((1, 80, 80), (None, 1.0, 1.1))
    assert manifest.mirror_axes == (1, 2)
    text = (tmp_path / "model/manifest.json").read_text()
    assert parse_manifest(text, source="it") == manifest
    assert {model.precision for model in manifest.models} == {"fp32", "fp16"}
