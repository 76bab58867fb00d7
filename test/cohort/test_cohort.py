"""A cohort from its plan to its tables, with networks of random weights."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nnunet_oracle as oracle
import pytest

from oarseg import challenges
from oarseg.cli import main
from oarseg.cohort.coordinate import clock_text
from oarseg.cohort.inputs import InputFile
from oarseg.cohort.plan import PlannedCase, read_plan
from oarseg.cohort.slurm import batch_script
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
    assert plan(source, source, weights) == 1
    assert "found the input folder" in capsys.readouterr().err
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "results.json").write_text("[]")
    assert plan(source, tmp_path / "used", weights) == 1
    assert "found that of oarseg segment" in capsys.readouterr().err
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
    output = tmp_path / "with a blank, 5 %"
    assert plan(source, output, weights) == 0
    before = sorted(output.rglob("*"))
    capsys.readouterr()
    assert cohort("slurm", "--output", output, "--workers", 8) == 0
    text = capsys.readouterr().out
    assert "#SBATCH --array=1-8" in text
    assert f"cohort work --output '{output}'" in text
    # As Slurm reads its options: one word, and one sign for each two.
    assert f'#SBATCH --output="{tmp_path}/with a blank, 5 %%/cohort/slurm-%A_%a.log"' in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert sorted(output.rglob("*")) == before


@pytest.mark.parametrize("name", ["a\nrm -rf b", 'a"b', "a\\b"])
def test_a_folder_that_no_script_for_slurm_can_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected a path that a batch script can hold"):
        batch_script(Path("/tmp", name), ["x"], workers=1, cpus=1)


def test_pages_repairs_and_logs_are_those_that_were_asked_for(
    source: Path, weights: Path, tmp_path: Path
) -> None:
    (source / "images" / "ct" / "case_05_CT.mha").write_bytes(b"")
    output, alone = tmp_path / "output", tmp_path / "alone"
    asked = ("--report", "--repair", "components")
    assert plan(source, output, weights, *asked) == 0
    line = [sys.executable, "-m", "oarseg.cli", "--log-format", "json", "--verbose", "cohort"]
    line += ["run", "--output", str(output), "--device", "cpu"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    # Of the coordinator, its worker, and the process that computes.
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert any("case_03: written to" in entry["message"] for entry in entries)
    assert any(entry["level"] == "DEBUG" for entry in entries)
    told = Settings(source, alone, weights, device="cpu", threads=2, registration="none")
    told = replace(told, report_pages=True, repair=("components",))
    assert len(segment_folder(told)) == 1
    assert files_of(output) == files_of(alone)
    pages = sorted(path.name for path in (output / "reports").glob("*.html"))
    assert pages == sorted(path.name for path in (alone / "reports").glob("*.html"))
    assert pages == ["case_03.html", "case_04.html", "case_05.html", "index.html"]
    report = json.loads((output / "reports" / "case_03.json").read_text())
    assert (
        report["repair"] == json.loads((alone / "reports" / "case_03.json").read_text())["repair"]
    )


ODD_NAMES = (
    b"two words",
    b"-rf",
    "Müller ☢".encode(),
    b"'\"$(id)`;&",
    b"case.1",
    b"case.1.1",
    b"%A{case}",
    b"new\nline",
    b"\xff\xfe",
    b"x" * 240,
)


def test_odd_names_of_files_are_cases_or_problems_of_their_own(
    weights: Path, phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "input" / "images" / "ct"
    folder.mkdir(parents=True)
    for name in ODD_NAMES:
        shutil.copy(
            phantoms / "images" / "ct" / "case_03_CT.mha",
            os.fsencode(folder) + b"/" + name + b"_CT.mha",
        )
    output = tmp_path / "a blank -- ☢"
    assert plan(tmp_path / "input", output, weights) == 0
    assert ": 10 cases, 3 of them cannot be read" in capsys.readouterr().out
    assert run(output, "--feeders", 1).returncode == 1
    found = {found["case"]: found["state"] for found in objects(output, capsys)}
    assert sorted(found.values()) == ["done"] * 7 + ["failed"] * 3
    names = [name.decode() for name in ODD_NAMES[:7]]
    assert {found[name] for name in names} == {"done"}
    labels = {path.name for path in (output / "images" / "head_neck_oar").iterdir()}
    assert labels == {f"{name}_seg.mha" for name in names}
    assert len(json.loads((output / "results.json").read_text())) == 10
    assert cohort("summary", "--output", output) == 0


def test_a_table_in_parquet_has_the_rows_of_the_csv(
    source: Path, weights: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (source / "images" / "ct" / "case_03_CT.mha").write_bytes(b"")
    output = tmp_path / "output"
    assert plan(source, output, weights) == 0
    assert run(output).returncode == 1
    assert cohort("summary", "--output", output, "--parquet") == 0
    with (output / "cohort.csv").open(newline="") as stream:
        expected = list(csv.DictReader(stream))
    rows = parquet.read_table(output / "cohort.parquet").to_pylist()
    assert list(rows[0]) == list(expected[0])
    as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    assert as_text == expected
    assert isinstance(rows[1]["volume_cm3_Brainstem"], float)
    assert rows[0]["volume_cm3_Brainstem"] is None


def test_a_table_in_parquet_needs_pyarrow(
    source: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan(source, tmp_path / "output", weights) == 0
    monkeypatch.setattr("oarseg.cohort.summary.importlib.util.find_spec", lambda _: None)
    assert cohort("summary", "--output", tmp_path / "output", "--parquet") == 1
    assert "pip install 'oarseg[parquet]'" in capsys.readouterr().err
    assert not (tmp_path / "output" / "cohort.csv").exists()


def test_a_challenge_of_ones_own_is_found_from_every_folder(
    source: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers on other machines begin elsewhere."""
    rules = Path(challenges.__file__).parent / "han_seg.toml"
    shutil.copy(rules, tmp_path / "mine.toml")
    monkeypatch.chdir(tmp_path)
    assert plan(source, tmp_path / "output", weights, "--challenge", "mine.toml") == 0
    assert read_plan(tmp_path / "output").options.challenge == str(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(20, "0 min"), (119, "2 min"), (3600, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
