"""``oarseg challenges``: the list, and one challenge in full."""

from __future__ import annotations

import pytest

from oarseg.challenges import catalogue
from oarseg.cli import main


def test_each_challenge_has_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["challenges"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert tuple(line.split()[0] for line in lines) == catalogue.challenge_names()
    assert "han_seg                HaN-Seg 2023 (CT + MR_T1; 30 organs)" in lines
    assert "han5k                  HaN5K (CT; your own labels)" in lines


def test_a_challenge_with_channels_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["challenges", "segrap_gtv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "segrap_gtv: SegRap 2023, task 2: gross tumour volumes"
    assert "input: CT (CT) in images/head-neck-ct/, in a data set image.nii.gz" in lines
    (output,) = (line for line in lines if line.startswith("output: "))
    assert output.startswith("output: images/gross-tumor-volume-segmentation/<name of the CT>.mha")
    assert lines[-2:] == ["   1 GTVp", "   2 GTVnd"]


def test_overlapping_organs_are_shown_with_their_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["challenges", "segrap_oar"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "   1 Brain = 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9" in lines


def test_what_is_not_certain_about_a_challenge_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    notice = catalogue.load_challenge("structseg_han_oar").notice
    assert notice
    assert main(["challenges", "structseg_han_oar"]) == 0
    assert f"note: {notice}" in capsys.readouterr().out.splitlines()


def test_an_unknown_challenge_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["challenges", "nobody"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "challenge 'nobody': expected one of han5k, han_seg" in line
