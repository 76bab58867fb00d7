"""B-spline transforms: against ITK's own, by hand, and the rules that keep or drop one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.errors import InputError
from oarseg.imaging.bspline import BSplineTransform, read_transform
from oarseg.imaging.regrid import resample_moving
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Volume
from oarseg.registration import Registration, Verdict, registration_record, transform_of
from oarseg.registration.block_matching import Overlay
from oarseg.registration.deformable import MIN_GAIN, judge_bend
from oarseg.registration.information import FINE_CT_EDGES_HU, FINE_MR_CLASSES

RIGID = RigidTransform.about((5.0, 6.0, 7.0), angles_deg=(3, -4, 5), shift_mm=(1, 100, -400))
KNOTS = Grid((8, 9, 10), (20.0, 25.0, 30.0), (-100.0, -80.0, -60.0))


def spline(amplitude_mm: float = 3.0) -> BSplineTransform:
    values = np.random.default_rng(1).uniform(-amplitude_mm, amplitude_mm, (3, *KNOTS.shape))
    return BSplineTransform(RIGID, KNOTS, values)


def points(count: int = 200) -> np.ndarray:
    """Within the spline's grid."""
    index = np.random.default_rng(2).uniform(1.05, np.array(KNOTS.shape) - 2.05, (count, 3))
    return KNOTS.to_world(index)


def test_itk_sees_the_same_transform() -> None:
    where = points()
    itk = spline().to_sitk()
    expected = [itk.TransformPoint(p) for p in where.tolist()]
    np.testing.assert_allclose(spline().apply(where), expected, atol=1e-9)


def test_outside_its_grid_only_the_rigid_part_is_left() -> None:
    far = np.array([[1000.0, 0.0, 0.0], [0.0, -500.0, 0.0]])
    np.testing.assert_allclose(spline().apply(far), RIGID.apply(far))


def test_no_point_goes_farther_than_its_reach() -> None:
    moved = np.linalg.norm(spline().displacement_mm(points(2000)), axis=1)
    assert 0.5 < moved.max() <= spline().reach_mm


def test_file_and_report_round_trip(tmp_path: Path) -> None:
    bent = spline()
    bent.write(tmp_path / "t.tfm")
    back = read_transform(tmp_path / "t.tfm")
    assert isinstance(back, BSplineTransform)
    np.testing.assert_allclose(back.apply(points()), bent.apply(points()), atol=1e-5)
    verdict = Verdict("good", 0.5, 0.5, 0.5, 1.0, 0.0, ())
    saved = json.loads(json.dumps(registration_record(Registration(bent, verdict, 1.0))))
    np.testing.assert_allclose(transform_of(saved).apply(points()), bent.apply(points()), atol=1e-3)


def test_rigid_files_are_read_as_such_and_others_refused(tmp_path: Path) -> None:
    RIGID.write(tmp_path / "r.tfm")
    assert isinstance(read_transform(tmp_path / "r.tfm"), RigidTransform)
    twice = sitk.CompositeTransform([RIGID.to_sitk(), RIGID.to_sitk()])
    sitk.WriteTransform(twice, str(tmp_path / "c.tfm"))
    with pytest.raises(InputError, match="expected a rigid transform and a B-spline"):
        read_transform(tmp_path / "c.tfm")
    with pytest.raises(InputError, match="could not read it"):
        read_transform(tmp_path / "missing.tfm")


def linear(slope: float) -> BSplineTransform:
    """u_x = slope · x: a B-spline reproduces straight lines from its knots' values."""
    values = np.zeros((3, *KNOTS.shape))
    values[0] = slope * (KNOTS.origin_mm[0] + KNOTS.spacing_mm[2] * np.arange(KNOTS.shape[2]))
    return BSplineTransform(RIGID, KNOTS, values)


@pytest.mark.parametrize("slope", [0.0, 0.25, -1.5])
def test_jacobian_by_hand(slope: float) -> None:
    np.testing.assert_allclose(linear(slope).jacobians(points()), 1 + slope, atol=1e-9)


def test_moving_an_image_follows_the_spline() -> None:
    # A ramp along z in the MR's world shows each point's own z there.
    grid = Grid((90, 90, 90), (4.0, 4.0, 4.0), (-200.0, -100.0, -600.0))
    z = grid.origin_mm[2] + 4.0 * np.arange(90, dtype=np.float32)
    mr = Volume(np.broadcast_to(z[:, None, None], grid.shape).copy(), grid)
    ct = Grid((12, 12, 12), (8.0, 8.0, 8.0), (-21.0, -21.0, -21.0))
    moved = resample_moving(mr, spline(), ct, outside=0.0)
    index = np.indices(ct.shape).reshape(3, -1).T.astype(float)
    expected = spline().apply(ct.to_world(index))[:, 2]
    np.testing.assert_allclose(moved.array.ravel(), expected, atol=1e-2)


def pair(noise: float) -> Overlay:
    """CT and MR classes that agree but for a share of the voxels."""
    rng = np.random.default_rng(3)
    shape = (20, 20, 20)
    mr = rng.integers(0, FINE_MR_CLASSES, shape)
    wrong = rng.random(shape) < noise
    ct = np.where(wrong, rng.integers(0, len(FINE_CT_EDGES_HU) + 1, shape), mr)
    return Overlay(ct, mr, np.ones(shape, bool))


WHERE = Grid((20, 20, 20), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))


def test_a_spline_is_kept_only_if_it_helps_and_does_not_fold() -> None:
    better, worse = pair(0.2), pair(0.4)
    kept = judge_bend(linear(0.1), worse, better, WHERE)
    assert kept.kept
    assert kept.gain > MIN_GAIN
    assert kept.lowest_jacobian == pytest.approx(1.1)
    assert not judge_bend(linear(0.1), better, worse, WHERE).kept
    same = judge_bend(linear(0.1), better, better, WHERE)
    assert same.reason == "shared information rises by 0.0 %, less than 2 %"
    folded = judge_bend(linear(-1.5), worse, better, WHERE)
    assert folded.reason == "it folds (Jacobian -0.50)"
    assert not folded.kept
