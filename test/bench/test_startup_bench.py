"""The parts that the benchmark of the start names are the whole, and its run ends at a tile."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import nnunet_oracle as oracle
import pytest

from oarseg.phantom import write_cases

ROOT = Path(__file__).resolve().parents[2]
PARTS = ["command line", "imports", "model", "networks", "reading", "preprocessing", "tile"]


@pytest.fixture
def startup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import startup as module

    return module


def test_a_run_is_followed_to_its_first_tile_and_its_parts_are_the_whole(
    startup: ModuleType, tmp_path: Path
) -> None:
    write_cases(tmp_path / "in", seeds=[3], size="tiny", layout="platform", with_mr=False)
    (tmp_path / "weights").mkdir()
    weights = oracle.write_han_seg_weights(tmp_path / "weights", folds=2)
    marks = tmp_path / "marks.json"
    command = [sys.executable, str(ROOT / "bench" / "startup.py"), "--trace", str(marks)]
    command += ["--input", str(tmp_path / "in"), "--weights", str(weights)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [startup.Mark(*row) for row in json.loads(marks.read_text())]
    assert [row.part for row in rows] == PARTS
    assert all(a.wall_s <= b.wall_s for a, b in pairwise(rows))
    found = startup.parts_of(rows)
    for kind in ("wall_s", "cpu_s"):
        each = {part: getattr(mark, kind) for part, mark in found.items()}
        assert sum(each[part] for part in PARTS) == pytest.approx(each["whole"])
        beyond = each["whole"] - each["reading"] - each["preprocessing"]
        assert each["beyond reading"] == pytest.approx(beyond)
