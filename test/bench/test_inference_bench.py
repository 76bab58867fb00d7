"""The comparison with nnUNetPredictor: rounds in turns, their medians, ratios and tables."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))

import machine  # noqa: E402

# By its file: the tests of inference/ lie in a folder of that name.
_spec = importlib.util.spec_from_file_location("bench_inference", ROOT / "bench" / "inference.py")
assert _spec is not None
assert _spec.loader is not None
inference = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = inference
_spec.loader.exec_module(inference)
Row, measure = inference.Row, inference.measure

CPUINFO = """processor\t: 0
model name\t: Some CPU @ 2 GHz
flags\t\t: fpu sse2 avx2 fma avx512f amx_tile amx_bf16

processor\t: 1
model name\t: Another
"""
SECONDS = {"body": [2.0, 4.0, 3.0], "full": [5.0, 5.0, 5.0], "peer-body": [6.0, 6.0, 6.0]}
ROW = Row("tiny-toy", "tiny", "toy", ("body", "peer-body", "full", "peer"))


def test_the_machine_is_told_with_what_its_cpu_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    for name in machine.LIMITING:
        monkeypatch.delenv(name, raising=False)
    assert machine.machine(path).startswith("Some CPU @ 2 GHz, ")
    assert machine.instruction_sets(path) == "avx2 fma avx512f amx_tile amx_bf16"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine.instruction_sets(path).endswith("; limited by ONEDNN_MAX_CPU_ISA=AVX2")
    path.write_text("")
    assert machine.instruction_sets(path).startswith("none known")


def test_rounds_are_medians_with_what_was_least_and_most() -> None:
    rounds = [
        {"seconds": s, "peak_mib": p, "load_before": 0.5, "steps": [["all", s, p]]}
        for s, p in ((3.0, 70), (1.0, 90), (2.0, 80))
    ]
    found = inference.median_run(rounds)
    assert (found["seconds"], found["peak_mib"]) == (2.0, 90)
    assert found["steps"] == [["all", 2.0, 80]]
    assert inference.spread(found["all_seconds"], ".1f") == "2.0 (1.0–3.0)"
    assert inference.spread([2.0], ".1f") == "2.0"
    assert inference.median_run([rounds[0], {"failed": "out of memory"}]) == {
        "failed": "out of memory"
    }


def test_a_table_for_others_has_no_paths_of_this_machine() -> None:
    runs = {
        "body": {"seconds": 2.0, "labels": "/home/me/labels.npy"},
        "peer": {"failed": "late", "stderr": 'File "/home/me/a.py"'},
    }
    assert inference.without_paths(runs) == {"body": {"seconds": 2.0}, "peer": {"failed": "late"}}
    assert "labels" in runs["body"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Programs that only say when they were asked."""
    asked: list[str] = []

    def run(row: Any, who: str, *_: Any) -> dict[str, Any]:
        asked.append(who)
        if who == "peer":
            return {"failed": "not done after 900 s"}
        seconds = SECONDS[who][asked.count(who) - 1]
        return {"seconds": seconds, "peak_mib": 100, "steps": [["all", seconds, 100]]}

    monkeypatch.setattr(inference, "run", run)
    monkeypatch.setattr(inference, "RUNS", tmp_path)
    monkeypatch.setattr(inference, "agreement", lambda *_: {"equal": 1.0})
    monkeypatch.setattr(inference.cases, "toy", lambda _: inference.cases.ROOT / "weights")
    return asked


def options(**more: Any) -> argparse.Namespace:
    return argparse.Namespace(rounds=3, redo=False, device="cpu", threads=2, **more)


def test_programs_take_turns_and_ratios_are_of_the_same_round(told: list[str]) -> None:
    found = measure(ROW, options())
    assert told == ["body", "peer-body", "full", "peer"] * 3
    assert found["body"]["times_as_fast"] == [3.0, 1.5, 2.0]
    assert found["body"]["seconds"] == 3.0
    # The whole image against a crop would be no comparison, and its peer failed.
    assert "times_as_fast" not in found["full"]
    assert found["peer"]["failed"] == "not done after 900 s"


def test_a_round_that_broke_off_is_measured_anew_as_a_whole(
    told: list[str], tmp_path: Path
) -> None:
    measure(ROW, options())
    first = sorted(path.name for path in tmp_path.glob("*-1.json"))[0]
    (tmp_path / first).unlink()
    told.clear()
    measure(ROW, options())
    assert told == ["body", "peer-body", "full", "peer"]


def test_the_table_has_a_ratio_for_the_same_work(told: list[str]) -> None:
    found = measure(ROW, options())
    for one in found.values():
        one.pop("agreement", None)
    lines = inference.table(ROW, found, options()).splitlines()
    assert "rounds: 3" in lines[0]
    cells = [cell.strip() for cell in lines[4].split("|")]
    assert cells[1:5] == ["oarseg, region body", "3.0 (2.0–4.0)", "2.00 (1.50–3.00) ×", ""]
    assert "| not done after 900 s |" in lines[-1]
    assert len({line.count("|") for line in lines[2:]}) == 1


def test_rows_can_be_written(told: list[str]) -> None:
    found = json.loads(json.dumps(measure(ROW, options())))
    assert set(found) == set(ROW.runs)
    assert all(run in inference.TITLES for row in inference.ROWS for run in row.runs)
    assert {row.networks for row in inference.ROWS} >= {"shipped", "30m", "100m"}
