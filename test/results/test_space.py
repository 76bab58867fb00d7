"""The disk is asked before a case is computed, not when it is full."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.cases.case import Case
from oarseg.challenges import catalogue
from oarseg.errors import OutputError
from oarseg.imaging.volume import Volume, from_sitk
from oarseg.phantom import write_cases
from oarseg.results.space import (
    DiskFullError,
    check_disk,
    check_space,
    estimate_output_bytes,
    free_bytes,
)
from oarseg.results.write_case import write_case

HAN_SEG = catalogue.load_challenge("han_seg")
CASE = Case("a", {"CT": Path("/input/a_CT.mha")})
MIB = 1 << 20


def disk(monkeypatch: pytest.MonkeyPatch, free: int, *, blocks: int = 10**9) -> None:
    found = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_blocks=blocks)
    monkeypatch.setattr(os, "statvfs", lambda _: found)


def test_the_estimate_by_hand() -> None:
    # 2 maps and 30 masks; 1032 bytes of zeros in one, a quarter of a byte of content.
    assert estimate_output_bytes(CASE, HAN_SEG, 1_032_000) == 32 * 1000 + 258_000 + 32 * 16384


def test_what_is_stored_uncompressed_or_twice_takes_more() -> None:
    plain = estimate_output_bytes(CASE, HAN_SEG, 10**6)
    nifti = Case("a", {"CT": Path("/input/a_CT.nii")})
    assert estimate_output_bytes(nifti, HAN_SEG, 10**6) == plain + 10**6
    segrap = catalogue.load_challenge("segrap_oar")
    assert len(segrap.organs) > 30
    assert estimate_output_bytes(CASE, segrap, 10**6) > 1.5 * plain


def test_a_phantom_takes_no_more_than_the_estimate(tmp_path: Path) -> None:
    write_cases(tmp_path / "in", seeds=[5], size="small", layout="platform")
    (truth,) = (tmp_path / "in/truth").rglob("label.nrrd")
    labels = from_sitk(sitk.ReadImage(str(truth)))
    labels = Volume(labels.array.astype(np.uint8), labels.grid)
    files = write_case(tmp_path / "out", case=CASE, challenge=HAN_SEG, labels=labels, report={})
    taken = sum(file.stat().st_blocks * 512 for file in files)
    estimate = estimate_output_bytes(CASE, HAN_SEG, labels.grid.voxels)
    assert taken <= estimate <= 8 * taken


def test_a_case_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = estimate_output_bytes(CASE, HAN_SEG, 10**9) + MIB
    disk(monkeypatch, needed + 4096)
    check_space(tmp_path, CASE, HAN_SEG, 10**9)
    disk(monkeypatch, needed - 4096)
    with pytest.raises(OutputError) as caught:
        check_space(tmp_path, CASE, HAN_SEG, 10**9)
    assert str(caught.value) == (
        f"{tmp_path}: expected about {needed / MIB:.0f} MiB for the outputs of this case, found "
        f"{(needed - 4096) / MIB:.0f} MiB left; free space, or pass another --output"
    )
    # A smaller one still fits.
    check_space(tmp_path, CASE, HAN_SEG, 10**8)
    check_disk(tmp_path)


def test_a_disk_that_is_full_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, MIB - 4096)
    with pytest.raises(DiskFullError, match="found 1020 KiB: No space left on device; free space"):
        check_disk(tmp_path)


def test_a_file_system_that_names_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, 0, blocks=0)
    assert free_bytes(tmp_path) is None
    check_disk(tmp_path)
    check_space(tmp_path, CASE, HAN_SEG, 10**9)
