"""Where a phantom's scans lie in the world: their grids and the MR's frame."""

from __future__ import annotations

import numpy as np

from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Vector
from oarseg.phantom.patient.anatomy import Anatomy
from oarseg.phantom.patient.pose import Pose
from oarseg.phantom.spec import CHEST_CT_SIZES, CT_SIZES, MR_SIZES, PhantomSpec

VERTEX_Z = 121.0
APEX_Z = -140.0  # above the lungs
HEAD_BACK_MM = 14.0  # how far behind the anatomy's origin a CT of the head is centred
CHEST_BACK_MM = 6.0
PHARYNX: Vector = (0.0, -20.0, -55.0)


def draw_ct_grid(spec: PhantomSpec, anatomy: Anatomy, *, of_chest: bool = False) -> Grid:
    """Draw the CT's grid, which reaches downwards from above the vertex or the lungs."""
    size = (CHEST_CT_SIZES if of_chest else CT_SIZES)[spec.size]
    rng = _rng(spec, 31)
    inplane = round(float(rng.uniform(*size.inplane_mm)), 4)
    spacing = (round(float(rng.uniform(*size.slice_mm)), 3), inplane, inplane)
    margin, dx, dy = rng.uniform(3.0, 9.0), rng.uniform(-5, 5), rng.uniform(-4, 4)
    place = np.asarray(anatomy.pose.rigid.translation_mm)
    top = VERTEX_Z if anatomy.low_top is None else anatomy.low_top - margin
    top, back = (APEX_Z, CHEST_BACK_MM) if of_chest else (top, HEAD_BACK_MM)
    high = place[2] + top * anatomy.pose.scale[2] + margin
    depth, height, width = size.shape
    origin = (
        float(place[0] + dx - inplane * (width - 1) / 2),
        float(place[1] + back + dy - inplane * (height - 1) / 2),
        float(high - spacing[0] * (depth - 1)),
    )
    return Grid(size.shape, spacing, _rounded(origin))


def draw_ct_to_mr(spec: PhantomSpec, anatomy: Anatomy) -> RigidTransform:
    """Draw the transform from CT world to MR world: up to 7° about each axis, and far away."""
    rng = _rng(spec, 41)
    reach = 7.0 if rng.random() < 0.5 else 2.5
    rx, ry, rz = rng.uniform(-reach, reach, 3).tolist()
    dx = float(rng.uniform(-15, 15))
    dy = float(rng.choice([-1.0, 1.0]) * rng.uniform(60, 120))
    dz = float(rng.uniform(-600, 165))
    centre = _world(anatomy.pose, PHARYNX)
    return RigidTransform.about(centre, angles_deg=(rx, ry, rz), shift_mm=(dx, dy, dz))


def draw_mr_grid(spec: PhantomSpec, anatomy: Anatomy, ct_to_mr: RigidTransform) -> Grid:
    """Draw the MR's grid, centred on the pharynx in plane, from above the chiasm downwards."""
    size, rng = MR_SIZES[spec.size], _rng(spec, 51)
    depth, height, width = size.shape
    fov = float(rng.uniform(*size.fov_mm))
    inplane = round((spec.mr_fov_mm or fov) / width, 4)
    short = 0.78 if rng.random() < 0.1 else 1.0
    reach = float(rng.uniform(*size.reach_mm)) * short
    if spec.mr_slice_mm:
        depth = round(reach / spec.mr_slice_mm)
    slice_mm = spec.mr_slice_mm or round(reach / depth, 3)
    pharynx = _world(anatomy.pose, PHARYNX)
    centre = ct_to_mr.apply(np.asarray([pharynx]))[0] + rng.uniform(-5, 5, 3)
    highest = _world(anatomy.pose, (0.0, -20.0, float(rng.uniform(42, 60))))
    origin = (
        float(centre[0] - inplane * (width - 1) / 2),
        float(centre[1] - inplane * (height - 1) / 2),
        float(ct_to_mr.apply(np.asarray([highest]))[0][2] - slice_mm * (depth - 1)),
    )
    return Grid((depth, height, width), (slice_mm, inplane, inplane), _rounded(origin))


def _rng(spec: PhantomSpec, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([spec.seed, stream]))


def _world(pose: Pose, point: Vector) -> Vector:
    x, y, z = pose.to_world(np.asarray([point]))[0].tolist()
    return x, y, z


def _rounded(point: Vector) -> Vector:
    """To a thousandth of a millimetre, as headers are written."""
    return round(point[0], 3), round(point[1], 3), round(point[2], 3)
