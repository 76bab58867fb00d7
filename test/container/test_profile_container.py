"""Each challenge's whole way: phantom → prepare → train → export → container → evaluate.

``make profile-test CHALLENGE=segrap_oar`` runs one; CI runs two of them, the nightly job
all. The networks are tiny and trained for seconds: the test is of the steps and of the
form of what they write, not of how well a network can learn. The preset trains the same
weights each time; on one thread, on any number of cores.
"""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from pathlib import Path

import docker_engine
import pytest
from docker_engine import ROOT
from forms import check_form

from oarseg.cases.find_cases import find_cases
from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.cli import main

TABLE = ROOT / "test" / "tables" / "han5k_labels.json"
SEEDS = 2
HELD_OUT = 5
Say = Callable[[str], None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "profile" in metafunc.fixturenames:
        told = metafunc.config.getoption("--profiles")
        names = catalogue.challenge_names() if told == "all" else told.split(",")
        metafunc.parametrize("profile", names)


def oarseg(*arguments: object) -> None:
    """A command of the user's, which must succeed."""
    assert main([str(argument) for argument in arguments]) == 0, arguments


def options(name: str) -> list[str]:
    own = ["--label-table", str(TABLE)] if catalogue.load_challenge(name).own_labels else []
    return ["--challenge", name, *own]


def train(folder: Path, name: str) -> Path:
    """Weights from two phantoms, by the commands that a user gives."""
    raw, work = folder / "raw" / "Dataset108_Phantoms", folder / "work"
    partly = ["--share", "0.7"] if catalogue.load_challenge(name).own_labels else []
    oarseg("phantom", folder / "data", "--size", "tiny", "--cases", SEEDS, *options(name), *partly)
    oarseg("prepare", folder / "data", "--out", raw, "--transforms", "files", *options(name))
    training = ("--plans", "oarsegTiny", "--folds", "all", "--device", "cpu")
    oarseg("train", raw, "--work", work, *training, "--workers", 1, "--threads", 1)
    results = work / "results" / raw.name / "OarsegTrainer__oarsegTiny__3d_fullres"
    card = ("--title", f"{name} test", "--training", "2 tiny phantoms", "--licence", "none")
    cases = work / "preprocessed" / raw.name / "oarsegTiny_3d_fullres"
    checked = ("--preprocessed", cases, "--formats", "fp32")
    # What the model is for stands in its dataset.json: no --challenge.
    oarseg("export", results, "--out", folder / "weights", "--folds", "all", *checked, *card)
    return folder / "weights"


def held_out(folder: Path, name: str, rules: Challenge) -> Path:
    """An unseen phantom; as published where that is how the challenge runs a container."""
    layout = "dataset" if rules.output.path else "platform"
    at = ("--size", "tiny", "--seed", HELD_OUT, "--layout", layout)
    oarseg("phantom", folder / "input", *at, *options(name))
    return folder / "input"


@pytest.mark.container
def test_profile(profile: str, image: str, tmp_path: Path, say: Say) -> None:
    start = time.monotonic()
    table = TABLE if catalogue.load_challenge(profile).own_labels else None
    rules = catalogue.load_challenge(profile, table=table)
    weights = docker_engine.open_to_all(train(tmp_path, profile))
    trained = time.monotonic()
    source = held_out(tmp_path, profile, rules)
    done = docker_engine.run_on(source, tmp_path, "--volume", f"{weights}:/opt/ml/model:ro")
    assert done.status == 0, done.log
    assert rules.notice in done.log
    (case,) = find_cases(source, rules).cases
    masks = check_form(done.output, case, rules)
    assert masks.any(), "the network found nothing at all"
    truth = source if rules.output.path else source / "truth"
    scores = tmp_path / "scores"
    oarseg("evaluate", done.output, truth, "--out", scores, "--no-plot", *options(profile))
    with (scores / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["structure"] for row in rows} == {organ.name for organ in rules.organs}
    say(
        f"{profile}: trained in {trained - start:.0f} s, container {done.seconds:.0f} s, "
        f"{done.peak_mib:.0f} MiB, all {time.monotonic() - start:.0f} s on {os.cpu_count()} cores"
    )
