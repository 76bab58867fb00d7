"""docs/faults.md claims nothing without a test of that name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TEST = Path(__file__).resolve().parents[1]
TABLE = (TEST.parent / "docs" / "faults.md").read_text()
FILES = {path.name: path for path in TEST.rglob("test_*.py")}
ROWS = [line for line in TABLE.splitlines() if re.match(r"\| (?!fault )[^-|]", line)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:50])
def test_every_row_has_a_test(row: str) -> None:
    named = re.fullmatch(r"\|.*\| `(test_\w+\.py)(?:::(test_\w+))?` \|", row)
    assert named is not None
    tree = ast.parse(FILES[named[1]].read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert named[2] is None or named[2] in functions
    assert any(name.startswith("test_") for name in functions)


def test_rows_are_complete() -> None:
    assert len(ROWS) > 45
    assert {row.count("|") for row in ROWS} == {6}
