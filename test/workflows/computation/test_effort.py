"""The arithmetic and the effort of a case, and where a run's choices come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import instruction_sets
import pytest
from nnunet_oracle import CT, Recipe, images, manifest_of
from small_onnx import write_pointwise

from oarseg.challenges import catalogue
from oarseg.errors import InputError
from oarseg.inference.configurations.case_input import CaseInput
from oarseg.inference.configurations.model_parts import ModelPart
from oarseg.inference.deadline import Deadline
from oarseg.inference.engines.choice import Engines, open_engines
from oarseg.inference.preprocessing import NetworkInput, preprocess
from oarseg.inference.streaming import Effort
from oarseg.model.bundle import Bundle
from oarseg.model.entries.networks import ModelFile
from oarseg.model.manifest import RunDefaults
from oarseg.workflows.computation import effort
from oarseg.workflows.report import Notes
from oarseg.workflows.settings import RunDescription, Settings, describe_run

PATCH = (6, 8, 10)
# Of logits[k] = weight · image + k. In bfloat16 the second pair is one number, and k is lost.
ROBUST, FRAGILE = (2.0, -1.0), (256.0, 255.9)
HAN_SEG = catalogue.load_challenge("han_seg")


def run_of(folder: Path, pair: tuple[float, float]) -> RunDescription:
    write_pointwise(folder / "fold_0.onnx", PATCH, pair)
    recipe = Recipe((2.0, 1.0, 1.0), PATCH, (CT,), {"background": 0, "a": 1})
    file = ModelFile("fold_0.onnx", "0" * 64, "0", "fp32")
    bundle = Bundle(folder, manifest_of(recipe, (file,)), "0" * 64)
    return RunDescription(Settings(folder, folder, folder), bundle, HAN_SEG, threads=1)


def case(run: RunDescription) -> NetworkInput:
    return preprocess(images((12, 24, 30), 1), (2.0, 1.1, 1.1), run.weights.manifest)


def computation(run: RunDescription, notes: Notes) -> effort.Computation:
    return effort.Computation(CaseInput((case(run),)), None, run, notes)


@pytest.fixture
def on_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    instruction_sets.pretend(monkeypatch, bfloat16=True)


def fast_engines(run: RunDescription) -> Engines:
    opened = open_engines(run.weights, exactness="fast", device="cpu", threads=1)
    assert (opened.choice.arithmetic, opened.measured) == ("bfloat16", False)
    return opened


@pytest.mark.usefixtures("on_bfloat16")
def test_an_arithmetic_that_agrees_on_the_case_is_taken(tmp_path: Path) -> None:
    run, notes = run_of(tmp_path, ROBUST), Notes()
    fast = fast_engines(run)
    assert computation(run, notes).prove(fast) is fast
    assert "on 6 tiles" in notes.comparison
    assert notes.warnings == []


@pytest.mark.usefixtures("on_bfloat16")
def test_an_arithmetic_that_answers_otherwise_is_not_taken(tmp_path: Path) -> None:
    run, notes = run_of(tmp_path, FRAGILE), Notes()
    taken = computation(run, notes).prove(fast_engines(run))
    assert (taken.choice.arithmetic, taken.measured) == ("float32", True)
    (warning,) = notes.warnings
    assert warning.startswith("computed in float32: bfloat16 is not exact enough, on 6 tiles")


@pytest.mark.usefixtures("on_bfloat16")
def test_what_the_export_measured_is_not_compared_again(tmp_path: Path) -> None:
    run, notes = run_of(tmp_path, FRAGILE), Notes()
    fast = replace(fast_engines(run), measured=True)
    assert computation(run, notes).prove(fast) is fast
    assert notes.comparison == ""


def test_an_engine_agrees_with_itself(tmp_path: Path) -> None:
    run = run_of(tmp_path, ROBUST)
    network, manifest = case(run), run.weights.manifest
    engines = open_engines(run.weights, device="cpu", threads=1)
    work = effort.plan_tiles(network.placement, manifest)
    found = effort.compare_engines(network, work, manifest, engines, engines)
    assert found == effort.TileAgreement(6, 1.0, 1.0)


@pytest.mark.parametrize(
    ("agreement", "dice", "passed"),
    [(0.9991, 0.996, True), (0.9989, 1.0, False), (1.0, 0.9949, False)],
)
def test_labels_and_every_structure_have_to_agree(
    agreement: float, dice: float, passed: bool
) -> None:
    assert effort.TileAgreement(6, agreement, dice).passed == passed


@pytest.mark.parametrize(
    ("bfloat16", "pair", "fits", "arithmetic", "left_out"),
    [
        # Time enough: nothing is given up, exactness neither.
        (True, ROBUST, {"float32", "bfloat16"}, "float32", ()),
        (True, ROBUST, {"bfloat16"}, "bfloat16", (effort.LESS_PRECISE,)),
        (True, ROBUST, set(), "bfloat16", (effort.LESS_PRECISE, "overlap")),
        (True, FRAGILE, {"bfloat16"}, "float32", ("overlap",)),
        (False, ROBUST, {"bfloat16"}, "float32", ("overlap",)),
    ],
)
def test_a_time_limit_takes_bfloat16_before_a_tile_is_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bfloat16: bool,
    pair: tuple[float, float],
    fits: set[str],
    arithmetic: str,
    left_out: tuple[str, ...],
) -> None:
    instruction_sets.pretend(monkeypatch, bfloat16=bfloat16)
    less = Effort(step=1.0)

    def choose(_: float, parts: Sequence[ModelPart], **__: object) -> object:
        return (Effort() if parts[0].engines.choice.arithmetic in fits else less), 1.0

    monkeypatch.setattr(effort, "choose_effort", choose)
    run, notes = run_of(tmp_path, pair), Notes()
    exact = open_engines(run.weights, device="cpu", threads=1)
    used = computation(run, notes).choose(exact, Deadline(1000, 1))
    assert used.choice.arithmetic == arithmetic
    assert len(notes.given_up) == len(left_out)
    for said, expected in zip(notes.given_up, left_out, strict=True):
        assert said.startswith(expected)


@pytest.mark.parametrize(
    ("asked", "model", "expected"),
    [
        ({}, RunDefaults(), ("body", "exact", True)),
        ({}, RunDefaults("all", "fast", False), ("all", "fast", False)),
        ({"region": "full"}, RunDefaults("all", "fast"), ("full", "fast", True)),
        ({"precision": "exact", "mirroring": True}, RunDefaults("all", "fast", False), None),
    ],
)
def test_the_user_chooses_before_the_model_and_the_model_before_the_program(
    tmp_path: Path,
    asked: dict[str, object],
    model: RunDefaults,
    expected: tuple[str, str, bool] | None,
) -> None:
    made = run_of(tmp_path, ROBUST)
    weights = replace(made.weights, manifest=replace(made.weights.manifest, run=model))
    settings = replace(made.settings, **asked)  # type: ignore[arg-type]
    run = describe_run(settings, weights, HAN_SEG, threads=1)
    assert (run.region, run.precision, run.mirroring) == (expected or ("all", "exact", True))


def test_the_body_is_found_in_a_ct_only(tmp_path: Path) -> None:
    made = run_of(tmp_path, ROBUST)
    reference = replace(HAN_SEG.reference, modality="MR")
    rules = replace(HAN_SEG, sockets=(reference,))
    assert describe_run(made.settings, made.weights, rules, threads=1).region == "all"
    with pytest.raises(InputError, match=r"--region body: .* is CT; pass --region all"):
        describe_run(replace(made.settings, region="body"), made.weights, rules, threads=1)
