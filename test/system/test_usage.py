"""What the steps' meter says, held against the kernel's own account of the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from outside_meter import measure

from oarseg.system import usage
from oarseg.system.usage import PeakWatch, resident_mib

# A large step, then a small one, in a fresh process.
TWO_STEPS = """
import json, time
from oarseg.system.usage import Steps
steps = Steps()
for mib in (300, 60):
    with steps.step("hold"):
        held = bytearray(mib << 20)
        time.sleep(0.1)
        del held
print(json.dumps([step.peak_mib for step in steps.done]))
"""


def test_a_later_step_does_not_hide_an_earlier_ones_peak_from_the_kernels_account() -> None:
    outside, text = measure([sys.executable, "-c", TWO_STEPS])
    large, small = json.loads(text)
    assert outside.status == 0
    assert large > 300
    assert small < large - 200
    # What /usr/bin/time says.
    assert outside.account_mib == pytest.approx(large, abs=2)


def test_a_block_below_an_earlier_peak_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([40.0, 90.0])
    monkeypatch.setattr(usage, "peak_mib", lambda: 100.0)
    monkeypatch.setattr(usage, "resident_mib", lambda: next(sizes))
    with PeakWatch(every_s=3600.0) as watch:
        pass
    assert watch.mib == 90.0


def test_a_new_mark_is_exact_whatever_was_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = iter([100.0, 170.0])
    monkeypatch.setattr(usage, "peak_mib", lambda: next(marks))
    monkeypatch.setattr(usage, "resident_mib", lambda: 50.0)
    with PeakWatch() as watch:
        pass
    assert watch.mib == 170.0


def test_the_size_of_a_process_that_is_gone_is_nothing() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert resident_mib(child.pid) == 0.0
    assert resident_mib(os.getpid()) == pytest.approx(resident_mib(), rel=0.5)


def test_without_the_kernels_files_the_peak_stands_for_the_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "STATUS", tmp_path / "none")
    assert resident_mib() == usage.peak_mib() > 0
