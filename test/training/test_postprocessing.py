"""nnU-Net's postprocessing: its file read, kept with the model and applied, as nnU-Net would."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign_models as foreign
import nnunet_oracle as oracle
import numpy as np
import planned_models as planned
import pytest
from foreign_models import Foreign
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing,
    remove_all_but_largest_component_from_segmentation,
)
from numpy.typing import NDArray

from oarseg.cli import main
from oarseg.cli.commands import training
from oarseg.errors import InputError
from oarseg.model.manifest import KeepLargest, parse_manifest
from oarseg.training.exporting.ensemble import export_ensemble
from oarseg.training.exporting.manifest_entries import Card
from oarseg.training.exporting.read_model import read_model
from oarseg.training.nnunet_files.postprocessing import read_postprocessing
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

SPACING = (2.0, 1.0, 1.0)
TARGETS = {"background": 0, "PTV": [1, 2, 3], "CTV low": [2, 3], "GTV": 3}
LABELLED = Foreign(oracle.Recipe(SPACING), ("CBCT", "MR"))
REGIONS = Foreign(oracle.Recipe(SPACING, labels=TARGETS, region_order=(1, 2, 3)), ("CBCT", "MR"))
FUNCTION = "remove_all_but_largest_component_from_segmentation"
# What nnU-Net writes beside the steps.
SCORES = {"input_folder": {"foreground_mean": {"Dice": float("nan")}}, "postprocessed": {}}


def document(*labels: Any) -> dict[str, Any]:
    return {
        **SCORES,
        "postprocessing_fns": [FUNCTION] * len(labels),
        "postprocessing_kwargs": [{"labels_or_regions": given} for given in labels],
    }


def left_by_nnunet(results: Path, *labels: Any, folds: str = "0") -> Path:
    folder = results / f"crossval_results_folds_{folds}"
    folder.mkdir()
    path = folder / "postprocessing.json"
    path.write_text(json.dumps(document(*labels)))
    return path


def written(tmp_path: Path, given: Any) -> Path:
    path = tmp_path / "postprocessing.json"
    path.write_text(json.dumps(given))
    return path


def segmented(tmp_path: Path, name: str) -> NDArray[Any]:
    settings = Settings(tmp_path / "in", tmp_path / name, tmp_path / "model", device="cpu")
    assert segment_folder(settings) == ()
    return foreign.read_labels(tmp_path / name / "patient_1.nii.gz")


@pytest.mark.parametrize(
    ("model", "steps"),
    [
        (LABELLED, ([1, 2, 3, 4, 5], 2, 4)),
        (REGIONS, ([1, 2, 3], [1, 2, 3], [2, 3], 3)),
    ],
)
def test_a_case_is_filtered_as_by_nnunet(
    model: Foreign, steps: tuple[Any, ...], tmp_path: Path
) -> None:
    """The same network with the file and without, and nnU-Net's functions on the latter."""
    results = foreign.write_results(model, tmp_path)
    images = oracle.images((20, 40, 36), 2, seed=3)
    foreign.write_images(images, tmp_path / "in", ending=".nii.gz", spacing_mm=SPACING)
    export_ensemble(results, tmp_path / "model", card=Card(), precisions=["fp32"])
    plain = segmented(tmp_path, "plain")
    path = left_by_nnunet(results, *steps)
    export_ensemble(results, tmp_path / "model", card=Card(), precisions=["fp32"])
    mine = segmented(tmp_path, "filtered")
    read = json.loads(path.read_text())["postprocessing_kwargs"]
    functions = [remove_all_but_largest_component_from_segmentation] * len(read)
    theirs = apply_postprocessing(plain, functions, read)
    assert np.count_nonzero(plain != theirs) > 0
    assert np.array_equal(mine, theirs)
    report = json.loads((tmp_path / "filtered/reports/patient_1.json").read_text())
    removed = [step["removed_voxels"] for step in report["postprocessing"]["steps"]]
    assert sum(sum(step.values()) for step in removed) == np.count_nonzero(plain != theirs)
    plain_report = json.loads((tmp_path / "plain/reports/patient_1.json").read_text())
    assert plain_report["postprocessing"] is None


def test_what_nnunet_left_is_taken_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = foreign.write_results(LABELLED, tmp_path)
    path = left_by_nnunet(results, [1, 2], 3)
    with caplog.at_level("INFO"):
        found = read_model(results, card=Card())
    assert found.postprocessing == (KeepLargest((1, 2)), KeepLargest((3,)))
    assert f"{path} is kept with the model" in caplog.text
    assert read_model(results, card=Card(), postprocessing="none").postprocessing == ()


def test_what_was_determined_for_other_folds_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = foreign.write_results(LABELLED, tmp_path)
    path = left_by_nnunet(results, 3, folds="0_1_2_3_4")
    assert read_model(results, card=Card()).postprocessing == ()
    assert "is for other folds than 0 and was left out" in caplog.text
    asked = read_model(results, card=Card(), postprocessing=path)
    assert asked.postprocessing == (KeepLargest((3,)),)


def test_the_command_takes_a_file(tmp_path: Path) -> None:
    results = foreign.write_results(LABELLED, tmp_path)
    path = written(tmp_path, document(2, [1, 2]))
    out = tmp_path / "model"
    options = ["--out", str(out), "--formats", "fp32", "--postprocessing", str(path)]
    assert main(["export", str(results), *options]) == 0
    manifest = parse_manifest((out / "manifest.json").read_text(), source="it")
    assert manifest.postprocessing == (KeepLargest((2,)), KeepLargest((1, 2)))


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    given = document(1, 2)
    change(given)
    return given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (document(9), "expected labels of this model, found 9"),
        (document(0), "greater than or equal to 1"),
        (document(256), "less than or equal to 255"),
        (document(True), "valid integer"),
        (document("1"), "postprocessing_kwargs.0.labels_or_regions"),
        (document([]), "postprocessing_kwargs.0.labels_or_regions"),
        (document([[[1]]]), "postprocessing_kwargs.0.labels_or_regions"),
        (changed(lambda d: d["postprocessing_fns"].pop()), "expected one for each of 1 functions"),
        (
            changed(lambda d: d["postprocessing_fns"].__setitem__(0, "os.system")),
            f"expected '{FUNCTION}', found os.system",
        ),
        (
            changed(lambda d: d["postprocessing_kwargs"][0].update(background_label=1)),
            "background_label",
        ),
        (changed(lambda d: d["postprocessing_kwargs"][0].update(more=1)), "kwargs.0.more"),
        (changed(lambda d: d.pop("postprocessing_fns")), "postprocessing_fns"),
        (document(*[1] * 513), "at most 512 items"),
        ([], "expected a JSON object"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(given: Any, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, given)
    with pytest.raises(InputError) as error:
        read_postprocessing(path, range(6))
    assert said in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_nothing_to_do_is_no_fault(tmp_path: Path) -> None:
    assert read_postprocessing(written(tmp_path, document()), range(6)) == ()


def test_the_pickle_beside_it_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "postprocessing.pkl"
    path.write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(InputError, match="found a pickle, which is not opened"):
        read_postprocessing(path, range(6))


def test_labels_of_a_region_model_may_be_painted_or_trained(tmp_path: Path) -> None:
    order = replace(REGIONS, change_dataset=lambda d: d.update(regions_class_order=[7, 8, 9]))
    results = foreign.write_results(order, tmp_path)
    for known in (9, [2, 3]):
        path = written(tmp_path, document(known))
        assert read_model(results, card=Card(), postprocessing=path).postprocessing
    with pytest.raises(InputError, match="found 4"):
        read_model(results, card=Card(), postprocessing=written(tmp_path, document(4)))


def test_a_recommendations_own_file_is_taken_for_its_own_folds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of an ensemble it lies in a folder of the ensemble, which none of its models names."""
    path = planned.best(tmp_path, ["2d", "3d_fullres"], folds=(0, 1))
    there = tmp_path / "ensembles" / "ensemble___a___b___0_1"
    information = json.loads(path.read_text())
    best = information["best_model_or_ensemble"]
    best["postprocessing_file"] = f"/of/another/machine/{there.name}/postprocessing.pkl"
    path.write_text(json.dumps(information))
    there.mkdir(parents=True)

    def taken(*words: str) -> Any:
        parser = argparse.ArgumentParser()
        training.add_export(parser.add_subparsers())
        arguments = parser.parse_args(["export", "--best", str(tmp_path), *words])
        chosen = training._chosen_results(arguments)
        return training._postprocessing_of(arguments.postprocessing, chosen.determined)

    assert taken() == "auto"
    written(there, document(1))
    assert taken() == there / "postprocessing.json"
    assert taken("--folds", "0", "1") == there / "postprocessing.json"
    assert taken("--postprocessing", "none") == "none"
    assert caplog.text.count("left out") == 0
    assert taken("--folds", "1") == "auto"
    assert f"{there} is for folds 0, 1 and was left out" in caplog.text
