"""The words and numbers of a page; test/browser looks at its pictures."""

import json
from typing import Any

import numpy as np
import pytest
from test_document import HOSTILE, read

from oarseg.challenges.challenge import Organ
from oarseg.imaging.orientation import Turn
from oarseg.imaging.volume import Grid, Matrix
from oarseg.results.page.case_page import (
    Pictures,
    case_page,
    direction_letters,
    failure_page,
    oblique_deg,
)
from oarseg.results.page.greys import Layer, PageView
from oarseg.results.page.index_page import CaseLine, index_page
from oarseg.results.page.organ_map import OrganMap

GRID = Grid((4, 6, 8), (2.0, 1.0, 1.0))
ORGANS = [
    Organ(name="Gland_L", colour=(200, 30, 40), labels=(1,)),
    Organ(name="Gland_R", colour=(20, 30, 40), labels=(2,)),
]


def report(**more: Any) -> dict[str, Any]:
    organ = {
        "volume_cm3": 12.345,
        "volume_limits_cm3": [5.0, 110.0],
        "left_by_right": 1.234,
        "parts": 2,
        "stray_cm3": 0.061,
        "holes": 3,
        "mean": 41.6,
        "centroid_mm": [3.0, 2.0, 4.0],
        "raised": ["parts"],
    }
    raised = [{"check": "parts", "organs": ["Gland_L"], "message": "1 stray part"}]
    return {
        "case": "case_07",
        "volumes_cm3": {"Gland_L": 12.345, "Gland_R": 0.0},
        "checks": {"raised": raised, "organs": {"Gland_L": organ}, "sources": {"a": "b"}},
        "warnings": ["MR_T1: registration is doubtful", "look at the masks: Gland_L"],
        **more,
    }


def pictures(layers: int = 1, grid: Grid = GRID) -> Pictures:
    view = PageView((0, 0, 0), grid.shape)
    layer = Layer("CT", "CT", grid.shape, tuple(range(256)), b"")
    box = (slice(1, 3), slice(1, 3), slice(2, 4))
    codes = np.ones((2, 2, 2), np.uint8)
    organs = OrganMap((1, 1, 2), codes, ((1,), ()), (box, None))
    return Pictures(grid, view, (layer,) * layers, organs)


def page(found: dict[str, Any], layers: int = 1) -> list[tuple[str, dict[str, str | None], str]]:
    return read(case_page(found, ORGANS, GRID, pictures(layers)))


def texts(found: list[tuple[str, dict[str, str | None], str]], tag: str) -> list[str]:
    return [text for name, _, text in found if name == tag]


def test_numbers_are_the_reports() -> None:
    cells = texts(page(report()), "td")
    row = ["12.3", "5.00 to 110.0", "1.23", "2", "0.06", "3", "42", "stray parts"]
    assert cells[1:9] == row
    assert cells[10] == "0.00"


def test_the_expected_dice_is_a_column_where_there_is_one() -> None:
    def expected(**values: Any) -> list[str]:
        given = {"dice": 0.914, "error": 0.021, "beyond": None} | values
        organs = {"Gland_L": given, "Gland_R": None}
        found = page(report(expected_dice={"calibration_sha256": "0", "organs": organs}))
        assert "expected DC" in texts(found, "th")
        cells = texts(found, "td")
        assert cells[9] == "stray parts"
        return [cells[8], cells[17]]

    assert expected() == ["0.91 ± 0.02", "–"]
    assert expected(beyond="above") == ["≥ 0.91 ± 0.02", "–"]
    assert expected(dice=None, error=None, beyond="below") == ["?", "–"]
    assert expected(dice="x", error=[]) == ["–", "–"]
    assert "expected DC" not in texts(page(report(expected_dice=None)), "th")


def test_findings_and_warnings_stand_on_top() -> None:
    found = page(report())
    assert "1 finding to look at" in texts(found, "p")
    assert texts(found, "strong") == ["Gland_L"]
    assert ": 1 stray part" in texts(found, "span")
    assert "MR_T1: registration is doubtful" in texts(found, "li")
    assert not any("look at the masks" in text for text in texts(found, "li"))


def test_a_model_that_is_not_for_clinical_use_says_so() -> None:
    warned = page(report(model={"warning": "NOT FOR CLINICAL USE"}))
    assert ("p", {"class": "clinical", "role": "note"}, "NOT FOR CLINICAL USE") in warned
    assert not any(a.get("class") == "clinical" for _, a, _ in page(report()))


def test_without_an_mr_its_controls_are_absent() -> None:
    names = {a.get("name") for tag, a, _ in page(report(), layers=1) if tag == "input"}
    assert "mode" not in names
    values = [a.get("value") for _, a, _ in page(report(), layers=2) if a.get("name") == "mode"]
    assert values == ["0", "1", "blend", "checker"]


def test_a_report_of_any_shape_makes_a_page() -> None:
    odd: dict[str, Any] = {
        "case": 7,
        "checks": {"raised": ["x", {}], "organs": [1]},
        "steps": [None, {"seconds": "a"}],
        "registration": "good",
        "warnings": "none",
        "model": None,
        "repair": {"changed": [3, {}]},
        "volumes_cm3": {"Gland_L": "big"},
    }
    assert "7" in texts(page(odd), "h1")
    assert "–" in texts(page(odd), "td")


def test_hostile_names_are_text() -> None:
    hostile = report(
        case=HOSTILE,
        inputs={"CT": HOSTILE},
        warnings=[HOSTILE],
        model={"title": HOSTILE, "warning": HOSTILE},
        versions={HOSTILE: HOSTILE},
    )
    found = page(hostile)
    assert texts(found, "h1") == [HOSTILE]
    assert HOSTILE in texts(found, "li")
    assert texts(found, "img") == []
    failed = read(failure_page(HOSTILE, [HOSTILE]))
    assert ("p", {"class": "failure", "role": "alert"}, HOSTILE) in failed
    listed = read(index_page([CaseLine(HOSTILE, HOSTILE, messages=(HOSTILE,)), CaseLine("b", "b")]))
    assert HOSTILE in texts(listed, "a")
    hrefs = [a.get("href") for tag, a, _ in listed if tag == "a"]
    assert all(href is not None and href.startswith("./") for href in hrefs)


def test_a_failed_case_has_its_message_and_no_picture() -> None:
    found = read(failure_page("case_07", ["a.mha: truncated", "its outputs are in earlier"]))
    tags = [tag for tag, _, _ in found]
    assert "canvas" not in tags
    assert "script" not in tags
    assert texts(found, "p")[1:] == ["a.mha: truncated", "its outputs are in earlier"]


def test_a_click_leads_to_the_reports_centroid() -> None:
    text = next(t for _, a, t in page(report()) if a.get("id") == "data")
    data = json.loads(text)
    assert [organ["at"] for organ in data["organs"]] == [[2, 2, 3], None]
    assert data["groups"] == [[0]]
    without = report()
    del without["checks"]["organs"]["Gland_L"]["centroid_mm"]
    text = next(t for _, a, t in page(without) if a.get("id") == "data")
    assert json.loads(text)["organs"][0]["at"] == [2, 2, 2]


def rotated(deg: float) -> Matrix:
    c, s = float(np.cos(np.radians(deg))), float(np.sin(np.radians(deg)))
    return ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))


@pytest.mark.parametrize(
    ("deg", "letters", "oblique"),
    [
        (0, [("I", "S"), ("A", "P"), ("R", "L")], 0),
        (3, [("I", "S"), ("A", "P"), ("R", "L")], 3),
        (12, [("I", "S"), ("AL", "PR"), ("RA", "LP")], 12),
        (-12, [("I", "S"), ("AR", "PL"), ("RP", "LA")], 12),
    ],
)
def test_letters_come_from_the_direction(
    deg: float, letters: list[tuple[str, str]], oblique: float
) -> None:
    grid = Grid(GRID.shape, GRID.spacing_mm, direction=rotated(deg))
    assert direction_letters(grid) == letters
    assert oblique_deg(grid) == pytest.approx(oblique, abs=1e-6)


def test_letters_of_a_turned_image_are_the_patients() -> None:
    turned = Turn((0, 1, 2), (True, True, False)).grid(GRID)
    assert direction_letters(turned) == [("S", "I"), ("P", "A"), ("R", "L")]


def test_the_index_has_the_worst_first() -> None:
    lines = [
        CaseLine("plain", "plain.html", report(checks={"raised": []}, warnings=[])),
        CaseLine("one", "one.html", report()),
        CaseLine("broken", "broken.html", messages=("truncated",)),
        CaseLine("gone", "", messages=("no file",)),
    ]
    found = read(index_page(lines))
    rows = [t for tag, a, t in found if tag in ("a", "span") and t != ""]
    assert rows == ["broken", "gone", "one", "plain"]
    assert "4 cases: 2 failed, 1 to look at, 1 without findings." in texts(found, "p")


@pytest.mark.parametrize(
    ("more", "said"), [({"peak_mib": 1234}, "1234 MiB"), ({}, "900 MiB"), ({"steps": 3}, "0 MiB")]
)
def test_the_peak_is_that_of_all_processes_where_it_is_known(
    more: dict[str, Any], said: str
) -> None:
    steps = [{"name": "a", "seconds": 1, "peak_mib": 900}, {"name": "b", "peak_mib": 300}]
    assert any(said in text for text in texts(page(report(**({"steps": steps} | more))), "dd"))
