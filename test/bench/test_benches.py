"""Each benchmark starts, and the documents cite none that is not there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHES = sorted(p for p in (ROOT / "bench").glob("*.py") if "__main__" in p.read_text())
DOCUMENTS = [ROOT / "README.md", ROOT / "Makefile", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("bench", BENCHES, ids=lambda path: path.stem)
def test_every_bench_tells_how_it_is_called(bench: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(bench), "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {bench.name}")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_cite_benches_that_there_are(document: Path) -> None:
    cited = set(re.findall(r"bench/\w+\.py", document.read_text(encoding="utf-8")))
    assert cited <= {f"bench/{path.name}" for path in BENCHES}


def test_benches_write_small_cases(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "writing.py"), "--size", "tiny"]
    for what in (["case"], ["deflate", "--rounds", "1"]):
        done = subprocess.run(
            [*command, *what, "--cache", str(tmp_path)], capture_output=True, text=True, check=True
        )
        assert "40 × 64 × 64" in done.stdout
