"""The page of a case: pictures, contours and numbers in one file; or a failed case's message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from oarseg.challenges.structures import Organ
from oarseg.imaging.volume import Grid
from oarseg.labels.boxes import Box
from oarseg.results.page.banner import add_banner, describe_grid
from oarseg.results.page.document import add, add_data, add_packed, render
from oarseg.results.page.greys import Layer, PageView
from oarseg.results.page.organ_map import OrganMap
from oarseg.results.page.organ_table import add_table
from oarseg.results.page.texts import part

# A plane names two directions where the second is at least this much of the whole.
NAMED_COSINE = 0.1
# The page's letters of the patient's directions; the first points along LPS axes x, y, z.
LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))
GROUP_SIZE = 6
# In the order in which they are joined; what runs at once is in the first and the last.
VIEWER = tuple(
    f"viewer/{name}.js"
    for name in (
        "state",
        "reading",
        "greys",
        "contours",
        "drawing",
        "words",
        "actions",
        "sheets",
        "start",
    )
)
WINDOWS = (
    ("Soft tissue", 40, 400),
    ("Brain", 40, 80),
    ("Bone", 600, 2400),
    ("Lung and airway", -500, 1500),
    ("Wide", 500, 3000),
)
HELP = (
    "Wheel, ↑ ↓ or the slider: slice. Click or drag: all planes follow. + − zoom, 0 whole image. "
    "C contours, X lines, 1 to 5 window."
)


@dataclass(frozen=True)
class Pictures:
    """What a page shows beside the numbers.

    Attributes:
        grid: of the image whose axes run to the left, to the back and up.
        view: the part of it that is shown.
        layers: the reference image and, perhaps, another on the same grid.
        organs: where they are.
    """

    grid: Grid
    view: PageView
    layers: tuple[Layer, ...]
    organs: OrganMap


def case_page(
    report: Mapping[str, Any], organs: Sequence[Organ], stored: Grid, pictures: Pictures
) -> str:
    """Build the page of a case.

    Args:
        report: the case's, from its JSON file.
        organs: of the challenge, in its order.
        stored: the reference image's grid as its file has it.
        pictures: images and contours.
    """
    body = Element("body")
    add_banner(body, report, describe_grid(stored, oblique_deg(pictures.grid)))
    main = add(body, "main")
    _add_viewer(main, pictures)
    side = add(main, "section", class_="organs", aria_label="Organs")
    buttons = add(side, "p", class_="buttons")
    for name, text in (("all", "All"), ("none", "None"), ("raised", "Raised only")):
        add(buttons, "button", text, type="button", data_contours=name)
    add_table(side, report, organs, shown=True)
    _add_sources(side, report)
    add(body, "section", id="sheets", aria_hidden="true")
    add_data(body, "data", _data(report, organs, pictures))
    for index, layer in enumerate(pictures.layers):
        add_packed(body, f"layer{index}", layer.packed)
    add_packed(body, "codes", pictures.organs.packed())
    return render(str(report.get("case", "")), body, scripts=VIEWER)


def failure_page(case: str, messages: Sequence[str]) -> str:
    """Build the page of a case that could not be segmented."""
    body = Element("body")
    header = add(body, "header", class_="banner")
    line = add(header, "div", class_="title")
    add(line, "h1", case)
    add(line, "p", "Not segmented", class_="verdict failed")
    for message in messages:
        add(header, "p", message, class_="failure", role="alert")
    return render(case, body)


def oblique_deg(grid: Grid) -> float:
    """Return the greatest angle between an image's axes and the patient's."""
    cosines = np.abs(np.diag(np.asarray(grid.direction)))
    return float(np.degrees(np.arccos(np.clip(cosines.min(), 0, 1))))


def direction_letters(grid: Grid) -> list[tuple[str, str]]:
    """Name where the array's axes (z, y, x) come from and lead to, the main direction first.

    An axis between two of the patient's directions has both: "LP" leads to the left and back.
    """
    axes = np.asarray(grid.direction)[:, ::-1].T
    return [(_letters(-axis), _letters(axis)) for axis in axes]


def _letters(way: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    order = np.argsort(-np.abs(way), kind="stable")
    named = [axis for axis in order if abs(way[axis]) >= NAMED_COSINE]
    return "".join(LETTERS[axis][0 if way[axis] > 0 else 1] for axis in named)


def _add_viewer(main: Element, pictures: Pictures) -> None:
    viewer = add(main, "section", class_="viewer", aria_label="Images")
    tools = add(viewer, "div", class_="tools")
    if len(pictures.layers) > 1:
        _add_modes(tools, [layer.name for layer in pictures.layers])
    if pictures.layers[0].modality == "CT":
        label = add(tools, "label", "Window ")
        select = add(label, "select", id="window")
        for name, centre, width in WINDOWS:
            add(select, "option", f"{name} {centre}/{width}", value=f"{centre},{width}")
    for identifier, text in (("contours", "Contours"), ("lines", "Lines")):
        label = add(tools, "label")
        add(label, "input", type="checkbox", checked=True, id=identifier)
        add(label, "span", text)
    zoom = add(tools, "span", class_="zoom", role="group", aria_label="Zoom")
    for factor, text, title in (
        ("1.5", "+", "Larger"),
        ("0.667", "−", "Smaller"),
        ("0", "Whole", "Whole image"),
    ):
        add(zoom, "button", text, type="button", title=title, data_zoom=factor)
    planes = add(viewer, "div", class_="planes")
    for index, name in enumerate(("Axial", "Coronal", "Sagittal")):
        figure = add(planes, "figure", class_=name.lower())
        add(figure, "canvas", tabindex=0, role="img", aria_label=name, data_plane=index)
        label = add(figure, "label")
        add(label, "span", f"{name} slice ", class_="name")
        add(label, "input", type="range", min=0, step=1, data_slice=index)
        add(label, "output", data_number=index)
    add(viewer, "p", "Loading the images …", id="status", role="status")
    add(viewer, "p", HELP, class_="help")
    add(viewer, "p", _shrinking(pictures), class_="help")


def _add_modes(tools: Element, names: Sequence[str]) -> None:
    modes = add(tools, "fieldset")
    add(modes, "legend", "Image")
    first, second = names[0], names[1]
    for value, text in (
        ("0", first),
        ("1", f"{second}, moved"),
        ("blend", "blend"),
        ("checker", "checkerboard"),
    ):
        label = add(modes, "label")
        checked = value == "0"
        add(label, "input", type="radio", name="mode", value=value, checked=checked)
        add(label, "span", text)
    label = add(tools, "label", f"Share of {second} ")
    add(label, "input", type="range", id="blend", min=0, max=100, value=50)
    label = add(tools, "label", f"Brightness of {second} ")
    add(label, "input", type="range", id="brightness", min=20, max=300, value=100)


def _shrinking(pictures: Pictures) -> str:
    factor = pictures.view.factor
    shown = (
        "Grey values are cropped to the body and rounded to 256 levels, finest from −200 to 300 HU"
    )
    if factor > 1:
        y, x = (spacing * factor for spacing in pictures.grid.spacing_mm[1:])
        shown += f", and are means of {factor} × {factor} voxels in plane ({x:.2f} × {y:.2f} mm)"
    return f"{shown}. Contours run along the edges of the masks' own voxels."


def _add_sources(side: Element, report: Mapping[str, Any]) -> None:
    sources = part(report, "checks", "sources")
    if not sources:
        return
    details = add(side, "details")
    add(details, "summary", "Where the limits come from")
    for name, text in sources.items():
        add(details, "p", f"{name}: {text}")


def _data(report: Mapping[str, Any], organs: Sequence[Organ], pictures: Pictures) -> dict[str, Any]:
    grid, view, found = pictures.grid, pictures.view, pictures.organs
    linear, origin = grid.index_to_world()
    return {
        "case": str(report.get("case", "")),
        "shape": grid.shape,
        "spacing": grid.spacing_mm,
        "toWorld": {"linear": linear.tolist(), "origin": origin.tolist()},
        "letters": direction_letters(grid),
        "oblique": round(oblique_deg(grid), 1),
        "view": {"start": view.start, "stop": view.stop, "factor": view.factor},
        "layers": [
            {
                "name": layer.name,
                "ct": layer.modality == "CT",
                "shape": layer.shape,
                "levels": layer.levels,
            }
            for layer in pictures.layers
        ],
        "codes": {"start": found.start, "shape": found.codes.shape},
        "organs": [
            {
                "name": organ.name,
                "colour": organ.colour,
                "codes": codes,
                "box": _corners(box),
                "at": _centre(report, organ.name, grid, box),
            }
            for organ, codes, box in zip(organs, found.members, found.boxes, strict=True)
        ],
        "groups": _groups(found.boxes),
    }


def _corners(box: Box | None) -> list[list[int]] | None:
    return None if box is None else [[side.start, side.stop] for side in box]


def _centre(report: Mapping[str, Any], organ: str, grid: Grid, box: Box | None) -> list[int] | None:
    """Return the voxel to jump to: the report's centroid, else the middle of the box."""
    if box is None:
        return None
    centroid = part(report, "checks", "organs", organ).get("centroid_mm")
    middle = np.array([(side.start + side.stop - 1) / 2 for side in box])
    if isinstance(centroid, list) and len(centroid) == 3 and _all(centroid, _is_finite):
        middle = grid.to_index(np.array([centroid], float))[0]
    return [int(v) for v in np.clip(np.rint(middle), 0, np.array(grid.shape) - 1)]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _all(values: Sequence[Any], holds: Callable[[Any], bool]) -> bool:
    return all(map(holds, values))


def _groups(boxes: Sequence[Box | None]) -> list[list[int]]:
    """Group organs that lie at one height, from the top down, for the sheets that are printed."""
    present = [(index, box) for index, box in enumerate(boxes) if box is not None]
    order = sorted(present, key=lambda pair: -(pair[1][0].start + pair[1][0].stop))
    indices = [index for index, _ in order]
    return [indices[k : k + GROUP_SIZE] for k in range(0, len(indices), GROUP_SIZE)]
