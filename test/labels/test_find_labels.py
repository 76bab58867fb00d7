"""Label files of several channels: 4-D images and Slicer segmentations, and whose they are."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from oarseg.cases.case import label_path
from oarseg.cases.find_cases import find_cases
from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Challenge, Organ
from oarseg.challenges.plausibility import Plausibility
from oarseg.errors import InputError
from oarseg.evaluation.evaluate import EvaluationSettings, Summary, evaluate_folders
from oarseg.imaging.volume import Grid, reversed_triple, set_geometry
from oarseg.labels.find_labels import find_labels

GRID = Grid((6, 9, 11), (2.0, 1.0, 1.5), (-10.0, 5.0, 7.0))
FRAMELESS = replace(GRID, origin_mm=(0.0, 0.0, 0.0))
Labels = NDArray[np.uint8]


def organ(name: str, *labels: int) -> Organ:
    return Organ(name=name, labels=labels, snomed="0", meaning=name, colour=(1, 2, 3))


HAN_SEG = catalogue.load_challenge("han_seg")
# Three labels make three organs that overlap: the second lies within the first.
RULES = replace(
    HAN_SEG,
    case_prefix="segrap_",
    output=replace(HAN_SEG.output, form="channels", identity_frame=True, ending=".mha"),
    overlapping=(organ("Brain", 1, 2), organ("BrainStem", 2), organ("Chiasm", 3)),
    evaluation=replace(HAN_SEG.evaluation, pairs=(), baseline={}, tolerances_mm={}),
    plausibility=Plausibility(),
)


def truth() -> Labels:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[1:5, 1:7, 1:8] = 1
    labels[2:4, 3:6, 3:6] = 2
    labels[5, 8, 9:11] = 3
    return labels


def channels(labels: Labels, rules: Challenge = RULES) -> Labels:
    return np.stack([np.isin(labels, organ.labels) for organ in rules.organs]).astype(np.uint8)


def write(path: Path, labels: NDArray[np.generic], grid: Grid = GRID) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(set_geometry(sitk.GetImageFromArray(labels), grid), str(path), True)


def write_channels(path: Path, array: NDArray[np.generic], grid: Grid = GRID) -> None:
    """A 4-D image as SimpleITK writes it, with (sx, sy, sz, 1) as its spacing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing([*reversed_triple(grid.spacing_mm), 1.0])
    image.SetOrigin([*grid.origin_mm, 0.0])
    direction = np.eye(4)
    direction[:3, :3] = grid.direction
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path), True)


def write_layers(path: Path, layers: Labels, segments: list[tuple[str, int, int]]) -> None:
    """A Slicer segmentation: layers (n, z, y, x) lie together in each voxel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y, z = reversed_triple(GRID.spacing_mm)
    many = len(layers) > 1
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {4 if many else 3}",
        "space: left-posterior-superior",
        f"sizes: {f'{len(layers)} ' if many else ''}{' '.join(map(str, reversed(GRID.shape)))}",
        f"space directions: {'none ' if many else ''}({x},0,0) (0,{y},0) (0,0,{z})",
        f"kinds: {'list ' if many else ''}domain domain domain",
        "encoding: gzip",
        f"space origin: ({','.join(map(str, GRID.origin_mm))})",
    ]
    for number, (name, layer, value) in enumerate(segments):
        lines += [f"Segment{number}_ID:=Segment_{number}", f"Segment{number}_Name:={name}"]
        lines += [f"Segment{number}_Layer:={layer}", f"Segment{number}_LabelValue:={value}"]
    data = np.ascontiguousarray(np.moveaxis(layers, 0, -1)).tobytes()
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + gzip.compress(data))


def run(
    tmp_path: Path, settings: EvaluationSettings | None = None, rules: Challenge = RULES
) -> Summary:
    return evaluate_folders(
        tmp_path / "p",
        tmp_path / "r",
        challenge=rules,
        out=tmp_path / "out",
        settings=settings or EvaluationSettings(plot=False),
    )


def dices(summary: Summary, case: str = "segrap_0001") -> dict[str, float]:
    return {score.structure: score.dsc for score in summary.scores if score.case == case}


PERFECT = {"Brain": 1.0, "BrainStem": 1.0, "Chiasm": 1.0}


def in_layout(layout: str, folder: Path) -> None:
    """The truth in a layout."""
    case = folder / "segrap_0001"
    if layout == "organs' masks":
        for organ, mask in zip(RULES.organs, channels(truth()), strict=True):
            write(case / f"{organ.name}.nii.gz", mask)
        write(case / "image.nii.gz", truth())
        write(case / "image_contrast.nii.gz", truth())
    elif layout == "label map":
        write(folder / "segrap_0001.nii.gz", truth())
    elif layout == "label map of 16 bits":
        write(folder / "segrap_0001.mha", truth().astype(np.int16))
    elif layout == "platform":
        write_channels(folder / "images/head_neck_oar/segrap_0001.mha", channels(truth()))
    elif layout == "platform, frameless":
        path = folder / "images/head_neck_oar/segrap_0001.mha"
        write_channels(path, channels(truth()), FRAMELESS)
    elif layout == "4-D NIfTI of floats":
        write_channels(case / "label.nii.gz", channels(truth()).astype(np.float32))
    elif layout == "segmentation in layers":
        # As Slicer numbers them: not in the order of the challenge, values not its labels.
        brain, stem, chiasm = channels(truth())
        layers = np.stack([brain * 7 + chiasm * 3, stem])
        names = [("Chiasm", 0, 3), ("BrainStem", 1, 1), ("Brain", 0, 7)]
        write_layers(folder / "segrap_0001.seg.nrrd", layers, names)
    else:
        assert layout == "segmentation in one layer"
        names = [("Chiasm", 0, 2), ("BrainStem", 0, 1), ("Brain", 0, 3)]
        swapped = np.array([0, 3, 1, 2], np.uint8)[truth()]
        write_layers(folder / "segrap_0001.seg.nrrd", swapped[None], names)


LAYOUTS = (
    "organs' masks",
    "label map",
    "label map of 16 bits",
    "platform",
    "platform, frameless",
    "4-D NIfTI of floats",
    "segmentation in layers",
)


@pytest.mark.parametrize("reference", LAYOUTS)
@pytest.mark.parametrize("prediction", LAYOUTS)
def test_overlapping_organs_in_every_layout(
    tmp_path: Path, prediction: str, reference: str
) -> None:
    in_layout(prediction, tmp_path / "p")
    in_layout(reference, tmp_path / "r")
    summary = run(tmp_path)
    assert summary.problems == ()
    assert dices(summary) == PERFECT


def test_segments_count_by_their_names_not_their_values(tmp_path: Path) -> None:
    in_layout("segmentation in one layer", tmp_path / "p")
    in_layout("label map", tmp_path / "r")
    found = dices(run(tmp_path))
    # The brain's segment lacks the stem, which a single layer cannot hold twice.
    brain, stem = (np.isin(truth(), labels).sum() for labels in ((1, 2), (2,)))
    assert found == {**PERFECT, "Brain": pytest.approx(2 * (brain - stem) / (2 * brain - stem))}


def test_unknown_segments_are_told(tmp_path: Path) -> None:
    in_layout("label map", tmp_path / "r")
    file = tmp_path / "p" / "segrap_0001.seg.nrrd"
    write_layers(file, truth()[None], [("Brain", 0, 1), ("Tail", 0, 2), ("Chiasm", 0, 3)])
    summary = run(tmp_path)
    problem, one_sided = summary.problems
    assert one_sided.message == "only the reference has BrainStem: missed"
    assert "values or segments that are not in han_seg's table (Tail)" in problem.message
    scores = {score.structure: score for score in summary.scores}
    assert (scores["BrainStem"].status, scores["BrainStem"].note) == (
        "missed",
        "no segment in the prediction",
    )
    write_layers(file, truth()[None], [("Segment_1", 0, 1)])
    with pytest.raises(InputError, match="segments named as han_seg's structures, found Segment_1"):
        run(tmp_path)


def test_other_number_of_channels_is_refused(tmp_path: Path) -> None:
    for case in ("segrap_0001", "segrap_0002"):
        write_channels(tmp_path / "p" / f"{case}.mha", channels(truth()))
        write_channels(tmp_path / "r" / f"{case}.mha", channels(truth()))
    write_channels(tmp_path / "p" / "segrap_0002.mha", channels(truth())[:2])
    summary = run(tmp_path)
    (problem,) = summary.problems
    assert problem.name == "segrap_0002"
    assert "expected 3 channels, one a structure of han_seg, found 2" in problem.message
    assert dices(summary) == PERFECT
    assert dices(summary, "segrap_0002") == dict.fromkeys(PERFECT, 0.0)


def test_frameless_file_of_another_size_is_never_resampled(tmp_path: Path) -> None:
    for case in ("segrap_0001", "segrap_0002"):
        write_channels(tmp_path / "r" / f"{case}.mha", channels(truth()))
        write_channels(tmp_path / "p" / f"{case}.mha", channels(truth()), FRAMELESS)
    cut = replace(FRAMELESS, shape=(5, 9, 11))
    write_channels(tmp_path / "p" / "segrap_0002.mha", channels(truth())[:, 1:], cut)
    summary = run(tmp_path, EvaluationSettings(plot=False, resample=True))
    (problem,) = summary.problems
    assert "found 11×9×5 voxels" in problem.message
    strict = replace(RULES, output=replace(RULES.output, identity_frame=False))
    with pytest.raises(InputError, match=r"from \(-10, 5, 7\), found 11×9×6 voxels of .* from \(0"):
        run(tmp_path, rules=strict)


def test_channels_on_another_grid_are_resampled(tmp_path: Path) -> None:
    """Each voxel doubled along z, cut to its box: moved back, nothing is lost."""
    fine = replace(GRID, shape=(12, 9, 11), spacing_mm=(1.0, 1.0, 1.5), origin_mm=(-10, 5, 6.5))
    write_channels(tmp_path / "p" / "segrap_0001.mha", np.repeat(channels(truth()), 2, 1), fine)
    in_layout("label map", tmp_path / "r")
    summary = run(tmp_path, EvaluationSettings(plot=False, resample=True))
    assert dices(summary) == PERFECT


def test_masks_of_other_things_among_the_organs_are_told_once(tmp_path: Path) -> None:
    for case in ("segrap_0001", "segrap_0002"):
        in_layout("organs' masks", tmp_path / "r")
        for name in ("Brain", "GTVp"):
            write(tmp_path / "r" / case / f"{name}.nii.gz", channels(truth())[0])
        write(tmp_path / "p" / f"{case}.nii.gz", truth())
    summary = run(tmp_path)
    problem, one_sided = summary.problems
    assert (one_sided.name, one_sided.message) == (
        "segrap_0002",
        "only the prediction has BrainStem, Chiasm: not scored",
    )
    assert problem.name == "segrap_0001, segrap_0002"
    assert "and others: expected a structure of han_seg, found 'GTVp'" in problem.message


def test_damaged_channels_are_told(tmp_path: Path) -> None:
    for case in ("segrap_0001", "segrap_0002"):
        write_channels(tmp_path / "r" / f"{case}.mha", channels(truth()))
        write_channels(tmp_path / "p" / f"{case}.mha", channels(truth()))
    file = tmp_path / "p" / "segrap_0002.mha"
    whole = file.read_bytes()
    for damaged in (whole[:-10], whole.replace(b"DimSize = 11 9 6 3", b"DimSize = 11 9 6 0")):
        file.write_bytes(damaged)
        summary = run(tmp_path)
        (problem,) = summary.problems
        assert (problem.name, summary.unanswered) == ("segrap_0002", ("segrap_0002",))
        assert dices(summary) == PERFECT


@pytest.mark.parametrize("folder", ["", "HaN_OAR"])
def test_folders_of_numbers(tmp_path: Path, folder: str) -> None:
    """StructSeg: the folder is the case, data.nii.gz an image."""
    for side in ("p", "r"):
        for case in ("1", "12"):
            write(tmp_path / side / folder / case / "label.nii.gz", truth())
            write(tmp_path / side / folder / case / "data.nii.gz", truth())
    summary = run(tmp_path, rules=HAN_SEG)
    assert {score.case for score in summary.scores} == {"1", "12"}
    assert summary.problems == ()
    assert all(score.dsc == 1.0 for score in summary.scores if score.status == "scored")


def test_predictions_of_images_in_small_letters_have_the_images_case(tmp_path: Path) -> None:
    """``a_ct.mha`` is an image of case a, so that its label map is, which keeps the name."""
    for folder, name in (("ct", "a_ct.mha"), ("head_neck_oar", "a_ct.mha")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "images" / folder / name).touch()
    (case,) = find_cases(tmp_path, HAN_SEG, required=frozenset()).cases
    assert label_path(case, HAN_SEG) == Path("images/head_neck_oar/a_ct.mha")
    (found,) = find_labels(tmp_path, HAN_SEG).cases
    assert found.case == case.name == "a"
