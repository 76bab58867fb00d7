"""Configurations of nnU-Net, one by one and together, files to files, as nnU-Net answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign_models as foreign
import nnunet_oracle as oracle
import numpy as np
import planned_models as planned
import pytest
from numpy.typing import NDArray

from oarseg.cli import main
from oarseg.errors import InputError, WeightsError
from oarseg.inference.configurations.case_input import preprocess_case
from oarseg.inference.configurations.segment import segment_case_input
from oarseg.inference.engines.choice import DeviceChoice, Engines
from oarseg.inference.engines.forms import separate_networks
from oarseg.inference.streaming import Effort
from oarseg.model.bundle import load_bundle
from oarseg.model.manifest import parse_manifest
from oarseg.training.exporting.ensemble import export_ensemble
from oarseg.training.exporting.manifest_entries import Card, join_members, outline
from oarseg.training.exporting.read_model import read_model
from oarseg.training.exporting.trained_model import TrainedModel
from oarseg.training.nnunet_files.checkpoint import build_network
from oarseg.training.nnunet_files.recommendation import read_recommendation
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

# Two logits of which half precision makes one value may fall either way.
MOST_TIES = 1e-4
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


def differing(found: Path | NDArray[Any], wanted: Path) -> float:
    """Return the share of voxels that have another label, in a map of several labels."""
    mine = foreign.read_labels(found) if isinstance(found, Path) else found
    theirs = foreign.read_labels(wanted)
    assert len(np.unique(theirs)) >= 3
    return float(np.mean(mine != theirs))


@pytest.mark.parametrize("configuration", ["2d", "3d_lowres"])
def test_one_configuration(configuration: str, results: Path, images: Path, tmp_path: Path) -> None:
    folder = planned.results_of(results, configuration)
    export_ensemble(folder, tmp_path / "model", card=Card(), precisions=["fp32"])
    found = segmented(images, tmp_path / "model", tmp_path / "out")
    wanted = planned.predict(folder, images, tmp_path / "wanted") / "a.nrrd"
    assert differing(found, wanted) <= MOST_TIES


def test_a_2d_network_keeps_the_images_slices(results: Path, tmp_path: Path) -> None:
    folder = planned.results_of(results, "2d")
    manifest = export_ensemble(folder, tmp_path / "model", card=Card())
    assert (manifest.patch_size, manifest.spacing_mm) == ((1, 80, 80), (None, 1.0, 1.1))
    assert manifest.mirror_axes == (1, 2)
    text = (tmp_path / "model/manifest.json").read_text()
    assert parse_manifest(text, source="it") == manifest
    assert {model.precision for model in manifest.models} == {"fp32", "fp16"}


def nnunets_answer(results: Path, configurations: Sequence[str], images: Path, work: Path) -> Path:
    """Let nnU-Net predict with each configuration, and average them if there are several."""
    work.mkdir()
    answers = []
    for configuration in configurations:
        folder = planned.results_of(results, configuration)
        previous = None
        if "cascade" in configuration:
            low = planned.results_of(results, "3d_lowres")
            previous = planned.predict(low, images, work / "previous")
        answers.append(
            planned.predict(
                folder,
                images,
                work / configuration,
                folds=tuple(range(len(list(folder.glob("fold_*"))))),
                previous=previous,
                probabilities=len(configurations) > 1,
            )
        )
    if len(answers) == 1:
        return answers[0] / "a.nrrd"
    return planned.ensemble(answers, work / "ensemble") / "a.nrrd"


@pytest.mark.parametrize(
    "configurations",
    [("3d_cascade_fullres",), ("2d", "3d_fullres"), ("3d_lowres", "3d_cascade_fullres")],
    ids="+".join,
)
def test_cascades_and_ensembles_of_configurations(
    configurations: tuple[str, ...], results: Path, images: Path, tmp_path: Path
) -> None:
    """Two folds of 3d_fullres; the lowres one is a member and the cascade's stage in the last."""
    folder, *more = (planned.results_of(results, name) for name in configurations)
    manifest = export_ensemble(
        folder, tmp_path / "model", more=more, card=Card(), precisions=["fp32"]
    )
    assert [member.configuration for member in manifest.members] == list(configurations)
    found = segmented(images, tmp_path / "model", tmp_path / "out")
    wanted = nnunets_answer(results, configurations, images, tmp_path / "wanted")
    assert differing(found, wanted) <= MOST_TIES
    if len(configurations) > 1:
        alone = [tmp_path / "wanted" / name / "a.nrrd" for name in configurations]
        assert all(differing(other, wanted) > 100 * MOST_TIES for other in alone)
    report = json.loads((tmp_path / "out/reports/a.json").read_text())
    assert [run["name"] for run in report["model"]["configurations"]] == [
        network.configuration for network in manifest.networks
    ]


def test_given_nnunets_own_networks_every_label_is_nnunets(
    results: Path, images: Path, tmp_path: Path
) -> None:
    """Nothing is left to compare but what is around the networks."""
    names = ("3d_lowres", "3d_cascade_fullres")
    models = [read_model(planned.results_of(results, name), card=Card()) for name in names]
    manifest = join_members([outline(model, Card()) for model in models])
    first, other = (own_networks(model) for model in models)
    arrays = [foreign.read_labels(images / f"a_{number:04d}.nrrd") for number in (0, 1)]
    found = segment_case_input(
        preprocess_case(arrays, SPACING_MM, manifest),
        replace(first, further=(other,)),
        manifest,
        effort=Effort(mirror=True),
        threads=2,
    )
    wanted = nnunets_answer(results, names, images, tmp_path / "wanted")
    assert differing(found, wanted) == 0


def own_networks(model: TrainedModel) -> Engines:
    """Open a model's checkpoints in torch."""
    folds = [
        oracle.TorchEngine(build_network(model.results, checkpoint), fold)
        for fold, checkpoint in model.checkpoints.items()
    ]
    before = None if model.stage is None else own_networks(model.stage)
    choice = DeviceChoice("cpu", "onnxruntime", "torch")
    return Engines(choice, separate_networks(folds), before=before)


def test_probabilities_of_regions_are_averaged(images: Path, tmp_path: Path) -> None:
    results = planned.write_dataset(tmp_path, regions=True)
    names = ("3d_fullres", "3d_lowres")
    folder, *more = (planned.train(results, name) for name in names)
    export_ensemble(folder, tmp_path / "model", more=more, card=Card(), precisions=["fp32"])
    found = segmented(images, tmp_path / "model", tmp_path / "out")
    wanted = nnunets_answer(results, names, images, tmp_path / "wanted")
    assert differing(found, wanted) <= MOST_TIES


def test_what_nnunet_recommends_is_exported(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned.best(results, ["3d_fullres", "3d_cascade_fullres"])
    out = tmp_path / "model"
    assert main(["export", "--best", str(results), "--out", str(out), "--formats", "fp32"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("3d_fullres", "3d_lowres", "3d_cascade_fullres"):
        assert f"{out}: {name}, folds 0" in lines
    manifest = load_bundle(out).manifest
    fullres, cascade = manifest.members
    assert (fullres.configuration, cascade.configuration) == ("3d_fullres", "3d_cascade_fullres")
    assert cascade.before is not None
    assert cascade.before.configuration == "3d_lowres"
    assert cascade.stage is not None
    assert cascade.stage.labels == (1, 2, 3, 4, 5)
    # Of the two folds the one that was compared.
    assert all(network.folds == ("0",) for network in manifest.networks)
    files = {model.file for network in manifest.networks for model in network.models}
    assert {path.name for path in out.iterdir()} == {"manifest.json", *files}


def test_a_changed_file_of_a_stage_is_refused(results: Path, tmp_path: Path) -> None:
    folder, out = planned.results_of(results, "3d_cascade_fullres"), tmp_path / "model"
    manifest = export_ensemble(folder, out, card=Card(), precisions=["fp32"])
    assert manifest.before is not None
    file = out / manifest.before.models[0].file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match=f"{file.name}: SHA-256"):
        load_bundle(out)


def test_a_manifest_of_several_configurations_is_read_as_it_was_written(
    results: Path, tmp_path: Path
) -> None:
    names = ("3d_cascade_fullres", "2d")
    folder, *more = (planned.results_of(results, name) for name in names)
    written = export_ensemble(
        folder, tmp_path / "model", more=more, card=Card(), precisions=["fp32"]
    )
    text = (tmp_path / "model/manifest.json").read_text()
    assert parse_manifest(text, source="it") == written
    document = json.loads(text)
    document["further"][0]["transpose_forward"] = [0, 2, 1]
    assert_refused(document, "transpose_forward of all networks must be the same")
    document["further"][0] |= {"transpose_forward": [0, 1, 2], "patch_size": [2, 80, 80]}
    assert_refused(document, "patch_size must be 1 along axis 0 where spacing_mm is not given")
    document["further"] = []
    document["stage"]["labels"] = [1, 1]
    assert_refused(document, "labels must differ from each other")


def assert_refused(document: dict[str, object], why: str) -> None:
    with pytest.raises(WeightsError, match=why):
        parse_manifest(json.dumps(document), source="it")


def test_a_cascade_without_its_stage_is_refused(results: Path, tmp_path: Path) -> None:
    folder = planned.results_of(results, "3d_cascade_fullres")
    alone = shutil.copytree(folder, tmp_path / folder.name)
    with pytest.raises(InputError, match=r"is a cascade, expected its stage before in .*3d_lowres"):
        export_ensemble(alone, tmp_path / "model", card=Card())


def test_a_cascade_that_follows_itself_is_refused(results: Path, tmp_path: Path) -> None:
    names = ("3d_cascade_fullres", "3d_lowres")
    cascade, low = (
        Path(
            shutil.copytree(
                planned.results_of(results, name), tmp_path / planned.results_of(results, name).name
            )
        )
        for name in names
    )
    for stages in (names[:1], names[::-1]):
        for folder in (cascade, low):
            plans = json.loads((folder / "plans.json").read_text())
            for name, stage in zip(names, stages, strict=False):
                plans["configurations"][name]["previous_stage"] = stage
            (folder / "plans.json").write_text(json.dumps(plans))
        with pytest.raises(InputError, match=r"expected a stage with the labels .* none before it"):
            read_model(cascade, card=Card())


def test_a_stage_whose_images_are_read_otherwise_is_refused(results: Path, tmp_path: Path) -> None:
    names = ("3d_cascade_fullres", "3d_lowres")
    cascade, low = (
        Path(
            shutil.copytree(
                planned.results_of(results, name), tmp_path / planned.results_of(results, name).name
            )
        )
        for name in names
    )
    plans = json.loads((low / "plans.json").read_text())
    plans["image_reader_writer"] = "SimpleITKIOWithReorient"
    (low / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(InputError, match="found another image_reader_writer"):
        export_ensemble(cascade, tmp_path / "model", card=Card())
    assert not (tmp_path / "model").exists()


def test_a_cascade_of_merged_pairs_is_refused(results: Path, tmp_path: Path) -> None:
    """Its channels would be those of other labels than the stage's map has."""
    folder = planned.results_of(results, "3d_cascade_fullres")
    copied = Path(shutil.copytree(folder, tmp_path / folder.name))
    dataset = json.loads((copied / "dataset.json").read_text())
    dataset["oarseg"] = {"classes": [[value] for value in range(6)]}
    (copied / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(InputError, match="expected no cascade of merged pairs"):
        read_model(copied, card=Card())


def test_a_results_folder_is_not_averaged_with_itself(results: Path, tmp_path: Path) -> None:
    folder = planned.results_of(results, "2d")
    link = tmp_path / folder.name
    link.symlink_to(folder)
    with pytest.raises(InputError, match="expected each model once"):
        export_ensemble(folder, tmp_path / "model", more=[link], card=Card())


def test_models_of_other_labels_are_not_averaged(results: Path, tmp_path: Path) -> None:
    folder = planned.results_of(results, "3d_fullres")
    other = shutil.copytree(folder, tmp_path / folder.name)
    dataset = json.loads((other / "dataset.json").read_text())
    dataset["labels"] = {
        ("t1" if name == "s1" else name): k for name, k in dataset["labels"].items()
    }
    (other / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(InputError, match="only models of one data set are averaged"):
        export_ensemble(folder, tmp_path / "model", more=[other], card=Card())


def test_cases_of_one_configuration_are_no_comparison_for_several(
    results: Path, tmp_path: Path
) -> None:
    folder, other = (planned.results_of(results, name) for name in ("3d_fullres", "2d"))
    with pytest.raises(InputError, match="leave --preprocessed out"):
        export_ensemble(
            folder, tmp_path / "model", more=[other], card=Card(), preprocessed=tmp_path
        )


def test_a_data_set_without_a_recommendation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"inference_information\.json, found none; run nnUNetv2_f"
    ):
        read_recommendation(tmp_path)
    path = planned.best(tmp_path, ["3d_fullres"])
    path.write_text(path.read_text().replace('"nnUNetTrainer"', '"../../etc"'))
    with pytest.raises(
        InputError, match=r"selected_model_or_models\.0\.trainer: String should match"
    ):
        read_recommendation(tmp_path)


def test_where_nnunet_determined_a_postprocessing(tmp_path: Path) -> None:
    path = planned.best(tmp_path, ["3d_fullres"])
    folder = planned.results_of(tmp_path, "3d_fullres")
    there = folder / "crossval_results_folds_0"
    document = json.loads(path.read_text())
    best = document["best_model_or_ensemble"]
    best["postprocessing_file"] = f"/of/another/machine/{there.name}/postprocessing.pkl"
    path.write_text(json.dumps(document))
    assert read_recommendation(tmp_path).determined is None
    there.mkdir(parents=True)
    assert read_recommendation(tmp_path).determined == there


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "expected a results folder, or --best"),
        (("here", "--best", "there"), "pass one of the two"),
    ],
)
def test_one_of_a_recommendation_and_results_folders_is_exported(
    words: tuple[str, ...],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) == 1
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
