"""The training's curve in the weights' card: from the log, the same text for the same log."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAD = "time,round,epoch,set,cases,mean_dice,missed,structures,off_mm,outside,stray_mm,raised"
# Two rounds; the best by level 2 is the third validation, at epoch 60 + 10.
LOG = f"""{HEAD}
t1,0,20,level0,5,0.5000,0,{{}},{{}},,0,{{}}
t1,0,20,level2,5,0.4000,0,{{}},{{}},,0,{{}}
t1,0,20,templates,1,nan,6,{{}},"{{""Brainstem"": 1.0}}",A B C D E F,0,{{}}
t2,0,60,level0,5,0.6000,0,{{}},{{}},,0,{{}}
t2,0,60,level2,5,0.5500,0,{{}},{{}},,0,{{}}
t3,1,10,level0,5,0.8000,0,{{}},{{}},,0,{{}}
t3,1,10,level2,5,0.7000,0,{{}},{{}},,0,{{}}
t3,1,10,templates,1,nan,5,{{}},"{{""Brainstem"": 2.0, ""Eye_L"": 5.0}}",A,0,{{}}
t4,1,60,level0,5,0.8000,0,{{}},{{}},,0,{{}}
t4,1,60,level2,5,0.6500,0,{{}},{{}},,0,{{}}
"""


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import training_curve as module

    return module


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG, encoding="utf-8")
    return path


def test_epochs_of_rounds_before_are_added(curve: ModuleType, log: Path) -> None:
    assert [v.epoch for v in curve.read_validations(log)] == [20, 60, 70, 120]


def test_picture_has_a_point_for_each_validation(curve: ModuleType, log: Path) -> None:
    validations = curve.read_validations(log)
    picture = curve.draw_curve(validations)
    assert picture == curve.draw_curve(curve.read_validations(log))
    root = ElementTree.fromstring(picture)
    lines = [e.attrib["points"].split() for e in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in lines] == [4, 4]
    level2 = [tuple(map(float, point.split(","))) for point in lines[1]]
    # x runs from 48 to 624 over 120 epochs; y from 220 at 0 to 16 at 1.
    assert level2[0] == pytest.approx((48 + 576 * 20 / 120, 220 - 204 * 0.4))
    assert level2[3] == pytest.approx((624, 220 - 204 * 0.65), abs=0.06)
    assert len(picture) < 20_000


def test_section_tells_the_best_and_what_is_found_in_the_templates(
    curve: ModuleType, log: Path
) -> None:
    section = curve.write_section(curve.read_validations(log))
    assert "Trained on synthetic images only, not for clinical use" in section
    assert "| 20 | 0.500 | 0.400 | 1 of 7 | 1.0 | 1 of 7 |" in section
    assert "| 70 | **0.800** | **0.700** | 2 of 7 | 3.5 | 6 of 7 |" in section
    assert "| 120 | 0.800 | 0.650 |  |  |  |" in section


def test_a_long_log_is_thinned_to_the_last_and_the_best(curve: ModuleType, tmp_path: Path) -> None:
    rows = [HEAD] + [
        f"t{n},0,{n},level2,5,{0.9 if n == 77 else 0.5},0,{{}},{{}},,0,{{}}" for n in range(100)
    ]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    chosen = curve.choose(curve.read_validations(path))
    assert len(chosen) == curve.MOST_ROWS
    assert [chosen[0].epoch, chosen[-1].epoch] == [0, 99]
    assert 77 in [v.epoch for v in chosen]


def test_card_gets_the_section_once(curve: ModuleType, log: Path, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("# Title\n\nText.\n", encoding="utf-8")
    curve.write_card(log, card)
    once = card.read_text(encoding="utf-8")
    assert once.startswith("# Title\n\nText.\n\n<!-- training -->\n")
    curve.write_card(log, card)
    assert card.read_text(encoding="utf-8") == once
    assert (tmp_path / "training.svg").read_text(encoding="utf-8").startswith("<svg")


def test_text_round_the_marks_is_kept(curve: ModuleType, log: Path, tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("before\n<!-- training -->\nold\n<!-- /training -->\nafter\n", encoding="utf-8")
    curve.write_card(log, card)
    text = card.read_text(encoding="utf-8")
    assert (text[:7], text[-7:]) == ("before\n", "\nafter\n")
    assert "old" not in text
    card.write_text("<!-- training --> alone\n", encoding="utf-8")
    with pytest.raises(ValueError, match="or neither"):
        curve.write_card(log, card)
