"""A case: which phantom on which grids, and its truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from oarseg.challenges.catalogue import load_challenge
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Vector, Volume
from oarseg.phantom.patient.anatomy import Anatomy, build
from oarseg.phantom.patient.pose import Pose
from oarseg.phantom.scanner import SLAB_VOXELS, CtScanner, MrScanner, View

Range = tuple[float, float]


@dataclass(frozen=True)
class Size:
    """Grids of a named size; ranges are drawn from by the seed.

    Attributes:
        ct_shape: voxels (z, y, x).
        ct_inplane_mm: range of the CT's spacing in plane.
        ct_slice_mm: range of the distance of its slices.
        mr_shape: voxels (z, y, x).
        mr_fov_mm: range of the MR's field in plane.
        mr_reach_mm: range of its extent across the slices.
    """

    ct_shape: tuple[int, int, int]
    ct_inplane_mm: Range
    ct_slice_mm: Range
    mr_shape: tuple[int, int, int]
    mr_fov_mm: Range
    mr_reach_mm: Range


SIZES: dict[str, Size] = {
    "tiny": Size((40, 64, 64), (6.1, 6.3), (7.6, 7.8), (20, 56, 56), (250, 290), (180, 200)),
    "small": Size(
        (104, 224, 224), (1.74, 1.84), (2.9, 3.05), (44, 176, 176), (240, 300), (185, 220)
    ),
    "medium": Size(
        (120, 512, 512), (0.95, 1.0), (2.45, 2.55), (44, 256, 256), (240, 300), (185, 220)
    ),
    "median": Size(
        (189, 1024, 1024), (0.64, 0.64), (2.0, 2.0), (56, 512, 512), (245, 330), (185, 220)
    ),
    "maximum": Size(
        (323, 1024, 1024), (0.52, 0.52), (2.0, 2.0), (84, 512, 512), (245, 330), (252, 290)
    ),
}
# Scans of the chest, as wide and as thick as StructSeg's; there is no MR of it.
CHEST_SIZES: dict[str, Size] = {
    "tiny": Size((40, 64, 64), (7.5, 7.8), (9.6, 10.0), (20, 56, 56), (250, 290), (180, 200)),
    "small": Size((96, 192, 192), (2.5, 2.65), (4.0, 4.2), (44, 176, 176), (240, 300), (185, 220)),
    "medium": Size((95, 384, 384), (1.3, 1.35), (4.1, 4.3), (56, 320, 320), (245, 330), (185, 220)),
    "median": Size(
        (95, 512, 512), (1.17, 1.17), (5.0, 5.0), (56, 512, 512), (245, 330), (185, 220)
    ),
    "maximum": Size(
        (127, 512, 512), (1.37, 1.37), (3.0, 3.0), (84, 512, 512), (245, 330), (252, 290)
    ),
}
VERTEX_Z = 121.0
APEX_Z = -140.0  # above the lungs
CHEST_BACK_MM = 6.0  # from there the chest's middle lies so far back
METAL_RATE = 0.2
MR_FOV_LIMITS_MM = (100.0, 600.0)
MR_SLICE_LIMITS_MM = (0.5, 10.0)
PHARYNX: Vector = (0.0, -20.0, -55.0)


@dataclass(frozen=True)
class PhantomSpec:
    """Which phantom.

    Attributes:
        seed: decides everything else.
        size: one of ``SIZES``.
        neck_flexion_deg: bend of the neck added between CT and MR.
        with_mr: whether to make the MR.
        mr_fov_mm: the MR's field in plane; None lets the seed decide.
        mr_slice_mm: the distance of its slices; None follows from the size.
        metal: whether a fifth of the teeth has a metal crown, whoever the patient is.

    Raises:
        InputError: an unknown size, a negative seed, a flexion beyond 10°, a field or
            slices that no scanner has.
    """

    seed: int
    size: str = "small"
    neck_flexion_deg: float = 0.0
    with_mr: bool = True
    mr_fov_mm: float | None = None
    mr_slice_mm: float | None = None
    metal: bool = False

    @property
    def metal_rate(self) -> float | None:
        """Share of teeth with a metal crown; None lets the patient decide."""
        return METAL_RATE if self.metal else None

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise InputError(f"size {self.size!r}: expected one of {', '.join(SIZES)}")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: expected 0 or more")
        if abs(self.neck_flexion_deg) > 10.0:
            raise InputError(f"neck flexion {self.neck_flexion_deg}°: expected at most 10°")
        for name, value, (low, high) in (
            ("MR field", self.mr_fov_mm, MR_FOV_LIMITS_MM),
            ("MR slices", self.mr_slice_mm, MR_SLICE_LIMITS_MM),
        ):
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} {value} mm: expected {low:g} to {high:g} mm")


@dataclass(frozen=True)
class Truth:
    """What is known of a phantom.

    Attributes:
        seed: of the patient and the scans.
        size: name of the size.
        sex: "F" or "M".
        age: years.
        ct_to_mr: CT world → MR world, the head's pose.
        neck_flexion_deg: bend of the neck added in the MR, not part of ``ct_to_mr``.
        landmarks_ct: the paper's six, CT world, mm.
        landmarks_mr: the same in MR world, flexion included.
        presence: 1 in the CT's field, 0.5 cut by its edge, 0 absent.
        mr_field_mm: lowest and highest corner of the MR's field, MR world.
    """

    seed: int
    size: str
    sex: str
    age: int
    ct_to_mr: RigidTransform
    neck_flexion_deg: float
    landmarks_ct: dict[str, Vector]
    landmarks_mr: dict[str, Vector]
    presence: dict[str, float]
    mr_field_mm: tuple[Vector, Vector] | None


@dataclass(frozen=True)
class Phantom:
    """Both scans and the truth; ``labels`` lie on the CT's grid."""

    ct: Volume
    mr: Volume | None
    labels: Volume
    truth: Truth


def make_phantom(
    spec: PhantomSpec,
    *,
    slab_voxels: int = SLAB_VOXELS,
    progress: Callable[[float], None] | None = None,
) -> Phantom:
    """Make a phantom in memory: the CT as int16, the labels as uint8, the MR as int16."""
    anatomy = build(spec.seed, metal_rate=spec.metal_rate)
    view = View(anatomy, ct_grid(spec, anatomy))
    ct, labels = CtScanner.of(spec.seed, anatomy).scan(
        view, slab_voxels=slab_voxels, progress=progress
    )
    transform = ct_to_mr(spec, anatomy)
    mr = None
    if spec.with_mr:
        grid = mr_grid(spec, anatomy, transform)
        seen = View(anatomy, grid, transform.inverse(), spec.neck_flexion_deg)
        mr = MrScanner.of(spec.seed).scan(seen, slab_voxels=slab_voxels)
    presence = presence_of(labels, load_challenge("han_seg"))
    return Phantom(ct, mr, labels, truth_of(spec, anatomy, transform, presence, mr))


def _rng(spec: PhantomSpec, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([spec.seed, stream]))


def ct_grid(
    spec: PhantomSpec, anatomy: Anatomy, *, chest_sizes: Mapping[str, Size] | None = None
) -> Grid:
    """The CT's grid: from above the vertex downwards, as far as its slices reach.

    With ``chest_sizes`` it begins above the lungs instead.
    """
    size, rng = (chest_sizes or SIZES)[spec.size], _rng(spec, 31)
    inplane = round(float(rng.uniform(*size.ct_inplane_mm)), 4)
    spacing = (round(float(rng.uniform(*size.ct_slice_mm)), 3), inplane, inplane)
    margin, dx, dy = rng.uniform(3.0, 9.0), rng.uniform(-5, 5), rng.uniform(-4, 4)
    place = np.asarray(anatomy.pose.rigid.translation_mm)
    top = VERTEX_Z if anatomy.low_top is None else anatomy.low_top - margin
    top, back = (APEX_Z, CHEST_BACK_MM) if chest_sizes else (top, 14.0)
    high = place[2] + top * anatomy.pose.scale[2] + margin
    depth, height, width = size.ct_shape
    origin = (
        float(place[0] + dx - inplane * (width - 1) / 2),
        float(place[1] + back + dy - inplane * (height - 1) / 2),
        float(high - spacing[0] * (depth - 1)),
    )
    return Grid(size.ct_shape, spacing, _rounded(origin))


def ct_to_mr(spec: PhantomSpec, anatomy: Anatomy) -> RigidTransform:
    """The MR's own frame: rotated up to 7° about each axis, and far away."""
    rng = _rng(spec, 41)
    reach = 7.0 if rng.random() < 0.5 else 2.5
    angles = rng.uniform(-reach, reach, 3)
    shift = (
        rng.uniform(-15, 15),
        rng.choice([-1.0, 1.0]) * rng.uniform(60, 120),
        rng.uniform(-600, 165),
    )
    centre = _world(anatomy.pose, PHARYNX)
    turn = (float(angles[0]), float(angles[1]), float(angles[2]))
    return RigidTransform.about(
        centre, angles_deg=turn, shift_mm=(float(shift[0]), float(shift[1]), float(shift[2]))
    )


def _world(pose: Pose, point: Vector) -> Vector:
    x, y, z = pose.to_world(np.asarray([point]))[0].tolist()
    return x, y, z


def mr_grid(spec: PhantomSpec, anatomy: Anatomy, transform: RigidTransform) -> Grid:
    """The MR's grid, centred on the pharynx in plane, from above the chiasm downwards."""
    size, rng = SIZES[spec.size], _rng(spec, 51)
    depth, height, width = size.mr_shape
    fov = float(rng.uniform(*size.mr_fov_mm))
    inplane = round((spec.mr_fov_mm or fov) / width, 4)
    short = 0.78 if rng.random() < 0.1 else 1.0
    reach = float(rng.uniform(*size.mr_reach_mm)) * short
    if spec.mr_slice_mm:
        depth = round(reach / spec.mr_slice_mm)
    slice_mm = spec.mr_slice_mm or round(reach / depth, 3)
    pose = anatomy.pose
    centre = transform.apply(np.asarray([_world(pose, PHARYNX)]))[0] + rng.uniform(-5, 5, 3)
    top = transform.apply(np.asarray([_world(pose, (0.0, -20.0, float(rng.uniform(42, 60))))]))[0]
    origin = (
        float(centre[0] - inplane * (width - 1) / 2),
        float(centre[1] - inplane * (height - 1) / 2),
        float(top[2] - slice_mm * (depth - 1)),
    )
    return Grid((depth, height, width), (slice_mm, inplane, inplane), _rounded(origin))


def _rounded(point: Vector) -> Vector:
    """To a thousandth of a millimetre, as headers are written."""
    return round(point[0], 3), round(point[1], 3), round(point[2], 3)


def presence_of(labels: Volume, challenge: Challenge) -> dict[str, float]:
    """1 where an organ lies in the field, 0.5 where it touches its first or last plane."""
    # Plane by plane: counting makes 8 bytes of every voxel.
    counts = np.zeros(256, np.int64)
    for plane in labels.array:
        counts += np.bincount(plane.reshape(-1), minlength=256)
    edge = set(np.unique(labels.array[[0, -1]]).tolist())
    presence = {}
    for organ in challenge.organs:
        cut = 0.5 if edge & set(organ.labels) else 1.0
        presence[organ.name] = cut if counts[list(organ.labels)].any() else 0.0
    return presence


def truth_of(
    spec: PhantomSpec,
    anatomy: Anatomy,
    transform: RigidTransform,
    presence: dict[str, float],
    mr: Volume | None,
) -> Truth:
    """What is known of a patient and the scans."""
    names = list(anatomy.landmarks)
    points = np.asarray([anatomy.landmarks[name] for name in names])
    pose = anatomy.pose
    in_ct = pose.to_world(points)
    bent = replace(pose, flexion_deg=pose.flexion_deg + spec.neck_flexion_deg)
    in_mr = transform.apply(bent.to_world(points))
    return Truth(
        seed=spec.seed,
        size=spec.size,
        sex=anatomy.sex,
        age=anatomy.age,
        ct_to_mr=transform,
        neck_flexion_deg=spec.neck_flexion_deg,
        landmarks_ct=dict(zip(names, map(_vector, in_ct), strict=True)),
        landmarks_mr=dict(zip(names, map(_vector, in_mr), strict=True)),
        presence=presence,
        mr_field_mm=None if mr is None else _field(mr.grid),
    )


def _vector(values: NDArray[np.float64]) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])


def _field(grid: Grid) -> tuple[Vector, Vector]:
    ends = grid.to_world(np.asarray([(-0.5, -0.5, -0.5), [n - 0.5 for n in grid.shape]]))
    return _vector(ends[0]), _vector(ends[1])
