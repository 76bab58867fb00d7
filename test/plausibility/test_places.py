import numpy as np
import pytest

from oarseg.challenges.catalogue import load_challenge
from oarseg.plausibility.places import deviations

USUAL = load_challenge("han_seg").plausibility.place


def pose(pitch_deg: float, roll_deg: float) -> np.ndarray:
    p, r = np.radians([pitch_deg, roll_deg])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return about_x @ about_z


def centroids(pitch_deg: float = 0, roll_deg: float = 0) -> dict[str, np.ndarray]:
    turn = pose(pitch_deg, roll_deg)
    return {name: turn @ usual.mm + (300.0, -50.0, 900.0) for name, usual in USUAL.items()}


@pytest.mark.parametrize("angles", [(0, 0), (25, 0), (-30, 10), (5, 180)])
def test_neither_pose_nor_origin_matters(angles: tuple[float, float]) -> None:
    found = deviations(centroids(*angles), USUAL)
    assert set(found) == set(USUAL)
    assert max(off for off, _ in found.values()) < 1e-6


@pytest.mark.parametrize("organ", ["Bone_Mandible", "Parotid_L", "Brainstem"])
def test_one_organ_out_of_place_is_the_only_one(organ: str) -> None:
    moved = centroids(20, 5)
    moved[organ] = moved[organ] + (0, 60, 0)
    found = deviations(moved, USUAL)
    assert found[organ][0] == pytest.approx(60, abs=1)
    assert [name for name, (_, sds) in found.items() if sds > 3] == [organ]


def test_a_standard_deviation_is_along_its_axis() -> None:
    moved = centroids()
    moved["Parotid_L"] = moved["Parotid_L"] + (0, 14, 0)
    assert deviations(moved, USUAL)["Parotid_L"][1] == pytest.approx(14 / 7, abs=0.05)


def test_too_few_organs_have_no_place() -> None:
    four = dict(list(centroids().items())[:4])
    assert deviations(four, USUAL) == {}


def test_organs_in_a_line_have_no_place() -> None:
    lined = {name: usual for name, usual in USUAL.items() if abs(usual.mm[0]) < 2}
    flat = {
        name: type(usual)((0.0, 0.0, float(k)), usual.sd_mm, usual.source)
        for k, (name, usual) in enumerate(lined.items())
    }
    assert deviations({name: usual.mm for name, usual in flat.items()}, flat) == {}
