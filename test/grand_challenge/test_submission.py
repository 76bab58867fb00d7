"""What a submission needs on Grand Challenge, and which outputs it takes there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge, LargestImage, Output
from oarseg.cli import main
from oarseg.errors import InputError
from oarseg.grand_challenge import algorithm, written
from oarseg.model import bundle
from oarseg.model.manifest import RunDefaults

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = bundle.load_bundle(ROOT / "weights")
HAN_SEG = catalogue.load_challenge("han_seg")
SMALL = LargestImage((40, 128, 128), (3.0, 2.0, 2.0))
SOCKET = Path("images", "head_neck_oar")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What a job writes: the label file, and what else lies beside it."""
    folder = tmp_path / "out"
    (folder / SOCKET).mkdir(parents=True)
    shutil.copy(ROOT / "test" / "expected" / "case_01_seg.mha", folder / SOCKET)
    (folder / "results.json").write_text("[]")
    return folder


def verdict(output: Path, rules: Challenge = HAN_SEG, *, several: bool = False) -> str:
    found = written.judge_written(written.list_written(output, rules), rules, several=several)
    assert found.taken == ("is taken" in found.text)
    return found.text


def test_settings_of_the_shipped_model() -> None:
    settings = algorithm.algorithm_settings(WEIGHTS, HAN_SEG)
    sets = [[socket.slug for socket in sockets] for sockets in settings.interfaces]
    assert sets == [["ct", "t1-mri"], ["ct"]]
    assert settings.shape == (323, 1024, 1024)
    assert settings.memory_gb in algorithm.MEMORY_CHOICES_GB
    text = "\n".join(settings.lines())
    assert "output        images/head_neck_oar" in text
    assert "323×1024×1024" in text
    smaller = algorithm.algorithm_settings(WEIGHTS, HAN_SEG, largest=SMALL)
    assert smaller.forecast_gib < settings.forecast_gib


@pytest.mark.parametrize("name", catalogue.challenge_names())
def test_the_page_has_a_table_of_each_challenge(name: str) -> None:
    page = (ROOT / "docs" / "submission.md").read_text(encoding="utf-8")
    (table,) = (part for part in page.split("\n\n") if f"`{name}`" in part and part[0] == "|")
    rules = catalogue.load_challenge(name)
    assert all(f"`images/{socket.slug}`" in table for socket in rules.sockets)
    if rules.output.path:
        assert "none on this platform" in table
    else:
        assert f"`images/{rules.output.slug}`" in table
    largest = [socket.largest for socket in rules.sockets if socket.largest]
    assert all("×".join(map(str, image.shape)) in table for image in largest)
    assert largest or "not published" in table


def test_a_time_limit_of_the_model_is_told() -> None:
    manifest = replace(WEIGHTS.manifest, run=RunDefaults(time_limit_s=600.0))
    limited = replace(WEIGHTS, manifest=manifest)
    settings = algorithm.algorithm_settings(limited, HAN_SEG, largest=SMALL)
    assert "600 s in the model" in "\n".join(settings.lines())


@pytest.mark.parametrize(
    ("gib", "gb"), [(1.0, 4), (3.2, 4), (3.9, 8), (12.9, 16), (13.5, 32), (14.0, 32), (60.0, None)]
)
def test_memory_is_the_smallest_that_holds_the_forecast(gib: float, gb: int | None) -> None:
    assert algorithm.smallest_memory_gb(gib * 2**30) == gb


def test_a_challenge_of_unknown_sizes_asks_for_them() -> None:
    sockets = tuple(replace(socket, largest=None) for socket in HAN_SEG.sockets)
    with pytest.raises(InputError, match="give --largest Z Y X and --spacing"):
        algorithm.algorithm_settings(WEIGHTS, replace(HAN_SEG, sockets=sockets))


def test_a_challenge_without_an_output_socket_is_told_what_to_do() -> None:
    own = replace(HAN_SEG, output=Output(path="{case}.nii.gz"))
    settings = algorithm.algorithm_settings(WEIGHTS, own, largest=SMALL)
    assert "none that the platform takes" in "\n".join(settings.lines())


def test_one_image_in_the_socket_is_taken(output: Path) -> None:
    assert verdict(output) == "a job that writes this is taken"
    files = {str(f.path): f.verdict for f in written.list_written(output, HAN_SEG)}
    assert files["results.json"].startswith("kept from it")


def test_what_the_platform_would_refuse(output: Path) -> None:
    label_file = output / SOCKET / "case_01_seg.mha"
    shutil.copy(label_file, output / SOCKET / "case_02_seg.mha")
    assert "found 2: one case a job" in verdict(output)
    assert verdict(output, several=True) == "each of these 2 images is taken, from its own job"
    (output / SOCKET / "case_02_seg.mha").rename(output / SOCKET / "case_02_seg.nrrd")
    assert "refused: expects .mha or .tif" in verdict(output)
    (output / SOCKET / "case_02_seg.nrrd").unlink()
    (output / "images" / "other").mkdir()
    shutil.copy(label_file, output / "images" / "other")
    assert "refused: no socket of this challenge" in verdict(output)
    shutil.rmtree(output / "images")
    assert "found none" in verdict(output)
    assert "writes no output socket" in verdict(
        output, replace(HAN_SEG, output=Output(path="{case}.mha"))
    )


def test_labels_that_the_challenge_has_not_are_refused(output: Path) -> None:
    image = sitk.GetImageFromArray(np.full((2, 2, 2), 77, np.uint8))
    sitk.WriteImage(image, str(output / SOCKET / "case_01_seg.mha"))
    assert "labels [77] are not declared" in verdict(output)


def test_compared_with_what_was_expected(output: Path, tmp_path: Path) -> None:
    expected = shutil.copytree(output, tmp_path / "expected")
    (same,) = written.compare_labels(output, expected, HAN_SEG)
    assert (same.differing, same.lowest_dice) == (0, None)
    path = output / SOCKET / "case_01_seg.mha"
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    organ = HAN_SEG.organs[3].name
    array[array == 4] = 0
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(path))
    (other,) = written.compare_labels(output, expected, HAN_SEG)
    assert other.differing
    assert other.lowest_dice == (0.0, organ)
    changed.SetOrigin((9, 9, 9))
    sitk.WriteImage(changed, str(path))
    (moved,) = written.compare_labels(output, expected, HAN_SEG)
    assert moved.differing is None
    path.unlink()
    (gone,) = written.compare_labels(output, expected, HAN_SEG)
    assert "not written" in gone.line()
    with pytest.raises(InputError, match="expected label files to compare with"):
        list(written.compare_labels(output, tmp_path, HAN_SEG))


@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_what_is_compared_with_is_no_label_file(output: Path, tmp_path: Path, kind: type) -> None:
    expected = shutil.copytree(output, tmp_path / "expected")
    path = expected / SOCKET / "case_01_seg.mha"
    image = sitk.ReadImage(str(path))
    strange = sitk.GetImageFromArray((sitk.GetArrayFromImage(image) * -1.5).astype(kind))
    strange.CopyInformation(image)
    sitk.WriteImage(strange, str(path))
    with pytest.raises(InputError, match=r"case_01_seg\.mha: expected labels from 0 to 255"):
        list(written.compare_labels(output, expected, HAN_SEG))


def test_channels_are_compared_as_a_whole(tmp_path: Path) -> None:
    rules = catalogue.load_challenge("segrap_gtv")
    for name, value in (("out", 0), ("expected", 1)):
        folder = tmp_path / name / "images" / rules.output.slug
        folder.mkdir(parents=True)
        array = np.zeros((2, 3, 4, 5), np.uint8)
        array[0, 0, 0, 0] = value
        image = sitk.GetImageFromArray(array, isVector=False)
        sitk.WriteImage(image, str(folder / "x.mha"))
    (found,) = written.compare_labels(tmp_path / "out", tmp_path / "expected", rules)
    assert (found.differing, found.voxels) == (1, 120)
    assert verdict(tmp_path / "out", rules) == "a job that writes this is taken"


def test_the_command(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ("--weights", str(ROOT / "weights"))
    told = ["submission", *weights, "--largest", "40", "128", "128", "--spacing", "3", "2", "2"]
    assert main(told) == 0
    assert "forecast" in capsys.readouterr().out
    assert main([*told[:7], *weights]) == 1
    assert "--largest and --spacing: expected both or none" in capsys.readouterr().err
    checked = ["submission", *weights, "--output", str(output)]
    assert main([*checked, "--expected", str(output)]) == 0
    assert "0 of 5218304 voxels differ" in capsys.readouterr().out
    assert main(["submission", *weights, "--output", str(tmp_path / "none")]) == 1
    assert main(["submission", *weights, "--expected", str(output)]) == 1
    assert main(["submission", *weights, "--several"]) == 1
    shutil.copytree(output / SOCKET, output / "images" / "other")
    assert main(checked) == 1
    assert "images/other/case_01_seg.mha refused" in capsys.readouterr().out
