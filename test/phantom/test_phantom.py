"""Phantoms: the same from the same seed, plausible, and true to their own truth."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from oarseg.challenges.catalogue import load_challenge
from oarseg.errors import InputError
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Volume, to_sitk
from oarseg.phantom import Phantom, PhantomSpec, make_phantom, write_cases
from oarseg.phantom.grids import draw_ct_grid, draw_ct_to_mr, draw_mr_grid
from oarseg.phantom.patient.anatomy import make_anatomy
from oarseg.phantom.patient.pose import unbend
from oarseg.phantom.patient.shapes import (
    Arch,
    Cut,
    Ellipsoid,
    Rippled,
    Solid,
    Stack,
    Tube,
    Union,
    Without,
)
from oarseg.phantom.patient.structures import VOLUMES_CM3
from oarseg.phantom.patient.tissues import SEQUENCES, TISSUES
from oarseg.phantom.scanner import CtScanner, MrScanner, View, paint_slab

STRUCTURES = load_challenge("han_seg").structures
NAMES = [structure.name for structure in STRUCTURES]
LABELS = {structure.name: structure.label for structure in STRUCTURES}
WHOLE_SEEDS = (201, 202, 203)  # their CTs start above the vertex


@pytest.fixture(scope="module")
def tiny() -> Phantom:
    return make_phantom(PhantomSpec(7, "tiny"))


@pytest.fixture(scope="module")
def small() -> dict[int, Phantom]:
    return {seed: make_phantom(PhantomSpec(seed)) for seed in WHOLE_SEEDS}


def volumes_cm3(labels: Volume) -> dict[str, float]:
    counts = np.bincount(labels.array.ravel(), minlength=len(NAMES) + 1)
    return {s.name: counts[s.label] * labels.grid.voxel_volume_mm3 / 1000 for s in STRUCTURES}


def centroid_mm(labels: Volume, value: int) -> np.ndarray:
    points = labels.grid.to_world(np.argwhere(labels.array == value).astype(float))
    return np.asarray(points.mean(axis=0))


def sample(volume: Volume, points_mm: np.ndarray) -> np.ndarray:
    """Nearest voxels' values."""
    z, y, x = np.rint(volume.grid.to_index(points_mm)).astype(int).T
    return np.asarray(volume.array[z, y, x])


# --- reproducible


def test_same_seed_gives_same_bytes(tiny: Phantom) -> None:
    again = make_phantom(PhantomSpec(7, "tiny"))
    assert tiny.mr is not None
    assert again.mr is not None
    for first, second in ((tiny.ct, again.ct), (tiny.mr, again.mr), (tiny.labels, again.labels)):
        assert first.grid == second.grid
        assert first.array.tobytes() == second.array.tobytes()
    assert tiny.truth == again.truth


def test_other_seed_gives_other_patient(tiny: Phantom) -> None:
    other = make_phantom(PhantomSpec(8, "tiny"))
    assert (other.labels.array != tiny.labels.array).any()
    assert other.truth.landmarks_ct != tiny.truth.landmarks_ct


@pytest.mark.parametrize("slab_voxels", [1, 64 * 64 * 3, 10**9])
def test_slab_size_changes_nothing(tiny: Phantom, slab_voxels: int) -> None:
    other = make_phantom(PhantomSpec(7, "tiny"), slab_voxels=slab_voxels)
    assert tiny.mr is not None
    assert other.mr is not None
    np.testing.assert_array_equal(other.ct.array, tiny.ct.array)
    np.testing.assert_array_equal(other.mr.array, tiny.mr.array)
    np.testing.assert_array_equal(other.labels.array, tiny.labels.array)


# --- plausible


def test_reference_volumes_cover_the_challenge() -> None:
    assert sorted(VOLUMES_CM3) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_volume_lies_in_the_reference_range(small: dict[int, Phantom], name: str) -> None:
    found = [volumes_cm3(phantom.labels)[name] for phantom in small.values()]
    low, mean, high = VOLUMES_CM3[name]
    assert low <= min(found)
    assert max(found) <= high
    assert 0.5 * mean <= np.mean(found) <= 1.6 * mean


def test_left_is_at_larger_x(small: dict[int, Phantom]) -> None:
    middle = {seed: make_anatomy(seed).pose.rigid.translation_mm[0] for seed in small}
    for seed, phantom in small.items():
        for structure in STRUCTURES:
            if structure.side:
                x = centroid_mm(phantom.labels, structure.label)[0]
                assert (x > middle[seed]) == (structure.side == "left"), structure.name


def test_structures_stand_in_anatomical_order(small: dict[int, Phantom]) -> None:
    downwards = ["OpticChiasm", "Brainstem", "Cavity_Oral", "Larynx_SG", "Glottis"]
    downwards += ["Cricopharyngeus", "Esophagus_S"]
    backwards = ["Lips", "Cavity_Oral", "SpinalCord"]
    for phantom in small.values():
        z = [centroid_mm(phantom.labels, LABELS[name])[2] for name in downwards]
        y = [centroid_mm(phantom.labels, LABELS[name])[1] for name in backwards]
        assert z == sorted(z, reverse=True)
        assert y == sorted(y)


def test_ct_is_clipped_and_spans_air_to_bone(small: dict[int, Phantom]) -> None:
    for phantom in small.values():
        assert phantom.ct.array.dtype == np.int16
        assert phantom.ct.array.min() >= -1024
        assert phantom.ct.array.max() <= 3000
        assert abs(np.median(phantom.ct.array[:, :20]) + 1000) < 5
    metal = next(seed for seed in range(50) if make_anatomy(seed).metal)
    assert make_phantom(PhantomSpec(metal, with_mr=False)).ct.array.max() == 3000


def test_soft_neighbours_differ_less_than_noise_in_ct_and_clearly_in_mr() -> None:
    pairs = [
        ("Glnd_Submand_", "muscle"),
        ("Brainstem", "white"),
        ("Esophagus_S", "muscle"),
        ("Cricopharyngeus", "muscle"),
        ("BuccalMucosa", "muscle"),
        ("OpticChiasm", "white"),
        ("Pituitary", "white"),
        ("Larynx_SG", "muscle"),
    ]
    for first, second in pairs:
        one, two = TISSUES[first.rstrip("_")], TISSUES[second]
        assert abs(one[0] - two[0]) <= 10, first
        for sequence in range(1, 1 + len(SEQUENCES)):
            assert abs(one[sequence] - two[sequence]) >= 40, first


def test_mr_background_is_noise_not_zero(tiny: Phantom) -> None:
    assert tiny.mr is not None
    corner = tiny.mr.array[:, :4, :4]
    assert corner.mean() > 3
    assert (corner > 0).mean() > 0.95


def test_mr_covers_less_than_the_ct(small: dict[int, Phantom]) -> None:
    for phantom in small.values():
        assert phantom.mr is not None
        ct, mr = (np.multiply(v.grid.shape, v.grid.spacing_mm) for v in (phantom.ct, phantom.mr))
        assert (mr < ct).all()
        assert 3.0 <= phantom.mr.grid.spacing_mm[0] <= 5.0


# --- true


def test_frames_are_disjoint_for_some_seeds_and_rotated_at_most_7_degrees_an_axis() -> None:
    shifts, angles = [], []
    for seed in range(30):
        spec = PhantomSpec(seed)
        anatomy = make_anatomy(seed)
        transform = draw_ct_to_mr(spec, anatomy)
        ct, mr = draw_ct_grid(spec, anatomy), draw_mr_grid(spec, anatomy, transform)
        gap = mr.origin_mm[2] + mr.shape[0] * mr.spacing_mm[0] < ct.origin_mm[2]
        shifts.append(gap)
        euler = sitk.Euler3DTransform()
        euler.SetMatrix([v for row in transform.rotation for v in row])
        angles.append(
            [abs(np.rad2deg(a)) for a in (euler.GetAngleX(), euler.GetAngleY(), euler.GetAngleZ())]
        )
    assert 5 < sum(shifts) < 29
    assert 4.0 < np.max(angles) <= 7.0 + 1e-6


def test_mr_shows_the_structures_where_the_transform_says(small: dict[int, Phantom]) -> None:
    seed = WHOLE_SEEDS[0]
    phantom, anatomy = small[seed], make_anatomy(seed)
    transform = phantom.truth.ct_to_mr
    assert phantom.mr is not None
    view = View(anatomy, phantom.mr.grid, transform.inverse(), numbers=LABELS)
    slab = paint_slab(view, 0, phantom.mr.grid.shape[0], MrScanner.draw(seed).draw_values())
    seen = Volume(slab.owners, phantom.mr.grid)
    for name in ("Eye_PL", "Eye_PR", "Glnd_Submand_L", "Cavity_Oral", "Pituitary"):
        value = LABELS[name]
        wanted = transform.apply(centroid_mm(phantom.labels, value)[None])[0]
        assert np.linalg.norm(centroid_mm(seen, value) - wanted) < 0.8, name


def test_body_of_mr_moved_onto_the_ct_is_the_body_of_the_ct(small: dict[int, Phantom]) -> None:
    phantom = small[WHOLE_SEEDS[1]]
    assert phantom.mr is not None
    rule = phantom.truth.ct_to_mr.to_sitk()
    moved = sitk.Resample(to_sitk(phantom.mr), to_sitk(phantom.ct), rule, sitk.sitkLinear, -1.0)
    mr = sitk.GetArrayFromImage(moved)
    seen = mr >= 0
    bright = mr > 0.25 * np.percentile(phantom.mr.array, 99)
    brain = np.isin(phantom.labels.array, [LABELS[n] for n in ("Brainstem", "Cavity_Oral")])
    assert bright[brain & seen].mean() > 0.97
    outside = (phantom.ct.array < -900) & seen
    assert bright[outside].mean() < 0.03


def test_nasal_tip_is_where_skin_meets_air_in_both_scans(small: dict[int, Phantom]) -> None:
    for phantom in small.values():
        assert phantom.mr is not None
        tip = np.asarray(phantom.truth.landmarks_ct["nasal_tip"])
        inside, outside = (
            tip + np.array([0, 5, 0]),
            tip - np.array([0, 9, 0]),
        )  # the mask lies 2–5 mm in front
        hu = sample(phantom.ct, np.stack([inside, outside]))
        assert hu[0] > -300 > hu[1]
        signal = sample(phantom.mr, phantom.truth.ct_to_mr.apply(np.stack([inside, outside])))
        assert signal[0] > 2 * signal[1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_mandibular_angle_is_on_the_mandible(small: dict[int, Phantom], side: str) -> None:
    for phantom in small.values():
        point = np.asarray(phantom.truth.landmarks_ct[f"mandibular_angle_{side}"])
        value = LABELS["Bone_Mandible"]
        steps = sample(phantom.labels, point + np.outer([3.0, -4.0], [0, -1, 0]))
        assert steps[0] == value
        assert steps[1] != value


def test_landmarks_map_through_the_transform(tiny: Phantom) -> None:
    truth = tiny.truth
    assert len(truth.landmarks_ct) == 6
    moved = truth.ct_to_mr.apply(np.asarray(list(truth.landmarks_ct.values())))
    np.testing.assert_allclose(moved, list(truth.landmarks_mr.values()), atol=1e-6)


def test_flexion_moves_the_neck_and_not_the_head() -> None:
    still = make_phantom(PhantomSpec(7, "tiny")).truth
    bent = make_phantom(PhantomSpec(7, "tiny", neck_flexion_deg=3.0)).truth
    assert still.landmarks_ct == bent.landmarks_ct
    shift = {
        name: np.linalg.norm(np.subtract(still.landmarks_mr[name], bent.landmarks_mr[name]))
        for name in still.landmarks_mr
    }
    assert shift["nasal_tip"] < 0.5
    assert 0.4 < shift["transverse_process_left"] < 8.0


def test_presence_tells_absent_and_cut_structures() -> None:
    seed = next(s for s in range(300) if make_anatomy(s).low_top is not None)
    phantom = make_phantom(PhantomSpec(seed, with_mr=False))
    presence = phantom.truth.presence
    assert presence["OpticChiasm"] == 0
    assert presence["Brainstem"] == 0.5
    assert presence["Cavity_Oral"] == 1
    volume = volumes_cm3(phantom.labels)
    for name in NAMES:
        assert (presence[name] > 0) == (volume[name] > 0)


def test_world_and_anatomy_are_inverse() -> None:
    pose = make_anatomy(5).pose
    points = np.array([[30.0, -70.0, 5.0], [0, 0, 0], [10, 20, -150]])
    np.testing.assert_allclose(pose.to_anatomy(pose.to_world(points)), points, atol=1e-5)


def test_unbend_leaves_the_head() -> None:
    y, z = unbend(np.array([10.0, 10.0]), np.array([0.0, -155.0]), 2.0)
    assert (y[0], z[0]) == (10.0, 0.0)
    # Half the bent length times the slope, as for any parabola.
    assert y[1] == pytest.approx(10 + 65 * np.tan(np.deg2rad(2.0)))


# --- shapes: by hand


@pytest.mark.parametrize(
    ("shape", "point", "distance"),
    [
        (Ellipsoid((0, 0, 0), (10, 10, 10)), (13, 0, 0), 3.0),
        (Ellipsoid((1, 0, 0), (5, 5, 5), boxy=True), (1, 0, 0), -5.0),
        (Tube(((0, 0, 0), (10, 0, 0)), (2, 4)), (5, 5, 0), 2.0),
        (Tube(((0, 0, 0), (10, 0, 0)), (2, 4)), (15, 0, 0), 1.0),
        (Stack(((0, 0, 0, 4, 4, 4), (10, 0, 0, 4, 4, 4))), (6, 0, 5), 2.0),
        (Stack(((0, 0, 0, 4, 4, 4), (10, 0, 0, 4, 4, 4))), (0, 0, 13), 3.0),
        (Arch((0, 0, 0), (20, 20), 3, 5, rounding=1), (0, -20, 0), -3.0),
        (Arch((0, 0, 0), (20, 20), 3, 5, rounding=1), (0, -20, 9), 4.0),
        (Cut(Ellipsoid((0, 0, 0), (10, 10, 10)), (0, 0, 1), 4.0), (0, 0, 6), 2.0),
        (
            Without(Ellipsoid((0, 0, 0), (9, 9, 9)), Tube(((0, 0, -9), (0, 0, 9)), (2, 2))),
            (0, 0, 0),
            2,
        ),
    ],
)
def test_distance(shape: Solid, point: tuple[float, float, float], distance: float) -> None:
    x, y, z = (np.array([[[v]]], np.float32) for v in point)
    assert float(shape.distance(x, y, z)[0, 0, 0]) == pytest.approx(distance, abs=0.02)


def test_nothing_is_nearer_than_its_box_says() -> None:
    rng = np.random.default_rng(3)
    for part in make_anatomy(11).parts[::3]:
        shape, margin = part.shape, 3.0
        low, high = np.asarray(shape.box) + np.array([[-margin], [margin]]) * shape.stretch
        points = rng.uniform(low - 6, high + 6, (4000, 3)).astype(np.float32)
        outside = ((points < low) | (points > high)).any(axis=1)
        x, y, z = points[outside].T
        assert shape.distance(x, y, z).min() >= margin - 0.01, part.layers


def test_union_and_ripples_stay_close_to_their_shapes() -> None:
    ball = Ellipsoid((0, 0, 0), (10, 10, 10))
    points = np.random.default_rng(0).uniform(-12, 12, (3, 500)).astype(np.float32)
    plain = ball.distance(*points)
    merged = Union((ball, Ellipsoid((5, 0, 0), (10, 10, 10))), blend=4.0).distance(*points)
    assert (merged <= plain + 1e-5).all()
    ripple = Rippled(ball, 1.5, 8.0).distance(*points) - plain
    assert np.abs(ripple).max() <= 3.0 + 1e-4


# --- files


def test_data_set_layout(tmp_path: Path) -> None:
    told: list[str] = []
    folders = write_cases(tmp_path, seeds=[7, 12], size="tiny", progress=told.append)
    assert [folder.name for folder in folders] == ["case_07", "case_12"]
    assert len(told) == 2
    truth = json.loads((tmp_path / "case_07" / "case_07_truth.json").read_text())
    expected = {"case_07_IMG_CT.nrrd", "case_07_IMG_MR_T1.nrrd", "case_07_truth.json"}
    expected |= {"case_07_ct_to_mr.tfm"}
    expected |= {f"case_07_OAR_{n}.seg.nrrd" for n in NAMES if truth["presence"][n] > 0}
    assert {path.name for path in (tmp_path / "case_07").iterdir()} == expected
    rows = list(csv.DictReader((tmp_path / "OAR_data.csv").open()))
    assert [row["case"] for row in rows] == ["case_07", "case_12"]
    assert {n: float(rows[0][n]) for n in NAMES} == truth["presence"]
    people = list(csv.DictReader((tmp_path / "patient_data.csv").open()))
    assert people[0]["gender"] in ("F", "M")


def test_files_hold_what_was_made(tmp_path: Path, tiny: Phantom) -> None:
    write_cases(tmp_path, seeds=[7], size="tiny")
    folder = tmp_path / "case_07"
    ct = sitk.ReadImage(str(folder / "case_07_IMG_CT.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(ct), tiny.ct.array)
    np.testing.assert_allclose(ct.GetOrigin(), tiny.ct.grid.origin_mm)
    mask = sitk.ReadImage(str(folder / "case_07_OAR_Bone_Mandible.seg.nrrd"))
    inside = tiny.labels.array == LABELS["Bone_Mandible"]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), inside)
    assert mask.GetMetaData("Segment0_Name") == "Bone_Mandible"
    assert mask.GetMetaData("Segment0_LabelValue") == "1"
    x0, x1, y0, y1, z0, z1 = map(int, mask.GetMetaData("Segment0_Extent").split())
    assert inside[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1].sum() == inside.sum()
    transform = RigidTransform.read(folder / "case_07_ct_to_mr.tfm")
    point = np.array([[10.0, -150.0, 20.0]])
    np.testing.assert_allclose(transform.apply(point), tiny.truth.ct_to_mr.apply(point), atol=1e-4)


def test_tables_list_every_case_of_the_folder(tmp_path: Path) -> None:
    write_cases(tmp_path, seeds=[12], size="tiny", with_mr=False)
    write_cases(tmp_path, seeds=[7], size="tiny", with_mr=False)
    rows = list(csv.DictReader((tmp_path / "OAR_data.csv").open()))
    assert [row["case"] for row in rows] == ["case_07", "case_12"]
    assert not list(tmp_path.glob("*/*_IMG_MR_T1.nrrd"))


def test_platform_layout(tmp_path: Path) -> None:
    write_cases(tmp_path, seeds=[7], size="tiny", layout="platform")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {
        "images/ct/case_07_CT.mha",
        "images/t1-mri/case_07_MR_T1.mha",
        "truth/case_07/label.nrrd",
        "truth/case_07/case_07_truth.json",
        "truth/case_07/case_07_ct_to_mr.tfm",
    }


def test_several_processes_write_the_same(tmp_path: Path) -> None:
    write_cases(tmp_path / "one", seeds=[7, 8], size="tiny")
    write_cases(tmp_path / "two", seeds=[7, 8], size="tiny", workers=2)
    for path in (tmp_path / "one").rglob("*.*"):
        twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == twin.read_bytes(), path.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": [1], "size": "huge"}, "size 'huge': expected one of tiny, small"),
        ({"seeds": [-1]}, "seed -1: expected 0 or more"),
        ({"seeds": [3, 3]}, "seeds: each may be given once"),
        ({"seeds": [3], "layout": "bids"}, "layout 'bids': expected dataset or platform"),
        ({"seeds": [3], "neck_flexion_deg": 40.0}, "neck flexion 40.0°: expected at most 10°"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_cases(tmp_path / "out", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_scan_of_empty_space_is_air() -> None:
    anatomy = make_anatomy(7)
    scanner = replace(CtScanner.draw(7, anatomy), couch_y_mm=1e6)
    grid = Grid((2, 8, 8), (2.0, 2.0, 2.0), (5000.0, 5000.0, 5000.0))
    ct, labels = scanner.scan(View(anatomy, grid))
    assert labels.array.max() == 0
    assert abs(ct.array.mean() + 1000) < 5


def test_mr_field_slices_and_metal_of_ones_choice(tiny: Phantom) -> None:
    spec = PhantomSpec(7, "tiny", mr_fov_mm=420.0, mr_slice_mm=5.0, metal=True)
    chosen = make_phantom(spec)
    assert chosen.mr is not None
    assert chosen.mr.grid.spacing_mm[0] == 5.0
    height = chosen.mr.grid.shape[1]
    assert chosen.mr.grid.spacing_mm[1] * height == pytest.approx(420.0, abs=0.01)
    assert chosen.mr.grid.shape[0] * 5.0 == pytest.approx(
        tiny.mr.grid.shape[0] * tiny.mr.grid.spacing_mm[0],
        abs=5.0,  # type: ignore[union-attr]
    )
    assert chosen.truth.ct_to_mr == tiny.truth.ct_to_mr
    assert chosen.ct.array.max() > tiny.ct.array.max()


@pytest.mark.parametrize("wrong", [{"mr_fov_mm": 20.0}, {"mr_slice_mm": 30.0}])
def test_an_mr_that_no_scanner_takes(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"expected .* mm"):
        PhantomSpec(7, "tiny", **wrong)  # type: ignore[arg-type]
