"""Checkpoints of every supported kind become ONNX files that agree with torch."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import instruction_sets
import nnunet_oracle as oracle
import numpy as np
import onnxruntime
import pytest
import torch

from oarseg.challenges import catalogue, challenge
from oarseg.challenges.plausibility import Plausibility
from oarseg.errors import InputError, WeightsError
from oarseg.inference.engines.choice import BF16_MIN_DICE, fast_arithmetic
from oarseg.inference.engines.cuda_choice import choose_form, is_measured
from oarseg.model import bundle
from oarseg.model.entries.networks import ModelFile, Parity
from oarseg.training.exporting import parity as parity_check
from oarseg.training.exporting import precisions
from oarseg.training.exporting.ensemble import export_ensemble
from oarseg.training.exporting.install import install_files
from oarseg.training.exporting.manifest_entries import Card
from oarseg.training.exporting.network_file import write_onnx
from oarseg.training.nnunet_files.checkpoint import build_network, read_checkpoint
from oarseg.training.nnunet_files.results_folder import fold_checkpoints, open_results

HAN_SEG = catalogue.load_challenge("han_seg")
# The recipes' channels and five structures: an export must fit its challenge.
SOCKETS = tuple(
    replace(socket, channel=f"c{number}") for number, socket in enumerate(HAN_SEG.sockets)
)
FIVE = replace(
    HAN_SEG,
    sockets=SOCKETS,
    evaluation=challenge.Evaluation(),
    plausibility=Plausibility(),
    structures=tuple(
        replace(structure, name=f"s{label}", label=label)
        for label, structure in enumerate(HAN_SEG.structures[:5], start=1)
    ),
)
CARD = Card("title", "not for clinical use", "random weights", "CC0-1.0")
REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}


def results_folder(tmp_path: Path, recipe: oracle.Recipe, *, trainer: str = "T") -> Path:
    """A results folder of nnU-Net with random weights, one checkpoint a fold."""
    folder = tmp_path / f"{trainer}__nnUNetPlans__3d_fullres"
    folder.mkdir()
    plans, dataset = oracle.plans_of(recipe), oracle.dataset_of(recipe)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for fold, network in enumerate(oracle.make(recipe, scratch).networks):
        (folder / f"fold_{fold}").mkdir()
        save(folder / f"fold_{fold}" / "checkpoint_final.pth", network)
    return folder


def save(path: Path, network: torch.nn.Module, **more: Any) -> None:
    """A checkpoint as nnU-Net writes it: numpy scalars and a device among its values."""
    document = {
        "network_weights": network.state_dict(),
        "optimizer_state": {},
        "logging": {"ema_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(-0.1)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {"fold": 0, "device": torch.device("cpu")},
        "trainer_name": "T",
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(document | more, path)


@pytest.mark.parametrize(
    "recipe",
    [
        oracle.Recipe((3.0, 1.0, 1.0), folds=2),
        oracle.Recipe((3.0, 1.0, 1.0), residual=True),
        oracle.Recipe((3.0, 1.0, 1.0), transpose=(2, 0, 1)),
        oracle.Recipe((3.0, 1.0, 1.0), labels=REGIONS, region_order=(1, 2)),
    ],
    ids=["two folds", "ResEnc", "transposed", "regions"],
)
def test_every_kind_is_exported_and_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: oracle.Recipe
) -> None:
    instruction_sets.pretend(monkeypatch, bfloat16=True)
    folder = results_folder(tmp_path, recipe)
    folds = [str(fold) for fold in range(recipe.folds)]
    out = tmp_path / "weights"
    rules = FIVE if recipe.region_order is None else None  # whose organs are no regions
    manifest = export_ensemble(folder, out, folds=folds, challenge=rules, card=CARD)
    assert bundle.load_bundle(out).manifest == manifest
    expected = oracle.manifest_of(recipe, manifest.models)
    for key in ("spacing_mm", "patch_size", "transpose_forward", "regions"):
        assert getattr(manifest, key) == getattr(expected, key)
    assert [(k.value, k.name) for k in manifest.labels] == [
        (k.value, k.name) for k in expected.labels
    ]
    assert [c.normalisation for c in manifest.channels] == [
        c.normalisation for c in expected.channels
    ]
    assert manifest.mirror_axes == (0, 1)
    for path in out.glob("*.onnx"):
        assert b"site-packages" not in path.read_bytes()
    assert {m.precision for m in manifest.models} == {"fp32", "fp16"}
    assert manifest.folds == tuple(folds)
    rows = {(p.file, p.runtime, p.arithmetic) for p in manifest.parity}
    assert rows == {row for model in manifest.models for row in compared_in(model)}
    assert len(manifest.parity) == len(rows)
    for parity in manifest.parity:
        assert_passes(parity)
    in_bfloat16 = [p for p in manifest.parity if p.arithmetic == "bf16"]
    good = all(parity.min_dice >= BF16_MIN_DICE for parity in in_bfloat16)
    assert fast_arithmetic(manifest) == ("bf16" if good else "f32")


def compared_in(model: ModelFile) -> list[tuple[str, str, str]]:
    """The runtimes and arithmetics that a file is compared in, where the CPU has bfloat16."""
    rows = [(model.file, "onnxruntime", "f32")]
    if model.precision == "fp32":
        return [*rows, (model.file, "openvino", "f32"), (model.file, "openvino", "bf16")]
    return [*rows, (model.file, "onnxruntime", "f16")]


def assert_passes(parity: Parity) -> None:
    """Hold a row to the bar of what it was computed in.

    A row in bfloat16 is there to tell how good that is, and none too bad to be told: it is
    held to half precision's bar, which rounding reaches and another answer does not.
    """
    in_half = parity.arithmetic == "bf16" or "fp16" in parity.file
    bar = precisions.BARS["fp16" if in_half else "fp32"]
    assert parity.argmax_agreement >= bar.argmax_agreement
    assert parity.min_dice >= bar.min_dice


def test_without_bfloat16_nothing_is_told_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instruction_sets.pretend(monkeypatch, bfloat16=False)
    folder, out = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0))), tmp_path / "weights"
    manifest = export_ensemble(
        folder, out, folds=["0"], challenge=FIVE, card=CARD, precisions=["fp32"]
    )
    assert [(p.runtime, p.arithmetic) for p in manifest.parity] == [
        ("onnxruntime", "f32"),
        ("openvino", "f32"),
    ]
    assert fast_arithmetic(manifest) == "f32"


def test_bfloat16_that_answers_otherwise_is_told_and_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instruction_sets.pretend(monkeypatch, bfloat16=True)
    real = precisions.compare_with_torch

    def poor(*arguments: Any, **options: Any) -> Parity:
        found = real(*arguments, **options)
        return replace(found, min_dice=0.5) if found.arithmetic == "bf16" else found

    monkeypatch.setattr(precisions, "compare_with_torch", poor)
    folder, out = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0))), tmp_path / "weights"
    manifest = export_ensemble(
        folder, out, folds=["0"], challenge=FIVE, card=CARD, precisions=["fp32"]
    )
    assert [p.min_dice for p in manifest.parity if p.arithmetic == "bf16"] == [0.5]
    assert fast_arithmetic(manifest) == "f32"


def test_a_gpu_of_the_exports_machine_is_compared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider is there; a session on it runs on the CPU, and says that it is on the GPU."""
    sessions: list[Any] = []
    real = onnxruntime.InferenceSession

    def on_a_gpu(model: Any, options: Any = None, providers: Any = ()) -> Any:
        session = real(model, options, providers=["CPUExecutionProvider"])
        if len(providers) > 1:
            sessions.append(providers[0])
            monkeypatch.setattr(session, "get_providers", lambda: [providers[0][0]])
        return session

    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_a_gpu)
    folder, out = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0))), tmp_path / "weights"
    manifest = export_ensemble(folder, out, folds=["0"], challenge=FIVE, card=CARD)
    found = [(p.file, p.arithmetic) for p in manifest.parity if p.runtime == "cuda"]
    assert found == [("model_fold_0_fp32.onnx", "tf32"), ("model_fold_0_fp16.onnx", "f16")]
    options = {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "1"}
    assert sessions == [("CUDAExecutionProvider", options)] * 2
    form = choose_form(manifest, "exact")
    assert (form.precision, form.lean) == ("fp16", True)
    assert is_measured(manifest, form)


def test_a_gpu_that_does_not_start_is_left_out_of_the_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    folder, out = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0))), tmp_path / "weights"
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        manifest = export_ensemble(folder, out, folds=["0"], challenge=FIVE, card=CARD)
    assert {p.runtime for p in manifest.parity} == {"onnxruntime", "openvino"}


def test_a_precision_below_its_bar_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0)))
    monkeypatch.setitem(precisions.BARS, "fp16", precisions.Bar(1.1, 1.1))
    out = tmp_path / "weights"
    manifest = export_ensemble(folder, out, folds=["0"], challenge=FIVE, card=CARD)
    assert [m.precision for m in manifest.models] == ["fp32"]
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "model_fold_0_fp32.onnx"]


def test_float32_below_its_bar_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0)))
    monkeypatch.setitem(precisions.BARS, "fp32", precisions.Bar(1.1, 1.1))
    with pytest.raises(WeightsError, match="ONNX differs from torch"):
        export_ensemble(folder, tmp_path / "weights", folds=["0"], challenge=FIVE, card=CARD)
    assert not (tmp_path / "weights").exists()


def test_infinite_logits_are_seen(tmp_path: Path) -> None:
    folder = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0)))
    results = open_results(folder)
    network = build_network(results, read_checkpoint(folder / "fold_0" / "checkpoint_final.pth"))
    for name, weight in network.named_parameters():
        if "seg_layers" in name:
            weight.data.fill_(1e30)
    file = tmp_path / "wild.onnx"
    write_onnx(network, file, results, "fp16")
    patches = parity_check.smooth_noise(results, count=1)
    wanted = parity_check.network_outputs(network, patches, tmp_path / "logits.npy")
    parity = parity_check.compare_with_torch(file, patches, wanted)
    assert parity.argmax_agreement == 0.0
    assert parity.min_dice == 0.0
    assert parity.max_logit_difference == float("inf")


@pytest.mark.parametrize(("differ", "expected"), [(0, 1.0), (1, 1.0), (2, 2 * 99 / 200)])
def test_one_voxel_of_a_class_is_a_tie_and_no_difference(differ: int, expected: float) -> None:
    sizes = np.array([[900, 100, 3], [900, 100, 3], [900 - differ, 100 - differ, 0]])
    assert parity_check._worst_dice(sizes) == pytest.approx(expected)


def test_missing_fold_lists_the_finished(tmp_path: Path) -> None:
    results = open_results(results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0))))
    with pytest.raises(InputError, match=r"fold 4 has no checkpoint_final\.pth; finished: fold_0"):
        fold_checkpoints(results, ["0", "4"])


def test_results_without_plans(tmp_path: Path) -> None:
    folder = tmp_path / "T__p__3d_fullres"
    folder.mkdir()
    with pytest.raises(InputError, match=r"expected a results folder .* found no plans\.json"):
        open_results(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": [64, 64]}, r"conv_op 'torch\.nn\.modules\.conv\.Conv3d in 2-D': supported"),
        ({"previous_stage": "3d_lowres", "use_mask_for_norm": [True, False]}, "false in a cascade"),
        ({"previous_stage": "3d_lowres", "resampling_fn_seg": "x"}, "resampling_fn_seg: expected"),
        ({"architecture": {"network_class_name": "some.Transformer"}}, "uses Transformer"),
    ],
)
def test_unsupported_configurations_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0)))
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"] |= change
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(InputError, match=message):
        open_results(folder)


class Intruder:
    """Something that a checkpoint has no business to hold."""


def test_foreign_objects_in_a_checkpoint_are_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    save(path, torch.nn.Linear(1, 1), extra=Intruder())
    with pytest.raises(InputError, match=r"not allowed in a checkpoint: .*Intruder"):
        read_checkpoint(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="checkpoint"):
        read_checkpoint(path)


def test_checkpoint_of_another_plan(tmp_path: Path) -> None:
    folder = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0)))
    path = folder / "fold_0" / "checkpoint_final.pth"
    save(path, torch.nn.Linear(1, 1))
    with pytest.raises(InputError, match="is of another network than the plans"):
        build_network(open_results(folder), read_checkpoint(path))


def no_long_work(*_: object) -> None:
    raise AssertionError("the long work has begun")


def test_a_model_of_other_labels_than_the_challenges_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0)))
    monkeypatch.setattr(precisions, "network_outputs", no_long_work)
    with pytest.raises(WeightsError, match="label 1 is s1 to it and A_Carotid_L there"):
        export_ensemble(
            folder,
            tmp_path / "weights",
            folds=["0"],
            challenge=replace(HAN_SEG, sockets=SOCKETS),
            card=CARD,
        )
    assert not (tmp_path / "weights").exists()


def test_a_last_fold_of_another_plan_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0), folds=2))
    save(folder / "fold_1" / "checkpoint_final.pth", torch.nn.Linear(1, 1))
    monkeypatch.setattr(precisions, "network_outputs", no_long_work)
    with pytest.raises(InputError, match="is of another network than the plans"):
        export_ensemble(folder, tmp_path / "weights", folds=["0", "1"], challenge=FIVE, card=CARD)


def test_another_model_in_the_folder_stays(tmp_path: Path) -> None:
    """Only what the manifest of an earlier export names is replaced, and its calibration goes."""
    folder, out = results_folder(tmp_path, oracle.Recipe((3.0, 1.0, 1.0))), tmp_path / "weights"
    out.mkdir()
    (out / "of_others.onnx").write_bytes(b"theirs")
    for name in ("first", "second"):
        card = replace(CARD, name=name)
        (out / "calibration.json").write_text("of what was there before")
        export_ensemble(folder, out, folds=["0"], challenge=FIVE, card=card, precisions=["fp32"])
    assert sorted(p.name for p in out.iterdir()) == [
        "manifest.json",
        "of_others.onnx",
        "second_fold_0_fp32.onnx",
    ]


def test_a_calibration_that_cannot_be_removed_costs_no_model(tmp_path: Path) -> None:
    out, scratch = tmp_path / "weights", tmp_path / "scratch"
    shutil.copytree(Path(__file__).resolve().parents[2] / "weights", out)
    (out / "calibration.json").mkdir()
    before = sorted(out.iterdir())
    manifest = bundle.read_manifest(out).manifest
    with pytest.raises(OSError, match=r"calibration\.json"):
        install_files(scratch, out, manifest)
    assert sorted(out.iterdir()) == before
