"""Randomised phantoms: level 0 as ever, levels 1 and 2 seeded, plausible and true."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import kept_phantoms
import numpy as np
import pytest
from scipy.ndimage import label

from oarseg.challenges.catalogue import load_challenge
from oarseg.cli import main
from oarseg.errors import InputError
from oarseg.imaging.hounsfield import judge_hu
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Volume
from oarseg.phantom import Phantom, PhantomSpec, make_phantom
from oarseg.phantom.case import draw_patient
from oarseg.phantom.grids import draw_ct_grid
from oarseg.phantom.patient.anatomy import make_anatomy
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.patient.pose import BEND_AXIS_MM, Bend, Pose, Push, volume_in_world
from oarseg.phantom.randomise.body import vary_pose
from oarseg.phantom.randomise.fields import vary_ct_grid
from oarseg.phantom.randomise.levels import load_levels
from oarseg.phantom.randomise.rater import outline_as_rater
from oarseg.phantom.randomise.real_organs import (
    RealOrgan,
    draw_volume,
    draw_wishes,
    load_real_organs,
)
from oarseg.registration.accuracy import landmark_accuracy
from oarseg.registration.align import register_mr

STRUCTURES = load_challenge("han_seg").structures
LABELS = {structure.name: structure.label for structure in STRUCTURES}
SEEDS = (501, 503, 505, 509)
LEVELS = load_levels()
STILL = Pose(RigidTransform(), (1.0, 1.0, 1.0), 0.0, ())
# What level 0 gave before there were levels: truth and grids, and sums of the slices of what was
# drawn, by challenge and seed.
BEFORE = {
    ("han_seg", 3): "fb6551273f524b48",
    ("han_seg", 7): "6220c2126a1f796f",
    ("segrap_oar", 3): "76f8a5eb2fa2fe37",
    ("segrap_oar", 7): "1c7046c0d36aabfa",
}
SUMS_BEFORE = Path(__file__).resolve().parents[1] / "expected" / "phantom_level_0.npz"


@cache
def small(seed: int, level: int = 2) -> Phantom:
    return make_phantom(PhantomSpec(seed, randomise=level))


def digest(phantom: Phantom) -> str:
    found = hashlib.sha256()
    for name in sorted(phantom.images):
        found.update(phantom.images[name].array.tobytes())
        found.update(repr(phantom.images[name].grid).encode())
    found.update(phantom.labels.array.tobytes())
    found.update(repr(phantom.truth).encode())
    return found.hexdigest()


def volume_cm3(phantom: Phantom, *names: str) -> float:
    count = np.isin(phantom.labels.array, [LABELS[name] for name in names]).sum()
    return float(count * phantom.labels.grid.voxel_volume_mm3 / 1000)


# --- the same


@pytest.mark.parametrize("level", [1, 2])
def test_same_seed_and_level_give_same_bytes(level: int) -> None:
    spec = PhantomSpec(7, "tiny", randomise=level)
    assert digest(make_phantom(spec)) == digest(make_phantom(spec))


def test_levels_differ() -> None:
    found = {digest(make_phantom(PhantomSpec(7, "tiny", randomise=level))) for level in (0, 1, 2)}
    assert len(found) == 3


@pytest.mark.parametrize("level", [1, 2])
def test_slab_size_changes_nothing(level: int) -> None:
    spec = PhantomSpec(7, "tiny", randomise=level)
    assert digest(make_phantom(spec, slab_voxels=1)) == digest(make_phantom(spec))


@pytest.mark.parametrize("challenge", ["segrap_oar", "segrap_gtv", "structseg_thoracic_oar"])
def test_every_kind_of_challenge_can_be_randomised(challenge: str) -> None:
    phantom = make_phantom(PhantomSpec(5, "tiny", randomise=2), load_challenge(challenge))
    known = {structure.label for structure in phantom.challenge.structures}
    assert set(np.unique(phantom.labels.array).tolist()) - {0} <= known
    assert sum(phantom.truth.presence.values()) > 0


# --- like real patients


def test_real_organs_are_in_order() -> None:
    organs = load_real_organs()
    owners = [owner for organ in organs for owner in organ.owners]
    assert len(owners) == len(set(owners))
    for organ in organs:
        low, middle, high = organ.volume_cm3
        assert 0 < low < middle < high, organ.name
        assert organ.ratio[0] < 1 < organ.ratio[1], organ.name


@pytest.mark.parametrize(
    ("sigmas", "volume"), [(0.0, 20.0), (-1.645, 10.0), (1.645, 50.0), (-0.8225, 200**0.5)]
)
def test_volumes_follow_the_percentiles(sigmas: float, volume: float) -> None:
    assert draw_volume((10.0, 20.0, 50.0), sigmas) == pytest.approx(volume)


def test_wishes_lie_within_the_percentiles_and_differ_between_sides() -> None:
    ranges = {
        tuple(owner + side for owner in organ.owners): organ
        for organ in load_real_organs()
        for side in (("L", "R") if organ.sides else ("",))
    }
    for seed in range(40):
        wishes = {wish.owners: wish for wish in draw_wishes(Draws(seed), 1.0)}
        assert wishes.keys() == ranges.keys()
        for owners, wish in wishes.items():
            low, _, high = ranges[owners].volume_cm3
            assert low <= wish.volume_cm3 <= high
        left, right = (wishes[(f"Parotid_{side}",)].volume_cm3 for side in "LR")
        assert left != right
        assert 0.6 < left / right < 1.6


def test_without_spread_organs_are_the_median_ones_in_place() -> None:
    medians = {organ.owners: organ for organ in load_real_organs() if not organ.sides}
    for wish in draw_wishes(Draws(3), 0.0):
        assert wish.shift_mm == (0.0, 0.0, 0.0)
        if wish.owners in medians:
            assert wish.volume_cm3 == pytest.approx(medians[wish.owners].volume_cm3[1])


def _whole_at_level_2() -> list[tuple[RealOrgan, str, tuple[str, ...]]]:
    """Organs that lie inside every CT of ``SEEDS``, as masks of real ones outline them."""
    table = {organ.name: organ for organ in load_real_organs()}
    single = [(table["Brainstem"], "", ("Brainstem",)), (table["Mandible"], "", ("Bone_Mandible",))]
    pairs = {
        "Parotid": ("Parotid_",),
        "Submandibular": ("Glnd_Submand_",),
        "Orbit": ("Eye_P", "Eye_A"),
        "Lacrimal": ("Glnd_Lacrimal_",),
        "Optic-Nerve": ("OpticNrv_",),
    }
    return single + [
        (table[name], side, tuple(stem + side for stem in stems))
        for name, stems in pairs.items()
        for side in "LR"
    ]


@pytest.mark.parametrize(
    ("organ", "side", "names"),
    _whole_at_level_2(),
    ids=lambda value: value.name if isinstance(value, RealOrgan) else None,
)
def test_volumes_at_level_2_are_those_of_patients(
    organ: RealOrgan, side: str, names: tuple[str, ...]
) -> None:
    found = [volume_cm3(small(seed), *names) for seed in SEEDS]
    low, middle, high = organ.volume_cm3
    # Voxels of up to 20 mm³ and a rater's hand: a tenth of an organ, a third of a small one.
    slack = 0.12 if middle > 2 else 0.35
    assert low * (1 - slack) <= min(found), side
    assert max(found) <= high * (1 + slack), side


def posed(seed: int, level: int) -> Pose:
    pose = make_anatomy(seed).pose
    return vary_pose(pose, Draws(seed), LEVELS[str(level)], ()) if level else pose


def test_chins_are_raised_and_necks_bent_within_the_bounds() -> None:
    angles, heights = [], []
    for seed in range(30):
        pose = posed(seed, 2)
        angles += [b.angle_deg for b in pose.pushes if isinstance(b, Bend)]
        eye, stem = pose.to_world(np.asarray([(32.0, -76.0, 5.0), (0.0, 5.0, 5.0)]))
        heights.append(eye[2] - stem[2])
    assert -20 <= min(angles) < -10
    assert 3 < max(angles) <= 30
    # 29 ± 12 mm in real masks, whose brainstem reaches a little less far down.
    assert 10 < np.mean(heights) < 32


def test_level_1_lies_between_the_others() -> None:
    def spread(level: int) -> float:
        poses = [posed(seed, level) for seed in range(25)]
        points = np.asarray([(32.0, -76.0, 5.0), (0.0, 5.0, 5.0)])
        return float(np.std([np.subtract(*pose.to_world(points))[2] for pose in poses]))

    assert spread(0) < spread(1) < spread(2)


# --- scans


@pytest.mark.parametrize("level", [1, 2])
def test_cts_are_in_hu(level: int) -> None:
    for seed in range(20, 28):
        ct = make_phantom(PhantomSpec(seed, "tiny", with_mr=False, randomise=level)).ct
        assert judge_hu(ct.array).status == "right", seed
    assert judge_hu(small(SEEDS[0], level).ct.array).status == "right"


def test_slices_are_1_to_5_mm_and_voxels_hardly_more() -> None:
    usual = Grid((104, 224, 224), (3.0, 1.8, 1.8), (0.0, 0.0, 0.0))
    slices = set()
    for seed in range(40):
        grid = vary_ct_grid(usual, Draws(seed), LEVELS["2"])
        slices.add(grid.spacing_mm[0])
        assert np.prod(grid.shape) <= 1.06 * np.prod(usual.shape)
        top = grid.origin_mm[2] + (grid.shape[0] - 1) * grid.spacing_mm[0]
        assert top == pytest.approx(103 * 3.0, abs=1e-3)
        middle = grid.origin_mm[0] + (grid.shape[2] - 1) * grid.spacing_mm[2] / 2
        assert middle == pytest.approx(223 * 1.8 / 2, abs=1e-3)
    assert min(slices) == 1.0
    assert max(slices) == 5.0


def test_given_mr_field_and_slices_are_kept() -> None:
    spec = PhantomSpec(4, mr_fov_mm=256.0, mr_slice_mm=4.0, randomise=2)
    mr = make_phantom(spec).mr
    assert mr is not None
    assert mr.grid.spacing_mm == (4.0, round(256 / 176, 4), round(256 / 176, 4))


def test_mr_shows_the_body_where_the_transform_says() -> None:
    phantom = small(SEEDS[1])
    assert phantom.mr is not None
    for name in ("mandibular_angle_left", "nasal_tip"):
        in_ct = np.asarray([phantom.truth.landmarks_ct[name]])
        expected = phantom.truth.ct_to_mr.apply(in_ct)[0]
        np.testing.assert_allclose(phantom.truth.landmarks_mr[name], expected, atol=1e-6)


def test_a_randomised_mr_is_registered_within_a_voxel() -> None:
    phantom = small(SEEDS[2])
    assert phantom.mr is not None
    found = register_mr(phantom.ct, phantom.mr)
    assert found.verdict.status != "failed"
    points = [
        np.asarray(list(landmarks.values()))
        for landmarks in (phantom.truth.landmarks_ct, phantom.truth.landmarks_mr)
    ]
    assert landmark_accuracy(found.transform, *points).mean_mm < 2.0


# --- labels


def test_labels_hold_together() -> None:
    """All but pairs in one label are one piece; what a neighbour cut off is small."""
    for seed in SEEDS:
        array = small(seed).labels.array
        for structure in STRUCTURES:
            mask = array == structure.label
            pieces, count = label(mask, np.ones((3, 3, 3), int))
            if count > 1:
                sizes = np.sort(np.bincount(pieces.ravel())[1:])
                assert sizes[-2] >= 0.15 * sizes[-1], structure.name
            if structure.name.startswith(("Parotid", "Brainstem", "Glnd_Submand", "Eye_P")):
                assert count == 1, (seed, structure.name)


def test_rater_smooths_a_corner_and_keeps_labels_apart() -> None:
    array = np.zeros((6, 24, 24), np.uint8)
    array[:, 4:14, 4:14] = 1
    array[:, 4:14, 14:20] = 2
    array[5] = 0
    array[5, 8:10, 8:10] = 1  # too little beside the slice below
    volume = Volume(array, Grid(array.shape, (3.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    level = replace(LEVELS["2"], rater_mm=(1.5, 1.5), rater_bias=0.0)
    drawn = outline_as_rater(volume, Draws(1), level).array
    assert set(np.unique(drawn).tolist()) == {0, 1, 2}
    assert not drawn[5].any()
    assert drawn[2, 4, 4] == 0
    assert (drawn[2, 6:12, 6:12] == 1).all()
    assert (drawn[2, 6:12, 16:18] == 2).all()


def test_rater_leaves_an_organ_of_few_voxels() -> None:
    array = np.zeros((3, 9, 9), np.uint8)
    array[1, 4, 4] = 7
    volume = Volume(array, Grid(array.shape, (3.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    np.testing.assert_array_equal(outline_as_rater(volume, Draws(1), LEVELS["2"]).array, array)


# --- deformations


def test_bend_turns_the_trunk_about_the_arc() -> None:
    bend = Bend(30.0)
    above = np.asarray([5.0]), np.asarray([-20.0]), np.asarray([40.0])
    np.testing.assert_allclose(bend.undo(*above), above)
    # The axis keeps its length: 130 mm along the arc end where the trunk begins.
    angle, radius = np.deg2rad(30.0), 130.0 / np.deg2rad(30.0)
    end = (0.0, BEND_AXIS_MM - radius * (1 - np.cos(angle)), -25.0 - radius * np.sin(angle))
    found = bend.undo(*(np.asarray([value]) for value in end))
    np.testing.assert_allclose(np.ravel(found), (0.0, BEND_AXIS_MM, -155.0), atol=1e-9)


@pytest.mark.parametrize("angle", [-20.0, -3.0, 0.0, 8.0, 30.0])
def test_bend_is_undone(angle: float) -> None:
    pose = replace(STILL, pushes=(Bend(angle),))
    points = np.asarray([(10.0, -60.0, -80.0), (0.0, 40.0, -150.0), (30.0, 0.0, -230.0)])
    np.testing.assert_allclose(pose.to_anatomy(pose.to_world(points)), points, atol=1e-6)


def test_a_push_moves_outwards_and_enlarges_its_middle() -> None:
    pose = replace(STILL, pushes=(Push((0.0, 0.0, 0.0), 5.0, 15.0),))
    x, y, z = pose.to_world(np.asarray([(14.0, 0.0, 0.0)]))[0]
    assert 17 < x < 20
    assert (y, z) == (0.0, 0.0)
    assert volume_in_world(pose, np.zeros((1, 3))) > 3
    assert volume_in_world(pose, np.asarray([(90.0, 0.0, 0.0)])) == pytest.approx(1.0, abs=1e-4)


# --- refused


@pytest.mark.parametrize("level", [-1, 3])
def test_unknown_level_is_refused(level: int) -> None:
    with pytest.raises(InputError, match=f"randomise {level}: expected one of 0, 1, 2"):
        PhantomSpec(1, randomise=level)


@pytest.mark.parametrize("level", ["3", "-1", "two"])
def test_command_refuses_an_unknown_level(
    level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        main(["phantom", str(out), "--randomise", level])
    assert "--randomise" in capsys.readouterr().err
    assert not out.exists()


def test_command_passes_the_level_on(tmp_path: Path) -> None:
    made = []
    for level in ("0", "2"):
        out = tmp_path / level
        command = ["phantom", str(out), "--size", "tiny", "--seed", "7", "--no-mr"]
        assert main([*command, "--randomise", level]) == 0
        made.append((out / "case_07" / "case_07_IMG_CT.nrrd").read_bytes())
    assert made[0] != made[1]


@pytest.mark.parametrize(("challenge", "seed"), list(BEFORE), ids=lambda value: str(value))
def test_level_0_is_what_it_was(challenge: str, seed: int) -> None:
    grid = draw_ct_grid(PhantomSpec(seed, "tiny"), draw_patient(PhantomSpec(seed, "tiny")))
    assert grid.shape == (40, 64, 64)
    phantom = make_phantom(PhantomSpec(seed, "tiny"), load_challenge(challenge))
    text = repr(phantom.truth) + "".join(repr(v.grid) for v in drawn(phantom).values())
    assert kept_phantoms.digest(kept_phantoms.rounded(text).encode()) == BEFORE[challenge, seed]
    with np.load(SUMS_BEFORE) as sums:
        for name, volume in drawn(phantom).items():
            array = volume.array.astype(np.int64)
            kept_phantoms.assert_same_sums(array, f"{challenge}_{seed}_{name}", sums)
            array[array.shape[0] // 2, 30:35, 30] += 1
            with pytest.raises(AssertionError, match=name):
                kept_phantoms.assert_same_sums(array, f"{challenge}_{seed}_{name}", sums)


def drawn(phantom: Phantom) -> dict[str, Volume]:
    return dict(sorted(phantom.images.items())) | {"labels": phantom.labels}
