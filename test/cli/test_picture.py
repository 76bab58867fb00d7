"""``oarseg picture``: a case as it was segmented, with and without its MR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.challenges import catalogue
from oarseg.cli import main
from oarseg.imaging.volume import Grid, Volume, to_sitk

HAN_SEG = catalogue.load_challenge("han_seg")
GRID = Grid((10, 12, 14), (6.0, 6.0, 6.0))
IDENTITY = {"rotation": np.eye(3).tolist(), "translation_mm": [0.0, 0.0, 0.0]}


def save(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(to_sitk(Volume(array, GRID)), str(path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A body of water in air, an MR brighter towards the left, and a mandible in its middle."""
    ct = np.full(GRID.shape, -1000, np.int16)
    ct[1:9, 1:11, 1:13] = 0
    mr = np.broadcast_to(np.arange(1, 15, dtype=np.uint16) * 20, GRID.shape)
    labels = np.zeros(GRID.shape, np.uint8)
    labels[4:7, 5:9, 6:11] = HAN_SEG.structure("Bone_Mandible").label
    save(tmp_path / "in/images/ct/a_CT.mha", ct)
    save(tmp_path / "in/images/t1-mri/a_MR_T1.mha", mr.copy())
    save(tmp_path / "out/images/head_neck_oar/a_seg.mha", labels)
    return tmp_path


def draw(folder: Path, registration: dict[str, Any] | None, *options: str) -> int:
    report = folder / "out" / "reports" / "a.json"
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps({"challenge": "han_seg", "registration": registration}))
    command = ["picture", "--input", f"{folder}/in", "--output", f"{folder}/out"]
    return main([*command, "--png", f"{folder}/a.png", *options])


def picture(folder: Path) -> NDArray[Any]:
    image: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "a.png")))
    return image


def test_ct_above_and_moved_mr_below(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw(folder, None) == 0
    assert capsys.readouterr().out == f"{folder / 'a.png'}\n"
    ct_only = picture(folder)
    assert draw(folder, IDENTITY) == 0
    both = picture(folder)
    assert both.shape[1] == ct_only.shape[1]
    assert np.array_equal(both[: len(ct_only)], ct_only)
    mr = both[len(ct_only) :]
    assert mr.shape == ct_only.shape
    # The mandible is outlined in both rows; the MR is brighter towards the left.
    colour = np.array(HAN_SEG.structure("Bone_Mandible").colour)
    outline = (ct_only == colour).all(-1)
    assert outline.any()
    assert np.array_equal((mr == colour).all(-1), outline)
    # The axial panel shows the label and 25 mm, 4 voxels, beside it: columns 2 to 13, in
    # pixels of 1 mm.
    axial_row = mr[0, : 12 * 6, 0].astype(int)
    assert (np.diff(axial_row) >= 0).all()
    assert axial_row[-1] > axial_row[0]


def test_the_report_s_transform_moves_the_mr(folder: Path) -> None:
    assert draw(folder, IDENTITY) == 0
    unmoved = picture(folder)
    assert draw(folder, IDENTITY | {"translation_mm": [8.0, 0.0, 0.0]}) == 0
    moved = picture(folder)
    half = len(unmoved) // 2
    assert np.array_equal(moved[:half], unmoved[:half])
    assert not np.array_equal(moved[half:], unmoved[half:])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--case", "b"], "case 'b': expected one of a"),
        (["--case", "a"], "expected the output of a, found none; segment it"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    (folder / "out/images/head_neck_oar/a_seg.mha").unlink()
    assert draw(folder, None, "--challenge", "han_seg", *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
    assert not (folder / "a.png").exists()
