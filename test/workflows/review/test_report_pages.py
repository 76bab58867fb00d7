"""Pages from the files of an output folder."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from reviewed_cases import HAN_SEG, record_case, write_input, write_reviewed

from oarseg.cases.case import Case, label_path
from oarseg.challenges.catalogue import load_challenge
from oarseg.cli import main
from oarseg.errors import InputError
from oarseg.imaging.volume import Grid, Volume
from oarseg.phantom.case import Phantom, make_phantom
from oarseg.phantom.spec import PhantomSpec
from oarseg.phantom.write_cases import write_volume
from oarseg.results.results_file import Record
from oarseg.results.write_case import write_case
from oarseg.workflows.review.report_pages import (
    drop_page,
    write_case_page,
    write_index,
    write_pages,
)


@cache
def phantom(*, with_mr: bool = True) -> Phantom:
    return make_phantom(PhantomSpec(3, "tiny", with_mr=with_mr))


def reports(output: Path) -> set[str]:
    return {path.name for path in (output / "reports").iterdir()}


def run(source: Path, output: Path) -> int:
    return main(["report", "--input", str(source), "--output", str(output)])


def test_one_case_has_a_page_and_no_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_reviewed(tmp_path / "in", tmp_path / "out", "case_03", phantom())
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert reports(tmp_path / "out") == {"case_03.json", "case_03.html"}
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "out/reports/case_03.html")]
    page = (tmp_path / "out/reports/case_03.html").read_text(encoding="utf-8")
    assert 'id="layer1"' in page
    assert page.count("data-organ=") == 30
    again = page
    assert run(tmp_path / "in", tmp_path / "out") == 0
    assert (tmp_path / "out/reports/case_03.html").read_text(encoding="utf-8") == again


def test_a_failed_case_and_one_without_results_have_their_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    write_reviewed(source, output, "good", phantom(with_mr=False))
    failed = write_input(source, "failed", phantom(with_mr=False))
    record_case(output, Record("failed", failed.files, error_messages=("the CT is empty",)))
    write_input(source, "later", phantom(with_mr=False))
    (source / "images/ct/broken_CT.mha").symlink_to("/etc/passwd")
    assert run(source, output) == 1
    pages = {name for name in reports(output) if name.endswith(".html")}
    assert pages == {"good.html", "failed.html", "later.html", "broken.html", "index.html"}
    texts = {name: (output / "reports" / name).read_text(encoding="utf-8") for name in pages}
    assert "the CT is empty" in texts["failed.html"]
    assert "segment it" in texts["later.html"]
    assert "a link that leaves it" in texts["broken.html"]
    assert "<canvas" not in texts["failed.html"]
    assert texts["index.html"].index("failed") < texts["index.html"].index("good")
    assert 'name="mode"' not in texts["good.html"]
    assert "the CT is empty" in capsys.readouterr().err


def test_overlapping_organs_in_channels(tmp_path: Path) -> None:
    segrap = load_challenge("segrap_oar")
    made = make_phantom(PhantomSpec(3, "tiny"), segrap)
    source, output = tmp_path / "in", tmp_path / "out"

    files = {}
    for socket in segrap.sockets:
        path = source / "images" / socket.slug / "a.mha"
        path.parent.mkdir(parents=True)
        write_volume(made.images[socket.channel], path)
        files[socket.channel] = path
    case = Case("a", files)

    report = {"case": "a", "inputs": {}, "label_file": str(label_path(case, segrap))}
    write_case(output, case=case, challenge=segrap, labels=made.labels, report=report)
    write_case_page(case, output, segrap)
    page = (output / "reports/a.html").read_text(encoding="utf-8")
    assert page.count("data-organ=") == len(segrap.organs)
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    brain, stem = (data["organs"][k] for k in (0, 1))
    assert set(stem["codes"]) < set(brain["codes"])
    assert len(data["layers"]) == 2


@pytest.mark.parametrize(
    "damage", ['{"case"', '{"case": "case_03", "registration": {"status": 1}}']
)
def test_a_damaged_report_ends_in_one_sentence(tmp_path: Path, damage: str) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    case = write_reviewed(source, output, "case_03", phantom())
    (output / "reports/case_03.json").write_text(damage)
    with pytest.raises(InputError, match="case_03"):
        write_case_page(case, output, HAN_SEG)
    written = write_pages(source, output, HAN_SEG)
    assert list(written.failures) == ["case_03"]


def test_a_label_file_that_is_not_the_images_ends_in_one_sentence(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    case = write_reviewed(source, output, "case_03", phantom())
    other = make_phantom(PhantomSpec(4, "tiny", with_mr=False))

    write_volume(other.labels, output / "images/head_neck_oar/case_03_seg.mha")
    with pytest.raises(InputError, match="case_03_seg"):
        write_case_page(case, output, HAN_SEG)


def test_an_older_reports_page_says_that_organs_were_not_checked(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    case = write_reviewed(
        source, output, "case_03", phantom(), change=lambda report: report.pop("checks")
    )
    write_case_page(case, output, HAN_SEG)
    assert "Organs not checked" in (output / "reports/case_03.html").read_text(encoding="utf-8")


def test_a_case_called_index_keeps_its_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    for name in ("Index", "other"):
        write_reviewed(source, output, name, phantom(with_mr=False))
    with caplog.at_level(logging.WARNING):
        write_pages(source, output, HAN_SEG)
    assert not (output / "reports/index.html").exists()
    assert "called index" in caplog.text


def test_a_link_in_the_place_of_a_page_is_replaced_and_not_followed(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    case = write_reviewed(source, output, "case_03", phantom(with_mr=False))
    outside = tmp_path / "precious"
    outside.write_text("precious")
    (output / "reports/case_03.html").symlink_to(outside)
    write_case_page(case, output, HAN_SEG)
    assert outside.read_text() == "precious"
    assert (output / "reports/case_03.html").read_text(encoding="utf-8").startswith("<!DOCTYPE")
    drop_page(output, "case_03")
    assert reports(output) == {"case_03.json"}


def test_no_output_folder(tmp_path: Path) -> None:
    write_input(tmp_path / "in", "a", phantom(with_mr=False))
    with pytest.raises(InputError, match="output folder of oarseg segment"):
        write_pages(tmp_path / "in", tmp_path / "nowhere", HAN_SEG)


def test_an_index_of_names_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    write_index(tmp_path, {"a" * 300: "too long", "b\n": "a line break"})
    text = (tmp_path / "reports/index.html").read_text(encoding="utf-8")
    assert "2 cases: 2 failed" in text
    assert "<a " not in text


def test_noise_fits_the_size_that_is_promised(tmp_path: Path) -> None:
    """Noise is what can be compressed least: 8 MiB are enough for 512×512×140 and an MR."""

    shape = (140, 512, 512)
    grid = Grid(shape, (2.5, 1.0, 1.0), (-256.0, -256.0, -175.0))
    random = np.random.default_rng(0)
    noise = random.integers(-60, 60, (20, 512, 512), dtype=np.int16)
    body = np.full(shape[1:], -1000, np.int16)
    body[60:450, 30:480] = 40
    ct = Volume(np.stack([body + noise[z % 20] for z in range(140)]), grid)
    labels = np.zeros(shape, np.uint8)
    labels[40:60, 200:260, 200:260] = 5
    mr = Volume(
        random.integers(0, 400, (40, 256, 256), dtype=np.int16),
        Grid((40, 256, 256), (5.0, 1.0, 1.0), (-128.0, -128.0, -100.0)),
    )
    made = replace(phantom(), images={"CT": ct, "MR_T1": mr}, labels=Volume(labels, grid))
    case = write_reviewed(tmp_path / "in", tmp_path / "out", "noise", made)
    write_case_page(case, tmp_path / "out", HAN_SEG)
    assert (tmp_path / "out/reports/noise.html").stat().st_size <= 8 << 20
