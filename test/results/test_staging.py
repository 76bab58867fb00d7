"""What is left in the output folder when a run ends at the worst moment."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oarseg.errors import OutputError
from oarseg.results import staging

FILES = (
    Path("oar_masks/a.seg.nrrd"),
    Path("oar_masks/a"),
    Path("reports/a.json"),
    Path("images/ct/a.mha"),
)
STAGE = Path(".oarseg/stage/a")


def expected_names() -> list[str]:
    return [str(file) if file.suffix else f"{file}/mask" for file in FILES]


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fill(folder: Path, text: str) -> None:
    for file in FILES:
        path = folder / file if file.suffix else folder / file / "mask"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write(output: Path, text: str) -> None:
    with staging.stage_case(output, "a") as stage:
        fill(stage.new, text)
        stage.commit(FILES)


def dies_at(step: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Stand in for a function of the system: the process kills itself before the n-th call."""
    calls = itertools.count()

    def counted(*args: Any, **options: Any) -> Any:
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)

    return counted


def killed(output: Path, text: str, function: str, step: int) -> bool:
    """Write a case in a process that dies; False where it needed fewer calls and lived."""
    child = os.fork()
    if child == 0:
        setattr(os, function, dies_at(step, getattr(os, function)))
        write(output, text)
        os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def killed_in_commit(output: Path, text: str, renames: int) -> None:
    """Die between renames; an earlier case's files take a rename each, but for the last."""
    assert killed(output, text, "rename", renames)


@pytest.mark.parametrize("function", ["rename", "fsync", "mkdir", "open", "unlink"])
@pytest.mark.parametrize("earlier", [False, True])
def test_killed_at_any_step(tmp_path: Path, function: str, earlier: bool) -> None:
    """Whatever step was the last, recovery leaves all of the old files or all of the new."""
    for step in range(1000):
        output = tmp_path / str(step)
        output.mkdir()
        if earlier:
            write(output, "earlier")
        before = tree(output)
        if not killed(output, "new", function, step):
            break
        staging.recover_cases(output)
        after = tree(output)
        assert after in (before, {name: "new" for name in expected_names()})
        assert not (output / ".oarseg").exists()
    assert step > 0


@pytest.mark.parametrize("renames", range(len(FILES)))
@pytest.mark.parametrize("earlier", [False, True])
def test_killed_between_renames(tmp_path: Path, renames: int, earlier: bool) -> None:
    if earlier:
        write(tmp_path, "earlier")
    before = tree(tmp_path)
    killed_in_commit(tmp_path, "new", renames)
    assert (tmp_path / STAGE).is_dir()
    staging.recover_case(tmp_path, "a")
    assert tree(tmp_path) == before
    assert not (tmp_path / ".oarseg").exists()


def test_killed_after_the_last_rename(tmp_path: Path) -> None:
    """The label file decides; only the mark is to be removed then."""
    assert killed(tmp_path, "new", "unlink", 0)
    assert (tmp_path / STAGE / staging.PLACING).is_file()
    staging.recover_case(tmp_path, "a")
    assert tree(tmp_path) == dict.fromkeys(expected_names(), "new")


def test_a_case_that_is_written_anew_recovers_first(tmp_path: Path) -> None:
    killed_in_commit(tmp_path, "half", 2)
    write(tmp_path, "whole")
    assert set(tree(tmp_path).values()) == {"whole"}


def test_recover_without_anything_to_recover(tmp_path: Path) -> None:
    staging.recover_case(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ['["../../x', "{}", "[]", '["../x", "/etc/passwd", 7, ""]', "[" * 10**5, "7"]
)
def test_a_damaged_mark_moves_nothing(tmp_path: Path, text: str) -> None:
    outside = tmp_path / "x"
    outside.write_text("not ours")
    output = tmp_path / "output"
    (output / STAGE / "new").mkdir(parents=True)
    (output / STAGE / staging.PLACING).write_text(text)
    staging.recover_case(output, "a")
    assert tree(tmp_path) == {"x": "not ours"}


def test_a_forged_mark_reaches_no_other_file(tmp_path: Path) -> None:
    """It names another case's files and results.json, as if they had been placed last."""
    others = ("results.json", "oar_masks/b.seg.nrrd", "reports/b.json", "images/ct/b.mha")
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("whole")
    stage = tmp_path / STAGE
    (stage / "new/images/ct").mkdir(parents=True)
    (stage / "new/images/ct/a.mha").touch()
    (stage / "old/images/ct").mkdir(parents=True)
    (stage / "old/images/ct/b.mha").write_text("forged")
    (stage / staging.PLACING).write_text(json.dumps([*others, "images/ct/a.mha"]))
    staging.recover_cases(tmp_path)
    assert tree(tmp_path) == dict.fromkeys(others, "whole")


def test_a_folder_nested_too_deep_to_remove_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def descend(*_: object, **__: object) -> None:
        raise RecursionError  # as in Python 3.11 from a depth of about 1000 on

    (tmp_path / ".oarseg/stage/a").mkdir(parents=True)
    monkeypatch.setattr(shutil, "rmtree", descend)
    with pytest.raises(OutputError, match="expected a folder of a run, found one nested too deep"):
        staging.recover_cases(tmp_path)


@pytest.mark.parametrize("planted", ["oar_masks", "reports", "images", "images/ct", ".oarseg"])
def test_a_link_on_the_way_is_not_followed(tmp_path: Path, planted: str) -> None:
    output, outside = tmp_path / "output", tmp_path / "outside"
    (output / planted).parent.mkdir(parents=True)
    outside.mkdir()
    for name in ("a.seg.nrrd", "stage/a/new/x", "a/mask", "a.json", "ct/a.mha", "a.mha"):
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text("not ours")
    before = tree(outside)
    (output / planted).symlink_to(outside)
    with pytest.raises(OutputError, match=f"{planted}: expected a folder, found a link; links"):
        write(output, "x")
    assert tree(outside) == before
    assert tree(output) == {}


@pytest.mark.parametrize("name", expected_names())
def test_a_link_in_the_place_of_a_file_is_replaced_itself(tmp_path: Path, name: str) -> None:
    output, outside = tmp_path / "output", tmp_path / "outside"
    outside.mkdir()
    (outside / "mask").write_text("not ours")
    place = output / name if "mask" not in Path(name).name else (output / name).parent
    place.parent.mkdir(parents=True)
    place.symlink_to(outside if place.name == "a" else outside / "mask")
    write(output, "new")
    assert tree(outside) == {"mask": "not ours"}
    assert tree(output) == dict.fromkeys(expected_names(), "new")
    assert not place.is_symlink()


def test_a_link_in_the_place_of_a_stage_is_removed_itself(tmp_path: Path) -> None:
    (tmp_path / "outside/new").mkdir(parents=True)
    (tmp_path / "outside/placing.json").write_text('["images/ct/a.mha"]')
    (tmp_path / "output" / STAGE).parent.mkdir(parents=True)
    (tmp_path / "output" / STAGE).symlink_to(tmp_path / "outside")
    write(tmp_path / "output", "x")
    assert sorted(tree(tmp_path / "output")) == sorted(expected_names())
    assert tree(tmp_path / "outside") == {"placing.json": '["images/ct/a.mha"]'}


def test_something_else_in_a_place(tmp_path: Path) -> None:
    (tmp_path / "oar_masks/a.seg.nrrd").mkdir(parents=True)
    with pytest.raises(OutputError, match="expected a file of this case or nothing, found a fold"):
        write(tmp_path, "x")
    assert tree(tmp_path) == {}


def test_earlier_outputs_go_aside_and_are_forgotten(tmp_path: Path) -> None:
    assert not staging.move_aside(tmp_path, "a", FILES)
    write(tmp_path, "first")
    assert staging.move_aside(tmp_path, "a", FILES)
    assert {name.split("/")[0] for name in tree(tmp_path)} == {"earlier"}
    # A second failure finds nothing new to move, and keeps what is there.
    assert staging.move_aside(tmp_path, "a", FILES)
    assert len(tree(tmp_path)) == len(FILES)
    write(tmp_path, "second")
    staging.remove_aside(tmp_path, "a")
    assert set(tree(tmp_path).values()) == {"second"}
    assert not (tmp_path / "earlier").exists()


def test_only_the_last_earlier_run_is_kept(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write(tmp_path, text)
        staging.move_aside(tmp_path, "a", FILES)
    assert set(tree(tmp_path).values()) == {"second"}


def test_list_of_renames_is_gone_when_a_case_is_written(tmp_path: Path) -> None:
    with staging.stage_case(tmp_path, "a") as stage:
        fill(stage.new, "x")
        stage.commit(FILES)
        assert not (tmp_path / STAGE / staging.PLACING).exists()
    assert sorted(tree(tmp_path)) == sorted(expected_names())
