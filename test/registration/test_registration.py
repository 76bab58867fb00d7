"""Registration on an analytic head: ellipsoids whose values are known at every point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from oarseg.errors import RegistrationError
from oarseg.imaging.grids import block_mean
from oarseg.imaging.intensities import otsu_threshold, standardise_mr
from oarseg.imaging.regrid import MovedImage, resample_moving
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.slabs import crop_slabs, whole_image
from oarseg.imaging.volume import Grid, Volume
from oarseg.phantom import PhantomSpec, make_phantom
from oarseg.registration import (
    landmark_accuracy,
    register_mr,
    search,
    target_registration_errors,
)
from oarseg.registration.block_matching import (
    GRID_MM,
    Mismatch,
    Overlay,
    local_shifts,
    median_local_shift,
)
from oarseg.registration.coarse import coarse_ct, coarse_mr
from oarseg.registration.information import (
    FINE_MR_CLASSES,
    OverlapScore,
    Scorer,
    symmetric_uncertainty,
)
from oarseg.registration.search import find_starts, shift_scores
from oarseg.registration.verdict import judge_pose

# (centre x y z, radii, HU, T1), painted in this order; LPS: −y is front, +z is up.
PARTS = (
    ((0, 20, -130), (190, 90, 60), 30, 0.7),
    ((0, 15, -60), (58, 60, 90), 40, 0.8),
    ((0, 0, 60), (75, 95, 110), -90, 1.6),
    ((0, -100, 20), (14, 18, 22), 40, 0.9),
    ((0, 0, 62), (69, 89, 104), 900, 0.1),
    ((0, 8, 74), (62, 78, 82), 35, 0.9),
    ((0, -50, 10), (40, 40, 30), 60, 0.7),
    ((25, 10, 80), (10, 28, 14), 8, 0.3),
    ((-22, 14, 76), (10, 22, 14), 8, 0.3),
    ((0, 55, -50), (16, 16, 80), 500, 0.5),
    ((-32, -78, 45), (12, 12, 12), 10, 0.35),
    ((32, -78, 45), (12, 12, 12), 10, 0.35),
    ((0, -20, -40), (10, 12, 60), -1000, 0.03),
    ((45, 0, -10), (14, 20, 22), -40, 1.3),
    ((-47, 2, -14), (13, 20, 22), -40, 1.3),
)
CT_GRID = Grid((100, 110, 140), (3.0, 3.0, 3.0), (-210.0, -170.0, -140.0))
LANDMARKS = np.array([[0, -100, 20], [0, 95, 20], [45, 0, -10], [-47, 2, -14], [20, 40, -60.0]])
TRUE = RigidTransform.about(
    (0.0, 0.0, 20.0), angles_deg=(5.0, -3.0, 4.0), shift_mm=(30.0, 110.0, -480.0)
)


def paint(points: np.ndarray, column: int, background: float) -> np.ndarray:
    values = np.full(len(points), background, np.float32)
    for part in PARTS:
        inside = (((points - part[0]) / np.array(part[1])) ** 2).sum(1) < 1
        values[inside] = part[column]
    return values


def head_ct() -> Volume:
    points = CT_GRID.to_world(np.argwhere(np.ones(CT_GRID.shape, bool)))
    noise = np.random.default_rng(1).normal(0, 15, len(points))
    hu = paint(points, 2, -1000.0) + noise
    return Volume(hu.astype(np.int16).reshape(CT_GRID.shape), CT_GRID)


def head_mr(true: RigidTransform = TRUE) -> Volume:
    centre = true.apply(np.array([[5.0, -5.0, 15.0]]))[0]
    shape, spacing = (40, 120, 120), (4.0, 2.0, 2.0)
    half = np.array([(n - 1) * s / 2 for n, s in zip(shape, spacing, strict=True)])[::-1]
    grid = Grid(shape, spacing, tuple((centre - half).tolist()))
    points = true.inverse().apply(grid.to_world(np.argwhere(np.ones(shape, bool))))
    noise = np.random.default_rng(2).normal(0, 0.04, len(points))
    values = np.abs(paint(points, 3, 0.0) + noise) * (1 + points[:, 0] / 400) * 300
    return Volume(values.astype(np.float32).reshape(shape), grid)


@pytest.fixture(scope="module")
def ct() -> Volume:
    return head_ct()


@pytest.fixture(scope="module")
def mr() -> Volume:
    return head_mr()


@pytest.fixture(scope="module")
def found(ct, mr):
    return register_mr(ct, mr, threads=1)


def test_disjoint_and_turned_pair_is_found(found):
    errors = target_registration_errors(found.transform, LANDMARKS, TRUE.apply(LANDMARKS))
    assert errors.mean() < 1.0
    assert errors.max() < 2.0
    assert found.verdict.status == "good"
    assert found.verdict.overlap > 0.95


def test_same_bits_on_another_thread_count_and_at_another_gain(ct, mr, found, capfd):
    # A gain that is a power of two changes no mantissa, so nothing may change at all.
    again = register_mr(ct, mr.with_array(mr.array * np.float32(1024)), threads=2)
    assert again.transform == found.transform
    assert again.verdict == found.verdict
    assert capfd.readouterr() == ("", "")


def test_never_scores_below_the_headers(ct):
    # Slices stored from top to bottom, as the header's direction says: nothing may change.
    upright = head_mr(RigidTransform())
    grid = upright.grid
    top = tuple(grid.to_world(np.array([[grid.shape[0] - 1, 0, 0]]))[0].tolist())
    down = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    aligned = Volume(upright.array[::-1], Grid(grid.shape, grid.spacing_mm, top, down))
    headers = Scorer(coarse_ct(ct), coarse_mr(aligned))(RigidTransform())
    result = register_mr(ct, aligned)
    assert result.verdict.score >= headers.value
    errors = target_registration_errors(result.transform, LANDMARKS, LANDMARKS)
    assert errors.max() < 2.0


def painted(grid: Grid) -> Volume:
    """The head on any grid in the CT's own world."""
    points = grid.to_world(np.argwhere(np.ones(grid.shape, bool)))
    noise = np.random.default_rng(2).normal(0, 0.04, len(points))
    values = np.abs(paint(points, 3, 0.0) + noise) * 300
    return Volume(values.astype(np.float32).reshape(grid.shape), grid)


def test_oblique_slices_are_found(ct):
    tilt = RigidTransform.about((0.0, 0.0, 0.0), angles_deg=(18.0, 0.0, 5.0)).rotation
    grid = head_mr(RigidTransform()).grid
    middle = (np.array([grid.shape]) - 1) / 2
    turned = replace(grid, direction=tilt)
    origin = np.array(grid.origin_mm) + (grid.to_world(middle) - turned.to_world(middle))[0]
    result = register_mr(ct, painted(replace(turned, origin_mm=tuple(origin.tolist()))))
    errors = target_registration_errors(result.transform, LANDMARKS, LANDMARKS)
    assert errors.max() < 2.0
    assert result.verdict.status == "good"


def test_mr_larger_than_the_ct_is_found(ct, mr):
    grid = replace(ct.grid, shape=(50, 110, 140), origin_mm=(-210.0, -170.0, -50.0))
    short = Volume(ct.array[30:80], grid)
    result = register_mr(short, mr)
    errors = target_registration_errors(result.transform, LANDMARKS, TRUE.apply(LANDMARKS))
    assert errors.max() < 2.0
    assert result.verdict.overlap < 1


def test_head_that_the_ct_does_not_show_is_not_good(ct, mr):
    chest = Volume(ct.array[:28], replace(ct.grid, shape=(28, 110, 140)))
    assert register_mr(chest, mr).verdict.status != "good"


def test_headers_alone_are_judged_and_not_moved(ct, mr):
    upright = register_mr(ct, head_mr(RigidTransform()), method="none")
    assert upright.transform == RigidTransform()
    assert upright.verdict.status == "good"
    assert register_mr(ct, mr, method="none").verdict.status == "failed"


def bent_mr(most_mm: float) -> Volume:
    """The head, what lies below the skull base shifted to the left, the more the lower."""
    straight = head_mr(RigidTransform())
    points = straight.grid.to_world(np.argwhere(np.ones(straight.grid.shape, bool)))
    points[:, 0] -= most_mm * (np.clip(20 - points[:, 2], 0, None) / 80) ** 2
    noise = np.random.default_rng(2).normal(0, 0.04, len(points))
    values = np.abs(paint(points, 3, 0.0) + noise) * 300
    return straight.with_array(values.astype(np.float32).reshape(straight.grid.shape))


def test_spline_follows_a_bent_neck_without_folding(ct):
    found = register_mr(ct, bent_mr(6.0), method="bspline")
    assert found.refinement is not None
    assert found.refinement.kept
    assert found.refinement.lowest_jacobian > 0
    neck = np.array([[x, y, z] for x in (-40, 40) for y in (0, 50) for z in (-45, -30.0)])
    true = neck + np.outer(6.0 * ((20 - neck[:, 2]) / 80) ** 2, [1, 0, 0])
    rigid, bent = (
        target_registration_errors(transform, neck, true).mean()
        for transform in (found.transform.rigid_part, found.transform)
    )
    assert bent < rigid / 2


def test_verdict_is_the_rigid_pose_s(ct, mr, found):
    bent = register_mr(ct, mr, method="bspline")
    assert bent.verdict == found.verdict
    assert bent.transform.rigid_part == found.transform


def test_a_larger_head_is_not_good(ct, mr):
    larger = Volume(mr.array, replace(mr.grid, spacing_mm=(4.8, 2.4, 2.4)))
    verdict = register_mr(ct, larger).verdict
    assert verdict.status != "good"
    assert any("mismatch" in reason for reason in verdict.reasons)


def test_a_mirrored_patient_is_doubtful():
    # The analytic head is too even for this: its two sides hardly differ.
    phantom = make_phantom(PhantomSpec(1001))
    mirrored = phantom.mr.with_array(np.ascontiguousarray(phantom.mr.array[:, :, ::-1]))
    verdict = register_mr(phantom.ct, mirrored).verdict
    assert verdict.status == "doubtful"
    assert len(verdict.reasons) == 1
    assert "mismatch of the head's parts" in verdict.reasons[0]


def test_noise_is_not_good(ct, mr):
    noise = np.random.default_rng(3).uniform(0, 100, mr.array.shape).astype(np.float32)
    assert register_mr(ct, mr.with_array(noise)).verdict.status != "good"


@pytest.mark.parametrize("axis", [0, 1])
def test_mr_upside_down_or_back_to_front_is_not_good(ct, mr, axis):
    flipped = mr.with_array(np.flip(mr.array, axis).copy())
    assert register_mr(ct, flipped).verdict.status != "good"


def test_mr_without_a_patient_is_refused(ct):
    empty = Volume(np.zeros((30, 40, 40), np.float32), Grid((30, 40, 40), (4.0, 4.0, 4.0)))
    with pytest.raises(RegistrationError, match="above the background"):
        register_mr(ct, empty)


def test_ct_without_a_patient_is_refused(mr):
    air = Volume(np.full((30, 40, 40), -1000, np.int16), Grid((30, 40, 40), (4.0, 4.0, 4.0)))
    with pytest.raises(RegistrationError, match="tissue above -300 HU"):
        register_mr(air, mr)


def test_move_is_exact_inside_and_absent_outside():
    # A ramp along x is reproduced exactly by linear interpolation.
    mr_grid = Grid((4, 5, 6), (2.0, 2.0, 2.0), (100.0, 0.0, -500.0))
    mr = Volume(np.broadcast_to(np.arange(6, dtype=np.float32) + 1, mr_grid.shape).copy(), mr_grid)
    shift = RigidTransform(translation_mm=(100.0, 0.0, -500.0))
    grid = Grid((40, 7, 8), (1.0, 2.0, 2.0), (-3.0, -2.0, -10.0))
    moved = resample_moving(mr, shift, grid, outside=0.0)
    assert moved.array.dtype == np.float32
    # CT x = -3 + 2i lies at MR index i - 1.5: 1.5 … 5.5 inside (value = index + 1).
    # CT z = -10 … 29; MR centres at 0 … 6, so its field is [-1, 7); y centres at 0 … 8.
    inside = np.zeros(grid.shape, bool)
    inside[9:17, 1:6, 1:7] = True
    np.testing.assert_array_equal(moved.array != 0, inside)
    np.testing.assert_allclose(moved.array[12, 3, 2:7], [1.5, 2.5, 3.5, 4.5, 5.5])


def test_a_moved_image_can_be_gone_through_again_and_in_parts():
    mr_grid = Grid((30, 9, 9), (1.0, 2.0, 2.0), (4.0, 0.0, -500.0))
    mr = Volume(np.random.default_rng(0).random(mr_grid.shape, np.float32) + 1, mr_grid)
    tilt = RigidTransform.about((0.0, 0.0, 0.0), angles_deg=(2.0, -3.0, 4.0))
    shift = RigidTransform(translation_mm=(0.0, 0.0, -500.0)).after(tilt)
    grid = Grid((61, 12, 10), (1.0, 2.0, 2.0), (-3.0, -2.0, -20.0))
    moved = MovedImage(mr, shift, grid, outside=-1.0)
    whole = resample_moving(mr, shift, grid, outside=-1.0).array
    np.testing.assert_array_equal(whole_image(moved), whole)
    np.testing.assert_array_equal(whole_image(moved), whole)
    # The field of view begins and ends between the image's first and last planes.
    seen = np.flatnonzero((whole != -1).any(axis=(1, 2)))
    assert 0 < seen[0] < seen[-1] < 60
    box = ((25, 50), (2, 9), (1, 10))
    for planes, values in crop_slabs(moved, box):
        np.testing.assert_array_equal(values, whole[25:50, 2:9, 1:10][planes])


def test_move_without_overlap_is_all_absent():
    mr = Volume(np.ones((3, 3, 3), np.float32), Grid((3, 3, 3), (1.0, 1.0, 1.0)))
    far = RigidTransform(translation_mm=(0.0, 0.0, 1000.0))
    moved = resample_moving(mr, far, CT_GRID, outside=-7.5)
    assert np.all(moved.array == np.float32(-7.5))


def test_standardise_takes_the_gain_out_and_keeps_zero_free(mr):
    one = standardise_mr(mr).array
    other = standardise_mr(mr.with_array(mr.array * np.float32(37))).array
    np.testing.assert_allclose(other, one, rtol=1e-5)
    assert one.min() > 0
    assert one.max() <= 10
    # Otsu at full resolution takes a slightly brighter set than on block means.
    assert one[one > otsu_threshold(one)].mean() == pytest.approx(1, abs=0.1)


def test_shrink_means_blocks_and_keeps_their_centres():
    grid = Grid((2, 4, 5), (2.0, 1.0, 1.0), (10.0, 20.0, 30.0))
    array = np.arange(40, dtype=np.int16).reshape(grid.shape)
    small = block_mean(Volume(array, grid), spacing_mm=2.0)
    # Blocks of 1 × 2 × 2; the fifth column is left over.
    assert small.grid.shape == (2, 2, 2)
    assert small.grid.spacing_mm == (2.0, 2.0, 2.0)
    assert small.grid.origin_mm == (10.5, 20.5, 30.0)
    assert small.array[0, 0, 0] == (0 + 1 + 5 + 6) / 4


def test_information_of_equal_and_of_independent_classes():
    assert symmetric_uncertainty(np.diag([3.0, 5.0, 2.0])) == pytest.approx(1)
    assert symmetric_uncertainty(np.outer([1.0, 2.0], [3.0, 5.0])) == pytest.approx(0, abs=1e-9)
    assert symmetric_uncertainty(np.zeros((2, 2))) == 0
    assert symmetric_uncertainty(np.zeros((0, 2, 3))).shape == (0,)


@pytest.mark.parametrize("kind", [np.int16, np.float32])
def test_block_means_do_not_depend_on_threads(kind):
    draw = np.random.default_rng(6)
    grid = Grid((11, 13, 17), (1.0, 0.7, 0.7))
    image = Volume((1000 * draw.standard_normal(grid.shape)).astype(kind), grid)
    one, several = (block_mean(image, spacing_mm=2.0, threads=n) for n in (1, 3))
    assert several.grid == one.grid
    assert several.array.tobytes() == one.array.tobytes()


def test_shift_scores_peak_where_the_piece_was_cut():
    values = np.random.default_rng(4).choice([-1000.0, 0.0, 40.0, 100.0, 600.0], (10, 12, 14))
    piece = values[3:8, 2:8, 5:12]
    scores = shift_scores(values, piece, np.array([-500.0, 20.0, 70.0, 300.0]))
    assert np.unravel_index(scores.argmax(), scores.shape) == (3, 2, 5)
    assert scores.max() == pytest.approx(1)


def test_shift_scores_do_not_depend_on_threads_nor_on_how_many_are_scored_at_once(monkeypatch):
    values = np.random.default_rng(5).choice([-1000.0, 0.0, 40.0, 100.0, 600.0], (10, 12, 14))
    edges = np.array([-500.0, 20.0, 70.0, 300.0])
    one = shift_scores(values, values[2:9, 1:9, 4:12], edges)
    monkeypatch.setattr(search, "SHIFTS_AT_ONCE", 7)
    several = shift_scores(values, values[2:9, 1:9, 4:12], edges, workers=3)
    assert np.count_nonzero(one) > 100
    np.testing.assert_array_equal(one, several)


def test_shift_scores_without_enough_overlap_anywhere_are_nothing():
    values = np.full((8, 8, 8), np.nan)
    values[:2, :2, :2] = 40.0
    large = np.ones((8, 8, 8))
    assert not shift_scores(values, large, np.array([0.5, 0.8])).any()


def test_search_alone_comes_near(ct, mr):
    small_ct, small_mr = coarse_ct(ct), coarse_mr(mr)
    starts = find_starts(small_ct, small_mr, workers=1)
    errors = [
        target_registration_errors(s.transform, LANDMARKS, TRUE.apply(LANDMARKS)).mean()
        for s in starts
    ]
    assert min(errors) < 15
    assert [s.score for s in starts] == sorted((s.score for s in starts), reverse=True)


def test_blocks_tell_how_far_they_are_displaced():
    # Values without pattern, smoothed to the size of a few voxels: each block fits once.
    noise = np.random.default_rng(5).standard_normal((60, 60, 60))
    smooth = ndimage.gaussian_filter(noise, 1.5)
    levels = np.quantile(smooth, np.arange(1, FINE_MR_CLASSES) / FINE_MR_CLASSES)
    classes = np.digitize(smooth, levels)
    inner = np.zeros(classes.shape, bool)
    inner[6:-6, 6:-6, 6:-6] = True
    # MR[i] = CT[i - 2]: what the CT shows at i, the MR shows two voxels further along y.
    moved = np.roll(classes, 2, axis=1)
    half = np.where(np.arange(60)[:, None, None] < 30, classes, moved)
    assert median_local_shift(Overlay(classes, classes, inner)).median_mm == pytest.approx(
        0, abs=0.2
    )
    # The joint histogram is learnt from the aligned half.
    shifts = local_shifts(Overlay(classes, half, inner))
    away = shifts[np.abs(shifts[:, 1] - 2 * GRID_MM) < 1]
    assert 0.2 < len(away) / len(shifts) < 0.8
    np.testing.assert_allclose(away[:, [0, 2]], 0, atol=0.5)


def test_even_heads_have_no_parts_to_compare():
    even = np.zeros((40, 40, 40), int)
    found = median_local_shift(Overlay(even, even, np.ones(even.shape, bool)))
    assert found == Mismatch(9.0, 0)


def test_errors_at_landmarks_by_hand():
    shift = RigidTransform(translation_mm=(0.0, 0.0, 3.0))
    points = np.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    moved = np.array([[0.0, 0.0, 3.0], [10.0, 4.0, 0.0]])
    np.testing.assert_allclose(target_registration_errors(shift, points, moved), [0, 5])
    result = landmark_accuracy(shift, points, moved)
    assert (result.mean_mm, result.max_mm) == (2.5, 5.0)
    assert result.sd_mm == pytest.approx(5 / np.sqrt(2))
    assert not result.meets_tg132
    assert landmark_accuracy(shift, points, points + np.array([0, 0, 4])).meets_tg132
    with pytest.raises(ValueError, match="do not pair"):
        target_registration_errors(shift, points, moved[:1])


def test_a_pose_with_a_rival_or_without_a_peak_is_not_good():
    def peak(transform: RigidTransform) -> OverlapScore:
        return OverlapScore(
            0.5 * 0.9 ** (transform.angle_deg > 1 or any(transform.translation_mm)), 1.0
        )

    def judged(score, **rest):
        return judge_pose(RigidTransform(), score, (0.0, 0.0, 0.0), **rest)

    alone = judged(peak)
    assert (alone.status, alone.reasons) == ("good", ())
    assert alone.contrast == pytest.approx(0.1)
    assert judged(peak, rival_score=0.4).reasons == (
        "rival pose's share of the score 0.80 is above 0.60",
    )
    assert judged(peak, rival_score=0.4).status == "doubtful"
    assert judged(peak, rival_score=0.49).status == "failed"
    assert judged(lambda _: OverlapScore(0.5, 1.0)).status == "failed"
    apart = judged(peak, mismatch_mm=2.5)
    assert apart.reasons == ("mismatch of the head's parts in mm 2.50 is above 1.50",)
    assert apart.status == "doubtful"
    assert judged(peak, mismatch_mm=2.5, coarsest_mm=9.0).status == "good"  # up to 2.7
    assert judged(lambda pose: OverlapScore(peak(pose).value, 0.5)).status == "doubtful"
