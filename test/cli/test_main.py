"""What ends a command besides its work: a missing extra, a reader that is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import oarseg
from oarseg.cli import main


@pytest.mark.parametrize(
    "command",
    [("train", "raw", "--work", "work"), ("export", "results", "--out", "weights")],
    ids=lambda command: command[0],
)
def test_training_without_its_packages_is_one_sentence(
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.startswith("oarseg.training")]:
        monkeypatch.delitem(sys.modules, name)
    # Put back afterwards: what is imported here is half of the package.
    monkeypatch.setattr(oarseg, "training", None, raising=False)
    for name in ("torch", "nnunetv2", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    more = ("--title", "t", "--training", "t", "--licence", "t") if command[0] == "export" else ()
    assert main([*command, *more]) == 1
    assert "pip install 'oarseg[cpu,train]'" in capsys.readouterr().err.splitlines()[-1]


def test_a_module_of_ours_that_is_missing_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "oarseg.phantom", None)
    with pytest.raises(ModuleNotFoundError):
        main(["phantom", "out"])


def test_a_reader_that_is_gone_ends_a_command_without_a_word() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "oarseg.cli", "challenges", "han_seg"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 128 + signal.SIGPIPE
