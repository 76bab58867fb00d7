"""What each kind of randomisation does to the images: one of them at a time, beside none."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid
from oarseg.phantom import PhantomSpec
from oarseg.phantom.grids import draw_ct_grid
from oarseg.phantom.patient.anatomy import Anatomy, make_anatomy
from oarseg.phantom.patient.parts import Draws, Part, fill
from oarseg.phantom.patient.pose import Pose
from oarseg.phantom.patient.shapes import Ellipsoid
from oarseg.phantom.patient.structures import number_structures
from oarseg.phantom.patient.tissues import TISSUES
from oarseg.phantom.randomise.additions import (
    FATTY,
    draw_arms,
    draw_parotid_veins,
    draw_vessels,
    infiltrate,
)
from oarseg.phantom.randomise.body import draw_nodes, draw_tumours, lose_teeth, vary_anatomy
from oarseg.phantom.randomise.ct import VariedCt
from oarseg.phantom.randomise.levels import Level, load_levels
from oarseg.phantom.randomise.mr import VariedMr
from oarseg.phantom.randomise.tissues import vary_signals
from oarseg.phantom.scanner import CtScanner, MrScanner, View

SEED = 3
STILL = Pose(RigidTransform(), (1.0, 1.0, 1.0), 0.0, ())
OWNERS = number_structures()
ONES = ("airway", "field", "reach", "mr_noise", "wave_growth", "bias")


def quiet() -> Level:
    """Level 2 without anything random, and without noise."""
    level = load_levels()["2"]
    changes: dict[str, Any] = {}
    for name in (field.name for field in fields(level)):
        kind = getattr(level, name)
        value = 1.0 if name in ONES else 0.0
        changes[name] = (value,) * len(kind) if isinstance(kind, tuple) else value
    return replace(level, **changes)


QUIET = quiet()


@cache
def patient() -> Anatomy:
    """A patient of level 0 whose anatomical coordinates are those of the CT's world."""
    return replace(make_anatomy(SEED, metal_rate=0.0), pose=STILL)


def plane_grid(z: float) -> Grid:
    """One axial plane: 300 × 300 pixels of 1.5 mm about the anatomy's origin."""
    return Grid((1, 300, 300), (2.0, 1.5, 1.5), (-224.25, -224.25, z))


def pixel(x: float, y: float) -> tuple[int, int]:
    """Row and column of a point in the plane."""
    return round((y + 224.25) / 1.5), round((x + 224.25) / 1.5)


def ct(anatomy: Anatomy, z: float, level: Level = QUIET) -> tuple[np.ndarray, np.ndarray]:
    """HU and owners of one plane."""
    scanner = VariedCt.vary(CtScanner.draw(SEED, anatomy), level, pixel_mm=1.5)
    image, owners = scanner.scan(View(anatomy, plane_grid(z)))
    return image.array[0].astype(float), owners.array[0]


def mr(anatomy: Anatomy, z: float, level: Level = QUIET, *, sequence: int = 0) -> np.ndarray:
    base = replace(MrScanner.draw(SEED), sequence=sequence, noise=0.0)
    scanner = VariedMr.vary(base, level)
    return scanner.scan(View(anatomy, plane_grid(z))).array[0].astype(float)


def adding(*parts: Part) -> Anatomy:
    """The patient with parts painted last."""
    return replace(patient(), parts=(*patient().parts, *parts))


def around(image: np.ndarray, x: float, y: float, reach: int = 2) -> np.ndarray:
    row, column = pixel(x, y)
    return image[row - reach : row + reach + 1, column - reach : column + reach + 1]


def test_without_randomisation_there_is_no_noise() -> None:
    image, owners = ct(patient(), -100.0)
    assert (around(image, 0.0, -140.0, 6) == -1000).all()
    artery = image[owners == OWNERS["A_Carotid_L"]]
    assert (artery == np.median(artery)).mean() > 0.5  # but for its edges


# --- the patient


def test_nodes_appear_and_only_where_they_lie() -> None:
    nodes = draw_nodes(Draws(SEED), replace(QUIET, nodes_share=1.0))
    assert len(nodes) == 14
    assert not draw_nodes(Draws(SEED), QUIET)
    (low, high), z = nodes[2].shape.box, float(np.mean([c[2] for c in nodes[2].shape.box]))
    before, after = ct(patient(), z)[0], ct(adding(nodes[2]), z)[0]
    rows, columns = np.nonzero(before != after)
    assert rows.size > 20
    assert pixel(low[0] - 3, low[1] - 3) <= (rows.min(), columns.min())
    assert (rows.max(), columns.max()) <= pixel(high[0] + 3, high[1] + 3)


def test_tumours_push_what_is_beside_them_away() -> None:
    masses, pushes = draw_tumours(Draws(SEED), replace(QUIET, tumour_share=1.0))
    assert draw_tumours(Draws(SEED), QUIET) == ([], [])
    mass, push = masses[0], pushes[0]
    centre = np.asarray(push.centre)
    beside = centre + np.asarray([push.reach_mm, 0.0, 0.0])
    pose = replace(STILL, pushes=(push,))
    moved = pose.to_world(beside[None])[0]
    assert np.linalg.norm(moved - centre) > push.reach_mm + 1.0
    before, owners = ct(patient(), push.centre[2])
    anatomy = replace(adding(mass), pose=pose)
    after, pushed = ct(anatomy, push.centre[2])
    assert np.count_nonzero(before != after) > 50
    # Whatever lay at that point lies farther away now.
    assert (owners != pushed).any()


def test_lost_teeth_leave_no_enamel() -> None:
    parts, metal = lose_teeth(patient(), Draws(SEED), replace(QUIET, teeth_lost=(1.0, 1.0)))
    assert metal == ()
    with_teeth, _ = ct(patient(), -50.0)
    without, _ = ct(replace(patient(), parts=tuple(parts)), -50.0)
    assert (with_teeth > 1800).sum() > 100
    assert (without > 1800).sum() == 0
    assert lose_teeth(patient(), Draws(SEED), QUIET)[0] == list(patient().parts)


def test_plaques_calcify_the_carotids() -> None:
    level = replace(QUIET, plaque_share=1.0)
    kinds = []
    for one in (QUIET, level):
        parts = vary_anatomy(patient(), Draws(SEED), one).parts
        kinds.append([p for p in parts if p.label.startswith("A_Carotid_")])
    assert len(kinds[0]) == 2
    assert len(kinds[1]) == 4
    plaque = kinds[1][-1]
    z = float(np.mean([corner[2] for corner in plaque.shape.box]))
    image, owners = ct(adding(plaque), z)
    number = OWNERS[plaque.label]
    assert image[owners == number].max() > 250
    before, carotid = ct(patient(), z)
    assert before[carotid == number].max() < 200


def test_jugular_veins_are_wider_or_narrower() -> None:
    areas = []
    for mm in (-2.0, 2.0):
        anatomy = vary_anatomy(patient(), Draws(SEED), replace(QUIET, vein_mm=(mm, mm)))
        veins = [p for p in anatomy.parts if p.layers[0][1] == "vein" and not p.owner]
        assert [p.layers[0][0] for p in veins] == [mm, mm]
        other = replace(patient(), parts=tuple(veins), pose=STILL)
        # Only the veins in fat.
        areas.append((ct(other, -70.0)[0] > 0)[100:200, 100:200].sum())
    assert areas[1] > 1.5 * areas[0]


def test_muscles_lose_to_the_fat_between_them() -> None:
    anatomies = [
        vary_anatomy(patient(), Draws(SEED), replace(QUIET, lean_mm=(mm, mm))) for mm in (0.0, 2.5)
    ]
    images = [ct(replace(a, pose=STILL), -100.0)[0] for a in anatomies]
    fat = [((image > -140) & (image < -60)).sum() for image in images]
    assert fat[1] > 1.1 * fat[0]


def test_the_airway_is_wide_or_narrow() -> None:
    areas = []
    for factor in (0.7, 1.3):
        anatomy = vary_anatomy(patient(), Draws(SEED), replace(QUIET, airway=(factor, factor)))
        image, _ = ct(replace(anatomy, pose=STILL), -60.0)
        areas.append((image[pixel(0, -60)[0] : pixel(0, 0)[0], 135:165] < -500).sum())
    assert areas[1] > 1.8 * areas[0]


def test_lobes_fold_the_surface_of_glands() -> None:
    masks = []
    for mm in (0.0, 1.1):
        anatomy = vary_anatomy(patient(), Draws(SEED), replace(QUIET, lobes_mm=(mm, mm)))
        masks.append(ct(replace(anatomy, pose=STILL), -40.0)[1] == OWNERS["Parotid_L"])
    smooth, folded = masks
    assert 0.8 < folded.sum() / smooth.sum() < 1.25
    assert (smooth ^ folded).sum() > 0.03 * smooth.sum()


def test_skin_is_farther_out_with_more_fat() -> None:
    areas = []
    for mm in (0.0, 6.0):
        anatomy = vary_anatomy(patient(), Draws(SEED), replace(QUIET, skin_mm=(mm, mm)))
        image, _ = ct(replace(anatomy, pose=STILL), -100.0)
        areas.append((image[:220] > -300).sum())
    assert areas[1] > 1.1 * areas[0]


@pytest.mark.parametrize("tissue", FATTY)
def test_fat_within_organs_lowers_their_hu_and_leaves_their_labels(tissue: str) -> None:
    level = replace(QUIET, fatty_share=1.0, fatty=(0.3, 0.3))
    chosen = tuple(p for p in patient().parts if p.layers[0][1] == tissue)
    rest = tuple(p for p in patient().parts if p.layers[0][1] != tissue)
    streaky = infiltrate(chosen, Draws(SEED), level)
    assert len(streaky) == 2 * sum(len(p.layers) == 1 for p in chosen)
    low, high = chosen[-1].shape.box
    z = (low[2] + high[2]) / 2
    before, owners = ct(replace(patient(), parts=(*rest, *chosen)), z)
    after, same = ct(replace(patient(), parts=(*rest, *streaky)), z)
    np.testing.assert_array_equal(owners, same)
    changed = before != after
    assert changed.sum() > 15
    # Not where the organ's edge shares a voxel with air.
    changed &= before > -100
    assert (after[changed] <= before[changed]).all()
    # About 30 % of the tissue is fat, some of it in part of a voxel.
    organ, one = streaky[-2:]
    x, y, z_ = (np.linspace(a, b, 40, dtype=np.float32) for a, b in zip(low, high, strict=True))
    points = [axis.ravel() for axis in np.meshgrid(x, y, z_, indexing="ij")]
    inside = organ.shape.distance(*points) < organ.layers[0][0] - 1.0
    fat = one.shape.distance(*points)[inside] < 0
    assert 0.15 < fat.mean() < 0.45
    assert infiltrate(chosen, Draws(SEED), QUIET) == chosen


def test_small_vessels_carry_contrast_medium() -> None:
    level = replace(QUIET, vessels_share=1.0, contrast_share=1.0)
    vessels = draw_vessels(Draws(SEED), level)
    assert len(vessels) == 14
    assert not draw_vessels(Draws(SEED), QUIET)
    # The external jugular vein, in fat below the skin.
    assert vessels[0].layers[0][1] == "vein"
    before, after = (ct(a, -95.0, level)[0] for a in (patient(), adding(vessels[0])))
    changed = np.argwhere(before != after)
    assert np.abs(changed - pixel(52.0, -6.0)).max() < 6
    assert (after - before).max() > 25


def test_the_parotids_veins_belong_to_them() -> None:
    level = replace(QUIET, vessels_share=1.0, contrast_share=1.0)
    veins = draw_parotid_veins(patient().parts, Draws(SEED), level)
    assert [vein.label for vein in veins] == ["Parotid_L", "Parotid_R"]
    before, owners = ct(patient(), -38.0, level)
    after, same = ct(adding(*veins), -38.0, level)
    np.testing.assert_array_equal(owners, same)
    for label in ("Parotid_L", "Parotid_R"):
        gland = owners == OWNERS[label]
        assert (after - before)[gland].max() > 20
    outside = ~np.isin(owners, [OWNERS["Parotid_L"], OWNERS["Parotid_R"]])
    assert np.count_nonzero((before != after) & outside) < 25  # edges blur over a voxel


def test_raised_arms_lie_beside_the_head_and_no_mask_is_worn() -> None:
    level = replace(QUIET, arms_share=1.0, mask_share=1.0)
    assert draw_arms(Draws(SEED), QUIET) == ([], [])
    anatomy = replace(vary_anatomy(patient(), Draws(SEED), level), pose=STILL)
    with_arms, _ = ct(anatomy, -20.0, level)
    for side in (1, -1):
        arm = around(with_arms, side * 190.0, 5.0, 8)
        assert np.median(arm) > 0
        assert with_arms[:, pixel(side * 190.0, 0.0)[1]].max() > 300  # bone
        assert (around(with_arms, side * 125.0, 0.0, 4) < -900).all()
    without, _ = ct(patient(), -20.0, replace(level, arms_share=0.0))
    assert (around(without, 190.0, 5.0, 8) < -900).all()
    bare, _ = ct(anatomy, -20.0, replace(level, mask_share=0.0))
    np.testing.assert_array_equal(with_arms, bare)


def test_the_field_may_begin_below_the_vertex() -> None:
    level = replace(QUIET, removed_top_share=1.0)
    anatomy = vary_anatomy(patient(), Draws(SEED), level)
    tops = []
    for one in (replace(anatomy, low_top=None), anatomy):
        grid = draw_ct_grid(PhantomSpec(SEED, "tiny"), one)
        tops.append(grid.origin_mm[2] + (grid.shape[0] - 1) * grid.spacing_mm[0])
    assert tops[0] > 121
    assert tops[1] < 75


# --- the CT


def test_contrast_medium_is_in_vessels_glands_and_mucosa() -> None:
    scanner = CtScanner.draw(SEED, patient())
    plain, enhanced = (
        VariedCt.vary(scanner, replace(QUIET, contrast_share=share), pixel_mm=1.5).draw_values()
        for share in (0.0, 1.0)
    )
    for tissue, least in (("A_Carotid", 30), ("vein", 20), ("Glnd_Thyroid", 10), ("mucosa", 7)):
        assert enhanced[tissue] > plain[tissue] + least, tissue
    for tissue in ("fat", "cortical", "air", "grey"):
        assert enhanced[tissue] == plain[tissue], tissue
    images = [ct(patient(), -120.0, replace(QUIET, contrast_share=share)) for share in (0.0, 1.0)]
    artery = images[0][1] == OWNERS["A_Carotid_L"]
    assert images[1][0][artery].mean() > images[0][0][artery].mean() + 20


def test_every_tissue_has_its_own_hu() -> None:
    scanner = CtScanner.draw(SEED, patient())
    level = replace(QUIET, soft_hu=12.0, gland_hu=22.0, bone_share=0.18)
    plain, varied = (
        VariedCt.vary(scanner, one, pixel_mm=1.5).draw_values() for one in (QUIET, level)
    )
    moves = {name: varied[name] - plain[name] for name in TISSUES if -900 < plain[name] < 150}
    assert len({round(move, 6) for move in moves.values()}) > 0.8 * len(moves)
    assert 5 < np.std(list(moves.values())) < 25
    assert varied["cortical"] / plain["cortical"] != varied["dense"] / plain["dense"]


def test_texture_is_correlated_and_drift_a_gradient() -> None:
    plain, _ = ct(patient(), 60.0)
    brain = (slice(100, 180), slice(110, 190))
    textured = ct(patient(), 60.0, replace(QUIET, texture_hu=(20.0, 20.0)))[0] - plain
    steps = np.diff(textured[brain], axis=1)
    assert textured[brain].std() > 6
    assert steps.std() < textured[brain].std()
    drifting = ct(patient(), 60.0, replace(QUIET, cupping_hu=18.0))[0] - plain
    assert drifting[brain].std() > 1
    halves = np.array_split(drifting[brain], 2, axis=1)
    rows = np.array_split(drifting[brain], 2, axis=0)
    means = [abs(a.mean() - b.mean()) for a, b in (halves, rows)]
    assert max(means) > 2


def test_dose_is_the_noise() -> None:
    plain, _ = ct(patient(), 60.0)
    brain = (slice(100, 180), slice(110, 190))
    for noise in (8.0, 30.0):
        image, _ = ct(patient(), 60.0, replace(QUIET, noise_hu=(noise, noise)))
        assert (image - plain)[brain].std() == pytest.approx(noise, rel=0.1)


def test_kernels_are_soft_or_sharp() -> None:
    steepest, grains = [], []
    for kernel in (-1.0, 1.0):
        level = replace(QUIET, kernel=(kernel, kernel))
        image, _ = ct(patient(), 60.0, level)
        steepest.append(np.abs(np.diff(image[150])).max())
        noisy = ct(patient(), 60.0, replace(level, noise_hu=(20.0, 20.0)))[0] - image
        brain = noisy[100:180, 110:190]
        grains.append(float(np.corrcoef(brain[:, 1:].ravel(), brain[:, :-1].ravel())[0, 1]))
    assert steepest[1] > 1.4 * steepest[0]
    assert grains[0] > 0.4 > grains[1]


def test_metal_makes_streaks() -> None:
    anatomy = replace(make_anatomy(SEED, metal_rate=1.0), pose=STILL)
    assert anatomy.metal
    z = anatomy.metal[0][2]
    still, streaked = (
        ct(anatomy, z, replace(QUIET, streak_hu=(hu, hu)))[0] for hu in (0.0, 1000.0)
    )
    change = np.abs(streaked - still)
    assert change[pixel(0, -80)[0] : pixel(0, 0)[0], 110:190].mean() > 30
    assert change[:40].max() == 0


def test_few_photons_pass_the_shoulders_but_not_the_neck() -> None:
    level = replace(QUIET, noise_hu=(15.0, 15.0), starvation=(0.5, 0.5))
    noisy = {}
    for z in (-95.0, -215.0):
        usual = ct(patient(), z, replace(level, starvation=(0.0, 0.0)))[0]
        noisy[z] = (ct(patient(), z, level)[0] - usual)[: pixel(0, 110)[0]]  # above the table
    assert not noisy[-95.0].any()
    streaks = noisy[-215.0][pixel(0, 10)[0] : pixel(0, 40)[0], 90:210]
    assert streaks.std() > 6
    # From side to side they go on, from row to row they do not.
    along, across = (np.diff(streaks, axis=axis).std() for axis in (1, 0))
    assert along < 0.3 * across
    assert not noisy[-215.0][:30].any()


def test_a_round_field_ends_in_a_circle() -> None:
    whole, _ = ct(patient(), 0.0)
    cut, _ = ct(patient(), 0.0, replace(QUIET, round_field_share=1.0))
    corners = cut[:40, :40], cut[-40:, -40:]
    assert all((corner == -1024).all() for corner in corners)
    assert (whole > -1024).all()
    np.testing.assert_array_equal(cut[100:200, 100:200], whole[100:200, 100:200])


def test_headrest_table_and_mask_are_there_or_not() -> None:
    bare, _ = ct(patient(), 0.0)
    rested, _ = ct(patient(), 0.0, replace(QUIET, headrest_share=1.0))
    behind = (slice(pixel(0, 100)[0], pixel(0, 125)[0]), slice(100, 200))
    assert bare[behind].max() < -980
    assert rested[behind].max() > -940
    masked, _ = ct(patient(), 0.0, replace(QUIET, mask_share=1.0))
    sheet = masked > bare + 100
    assert sheet.sum() > 100
    assert (bare[sheet] < -500).all()  # around the skin, not in it
    assert not sheet[pixel(0, 40)[0] :].any()
    curved, tables = 0, []
    for seed in range(12):
        scanner = VariedCt.vary(CtScanner.draw(seed, patient()), QUIET, pixel_mm=1.5)
        curved += scanner.couch_curve_mm != 0
        tables.append(scanner.couch_y_mm)
    assert 0 < curved < 12
    assert np.std(tables) > 5


# --- the MR


def test_sequences_are_t1_fat_saturated_water_and_in_phase() -> None:
    kinds: dict[tuple[int, float], dict[str, float]] = {}
    for sequence in (0, 1, 2):
        for seed in range(8):
            values = vary_signals(sequence, Draws(seed), QUIET)
            kinds[sequence, round(values["fat"] / values["muscle"], 3)] = values
    by_sequence = {s: sorted(r for q, r in kinds if q == s) for s in (0, 1, 2)}
    # Spin echo has one kind; a fat-saturated one may be Dixon's water, where fat is black; a
    # gradient echo one in phase, where blood does not shine.
    assert [len(by_sequence[s]) for s in (0, 1, 2)] == [1, 2, 2]
    assert by_sequence[0][0] > 2
    assert by_sequence[1][1] < 0.6
    assert by_sequence[1][0] < 0.3 * by_sequence[1][1]
    plain, in_phase = (kinds[2, ratio] for ratio in by_sequence[2])
    assert in_phase["vein"] < 0.7 * plain["vein"]


def test_water_images_have_dark_fat() -> None:
    bright, dark = (mr(patient(), -100.0, sequence=s) for s in (0, 1))
    owners = ct(patient(), -100.0)[0]
    fat = (owners > -115) & (owners < -85)
    muscle = (owners > 45) & (owners < 62)
    assert np.median(bright[fat]) > 2 * np.median(bright[muscle])
    assert np.median(dark[fat]) < np.median(dark[muscle])


def test_contrast_agent_brightens_vessels_and_mucosa() -> None:
    plain, enhanced = (
        vary_signals(0, Draws(SEED), replace(QUIET, enhanced_share=share)) for share in (0.0, 1.0)
    )
    for tissue, factor in (("vein", 1.9), ("A_Carotid", 1.9), ("mucosa", 1.2), ("tumour", 1.2)):
        assert enhanced[tissue] > factor * plain[tissue], tissue
    assert enhanced["fat"] == plain["fat"]


def test_ghosts_are_the_image_moved_along_the_phase_direction() -> None:
    clean = mr(patient(), -60.0)
    level = replace(QUIET, ghost=(0.08, 0.08))
    ghosted = mr(patient(), -60.0, level)
    shift = round(VariedMr.vary(MrScanner.draw(SEED), level).ghost_shift * clean.shape[0])
    expected = clean + 0.08 * np.roll(clean, shift, axis=0)
    np.testing.assert_allclose(ghosted, expected, atol=2)
    assert (ghosted - clean).max() > 10


def test_bias_is_steeper_and_smooth() -> None:
    flat, usual, steep = (
        mr(patient(), -60.0, replace(QUIET, bias=power)) for power in (0.0, 1.0, 2.0)
    )
    seen = flat > 50
    ratio = steep[seen] / usual[seen]
    assert ratio.std() > 0.02
    np.testing.assert_allclose(
        steep[seen] * flat[seen], usual[seen] ** 2, rtol=0.1, atol=0.1 * flat.max() ** 2
    )
    field = np.where(seen, steep / np.maximum(flat, 1), np.nan)
    assert np.nanmax(np.abs(np.diff(field[150:153], axis=1))) < 0.15


def test_noise_of_the_mr_varies() -> None:
    base = replace(MrScanner.draw(SEED), sequence=0)
    spreads = []
    for factor in (0.4, 2.5):
        level = replace(QUIET, mr_noise=(factor, factor))
        image = VariedMr.vary(base, level).scan(View(patient(), plane_grid(-60.0))).array[0]
        air = image[:40].astype(float)
        spreads.append((air - gaussian_filter(air, 3)).std())
    assert spreads[1] == pytest.approx(spreads[0] * 2.5 / 0.4, rel=0.1)


def test_slices_average_what_they_are_thick() -> None:
    """A plate of 2 mm in a slice of 6 mm: one of the three samples meets it, at a third."""
    grid = Grid((3, 60, 60), (6.0, 1.0, 1.0), (-30.0, -30.0, 54.0))
    part = fill(Ellipsoid((0.0, 0.0, 62.0), (20.0, 20.0, 1.0), boxy=True), "metal")
    anatomy = replace(patient(), parts=(*patient().parts, part), metal=())
    base = replace(MrScanner.draw(SEED), sequence=0, noise=0.0)
    scanner = VariedMr.vary(base, QUIET)
    values = dict.fromkeys(TISSUES, 300.0) | {"metal": 0.0}
    view = View(anatomy, grid)
    thin = MrScanner.paint(scanner, view, 0, 3, values).image[:, 30, 30]
    thick = scanner.paint(view, 0, 3, values).image[:, 30, 30]
    # The slices' middles lie at 54, 60 and 66 mm, their samples 2 mm above and below.
    assert thin[1] > 250
    assert 150 < thick[1] < 250
    assert thick[0] == pytest.approx(300.0, abs=1.0)
    owners = scanner.paint(view, 0, 3, values).owners
    np.testing.assert_array_equal(owners, MrScanner.paint(scanner, view, 0, 3, values).owners)
