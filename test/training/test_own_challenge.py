"""A challenge made of nnU-Net's dataset.json, and the results folder that was meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oarseg.cases.case import label_path
from oarseg.cases.find_cases import find_cases
from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge, LargestImage
from oarseg.challenges.toml_text import challenge_toml
from oarseg.cli import main
from oarseg.errors import InputError
from oarseg.training.nnunet_files.own_challenge import challenge_of_file
from oarseg.training.nnunet_files.results_folder import (
    Results,
    find_results,
    finished_folds,
    fold_checkpoints,
    open_results,
)

TARGETS: dict[str, Any] = {
    "channel_names": {"0": "CBCT", "1": "MR T1", "2": "MR T1"},
    "labels": {"background": 0, "PTV": [1, 2, 4], "CTV/low": [2, 4], "GTV": 4, "ignore": 5},
    "regions_class_order": [1, 2, 4],
    "file_ending": ".mha",
    "numTraining": 3,
}
PLAIN: dict[str, Any] = {
    "channel_names": {"0": "ct"},
    "labels": {"background": 0, "Glnd Submand L": 1, "Glnd_Submand_L": 2},
    "file_ending": ".nii.gz",
}


def write_dataset(
    parent: Path, document: dict[str, Any], *, folder: str = "Dataset007_Ours"
) -> Path:
    path = parent / folder / "dataset.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    return path


def test_regions_become_organs_that_share_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = challenge_of_file(write_dataset(tmp_path, TARGETS))
    assert not caplog.text
    assert rules.name == "Dataset007_Ours"
    assert [(o.name, o.labels) for o in rules.organs] == [
        ("PTV", (1, 2, 4)),
        ("CTV_low", (2, 4)),
        ("GTV", (4,)),
    ]
    # The label map keeps nnU-Net's integers, with those between that no region has.
    assert [s.label for s in rules.structures] == [1, 2, 3, 4]


def test_a_region_painted_with_a_label_of_others_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    challenge_of_file(write_dataset(tmp_path, TARGETS | {"regions_class_order": [1, 1, 4]}))
    assert "paints CTV/low with 1, which is none of its labels" in caplog.text


def test_channels_keep_their_names_and_order(tmp_path: Path) -> None:
    rules = challenge_of_file(write_dataset(tmp_path, TARGETS))
    found = [(s.channel, s.modality, s.slug, s.suffixes, s.placed) for s in rules.sockets]
    assert found == [
        ("CBCT", "CBCT", "cbct", ("_0000",), "same_grid"),
        ("MR T1", "MR T1", "mr-t1", ("_0001",), "same_grid"),
        ("MR T1_2", "MR T1", "mr-t1-2", ("_0002",), "same_grid"),
    ]
    assert rules.reference.channel == "CBCT"


def test_plain_labels_are_structures(tmp_path: Path) -> None:
    rules = challenge_of_file(write_dataset(tmp_path, PLAIN))
    assert [s.name for s in rules.structures] == ["Glnd_Submand_L", "Glnd_Submand_L_2"]
    assert rules.overlapping == ()
    assert rules.reference.modality == "CT"


def test_names_that_differ_in_case_alone_give_different_files(tmp_path: Path) -> None:
    labels = {"background": 0, "PTV": [1, 2], "ptv": 2}
    change = {"labels": labels, "regions_class_order": [1, 2]}
    rules = challenge_of_file(write_dataset(tmp_path, PLAIN | change))
    assert [organ.name for organ in rules.organs] == ["PTV", "ptv_2"]


@pytest.mark.parametrize("name", ["..", ".", "/", "../../etc", "x" * 300])
def test_a_name_from_a_stranger_is_one_that_files_can_have(tmp_path: Path, name: str) -> None:
    path = write_dataset(tmp_path, PLAIN | {"name": name}, folder="ours")
    rules = challenge_of_file(path)
    assert 1 <= len(rules.name) <= 100
    assert not rules.name.startswith(".")
    assert "/" not in rules.name


def test_a_label_with_too_long_a_name_is_named(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, PLAIN | {"labels": {"background": 0, "x" * 101: 1}})
    with pytest.raises(InputError, match=r"labels\.x+.*at most 100 characters"):
        challenge_of_file(path)


def test_the_printed_toml_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, PLAIN | {"channel_names": {"0": "Übersicht", "1": "日本"}})
    toml = tmp_path / "mine.toml"
    with toml.open("wb") as stream:
        subprocess.run(
            [sys.executable, "-m", "oarseg.cli", "challenges", "--from", path],
            env={**os.environ, "PYTHONIOENCODING": "latin-1"},
            stdout=stream,
            check=True,
        )
    assert catalogue.load_challenge(str(toml)) == challenge_of_file(path)
    shown = subprocess.run(
        [sys.executable, "-m", "oarseg.cli", "challenges", toml],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    ).stdout
    assert b"input: \\u65e5\\u672c (" in shown


def test_the_platforms_sockets_are_written_into_the_challenge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path, TARGETS)
    command = ["challenges", "--from", str(dataset), "--output-slug", "gross-tumour"]
    sizes = ["--largest", "300", "512", "512", "--spacing", "1.5", "0.9", "0.9"]
    assert main([*command, "--input-slugs", "ct", "t1-mri", "t2-mri", *sizes]) == 0
    (tmp_path / "ours.toml").write_text(capsys.readouterr().out)
    rules = catalogue.load_challenge(str(tmp_path / "ours.toml"))
    assert [socket.slug for socket in rules.sockets] == ["ct", "t1-mri", "t2-mri"]
    assert [socket.channel for socket in rules.sockets] == ["CBCT", "MR T1", "MR T1_2"]
    assert rules.reference.largest == LargestImage((300, 512, 512), (1.5, 0.9, 0.9))
    assert rules.sockets[1].largest is None
    (tmp_path / "images" / "ct").mkdir(parents=True)
    files = {s.channel: tmp_path / "images" / s.slug / "9b1d.mha" for s in rules.sockets}
    for file in files.values():
        file.parent.mkdir(exist_ok=True)
        file.touch()
    (case,) = find_cases(tmp_path, rules).cases
    assert dict(case.files) == files
    assert label_path(case, rules) == Path("images/gross-tumour/9b1d.mha")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input-slugs", "ct"], "expected 3 different slugs, for CBCT, MR T1, MR T1_2, found ct"),
        (["--input-slugs", "ct", "ct", "mr"], "expected 3 different slugs"),
        (["--largest", "3", "4", "5"], "--largest and --spacing: expected both or none"),
    ],
)
def test_sockets_that_do_not_fit(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path, TARGETS)
    assert main(["challenges", "--from", str(dataset), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_sockets_are_for_a_data_set_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["challenges", "han_seg", "--output-slug", "x"]) == 1
    assert "expected --from dataset.json with them" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["challenges", "--from", "dataset.json", "--output-slug", "images/x"])
    assert "expected a slug of the platform" in capsys.readouterr().err


def test_nothing_is_printed_for_a_broken_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["challenges", "--from", str(tmp_path / "dataset.json")]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("document", [TARGETS, PLAIN])
def test_the_printed_toml_loads_to_the_same_challenge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: dict[str, Any]
) -> None:
    path = write_dataset(tmp_path, document)
    assert main(["challenges", "--from", str(path)]) == 0
    toml = tmp_path / "mine.toml"
    toml.write_text(capsys.readouterr().out)
    assert catalogue.load_challenge(str(toml)) == challenge_of_file(path)


@pytest.mark.parametrize("name", catalogue.challenge_names())
def test_every_challenge_can_be_written_as_toml(tmp_path: Path, name: str) -> None:
    rules = catalogue.load_challenge(name)
    path = tmp_path / "copy.toml"
    path.write_text(challenge_toml(rules))
    assert catalogue.load_challenge(str(path)) == rules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_ending": ".tif"}, r"file_ending: expected one of \.mha.*found '\.tif'"),
        ({"channel_names": {"0": "CT\x1b[2J"}}, "channel_names: expected printable names"),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, "labels must be 1, 2, … 2 without gaps"),
    ],
)
def test_what_cannot_be_a_challenge_is_one_sentence(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        challenge_of_file(write_dataset(tmp_path, PLAIN | change))


@pytest.fixture
def targets(tmp_path: Path) -> Challenge:
    return challenge_of_file(write_dataset(tmp_path, TARGETS))


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".nii.gz"])
def test_cases_lie_as_nnunet_wants_them(tmp_path: Path, targets: Challenge, ending: str) -> None:
    folder = tmp_path / "imagesTs"
    folder.mkdir()
    for case in ("a_0001", "b"):
        for number in range(3):
            (folder / f"{case}_{number:04d}{ending}").touch()
    found = find_cases(folder, targets)
    assert [case.name for case in found.cases] == ["a_0001", "b"]
    assert found.problems == ()
    files = found.cases[0].files
    assert {channel: path.name for channel, path in files.items()} == {
        "CBCT": f"a_0001_0000{ending}",
        "MR T1": f"a_0001_0001{ending}",
        "MR T1_2": f"a_0001_0002{ending}",
    }
    assert label_path(found.cases[0], targets) == Path("a_0001.mha")


def test_sockets_are_taken_where_the_platform_gives_them(
    tmp_path: Path, targets: Challenge
) -> None:
    for slug in ("cbct", "mr-t1", "mr-t1-2"):
        (tmp_path / "images" / slug).mkdir(parents=True)
        (tmp_path / "images" / slug / f"{slug}-9f.mha").touch()
    (case,) = find_cases(tmp_path, targets).cases
    assert set(case.files) == {"CBCT", "MR T1", "MR T1_2"}


def make_results(parent: Path, *names: str) -> list[Path]:
    made = [parent / "Dataset007_Ours" / name for name in names]
    for folder in made:
        (folder / "fold_0").mkdir(parents=True)
        for name in ("plans.json", "dataset.json"):
            (folder / name).write_text("{}")
    return made


ONE, OTHER = "T__nnUNetPlans__3d_fullres", "T__nnUNetPlans__3d_lowres"


@pytest.mark.parametrize("below", ["fold_0", "plans.json", "fold_0/checkpoint_final.pth"])
def test_what_lies_in_a_results_folder_names_it(tmp_path: Path, below: str) -> None:
    (results, _) = make_results(tmp_path, ONE, OTHER)
    with pytest.raises(InputError) as caught:
        open_results(results / below)
    assert str(caught.value).endswith(f"; pass {results}")


@pytest.mark.parametrize("above", ["Dataset007_Ours", "."])
def test_results_folders_further_down_are_listed(tmp_path: Path, above: str) -> None:
    made = make_results(tmp_path, ONE, OTHER)
    with pytest.raises(InputError) as caught:
        open_results(tmp_path / above)
    assert str(caught.value).endswith(f"; pass one of {made[0]}, {made[1]}")


def test_a_link_in_a_circle_is_no_endless_search(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path)
    assert find_results(tmp_path) == ()


def results_with(tmp_path: Path, *checkpoints: str) -> Results:
    """A results folder with these files; of the rest nothing is needed."""
    for name in checkpoints:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return Results(tmp_path, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("there", "folds"),
    [
        (("fold_10", "fold_2"), ("2", "10")),
        (("fold_all",), ("all",)),
        (("fold_all", "fold_0"), ("0",)),
    ],
)
def test_finished_folds(tmp_path: Path, there: tuple[str, ...], folds: tuple[str, ...]) -> None:
    results = results_with(tmp_path, *(f"{fold}/checkpoint_final.pth" for fold in there))
    (tmp_path / "fold_4").mkdir()
    assert finished_folds(results) == folds


def test_an_unfinished_training_is_told_of_the_other_checkpoint(tmp_path: Path) -> None:
    results = results_with(tmp_path, "fold_1/checkpoint_best.pth")
    assert finished_folds(results, "best") == ("1",)
    with pytest.raises(InputError, match=r"fold_1 has checkpoint_best\.pth; pass --checkpoint be"):
        finished_folds(results)


def test_a_fold_named_twice_is_refused(tmp_path: Path) -> None:
    results = results_with(tmp_path, "fold_1/checkpoint_final.pth")
    with pytest.raises(InputError, match="--folds 1 1: expected each fold once"):
        fold_checkpoints(results, ["1", "1"])
