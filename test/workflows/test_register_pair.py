"""`oarseg register`: from two files to a moved MR, a transform, a verdict and a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.cli import main
from oarseg.errors import InputError
from oarseg.imaging.bspline import read_transform
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Volume, from_sitk, to_sitk
from oarseg.phantom import PhantomSpec, make_phantom
from oarseg.registration import Registration, Verdict
from oarseg.registration.landmarks import read_landmarks
from oarseg.results.fusion_picture import FRAME, FRAMES, draw_fusion
from oarseg.workflows import register_pair

GOOD = Verdict("good", 0.5, 0.5, 0.5, 1.0, 0.0, ())
FAILED = replace(GOOD, status="failed", reasons=("shared information 0.01 is below 0.10",))


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(PhantomSpec(7, "tiny"))


@pytest.fixture
def files(phantom, tmp_path: Path) -> tuple[Path, Path]:
    ct, mr = tmp_path / "p_CT.nii.gz", tmp_path / "p_MR.nrrd"
    sitk.WriteImage(to_sitk(phantom.ct), str(ct))
    sitk.WriteImage(to_sitk(phantom.mr), str(mr))
    return ct, mr


@pytest.fixture
def stand_in(monkeypatch, phantom):
    """The true transform and a verdict of one's choice; registering has tests of its own."""

    def give(verdict: Verdict) -> None:
        found = Registration(phantom.truth.ct_to_mr, verdict, 0.0)
        monkeypatch.setattr(register_pair.registration, "register_mr", lambda *_, **__: found)

    return give


def table(phantom, path: Path, *, off_mm: float = 0.0) -> Path:
    truth = phantom.truth
    lines = ["name,ct_x,ct_y,ct_z,mr_x,mr_y,mr_z"]
    for name, (x, y, z) in truth.landmarks_ct.items():
        u, v, w = truth.landmarks_mr[name]
        lines.append(f"{name},{x},{y},{z},{u + off_mm},{v},{w}")
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*arguments: object) -> int:
    return main(["register", *map(str, arguments)])


def test_all_is_written_and_the_error_at_landmarks_told(
    files, phantom, stand_in, tmp_path: Path, capsys
) -> None:
    stand_in(GOOD)
    out = tmp_path / "out"
    marks = table(phantom, tmp_path / "marks.csv", off_mm=3.0)
    assert run(*files, "--out", out, "--landmarks", marks) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "p_MR.png",
        "p_MR_ct_to_mr.tfm",
        "p_MR_moved.nrrd",
        "p_MR_registration.json",
    ]
    printed = capsys.readouterr().out
    assert "mean 3.00, SD 0.00, max 3.00 mm; TG-132 (mean < 2, max < 5) not met" in printed
    saved = json.loads((out / "p_MR_registration.json").read_text())
    assert saved["status"] == "good"
    assert saved["landmarks"]["error_mm"]["nasal_tip"] == pytest.approx(3.0)
    moved = from_sitk(sitk.ReadImage(str(out / "p_MR_moved.nrrd")))
    assert moved.grid.matches(phantom.ct.grid)
    assert moved.array.dtype == phantom.mr.array.dtype
    assert 0 < np.count_nonzero(moved.array) < moved.array.size
    point = np.array([[0.0, 10.0, 20.0]])
    transform = read_transform(out / "p_MR_ct_to_mr.tfm")
    np.testing.assert_allclose(
        transform.apply(point), phantom.truth.ct_to_mr.apply(point), atol=1e-5
    )


def test_failed_registration_leaves_nothing_to_use(files, stand_in, tmp_path: Path, capfd) -> None:
    out = tmp_path / "out"
    stand_in(GOOD)
    assert run(*files, "--out", out) == 0
    stand_in(FAILED)
    assert run(*files, "--out", out) == 1
    assert sorted(p.name for p in out.iterdir()) == ["p_MR.png", "p_MR_registration.json"]
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "registration failed: shared information 0.01 is below 0.10" in last


def test_unmocked_registration_of_files(tmp_path: Path) -> None:
    phantom = make_phantom(PhantomSpec(200, "small"))
    ct, mr = tmp_path / "CT.mha", tmp_path / "MR.mha"
    sitk.WriteImage(to_sitk(phantom.ct), str(ct))
    sitk.WriteImage(to_sitk(phantom.mr), str(mr))
    marks = table(phantom, tmp_path / "marks.csv")
    result = register_pair.register_files(
        ct, mr, tmp_path / "out", method="bspline", landmarks=[marks], threads=2
    )
    assert result.found.verdict.status == "good"
    assert result.accuracy is not None
    assert result.accuracy.mean_mm < 1.0
    assert result.accuracy.meets_tg132
    assert result.found.refinement is not None


def test_picture_shows_ct_and_mr_and_the_verdict(phantom) -> None:
    transform = phantom.truth.ct_to_mr
    picture = draw_fusion(phantom.ct, phantom.mr, transform, "doubtful")
    assert tuple(picture[0, 0]) == FRAMES["doubtful"]
    inside = picture[FRAME:-FRAME, FRAME:-FRAME]
    coloured = inside[inside.max(2) != inside.min(2)]
    assert {(0, 220, 220), (255, 220, 0)} == set(map(tuple, coloured.tolist()))
    grey = inside[: len(inside) // 2]
    assert len(np.unique(grey)) > 50
    far = RigidTransform(translation_mm=(0.0, 0.0, 5000.0))
    apart = draw_fusion(phantom.ct, phantom.mr, far, "failed")
    assert tuple(apart[0, 0]) == FRAMES["failed"]
    assert not apart[FRAME:-FRAME, FRAME:-FRAME].any()


def markup(path: Path, points: dict[str, list[float]], system: str) -> Path:
    controls = [{"label": name, "position": place} for name, place in points.items()]
    document = {"markups": [{"coordinateSystem": system, "controlPoints": controls}]}
    path.write_text(json.dumps(document))
    return path


def test_landmarks_of_slicer_pair_by_label(tmp_path: Path) -> None:
    ct = markup(tmp_path / "ct.mrk.json", {"a": [1, 2, 3], "b": [4, 5, 6]}, "RAS")
    mr = markup(tmp_path / "mr.mrk.json", {"b": [7, 8, 9], "a": [0, 0, 1]}, "LPS")
    found = read_landmarks([ct, mr])
    assert found.names == ("a", "b")
    np.testing.assert_array_equal(found.ct_mm, [[-1, -2, 3], [-4, -5, 6]])
    np.testing.assert_array_equal(found.mr_mm, [[0, 0, 1], [7, 8, 9]])


def test_landmarks_of_a_phantom(tmp_path: Path) -> None:
    path = tmp_path / "case_07_truth.json"
    path.write_text(
        json.dumps({"landmarks_ct": {"a": [1, 2, 3]}, "landmarks_mr": {"a": [4, 5, 6]}})
    )
    found = read_landmarks([path])
    np.testing.assert_array_equal(found.mr_mm - found.ct_mm, [[3, 3, 3]])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name,x\na,1\n", "expected the columns name, ct_x"),
        ("a.csv", "name,ct_x,ct_y,ct_z,mr_x,mr_y,mr_z\na,1,2,3,4,5,six\n", "with numbers"),
        ("a.csv", "name,ct_x,ct_y,ct_z,mr_x,mr_y,mr_z\n", "found no point at all"),
        ("a.json", "{}", "expected landmarks_ct and landmarks_mr"),
        ("a.json", "nothing", "expected JSON"),
        ("missing.json", None, "could not open it"),
    ],
)
def test_unusable_landmarks(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_landmarks([path])


def test_landmarks_that_do_not_pair(tmp_path: Path) -> None:
    ct = markup(tmp_path / "ct.mrk.json", {"a": [1, 2, 3]}, "LPS")
    mr = markup(tmp_path / "mr.mrk.json", {"b": [1, 2, 3]}, "LPS")
    with pytest.raises(InputError, match="expected every point in CT and in MR, found a, b"):
        read_landmarks([ct, mr])


def write_mr(path: Path, array: np.ndarray, grid: Grid | None = None) -> Path:
    grid = grid or Grid(array.shape, (4.0, 1.5, 1.5))
    sitk.WriteImage(to_sitk(Volume(array, grid)), str(path))
    return path


def bad_header(path: Path, old: bytes, new: bytes) -> Path:
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(4).uniform(1, 500, shape).astype(np.float32)


def one_slice(path: Path) -> Path:
    return write_mr(path, noise(1, 60, 60))


def all_zero(path: Path) -> Path:
    return write_mr(path, np.zeros((20, 60, 60), np.int16))


def not_a_number(path: Path) -> Path:
    array = noise(20, 60, 60)
    array[3, 4, 5] = np.nan
    return write_mr(path, array)


def sheared(path: Path) -> Path:
    write_mr(path, noise(20, 60, 60))
    return bad_header(path, b"TransformMatrix = 1 0 0 0 1 0", b"TransformMatrix = 1 0 0 1 1 0")


def no_spacing(path: Path) -> Path:
    write_mr(path, noise(20, 60, 60))
    return bad_header(path, b"ElementSpacing = 1.5 1.5 4", b"ElementSpacing = 0 1.5 4")


def as_long_as_a_street(path: Path) -> Path:
    return write_mr(path, noise(200, 40, 40), Grid((200, 40, 40), (45.0, 2.0, 2.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (one_slice, "at least 4 voxels along each axis, found 60×60×1"),
        (all_zero, "the value 0 in every voxel"),
        (not_a_number, "1 voxels that are NaN or infinite"),
        (sheared, "expected orthonormal axis directions"),
        (no_spacing, "spacings of 0.05 to 50.0 mm"),
        (as_long_as_a_street, "expected a field of at most 1500 mm"),
    ],
)
def test_unusable_mr_is_refused_in_one_sentence(
    files, tmp_path: Path, make, message: str, capfd
) -> None:
    out = tmp_path / "out"
    assert run(files[0], make(tmp_path / "bad_MR.mha"), "--out", out) == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert message in last
    assert not out.exists()


def test_raw_values_are_registered_as_hu_where_the_user_says_so(
    files, phantom, stand_in, tmp_path: Path, capsys
) -> None:
    """What the refusal advises exists."""
    stand_in(GOOD)
    ct, mr = files
    sitk.WriteImage(sitk.ReadImage(str(ct)) + 1024, str(ct))
    command = ["register", str(ct), str(mr), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "or pass --assume-hu" in capsys.readouterr().err
    assert main([*command, "--assume-hu"]) == 0


def test_the_ct_is_no_mr(files, stand_in, tmp_path: Path) -> None:
    stand_in(GOOD)
    ct, _ = files
    with pytest.raises(InputError, match="expected an MR, found a CT: values in HU"):
        register_pair.register_files(ct, ct, tmp_path / "out")
    shifted = tmp_path / "shifted.nii"
    sitk.WriteImage(sitk.ReadImage(str(ct)) + 1024, str(shifted))
    with pytest.raises(InputError, match="expected an MR, found the CT's own voxels"):
        register_pair.register_files(ct, shifted, tmp_path / "out")
