"""Weights and challenge must fit each other; a challenge of the user's travels with its model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import nnunet_oracle as oracle
import pytest
from pydantic import TypeAdapter

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError, WeightsError
from oarseg.model import agreement
from oarseg.model.bundle import Bundle
from oarseg.model.entries.channels import Channel, Normalisation
from oarseg.model.manifest import Label, Manifest, parse_manifest, write_manifest
from oarseg.training.nnunet_files.dataset_file import DatasetFile
from oarseg.training.nnunet_files.own_challenge import noted_challenge

GTV = catalogue.load_challenge("segrap_gtv")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("weights")
    recipe = oracle.Recipe(
        (8.0, 6.0, 6.0), channels=(oracle.CT, oracle.CT), labels={"background": 0, "a": 1, "b": 2}
    )
    return replace(
        oracle.make(recipe, folder).manifest,
        challenge="segrap_gtv",
        channels=(Channel("CT", oracle.CT), Channel("CT_contrast", oracle.CT)),
        labels=(Label(0, "background"), Label(1, "GTVp"), Label(2, "GTVnd")),
    )


def region(value: int, name: str, *members: int) -> Label:
    return Label(value, name, members)


def test_regions_of_the_challenges_label_sets_fit(made: Manifest) -> None:
    labels = (region(2, "GTVnd", 2), region(1, "GTVp", 1))
    manifest = replace(made, regions=True, labels=labels)
    assert agreement.challenge_of(opened(manifest)) == GTV


def clipped(lower: float, upper: float) -> Channel:
    """A CT channel of a range that makes it constant."""
    how = Normalisation("ct", (lower + upper) / 2, upper - lower, lower, upper)
    return Channel("CT", how)


def noted(record: dict[str, Any]) -> Challenge:
    """The challenge of a data set with this record."""
    document = {"channels": ["CT"], "labels": {"background": 0, "a": 1}, "oarseg": record}
    dataset = TypeAdapter(DatasetFile).validate_python(document)
    return noted_challenge(dataset, Path("Dataset001_X/dataset.json"))


def opened(manifest: Manifest) -> Bundle:
    return Bundle(Path("weights"), manifest, "0" * 64)


def test_weights_that_fit(made: Manifest) -> None:
    assert agreement.challenge_of(opened(made)) == GTV
    assert agreement.challenge_of(opened(made), "segrap_gtv") == GTV


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: replace(m, channels=(Channel("MR_T1", oracle.CT),)),
            "it takes MR_T1, the challenge gives CT, CT_contrast",
        ),
        (
            lambda m: replace(m, channels=(clipped(3500, 9000), m.channels[1])),
            "its CT is clipped to 3500 … 9000, where no CT has a value",
        ),
        (
            lambda m: replace(m, channels=(clipped(-9000, -1000), m.channels[1])),
            "its CT is clipped to -9000 … -1000, where no CT has a value",
        ),
        (
            lambda m: replace(m, labels=(Label(0, "background"), Label(1, "GTVnd"))),
            "label 1 is GTVnd to it and GTVp there",
        ),
        (lambda m: replace(m, labels=m.labels[:2]), "label 2 is unknown to it and GTVnd there"),
        (
            lambda m: replace(m, labels=(*m.labels, Label(3, "GTV"))),
            "label 3 is GTV to it and unknown there",
        ),
        (
            lambda m: replace(m, regions=True, labels=(Label(1, "whole"), Label(5, "core"))),
            "it paints label 5",
        ),
        (
            lambda m: replace(m, channels=m.channels[::-1]),
            "it takes CT_contrast, CT in this order, the challenge gives CT, CT_contrast",
        ),
        (
            lambda m: replace(
                m, regions=True, labels=(region(1, "GTVp", 1, 2), region(2, "GTVnd", 2))
            ),
            r"region GTVp is labels 1 \+ 2 to it and labels 1 there",
        ),
        (
            lambda m: replace(m, regions=True, labels=(region(1, "GTVp", 1), region(2, "PTV", 2))),
            "region PTV is labels 2 to it and unknown there",
        ),
        (
            lambda m: replace(m, regions=True, labels=(region(1, "GTVp", 1),)),
            "region GTVnd is unknown to it and labels 2 there",
        ),
    ],
)
def test_weights_that_do_not_fit(
    made: Manifest, change: Callable[[Manifest], Manifest], message: str
) -> None:
    with pytest.raises(WeightsError, match=f"does not fit challenge segrap_gtv: {message}"):
        agreement.challenge_of(opened(change(made)))


def test_another_challenge_than_the_weights(made: Manifest) -> None:
    with pytest.raises(WeightsError, match="are for challenge segrap_gtv, --challenge says han"):
        agreement.challenge_of(opened(made), "han_seg")


@pytest.mark.parametrize("name", ["gone", "/etc/challenge.toml"])
def test_a_manifest_of_a_challenge_that_is_not_here(made: Manifest, name: str) -> None:
    """The manifest is a stranger's: it names no file that is then read."""
    with pytest.raises(WeightsError, match=f"the challenge '{name}'.*export the model again"):
        agreement.challenge_of(opened(replace(made, challenge=name)))


def test_a_label_table_travels_in_the_manifest(made: Manifest, tmp_path: Path) -> None:
    table = tmp_path / "dataset.json"
    table.write_text(json.dumps({"labels": {"background": 0, "Brain": 1, "Lens_L": 2}}))
    rules = catalogue.load_challenge("han5k", table=table)
    manifest = replace(
        made,
        challenge="han5k",
        channels=made.channels[:1],
        labels=(Label(0, "background"), Label(1, "Brain"), Label(2, "Lens_L")),
        own_challenge=agreement.own_facts(rules),
    )
    write_manifest(manifest, tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    read = parse_manifest(text, source="manifest.json")
    assert read == manifest
    for told in (None, "han5k"):
        assert agreement.challenge_of(opened(read), told) == rules


def test_a_manifest_of_a_shipped_challenge_names_it_only(made: Manifest, tmp_path: Path) -> None:
    assert agreement.own_facts(GTV) is None
    write_manifest(made, tmp_path)
    assert "own_challenge" not in json.loads((tmp_path / "manifest.json").read_text())


def test_a_changed_copy_of_a_shipped_challenge_is_the_users_own() -> None:
    changed = replace(GTV, title="ours")
    record = json.loads(json.dumps(agreement.dataset_record(changed)))
    assert noted(record) == changed
    plain = agreement.dataset_record(GTV)
    assert plain == {"challenge": "segrap_gtv"}
    assert noted(plain) == GTV
    assert noted({}).name == "Dataset001_X"


def test_the_users_file_may_describe_a_known_challenge_anew(made: Manifest, tmp_path: Path) -> None:
    source = resources.files("oarseg") / "challenges" / "segrap_gtv.toml"
    path = tmp_path / "own.toml"
    path.write_text(source.read_text().replace("identity_frame = true", "identity_frame = false"))
    assert not agreement.challenge_of(opened(made), str(path)).output.identity_frame
    path.write_text("name = 1")
    with pytest.raises(InputError, match=r"own\.toml, line 1: name"):
        agreement.challenge_of(opened(made), str(path))
