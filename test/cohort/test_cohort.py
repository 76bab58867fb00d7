"""A cohort from its plan to its tables, with networks of random weights."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nnunet_oracle as oracle
import pytest

from oarseg.cli import main
from oarseg.cohort.coordinate import clock_text
from oarseg.cohort.inputs import InputFile
from oarseg.cohort.plan import PlannedCase, read_plan
from oarseg.errors import InputError
from oarseg.phantom import write_cases
from oarseg.results.lock import lock_output
from oarseg.workflows.segment_folder import segment_folder
from oarseg.workflows.settings import Settings

PLAIN = ("--registration", "none")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oracle.write_han_seg_weights(tmp_path_factory.mktemp("weights"), folds=1)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CTs, and a file that is none."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_cases(folder / "cases", seeds=[3, 4], size="tiny", layout="platform")
    shutil.copytree(folder / "cases" / "images" / "ct", folder / "input" / "images" / "ct")
    return folder / "input"


@pytest.fixture
def source(phantoms: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(phantoms, tmp_path / "input"))


def cohort(command: str, *arguments: object) -> int:
    return main(["cohort", command, *map(str, arguments)])


def plan(source: Path, output: Path, weights: Path, *more: object) -> int:
    return cohort(
        "plan", "--input", source, "--output", output, "--weights", weights, *PLAIN, *more
    )


def run(output: Path, *more: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "oarseg.cli", "cohort", "run", "--output", output, *more]
    return subprocess.run(
        [*map(str, line), "--device", "cpu"], capture_output=True, text=True, check=False
    )


def objects(output: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    cohort("status", "--output", output, "--json")
    *found, totals = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(totals) == {"totals"}
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    kept = ("images", "oar_masks")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in kept
        for path in (folder / part).rglob("*")
        if path.is_file()
    }


def test_it_writes_what_segment_writes_and_tries_again_what_was_mended(
    source: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ct = source / "images" / "ct" / "case_04_CT.mha"
    whole = ct.read_bytes()
    ct.write_bytes(whole[:-1000])
    output = tmp_path / "output"
    assert plan(source, output, weights) == 0
    done = run(output)
    assert done.returncode == 1, done.stderr
    first, second = objects(output, capsys)
    assert (first["state"], second["state"]) == ("done", "failed")
    assert second["attempts"] == 1
    assert "a stream that breaks off" in second["message"]
    ct.write_bytes(whole)
    assert run(output).returncode == 0
    alone = tmp_path / "alone"
    settings = Settings(source, alone, weights, device="cpu", threads=2, registration="none")
    assert segment_folder(settings) == ()
    assert files_of(output) == files_of(alone)
    assert json.loads((output / "results.json").read_text()) == json.loads(
        (alone / "results.json").read_text()
    )
    # Touched, and the same: nothing is computed again.
    os.utime(ct)
    records = {p: p.read_bytes() for p in (output / "cohort" / "done").iterdir()}
    assert run(output).returncode == 0
    assert {p: p.read_bytes() for p in (output / "cohort" / "done").iterdir()} == records
    assert cohort("summary", "--output", output) == 0
    with (output / "cohort.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == ["done", "done"]
    assert all(len(row["sha256_CT"]) == 64 for row in rows)
    report = json.loads((output / "reports" / "case_03.json").read_text())
    assert rows[0]["plausible"] == report["checks"]["verdict"]
    first = report["checks"]["raised"][0]
    assert rows[0]["checks"].startswith(f"{first['check']}:{'+'.join(first['organs'])}")
    for organ, volume in report["volumes_cm3"].items():
        assert float(rows[0][f"volume_cm3_{organ}"]) == volume


def test_another_run_in_the_folder_is_refused_with_the_difference(
    source: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    assert plan(source, output, weights) == 0
    assert plan(source, output, weights) == 0
    assert plan(source, output, weights, "--region", "full") == 1
    assert "region full, not None" in capsys.readouterr().err
    elsewhere = shutil.copytree(source, tmp_path / "elsewhere")
    assert plan(elsewhere, output, weights) == 1
    assert f"input {elsewhere}, not {source}" in capsys.readouterr().err
    other = shutil.copytree(weights, tmp_path / "other")
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"title": "', '"title": "other '))
    assert plan(source, output, other) == 1
    assert "found weights" in capsys.readouterr().err
    with pytest.raises(InputError, match="found a cohort's"):
        segment_folder(Settings(source, output, weights, device="cpu"))
    with lock_output(output):
        second = run(output)
    assert second.returncode == 1
    assert "found one in use by process" in second.stderr


def test_what_a_cohort_does_not_take(
    source: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(source, tmp_path / "out", weights, "--time-limit", 9) == 1
    assert "--time-limit: a cohort does not take it" in capsys.readouterr().err
    assert cohort("plan", "--output", tmp_path / "out") == 1
    assert cohort("run") == 1
    assert cohort("status", "--output", tmp_path / "out") == 1
    assert "make one with oarseg cohort plan" in capsys.readouterr().err


def test_options_that_are_not_the_plans_are_not_ignored(
    source: Path, weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    assert plan(source, output, weights) == 0
    for more in (("--region", "full"), ("--weights", tmp_path)):
        done = run(output, *more)
        assert done.returncode == 1
        assert "expected the options of its plan" in done.stderr
    assert not list((output / "cohort" / "attempt").iterdir())


def test_a_link_out_of_the_folder_fails_its_case_only(
    source: Path, weights: Path, tmp_path: Path
) -> None:
    away = tmp_path / "away.mha"
    (source / "images" / "ct" / "case_04_CT.mha").rename(away)
    (source / "images" / "ct" / "case_04_CT.mha").symlink_to(away)
    assert plan(source, tmp_path / "out", weights) == 0
    good, bad = read_plan(tmp_path / "out").cases
    assert (good.problem, bad.files) == ("", {})
    assert "a link that leaves it" in bad.problem


def test_a_plan_that_was_edited_reads_no_file_elsewhere() -> None:
    with pytest.raises(ValueError, match="inside the input folder"):
        PlannedCase("a", {"CT": InputFile("../../etc/passwd", 1, 1)})


def test_a_plan_can_be_looked_at_and_joined_before_any_run(
    source: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with Slurm, where there is no run until the books are closed."""
    (source / "images" / "ct" / "case_04_CT.mha").unlink()
    (source / "images" / "ct" / "case_05_CT.mha").symlink_to(tmp_path / "nowhere")
    output = tmp_path / "output"
    assert plan(source, output, weights) == 0
    first, second = objects(output, capsys)
    assert (first["state"], second["state"]) == ("waiting", "failed")
    line = [sys.executable, "-m", "oarseg.cli", "cohort", "join", "--output", str(output)]
    # By what the folder says, in which one case has failed.
    assert subprocess.run([*line, "--device", "cpu"], check=False).returncode == 1
    assert [found["state"] for found in objects(output, capsys)] == ["done", "failed"]
    assert not (output / "results.json").exists()
    assert run(output).returncode == 1
    assert len(json.loads((output / "results.json").read_text())) == 2


def test_the_script_for_slurm_is_printed_and_nothing_written(
    source: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "with a blank"
    assert plan(source, output, weights) == 0
    before = sorted(output.rglob("*"))
    capsys.readouterr()
    assert cohort("slurm", "--output", output, "--workers", 8) == 0
    text = capsys.readouterr().out
    assert "#SBATCH --array=1-8" in text
    assert f"cohort work --output '{output}'" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert sorted(output.rglob("*")) == before


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(20, "0 min"), (119, "2 min"), (3600, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
