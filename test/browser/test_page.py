"""Pages in headless Chromium: from file://, offline, without WebGL, with nothing on the console."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from planted_faults import with_fault
from playwright.sync_api import Browser, Page, sync_playwright
from reviewed_cases import HAN_SEG, WARNING, record_case, write_input, write_reviewed

from oarseg.imaging.orientation import Turn
from oarseg.imaging.volume import Grid, Matrix, Volume
from oarseg.phantom.case import Phantom, make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.results.results_file import Record
from oarseg.workflows.review.report_pages import write_case_page, write_pages

pytestmark = pytest.mark.browser
STORED = Path(__file__).resolve().parents[1] / "expected" / "page.png"
PLANES = ("Axial", "Coronal", "Sagittal")
# Fonts and the smoothing of pictures differ between versions of the browser. Letters and scales
# cover less than half a per cent, the contours more than one.
PIXEL_TOLERANCE = 48
SHARE_TOLERANCE = 0.008


# A copy on the CPU, where reading a canvas of the page would make the browser complain.
COPY = """plane => {
  const canvas = document.querySelectorAll("canvas[data-plane]")[plane];
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const data = context.getImageData(0, 0, copy.width, copy.height).data;
  const text = Array.from(data, value => String.fromCharCode(value)).join("");
  return [copy.height, copy.width, btoa(text)];
}"""
UNNAMED = """() => {
  const named = e => e.getAttribute("aria-label") || e.textContent.trim()
    || e.closest("label")?.textContent.trim();
  return [...document.querySelectorAll("input, select, button, canvas")]
    .filter(e => !named(e)).map(e => e.outerHTML);
}"""


@dataclass
class Opened:
    """A page, and what it asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--disable-gpu", "--disable-webgl", "--disable-webgl2", "--disable-3d-apis"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield found
        found.close()


def visit(browser: Browser, path: Path, *, scripted: bool = True) -> Opened:
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    page.context.set_offline(True)
    opened = Opened(page)
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("console", lambda message: opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
    page.goto(path.as_uri())
    if scripted:
        page.wait_for_selector("html[data-ready=yes]", timeout=30_000)
    return opened


def quiet(opened: Opened) -> bool:
    """Nothing was asked for but the page itself, and nothing complained of."""
    return len(opened.requests) == 1 and opened.complaints == []


def settle(page: Page) -> None:
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def pixels(page: Page, plane: int) -> np.ndarray:
    """The canvas of a plane, (height, width, 3)."""
    settle(page)
    found = page.evaluate(COPY, plane)
    height, width, text = found
    bytes_ = np.frombuffer(base64.b64decode(text), np.uint8)
    return bytes_.reshape(height, width, 4)[..., :3]


def label(page: Page, plane: int) -> str:
    settle(page)
    text = page.get_attribute(f"canvas[data-plane='{plane}']", "aria-label")
    assert text is not None
    return text


def slice_number(page: Page, plane: int) -> int:
    found = re.search(r"slice (\d+) of", label(page, plane))
    assert found is not None
    return int(found[1])


@cache
def phantom() -> Phantom:
    return make_phantom(PhantomSpec(203))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a case with a doubled mandible."""
    folder = tmp_path_factory.mktemp("faulty")
    labels = with_fault(phantom().labels, "a doubled mandible", HAN_SEG)
    case = write_reviewed(folder / "in", folder / "out", "case_203", phantom(), labels=labels)
    write_case_page(case, folder / "out", HAN_SEG)
    return folder / "out" / "reports" / "case_203.html"


@pytest.fixture
def opened(browser: Browser, faulty: Path) -> Iterator[Opened]:
    found = visit(browser, faulty)
    yield found
    assert quiet(found)
    found.page.close()


def test_it_opens_quietly_and_without_webgl(opened: Opened) -> None:
    page = opened.page
    assert page.evaluate("document.createElement('canvas').getContext('webgl2')") is None
    for plane, name in enumerate(PLANES):
        assert label(page, plane).startswith(f"{name} slice ")
        assert pixels(page, plane).std() > 20
    assert "1 finding to look at" in page.inner_text("header")
    assert WARNING in page.inner_text("header")


def test_the_policy_lets_nothing_else_run(opened: Opened) -> None:
    page = opened.page
    page.evaluate(
        """() => { const s = document.createElement("script");
        s.textContent = "window.intruder = 1"; document.body.append(s); }"""
    )
    assert page.evaluate("window.intruder") is None
    assert any("Content Security Policy" in text for text in opened.complaints)
    opened.complaints.clear()


def test_numbers_are_those_of_the_json_report(opened: Opened, faulty: Path) -> None:
    report = json.loads(faulty.with_suffix(".json").read_text(encoding="utf-8"))
    rows = opened.page.evaluate(
        """() => [...document.querySelectorAll("tr[data-organ]")].map(
        row => [...row.children].map(cell => cell.textContent))"""
    )
    assert len(rows) == len(report["volumes_cm3"])
    for _, name, cm3, _, ratio, parts, stray, holes, mean, verdict in rows:
        record = report["checks"]["organs"][name]
        assert float(cm3) == pytest.approx(report["volumes_cm3"][name], abs=0.051)
        assert float(stray) == pytest.approx(record["stray_cm3"], abs=0.051)
        assert [int(parts), int(holes)] == [record["parts"], record["holes"]]
        assert float(mean) == pytest.approx(record["mean"], abs=0.51)
        if record["left_by_right"] is not None:
            assert float(ratio) == pytest.approx(record["left_by_right"], abs=0.0051)
        assert (verdict == "plausible") == (record["raised"] == [])


def test_slices_change_by_wheel_keys_and_slider(opened: Opened) -> None:
    page = opened.page
    before = slice_number(page, 0)
    page.hover("canvas[data-plane='0']")
    page.mouse.wheel(0, -100)
    assert slice_number(page, 0) > before
    page.focus("canvas[data-plane='1']")
    page.keyboard.press("Home")
    assert slice_number(page, 1) == 1
    page.keyboard.press("PageUp")
    assert slice_number(page, 1) == 11
    page.keyboard.press("ArrowDown")
    assert slice_number(page, 1) == 10
    page.fill("input[data-slice='2']", "99")
    assert slice_number(page, 2) == 100


def test_planes_are_linked(opened: Opened) -> None:
    page = opened.page
    page.click("canvas[data-plane='0']", position={"x": 120, "y": 200})
    left, front = slice_number(page, 2), slice_number(page, 1)
    page.click("canvas[data-plane='0']", position={"x": 220, "y": 300})
    # To the right of the picture is the patient's left, and down is the back.
    assert slice_number(page, 2) > left
    assert slice_number(page, 1) > front


def test_a_touch_moves_the_planes(browser: Browser, faulty: Path) -> None:
    context = browser.new_context(has_touch=True, viewport={"width": 800, "height": 1000})
    page = context.new_page()
    page.goto(faulty.as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    box = page.locator("canvas[data-plane='0']").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + 60, box["y"] + 100)
    before = slice_number(page, 2)
    page.touchscreen.tap(box["x"] + 200, box["y"] + 100)
    assert slice_number(page, 2) > before
    context.close()


def test_contours_are_switched(opened: Opened) -> None:
    page = opened.page
    page.uncheck("#lines")
    page.click("button:has-text('None')")
    bare = pixels(page, 0)
    page.check("input[aria-label='Contour of Bone_Mandible']")
    one = pixels(page, 0)
    changed = (bare != one).any(axis=2)
    colour = np.array(HAN_SEG.structure("Bone_Mandible").colour)
    assert changed.sum() > 100
    assert np.abs(one[changed] - colour.astype(int)).max(axis=1).min() < 40
    page.click("button:has-text('Raised only')")
    assert np.array_equal(pixels(page, 0), one)
    page.uncheck("#contours")
    assert np.array_equal(pixels(page, 0), bare)
    page.keyboard.press("c")
    assert np.array_equal(pixels(page, 0), one)


def test_a_click_on_an_organ_leads_to_it(opened: Opened) -> None:
    page = opened.page
    page.click("#organs button:has-text('Glnd_Thyroid')")
    page.click("#organs button:has-text('Parotid_R')")
    for plane in range(3):
        assert "Parotid_R" in label(page, plane)
    assert "Parotid_R" in page.inner_text("#status")


def test_images_are_blended(opened: Opened) -> None:
    page = opened.page
    page.uncheck("#contours")
    pictures = {}
    for mode in ("0", "1", "blend", "checker"):
        page.check(f"input[name=mode][value='{mode}']")
        pictures[mode] = pixels(page, 0).astype(float)
    ct, mr = pictures["0"], pictures["1"]
    assert np.abs(ct - mr).mean() > 5
    assert np.abs(pictures["blend"] - (ct + mr) / 2).mean() < 2
    either = np.minimum(np.abs(pictures["checker"] - ct), np.abs(pictures["checker"] - mr))
    assert either.mean() < 1
    assert np.abs(pictures["checker"] - ct).mean() > 1
    assert np.abs(pictures["checker"] - mr).mean() > 1


def test_a_window_changes_the_grey_values(opened: Opened) -> None:
    page = opened.page
    soft = pixels(page, 0)
    page.select_option("#window", label="Bone 600/2400")
    assert pixels(page, 0).mean() < soft.mean()
    page.focus("canvas[data-plane='0']")
    page.keyboard.press("1")
    assert np.array_equal(pixels(page, 0), soft)


def test_it_prints_a_table_and_nine_slices_a_group(opened: Opened) -> None:
    printed = opened.page.pdf()
    pages = len(re.findall(rb"/Type\s*/Page[^s]", printed))
    # The table, and five groups of six organs.
    assert pages >= 6
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.locator("#sheets canvas").count() == 5
    names = opened.page.locator("#sheets figcaption span").all_text_contents()
    assert sorted(names) == sorted(organ.name for organ in HAN_SEG.organs)


def test_it_looks_as_it_did(opened: Opened, tmp_path: Path) -> None:
    found, bare = tmp_path / "page.png", tmp_path / "bare.png"
    planes = opened.page.locator(".planes")
    planes.screenshot(path=found)
    opened.page.uncheck("#contours")
    planes.screenshot(path=bare)
    if os.environ.get("OARSEG_STORE_PAGE"):
        shutil.copy(found, STORED)
    stored = read_picture(STORED)
    assert share_of_change(read_picture(found), stored) < SHARE_TOLERANCE
    # What is worth seeing is not within the tolerance.
    assert share_of_change(read_picture(bare), stored) > SHARE_TOLERANCE


def read_picture(path: Path) -> NDArray[np.int64]:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[..., :3].astype(np.int64)


def share_of_change(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """The share of pixels that differ by more than the tolerance."""
    assert one.shape == other.shape
    return float((np.abs(one - other).max(axis=2) > PIXEL_TOLERANCE).mean())


def test_keys_reach_everything(opened: Opened) -> None:
    page = opened.page
    unnamed = page.evaluate(UNNAMED)
    assert unnamed == []
    reached = page.evaluate(
        "() => [...document.querySelectorAll('canvas[data-plane]')].every(c => c.tabIndex === 0)"
    )
    assert reached


def turned_phantom(turn: Turn) -> Phantom:
    images = {name: turn.volume(image) for name, image in phantom().images.items() if name == "CT"}
    return replace(phantom(), images=images, labels=turn.volume(phantom().labels))


@pytest.mark.parametrize(
    "turn",
    [
        Turn((0, 1, 2), (False, True, True)),
        Turn((0, 1, 2), (True, False, True)),
        Turn((2, 1, 0), (False, False, True)),
    ],
    ids=["prone", "feet first", "sagittal slices"],
)
def test_however_the_patient_lay_the_right_is_on_the_left(
    browser: Browser, tmp_path: Path, turn: Turn
) -> None:
    pictures = []
    for name, way in (("plain", Turn()), ("turned", turn)):
        made = turned_phantom(way)
        case = write_reviewed(tmp_path / name, tmp_path / f"{name}_out", "case", made)
        write_case_page(case, tmp_path / f"{name}_out", HAN_SEG)
        opened = visit(browser, tmp_path / f"{name}_out/reports/case.html")
        page = opened.page
        page.click("#organs button:has-text('Parotid_R')")
        pictures.append([pixels(page, plane) for plane in range(3)])
        if name == "turned":
            _check_that_right_is_left(page)
        assert quiet(opened)
        page.close()
    for one, other in zip(*pictures, strict=True):
        # Averages over blocks begin at the other end.
        assert (np.abs(one.astype(int) - other) > PIXEL_TOLERANCE).any(axis=2).mean() < 0.02


def _check_that_right_is_left(page: Page) -> None:
    letters = page.evaluate("JSON.parse(document.getElementById('data').textContent).letters")
    assert letters == [["I", "S"], ["A", "P"], ["R", "L"]]
    right = slice_number(page, 2)
    page.click("#organs button:has-text('Parotid_L')")
    assert slice_number(page, 2) > right


def test_oblique_planes_are_labelled(browser: Browser, tmp_path: Path) -> None:
    c, s = float(np.cos(np.radians(12))), float(np.sin(np.radians(12)))
    direction: Matrix = ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))
    made = phantom()
    grid: Grid = replace(made.ct.grid, direction=direction)
    images = {"CT": Volume(made.ct.array, grid)}
    oblique = replace(made, images=images, labels=Volume(made.labels.array, grid))
    case = write_reviewed(tmp_path / "in", tmp_path / "out", "case", oblique)
    write_case_page(case, tmp_path / "out", HAN_SEG)
    opened = visit(browser, tmp_path / "out/reports/case.html")
    data: dict[str, Any] = opened.page.evaluate(
        "JSON.parse(document.getElementById('data').textContent)"
    )
    assert data["letters"][2] == ["RA", "LP"]
    assert data["oblique"] == 12.0
    assert "oblique by 12.0°" in opened.page.inner_text("header")
    assert quiet(opened)
    opened.page.close()


def test_failed_cases_hostile_names_and_the_index(browser: Browser, tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    hostile = "<script>alert(1)<!--"
    made = replace(phantom(), images={"CT": phantom().ct})

    def change(report: dict[str, Any]) -> None:
        report["model"]["title"] = hostile
        report["warnings"] = [f"</script>{hostile}"]

    write_reviewed(source, output, hostile, made, change=change)
    write_reviewed(source, output, "plain", made)
    failed = write_input(source, "failed", made)
    record_case(output, Record("failed", failed.files, error_messages=(f"{hostile} is empty",)))
    write_pages(source, output, HAN_SEG)
    index = visit(browser, output / "reports/index.html", scripted=False)
    names = index.page.locator("tbody th").all_text_contents()
    assert names[0] == "failed"
    index.page.click("thead button:has-text('Case')")
    assert index.page.locator("tbody th").all_text_contents() == sorted(names)
    index.page.click("thead button:has-text('Case')")
    assert index.page.locator("tbody th").all_text_contents() == sorted(names, reverse=True)
    assert quiet(index)
    index.page.click("tbody a:has-text('failed')")
    assert f"{hostile} is empty" in index.page.inner_text("body")
    assert index.page.locator("canvas").count() == 0
    index.page.go_back()
    index.page.click(f"tbody a:has-text('{hostile}')")
    index.page.wait_for_selector("html[data-ready=yes]")
    assert index.page.inner_text("h1") == hostile
    assert hostile in index.page.inner_text(".facts")
    assert index.page.locator("input[name=mode]").count() == 0
    assert index.complaints == []
    assert all(url.startswith("file:") for url in index.requests)
    index.page.close()
