"""Write the pages by which cases are accepted or refused, from what lies in an output folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oarseg import registration
from oarseg.cases.case import Case, label_path
from oarseg.cases.find_cases import find_cases
from oarseg.cases.places import REPORTS, RESULTS, fold_path, is_case_name, page_path
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError, OarsegError
from oarseg.imaging.files import read_scan
from oarseg.imaging.orientation import Turn, to_lps
from oarseg.imaging.regrid import resample_moving
from oarseg.imaging.volume import Grid, Volume
from oarseg.inference.region.body import body_box, find_body
from oarseg.labels.find_labels import LabelFiles
from oarseg.labels.open_masks import Target, open_masks
from oarseg.results.folder import (
    entry_kind,
    explained_refusal,
    read_text,
    remove_entry,
    replace_text,
)
from oarseg.results.lock import lock_output
from oarseg.results.page.case_page import Pictures, case_page, failure_page
from oarseg.results.page.greys import Layer, PageView, ct_layer, fit_layers, other_layer
from oarseg.results.page.index_page import CaseLine, index_page
from oarseg.results.page.organ_map import OrganMap, map_organs
from oarseg.results.results_file import RESULTS_BYTES, read_kept_records, read_report

INDEX = Path(REPORTS, "index.html")
# A page's size grows with the image's, between these two; base64 takes four bytes for three.
SMALL_VOXELS, SMALL_BYTES = 512 * 512 * 140, 8 << 20
LARGE_VOXELS, LARGE_BYTES = 1024 * 1024 * 189, 20 << 20
# Of a page: for text, style, script and contours.
OTHER_BYTES = 1 << 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PagesWritten:
    """The outcome of ``write_pages``.

    Attributes:
        files: pages in place, the index last.
        failures: case → why its page has no picture.
    """

    files: tuple[Path, ...]
    failures: Mapping[str, str]


def write_pages(source: Path, output: Path, challenge: Challenge) -> PagesWritten:
    """Write a page for every case of an input folder, and the index of several.

    Args:
        source: the folder that was segmented.
        output: the output folder of ``segment``.
        challenge: whose cases these are.

    Raises:
        InputError: no case, or no output folder.
        OutputError: a page cannot be written, or another run writes to the folder.
    """
    if not output.is_dir():
        raise InputError(f"{output}: expected the output folder of oarseg segment, found none")
    found = find_cases(source, challenge, required=frozenset({challenge.reference.channel}))
    with lock_output(output):
        done = read_kept_records(output)
        failures = {problem.name: problem.message for problem in found.problems}
        for case in found.cases:
            try:
                if case.name not in done:
                    raise InputError(_why_not(case, output))
                write_case_page(case, output, challenge)
            except OarsegError as error:
                failures[case.name] = str(error)
        for name, message in failures.items():
            write_failure_page(output, name, (message,))
        write_index(output, failures)
    names = [name for name in (*(case.name for case in found.cases), *failures)]
    pages = [page_path(name) for name in dict.fromkeys(names)]
    files = [path for path in (*pages, INDEX) if entry_kind(output, path) == "file"]
    return PagesWritten(tuple(output / path for path in files), failures)


def write_case_page(case: Case, output: Path, challenge: Challenge) -> None:
    """Write the page of a segmented case, from its images, label file and report.

    Raises:
        InputError: an image, the label file or the report cannot be used.
        OutputError: the page cannot be written.
    """
    report = read_report(output, case.name)
    if report is None:
        raise InputError(f"{output}: expected the report of {case.name}, found none; segment it")
    reference = _read_reference(case, challenge, assume_hu=bool(report.get("assume_hu")))
    turn = to_lps(reference.grid)
    upright = turn.volume(reference)
    organs = _map_organs(case, output, challenge, reference.grid, turn)
    stored = reference.grid
    del reference
    view = _view(upright, organs, challenge)
    others = list(_other_images(case, challenge, report, upright.grid, turn))
    name, modality = challenge.reference.channel, challenge.reference.modality

    def draw(part: PageView) -> Iterator[Layer]:
        if modality == "CT":
            yield ct_layer(name, upright, part)
        else:
            yield other_layer(name, modality, upright, part)
        yield from (other.draw(upright.grid, part) for other in others[:1])

    budget = (_page_bytes(upright.grid.voxels) - OTHER_BYTES) * 3 // 4 - len(organs.packed())
    view, layers = fit_layers(view, draw, budget=budget)
    pictures = Pictures(upright.grid, view, layers, organs)
    text = case_page(report, challenge.organs, stored, pictures)
    _write(output, page_path(case.name), text)


def write_failure_page(output: Path, case: str, messages: Iterable[str]) -> None:
    """Write the page of a case that failed; none for a name that no file can have."""
    if is_case_name(case) and len(page_path(case).name.encode()) <= 255:
        _write(output, page_path(case), failure_page(case, tuple(messages)))


def drop_page(output: Path, case: str) -> None:
    """Remove a case's page, which shows outputs that are about to be replaced."""
    if is_case_name(case):
        with explained_refusal(output):
            remove_entry(output, page_path(case))


def drop_index(output: Path) -> None:
    """Remove the index, which a run without pages would leave untrue."""
    with explained_refusal(output):
        remove_entry(output, INDEX)


def write_index(output: Path, failures: Mapping[str, str]) -> None:
    """Write the index of all cases in an output folder, if there are several.

    Args:
        output: the output folder.
        failures: case → why it failed; all others are found by their reports.
    """
    done = [name for name in read_kept_records(output) if name not in failures]
    lines = [
        CaseLine(name, _page_of(output, name), read_report(output, name) or {}) for name in done
    ]
    lines += [CaseLine(n, _page_of(output, n), messages=(text,)) for n, text in failures.items()]
    if len(lines) < 2:
        return
    if any(fold_path(page_path(line.case)) == fold_path(INDEX) for line in lines):
        log.warning("a case is called index, and its page has the place of the index: none written")
        return
    _write(output, INDEX, index_page(lines))


def _page_of(output: Path, case: str) -> str:
    path = page_path(case)
    there = is_case_name(case) and len(path.name.encode()) <= 255
    return path.name if there and entry_kind(output, path) == "file" else ""


def _write(output: Path, path: Path, text: str) -> None:
    with explained_refusal(output / path):
        replace_text(output, path, text)


def _why_not(case: Case, output: Path) -> str:
    """Return the message that results.json has for a case without outputs."""
    text = read_text(output, Path(RESULTS), limit=RESULTS_BYTES)
    names = {path.name for path in case.files.values()}
    try:
        entries = json.loads(text or "[]")
        for entry in entries:
            found = {image["filename"] for image in entry["inputs"]}
            if found == names and entry["error_messages"]:
                return str(entry["error_messages"][0])
    except (ValueError, KeyError, TypeError, RecursionError):
        log.warning("%s: cannot be read", output / RESULTS)
    return f"{case.name}: expected its results in {output}, found none; segment it"


def _read_reference(case: Case, challenge: Challenge, *, assume_hu: bool) -> Volume:
    source = case.source(challenge.reference.channel)
    if challenge.reference.modality == "CT":
        return read_scan.read_ct(source, assume_hu=assume_hu, warn=log.debug)
    return read_scan.read_volume(source, warn=log.debug)


def _map_organs(case: Case, output: Path, challenge: Challenge, grid: Grid, turn: Turn) -> OrganMap:
    file = output / label_path(case, challenge)
    target = Target(grid, frameless=challenge.output.identity_frame)
    masks = open_masks(LabelFiles(case.name, file, {}), challenge, target)
    return map_organs(masks, challenge.organs, grid.shape, turn)


def _view(upright: Volume, organs: OrganMap, challenge: Challenge) -> PageView:
    """Show the body, where the image is a CT, and every organ."""
    shape = upright.grid.shape
    box = [(0, length) for length in shape]
    if challenge.reference.modality == "CT":
        box = list(body_box(find_body(upright), upright.grid))
    for present in organs.boxes:
        if present is not None:
            box = [
                (min(low, side.start), max(high, side.stop))
                for (low, high), side in zip(box, present, strict=True)
            ]
    (z, y, x) = box
    return PageView((z[0], y[0], x[0]), (z[1], y[1], x[1]))


@dataclass(frozen=True)
class _Other:
    """Another image of the case: registered to the reference, or on its grid already."""

    name: str
    modality: str
    image: Volume
    transform: Any = None

    def draw(self, whole: Grid, view: PageView) -> Layer:
        if self.transform is None and self.modality == "CT":
            return ct_layer(self.name, self.image, view)
        if self.transform is None:
            return other_layer(self.name, self.modality, self.image, view)
        outside = min(0.0, float(self.image.array.min()))
        grid = view.grid(whole)
        moved = resample_moving(self.image, self.transform, grid, outside=outside)
        return other_layer(self.name, self.modality, moved, PageView((0, 0, 0), grid.shape))


def _other_images(
    case: Case, challenge: Challenge, report: Mapping[str, Any], grid: Grid, turn: Turn
) -> Iterator[_Other]:
    for socket in challenge.sockets:
        if socket.reference or socket.channel not in case.files:
            continue
        source = case.source(socket.channel)
        if socket.placed == "registered":
            found = report.get("registration")
            if isinstance(found, dict) and found.get("status") != "failed":
                image = read_scan.read_mr(source)
                yield _Other(socket.channel, socket.modality, image, _transform(found, case))
            continue
        image = turn.volume(read_scan.read_volume(source, warn=log.debug))
        if image.grid.matches(grid, tolerance_mm=1e-2):
            yield _Other(socket.channel, socket.modality, image)


def _transform(found: Mapping[str, Any], case: Case) -> Any:
    try:
        return registration.transform_of(found)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{case.name}: expected a registration in its report, found one that cannot be used; "
            "segment the case again"
        ) from error


def _page_bytes(voxels: int) -> int:
    share = (voxels - SMALL_VOXELS) / (LARGE_VOXELS - SMALL_VOXELS)
    return round(SMALL_BYTES + (LARGE_BYTES - SMALL_BYTES) * min(1.0, max(0.0, share)))
