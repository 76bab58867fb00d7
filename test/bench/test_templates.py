"""The templates' measures: published places, usual volumes, findings the field explains."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from oarseg.challenges.catalogue import load_challenge

ROOT = Path(__file__).resolve().parents[2]
NOTHING: frozenset[str] = frozenset()


@pytest.fixture
def templates(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import templates as module

    return module


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import weights as module

    return module


def organ(volume_cm3: float, centroid_mm: tuple[float, ...] | None, stray: float = 0.0) -> Any:
    centroid = list(centroid_mm) if centroid_mm else None
    return {"volume_cm3": volume_cm3, "centroid_mm": centroid, "stray_farthest_mm": stray}


def everything(templates: ModuleType) -> dict[str, Any]:
    """Organs of a report, all where they belong and as large as most."""
    found = {name: organ(0.0, None) for name in names()}
    for place in templates.PLACES.values():
        low, high = place.volume_cm3
        for part in place.organs:
            volume = (low + high) / 2 / len(place.organs)
            found[part] = organ(volume, place.centroid_mm)
    return found


def names() -> list[str]:
    return [structure.name for structure in load_challenge("han_seg").structures]


def test_organs_are_the_challenges(templates: ModuleType) -> None:
    assert set(names()) >= templates.WHOLE


def test_sides_and_the_midplane_are_where_people_have_them(templates: ModuleType) -> None:
    for name, place in templates.PLACES.items():
        x = place.centroid_mm[0]
        assert x > 20 if name.endswith("_L") else x < -20 if name.endswith("_R") else abs(x) < 1
        low, high = place.volume_cm3
        assert 0 < low < high


def test_what_is_right_has_no_error(templates: ModuleType) -> None:
    found = templates.compare_places(everything(templates))
    assert found.missed == 0
    assert found.off_mm == dict.fromkeys(templates.PLACES, 0.0)
    assert found.outside == ()


def test_errors_are_distances_of_centroids_weighted_by_volume(templates: ModuleType) -> None:
    organs = everything(templates)
    x, y, z = templates.PLACES["Eye_L"].centroid_mm
    organs["Eye_PL"] = organ(6.0, (x, y + 2.0, z))
    organs["Eye_AL"] = organ(2.0, (x, y - 14.0, z))
    x, y, z = templates.PLACES["Brainstem"].centroid_mm
    organs["Brainstem"] = organ(27.0, (x + 2.0, y - 3.0, z + 6.0))
    found = templates.compare_places(organs)
    # (6 · 2 − 2 · 14) / 8 = −2; √(4 + 9 + 36) = 7
    assert found.off_mm["Eye_L"] == pytest.approx(2.0)
    assert found.off_mm["Brainstem"] == pytest.approx(7.0)
    assert found.volumes_cm3["Eye_L"] == 8.0


def test_a_missing_organ_has_no_distance_and_counts_as_missed(templates: ModuleType) -> None:
    organs = everything(templates)
    organs["Pituitary"] = organ(0.0, None)
    found = templates.compare_places(organs)
    assert found.missed == 1
    assert "Pituitary" not in found.off_mm
    assert found.outside == ("Pituitary",)


@pytest.mark.parametrize(
    ("volume_cm3", "usual"), [(11.1, False), (11.3, True), (48.1, True), (48.2, False)]
)
def test_volumes_may_be_half_beyond_the_percentiles(
    templates: ModuleType, volume_cm3: float, usual: bool
) -> None:
    organs = everything(templates)
    organs["Brainstem"] = organ(volume_cm3, templates.PLACES["Brainstem"].centroid_mm)
    found = templates.compare_places(organs)
    assert found.outside == (() if usual else ("Brainstem",))


def test_optic_nerves_follow_from_eyes_and_real_scans(templates: ModuleType) -> None:
    """As the module says: brainstem → eye (±32, −80, 29), eye → nerve (∓10, 24, −4)."""
    stem = np.asarray(templates.PLACES["Brainstem"].centroid_mm)
    for side, sign in (("L", 1.0), ("R", -1.0)):
        eye = np.asarray(templates.PLACES[f"Eye_{side}"].centroid_mm)
        _, y, z = eye - stem
        turn = math.atan2(z, -y) - math.atan2(29.0, 80.0)
        ahead, up = -24.0, -4.0
        way = (
            -10.0 * sign,
            -(ahead * math.cos(turn) - up * math.sin(turn)),
            ahead * math.sin(turn) + up * math.cos(turn),
        )
        expected = templates.PLACES[f"OpticNrv_{side}"].centroid_mm
        np.testing.assert_allclose(eye + way, expected, atol=0.06)


def test_findings_that_the_field_explains_are_not_counted(templates: ModuleType) -> None:
    raised = [
        {"check": "cut", "organs": ["Parotid_L"], "message": ""},
        {"check": "cut", "organs": ["Brainstem"], "message": ""},
        {"check": "missing", "organs": ["Glottis"], "message": ""},
        {"check": "parts", "organs": ["Parotid_L"], "message": ""},
        {"check": "ratio", "organs": ["Eye_PL", "Eye_PR"], "message": ""},
    ]
    below = frozenset({"Parotid_L", "Glottis"})
    counted = templates.count_raised({"raised": raised}, cut=below, missing=below)
    assert counted == {"cut": 1, "parts": 1, "ratio": 1}
    assert templates.count_raised({"raised": raised}, cut=NOTHING, missing=NOTHING).total() == 5


def write_report(out: Path, case: str, checks: Any) -> None:
    (out / "reports").mkdir(parents=True, exist_ok=True)
    (out / "reports" / f"{case}.json").write_text(json.dumps({"checks": checks}), encoding="utf-8")


def test_templates_are_measured_by_their_report(
    templates: ModuleType, weights: ModuleType, tmp_path: Path
) -> None:
    failed = weights.measure_templates(tmp_path)
    assert (failed.missed, failed.raised) == (len(templates.PLACES), {"failed": 1})
    organs = everything(templates)
    organs["Parotid_L"] = organ(2.0, (60.0, 20.0, -65.0), stray=31.0)
    raised = [
        {"check": "missing", "organs": ["Glottis"], "message": ""},
        {"check": "parts", "organs": ["Parotid_L"], "message": ""},
    ]
    write_report(tmp_path, "template", {"organs": organs, "raised": raised})
    found = weights.measure_templates(tmp_path)
    assert found.raised == {"parts": 1}
    assert found.stray_mm == 31.0
    assert found.missed == 0


def test_checks_of_phantoms_leave_out_what_is_truly_cut_or_missing(
    weights: ModuleType, tmp_path: Path
) -> None:
    truths, out = tmp_path / "truth", tmp_path / "out"
    for case in ("case_1", "case_2"):
        (truths / case).mkdir(parents=True)
        presence = {"Brainstem": 1.0, "SpinalCord": 0.5, "Parotid_L": 0.0}
        text = json.dumps({"presence": presence})
        (truths / case / f"{case}_truth.json").write_text(text, encoding="utf-8")
    raised = [
        {"check": check, "organs": [name], "message": ""}
        for check in ("cut", "missing")
        for name in ("Brainstem", "SpinalCord", "Parotid_L")
    ]
    organs = {"Brainstem": organ(20.0, (0.0, 0.0, 0.0), stray=12.0)}
    write_report(out, "case_1", {"organs": organs, "raised": raised})
    reached = weights.Reached(2, 0.5, 0, {})
    found = weights.add_checks(reached, truths, out)
    assert found.raised == {"cut": 2, "failed": 1, "missing": 2}
    assert found.stray_mm == 12.0
    assert found.mean == 0.5
