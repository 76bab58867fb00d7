"""The metrics against surface-distance, medpy and evalutils, and against plain geometry."""

import math
from dataclasses import replace

import numpy as np
import pytest
import surface_distance
from grand_challenge_metrics import stats
from medpy.metric import binary
from numpy.typing import NDArray
from scipy import ndimage
from surface_distance import lookup_tables

from oarseg.challenges import catalogue
from oarseg.challenges.challenge import Evaluation
from oarseg.evaluation import surfaces
from oarseg.evaluation.metrics import DEFINITIONS, compare_masks
from oarseg.evaluation.scoring import Sides, score_case
from oarseg.evaluation.surfaces import area_table
from oarseg.imaging.volume import Grid
from oarseg.labels.boxes import label_boxes
from oarseg.labels.mask import CroppedMask, cut_to_box
from oarseg.labels.open_masks import LabelMap

HAN_SEG = catalogue.load_challenge("han_seg")
Array = NDArray[np.bool_]
Pair = tuple[Array, Array]

# surface-distance asks scipy for functions by their former names.
pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


def cut(array: Array) -> CroppedMask:
    mask = cut_to_box(array)
    assert mask is not None
    return mask


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> Array:
    squares = sum((index - c) ** 2 for index, c in zip(np.indices(shape), centre, strict=True))
    return np.asarray(squares <= radius**2)


def box(shape: tuple[int, int, int], *sides: slice) -> Array:
    array = np.zeros(shape, bool)
    array[sides] = True
    return array


def noise(seed: int, *, smooth: bool) -> Pair:
    rng = np.random.default_rng(seed)
    pair = []
    for _ in range(2):
        array = rng.random((9, 12, 10))
        array = ndimage.gaussian_filter(array, 1.2) if smooth else array
        pair.append(array > np.quantile(array, rng.uniform(0.3, 0.97)))
    return pair[0], pair[1]


SHAPE = (14, 18, 16)
PAIRS: dict[str, Pair] = {
    **{f"noise {seed}": noise(seed, smooth=False) for seed in range(6)},
    **{f"blobs {seed}": noise(seed, smooth=True) for seed in range(6)},
    "balls": (ball(SHAPE, (6, 8, 8), 5), ball(SHAPE, (7, 9, 7), 4.5)),
    "apart": (ball(SHAPE, (3, 3, 3), 2), ball(SHAPE, (10, 14, 12), 2.4)),
    "equal": (ball(SHAPE, (6, 8, 8), 5), ball(SHAPE, (6, 8, 8), 5)),
    "voxels": (box(SHAPE, *[slice(3, 4)] * 3), box(SHAPE, *[slice(9, 10)] * 3)),
    "voxel at the corners": (box(SHAPE, *[slice(0, 1)] * 3), box(SHAPE, *[slice(-1, None)] * 3)),
    "touching borders": (ball(SHAPE, (0, 9, 15), 6), ball(SHAPE, (2, 17, 15), 7)),
    "all and one": (np.ones(SHAPE, bool), box(SHAPE, *[slice(5, 6)] * 3)),
    "plane": (box(SHAPE, slice(4, 5)), box(SHAPE, slice(6, 9))),
    "far voxel": (
        ball(SHAPE, (6, 8, 8), 4) | box(SHAPE, *[slice(-1, None)] * 3),
        ball(SHAPE, (6, 8, 8), 4),
    ),
}
SPACINGS = ((1.0, 1.0, 1.0), (3.0, 0.5, 0.5), (2.0, 0.64, 0.81))
TOLERANCES = (0.5, 1.28, 3.0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", PAIRS)
def test_as_surface_distance(name: str, spacing: tuple[float, float, float]) -> None:
    prediction, reference = PAIRS[name]
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
    for tolerance in TOLERANCES:
        ours = compare_masks(
            cut(prediction), cut(reference), spacing_mm=spacing, tolerance_mm=tolerance
        )
        nsd = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert ours.nsd == pytest.approx(nsd, abs=1e-6)
    assert ours.hd95_mm == pytest.approx(
        surface_distance.compute_robust_hausdorff(theirs, 95), abs=1e-6
    )
    average = surface_distance.compute_average_surface_distance(theirs)
    assert ours.msd_mm == pytest.approx(np.mean(average), abs=1e-6)
    dice = surface_distance.compute_dice_coefficient(reference, prediction)
    assert ours.dsc == pytest.approx(dice, abs=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", PAIRS)
def test_as_medpy_and_evalutils(name: str, spacing: tuple[float, float, float]) -> None:
    prediction, reference = PAIRS[name]
    medpy, evalutils = (
        compare_masks(
            cut(prediction),
            cut(reference),
            spacing_mm=spacing,
            tolerance_mm=1.0,
            definition=definition,
        )
        for definition in DEFINITIONS[1:]
    )
    assert medpy.dsc == pytest.approx(binary.dc(prediction, reference), abs=1e-9)
    assert medpy.hd95_mm == pytest.approx(binary.hd95(prediction, reference, spacing), abs=1e-6)
    assert medpy.msd_mm == pytest.approx(binary.assd(prediction, reference, spacing), abs=1e-6)
    percentile = stats.percentile_hausdorff_distance(prediction, reference, 0.95, spacing)
    assert evalutils.hd95_mm == pytest.approx(percentile, abs=1e-6)
    confusion = stats.calculate_confusion_matrix(
        reference.astype(int), prediction.astype(int), labels=[0, 1]
    )
    dice = stats.dice_from_confusion_matrix(confusion)[1]
    assert evalutils.dsc == pytest.approx(dice, abs=1e-9)
    volumes = stats.absolute_volume_difference(
        prediction.astype(int), reference.astype(int), voxelspacing=spacing
    )
    assert abs(evalutils.volume_difference_cm3) == pytest.approx(volumes / 1000, abs=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_are_those_of_surface_distance(spacing: tuple[float, float, float]) -> None:
    theirs = lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
    kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.ravel()
    for number, area in enumerate(area_table(spacing)):
        code = sum(int(kernel[bit]) for bit in range(8) if number >> bit & 1)
        assert area == pytest.approx(theirs[code], abs=1e-12)


def test_two_voxels_by_hand() -> None:
    # Six voxels apart along z, whose spacing is 2 mm: five voxels between.
    one, other = (box((9, 3, 3), slice(z, z + 1), slice(1, 2), slice(1, 2)) for z in (1, 7))
    for definition in DEFINITIONS:
        found = compare_masks(
            cut(one),
            cut(other),
            spacing_mm=(2.0, 1.0, 1.0),
            tolerance_mm=1.0,
            definition=definition,
        )
        # The nearer corners of the two voxels are 10 mm apart, the others 12 mm.
        assert found.hd95_mm == 12.0
        assert (found.dsc, found.nsd, found.volume_difference_cm3) == (0.0, 0.0, 0.0)


def test_slab_against_slab_by_hand() -> None:
    # One plane of voxels and two, of 1 mm. But for the rim, all area is in the two faces:
    # one lies in the other slab's face, the other one 1 mm from it.
    thin = box((6, 240, 240), slice(2, 3))
    thick = box((6, 240, 240), slice(2, 4))
    found = compare_masks(cut(thick), cut(thin), spacing_mm=(1.0, 1.0, 1.0), tolerance_mm=0.9)
    assert found.dsc == pytest.approx(2 / 3)
    assert found.hd95_mm == 1.0
    assert found.nsd == pytest.approx(0.5, abs=0.02)
    assert found.msd_mm == pytest.approx(0.5, abs=0.02)
    assert found.volume_difference_cm3 == pytest.approx(240 * 240 / 1000)


def test_distance_equal_to_the_tolerance_is_within_it() -> None:
    # 7 × 0.64 mm and a tolerance of 4.48 mm: rounding must not decide.
    one, other = (box((3, 3, 20), slice(1, 2), slice(1, 2), slice(x, x + 1)) for x in (2, 9))
    found = compare_masks(cut(one), cut(other), spacing_mm=(1.0, 1.0, 0.64), tolerance_mm=7 * 0.64)
    assert found.nsd == 1.0


def test_area_of_a_ball() -> None:
    mask = ball((50, 50, 50), (24.5, 24.5, 24.5), 20)
    area = surfaces.surface_elements(cut(mask), (1.0, 1.0, 1.0)).areas.sum()
    # Marching cubes at a half on 0 and 1 overstates smooth surfaces by about a tenth.
    assert area == pytest.approx(4 * math.pi * 20**2, rel=0.12)


def test_surfaces_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = cut(PAIRS["noise 3"][0])
    whole = surfaces.surface_elements(mask, (1.0, 1.0, 1.0)), surfaces.border_voxels(mask)
    for planes in (1, 3):
        size = planes * (mask.array.shape[1] + 2) * (mask.array.shape[2] + 2)
        monkeypatch.setattr(surfaces, "CHUNK_VOXELS", size)
        parts = surfaces.surface_elements(mask, (1.0, 1.0, 1.0)), surfaces.border_voxels(mask)
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_array_equal(one.points, other.points)
            np.testing.assert_array_equal(one.areas, other.areas)


def test_boxes_and_empty_masks() -> None:
    array = box((5, 6, 7), slice(1, 3), slice(2, 6), slice(0, 1))
    mask = cut(array)
    assert (mask.start, mask.array.shape, mask.voxels) == ((1, 2, 0), (2, 4, 1), 8)
    assert cut_to_box(np.zeros((3, 3, 3), np.uint8)) is None
    empty = CroppedMask(np.zeros((2, 2, 2), bool))
    with pytest.raises(ValueError, match="must hold voxels"):
        compare_masks(mask, empty, spacing_mm=(1.0, 1.0, 1.0), tolerance_mm=1.0)
    assert mask.intersection(CroppedMask(np.ones((2, 2, 2), bool), (3, 0, 0))) == 0


@pytest.mark.filterwarnings("ignore:invalid value encountered in scalar divide:RuntimeWarning")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("empty", ["prediction", "reference", "both"])
def test_empty_masks_as_the_oracles_where_they_answer(
    empty: str, spacing: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """medpy refuses distances to nothing; a Dice of nothing with nothing is NaN to one, 0 to
    another. The challenge's rules decide; where both oracles agree they give the same."""
    # surface-distance 0.1 asks NumPy 2 for names that it no longer has.
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    monkeypatch.setattr(np, "NaN", np.nan, raising=False)
    full, nothing = PAIRS["balls"][0], np.zeros(SHAPE, bool)
    prediction = nothing if empty in ("prediction", "both") else full
    reference = nothing if empty in ("reference", "both") else full
    rules = replace(
        HAN_SEG, evaluation=Evaluation(reference_empty="worst", both_empty="best", pairs=())
    )
    structure = rules.structures[0].name
    sides = Sides(
        LabelMap(prediction.astype(np.uint8), tuple(label_boxes(prediction.astype(np.uint8), 30))),
        LabelMap(reference.astype(np.uint8), tuple(label_boxes(reference.astype(np.uint8), 30))),
        Grid(SHAPE, spacing),
    )
    found = score_case("a", sides, rules, definition="surface-distance", threads=1).scores
    ours = next(score for score in found if score.structure == structure)
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
    hausdorff = surface_distance.compute_robust_hausdorff(theirs, 95)
    nsd = surface_distance.compute_surface_dice_at_tolerance(theirs, 1.0)
    if empty == "both":
        assert (ours.dsc, ours.nsd, ours.hd95_mm, ours.msd_mm) == (1.0, 1.0, 0.0, 0.0)
        assert math.isnan(surface_distance.compute_dice_coefficient(reference, prediction))
        assert math.isnan(nsd)
    else:
        assert ours.hd95_mm == hausdorff == math.inf
        assert ours.nsd == nsd == 0.0
        dice = surface_distance.compute_dice_coefficient(reference, prediction)
        assert ours.dsc == dice == binary.dc(prediction, reference) == 0.0
        with pytest.raises(RuntimeError, match="binary object"):
            binary.hd95(prediction, reference, spacing)
