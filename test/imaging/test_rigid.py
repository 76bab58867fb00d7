from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.errors import InputError
from oarseg.imaging.rigid import RigidTransform

POINTS = np.array([[0.0, 0.0, 0.0], [10.0, -20.0, 30.0], [-200.0, 5.0, 600.0]])


def test_quarter_turn_by_hand() -> None:
    turn = RigidTransform.about((1.0, 0.0, 0.0), angles_deg=(0, 0, 90), shift_mm=(0, 0, 5))
    # (2, 0, 0) lies 1 mm right of the centre: a quarter turn about z takes it to (1, 1, 0).
    np.testing.assert_allclose(turn.apply(np.array([[2.0, 0.0, 0.0]])), [[1, 1, 5]], atol=1e-12)
    assert turn.angle_deg == pytest.approx(90)


def test_inverse_and_composition() -> None:
    first = RigidTransform.about((5.0, 6.0, 7.0), angles_deg=(3, -4, 5), shift_mm=(1, 2, -600))
    second = RigidTransform.about((0.0, 1.0, 0.0), angles_deg=(-7, 1, 2), shift_mm=(9, 100, 3))
    np.testing.assert_allclose(first.inverse().apply(first.apply(POINTS)), POINTS, atol=1e-9)
    both = second.after(first)
    np.testing.assert_allclose(both.apply(POINTS), second.apply(first.apply(POINTS)), atol=1e-9)


def test_itk_sees_the_same_transform() -> None:
    transform = RigidTransform.about((5.0, 6.0, 7.0), angles_deg=(3, -4, 5), shift_mm=(1, 2, 3))
    itk = transform.to_sitk()
    expected = [itk.TransformPoint(p) for p in POINTS.tolist()]
    np.testing.assert_allclose(transform.apply(POINTS), expected, atol=1e-9)


def test_file_round_trip(tmp_path: Path) -> None:
    transform = RigidTransform.about((5.0, 6.0, 7.0), angles_deg=(7, -4, 5), shift_mm=(1, 2, 3))
    transform.write(tmp_path / "t.tfm")
    back = RigidTransform.read(tmp_path / "t.tfm")
    np.testing.assert_allclose(back.apply(POINTS), transform.apply(POINTS), atol=1e-6)


def test_scaling_and_rubbish_are_refused(tmp_path: Path) -> None:
    scaling = sitk.AffineTransform(3)
    scaling.Scale((1.2, 1.0, 1.0))
    sitk.WriteTransform(scaling, str(tmp_path / "s.tfm"))
    with pytest.raises(InputError, match="scales or shears"):
        RigidTransform.read(tmp_path / "s.tfm")
    (tmp_path / "r.tfm").write_text("nothing")
    with pytest.raises(InputError, match="could not read it"):
        RigidTransform.read(tmp_path / "r.tfm")
