"""What is left in the output folder when a run ends at the worst moment."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from oarseg.results import staging

FILES = (Path("masks/a.nrrd"), Path("masks/a"), Path("reports/a.json"), Path("images/a.mha"))


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


def write(output: Path, text: str, *, dies_at: int | None = None) -> None:
    """Write a case; the process kills itself before one of the renames, or after the last."""
    renames = 0
    place = staging.CaseStage._place

    def counted(stage: staging.CaseStage, file: Path) -> None:
        nonlocal renames
        if renames == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        place(stage, file)
        renames += 1

    staging.CaseStage._place = counted  # type: ignore[method-assign]
    try:
        with staging.stage_case(output, "a") as stage:
            fill(stage.new, text)
            stage.commit(FILES)
            if dies_at == len(FILES):
                os.kill(os.getpid(), signal.SIGKILL)
    finally:
        staging.CaseStage._place = place  # type: ignore[method-assign]


def killed(output: Path, text: str, dies_at: int) -> None:
    child = os.fork()
    if child == 0:
        write(output, text, dies_at=dies_at)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("dies_at", range(len(FILES)))
@pytest.mark.parametrize("earlier", [False, True])
def test_killed_between_renames(tmp_path: Path, dies_at: int, earlier: bool) -> None:
    if earlier:
        write(tmp_path, "earlier")
    before = tree(tmp_path)
    killed(tmp_path, "new", dies_at)
    assert (tmp_path / ".partial-a").is_dir()
    staging.recover_case(tmp_path, "a")
    assert tree(tmp_path) == before
    assert not (tmp_path / ".partial-a").exists()


def test_killed_after_the_last_rename(tmp_path: Path) -> None:
    killed(tmp_path, "new", len(FILES))
    staging.recover_case(tmp_path, "a")
    assert set(tree(tmp_path).values()) == {"new"}
    assert len(tree(tmp_path)) == len(FILES)


def test_a_case_that_is_written_anew_recovers_first(tmp_path: Path) -> None:
    killed(tmp_path, "half", 2)
    write(tmp_path, "whole")
    assert set(tree(tmp_path).values()) == {"whole"}


def test_recover_without_anything_to_recover(tmp_path: Path) -> None:
    staging.recover_case(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ['["../../x', "{}", '["../x", "/etc/passwd", 7, ""]'])
def test_a_damaged_list_moves_nothing(tmp_path: Path, text: str) -> None:
    outside = tmp_path / "x"
    outside.write_text("not ours")
    output = tmp_path / "output"
    (output / ".partial-a" / "new").mkdir(parents=True)
    (output / ".partial-a" / staging.PLACING).write_text(text)
    staging.recover_case(output, "a")
    assert tree(tmp_path) == {"x": "not ours"}


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


@pytest.mark.parametrize("text", ["/etc/passwd", "../x", "", 7, None, "a\nb"])
def test_a_path_that_leads_elsewhere_is_none(text: object) -> None:
    assert staging.safe_relative_path(text) is None


def test_list_of_renames_is_gone_when_a_case_is_written(tmp_path: Path) -> None:
    with staging.stage_case(tmp_path, "a") as stage:
        fill(stage.new, "x")
        stage.commit(FILES)
        assert not (stage.folder / staging.PLACING).exists()
    assert json.dumps(sorted(tree(tmp_path))) == json.dumps(
        ["images/a.mha", "masks/a.nrrd", "masks/a/mask", "reports/a.json"]
    )
