"""Ctrl-C ends a command in one line, with its workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import oarseg
from oarseg.cli import main
from oarseg.training import planning

ROOT = Path(oarseg.__file__).parents[1]
# A worker of each kind says that it is there, and waits; then comes Ctrl-C for all.
COMMAND = """
import multiprocessing, sys, time
import oarseg.cli.main
from oarseg.cli import main
from oarseg.phantom import write_cases

def work(method):
    print(method, flush=True)
    time.sleep(600)

def wait(*_, **__):
    workers = [multiprocessing.get_context(m).Process(target=work, args=(m,), daemon=True)
               for m in ("fork", "spawn")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

if __name__ == "__main__":
    import oarseg.training.preparation.dataset
    oarseg.training.preparation.dataset.prepare_dataset = wait
    sys.exit(main(["prepare", "data", "--out", "Dataset101_X"]))
"""


def test_ctrl_c_ends_the_command_and_its_workers_in_one_line(tmp_path: Path) -> None:
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
    )
    assert process.stdout is not None
    assert {process.stdout.readline().strip() for _ in range(2)} == {"fork", "spawn"}
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.strip().endswith("ERROR interrupted")
    assert "Traceback" not in said


def test_ctrl_c_in_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "check_raw_dataset", interrupt)
    assert main(["train", str(tmp_path), "--work", str(tmp_path)]) == 130
    assert capsys.readouterr().err.strip().endswith("ERROR interrupted")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Dataset101_X", "expected dataset.json, found none; run 'oarseg prepare'"),
        ("data", "expected a folder named Dataset<nnn>_<name>"),
    ],
)
def test_train_without_a_raw_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    raw = tmp_path / name
    if name == "data":
        raw.mkdir()
        (raw / "dataset.json").write_text("{}")
    assert main(["train", str(raw), "--work", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
