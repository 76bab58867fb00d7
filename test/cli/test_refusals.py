"""Paths that the system refuses, and full disks, as one sentence."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from oarseg.cli import main
from oarseg.cli.refusals import refusals_told
from oarseg.errors import InputError, OutputError

LONG = "a" * 200


def test_names_that_are_too_long_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the line, and those that a file of nnU-Net's names."""
    monkeypatch.chdir(tmp_path)
    chosen = {"configuration": LONG, "trainer": LONG, "plans_identifier": LONG}
    document = {"best_model_or_ensemble": {"selected_model_or_models": [chosen]}}
    Path("inference_information.json").write_text(json.dumps(document))
    for words in (
        ["--best", "."],
        ["--best", LONG * 2],
        [LONG * 2],
        ["x", "--out", LONG * 2],
    ):
        assert main(["export", *words]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "expected a path that can be read or written, found" in error
        assert len(error) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["inference_information.json"]


def test_a_full_disk_is_told_and_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError, match=f"{tmp_path}: .*; make room"), refusals_told(tmp_path):
        raise full
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "there")
    with pytest.raises(InputError, match=r"^there: expected a path"), refusals_told(tmp_path):
        raise denied
    with pytest.raises(FileNotFoundError), refusals_told(tmp_path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "there")
