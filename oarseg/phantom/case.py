"""Make a phantom: a challenge's images of a seeded patient, their labels and the truth.

A seed's patient is the same in every challenge. Organs that only some challenges outline
are painted over the general anatomy; a second CT is taken with contrast; CTs of the chest
begin further down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from oarseg.challenges.catalogue import DEFAULT_CHALLENGE, load_challenge
from oarseg.challenges.challenge import Challenge, Socket
from oarseg.errors import InputError
from oarseg.imaging.arrays import Doubles
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Vector, Volume
from oarseg.phantom.grids import draw_ct_grid, draw_ct_to_mr, draw_mr_grid
from oarseg.phantom.labelling import Labelling
from oarseg.phantom.patient.anatomy import Anatomy, make_anatomy
from oarseg.phantom.patient.extras import draw_extra_parts
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.randomise.body import vary_anatomy
from oarseg.phantom.randomise.ct import VariedCt
from oarseg.phantom.randomise.fields import vary_ct_grid, vary_mr_spec
from oarseg.phantom.randomise.levels import happens, load_levels
from oarseg.phantom.randomise.mr import VariedMr
from oarseg.phantom.randomise.rater import outline_as_rater
from oarseg.phantom.scanner import SLAB_VOXELS, CtScanner, MrScanner, View
from oarseg.phantom.spec import METAL_RATE, PhantomSpec

CONTRAST_STREAM = 111


@dataclass(frozen=True)
class Truth:
    """What is known of a phantom.

    Attributes:
        seed: of the patient and the scans.
        size: name of the size.
        sex: "F" or "M".
        age: years.
        ct_to_mr: CT world → MR world, the head's pose.
        neck_flexion_deg: neck flexion added in the MR, not part of ``ct_to_mr``.
        landmarks_ct: the HaN-Seg paper's six, CT world, mm.
        landmarks_mr: the same in MR world, flexion included.
        presence: by organ: 1 inside the CT's field of view, 0.5 cut by its edge, 0 absent.
        mr_field_mm: lowest and highest corner of the MR's field of view, MR world.
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
    """A case with known truth.

    Attributes:
        challenge: whose images and labels these are.
        images: channel → image (int16).
        labels: label map (uint8) on the reference image's grid.
        truth: what is known of the case.
    """

    challenge: Challenge
    images: dict[str, Volume]
    labels: Volume
    truth: Truth

    @property
    def ct(self) -> Volume:
        """The reference image."""
        return self.images[self.challenge.reference.channel]

    @property
    def mr(self) -> Volume | None:
        """The first MR, if there is one."""
        mrs = (s.channel for s in self.challenge.sockets if s.modality == "MR")
        return next((self.images[channel] for channel in mrs if channel in self.images), None)


def make_phantom(
    spec: PhantomSpec, challenge: Challenge | None = None, *, slab_voxels: int = SLAB_VOXELS
) -> Phantom:
    """Make a phantom in memory.

    Args:
        spec: which one.
        challenge: whose images and labels; None for HaN-Seg's.
        slab_voxels: voxels painted at a time; this changes no voxel.

    Raises:
        InputError: the challenge has an organ or an image that phantoms do not know.
    """
    challenge = challenge or load_challenge(DEFAULT_CHALLENGE)
    labelling = Labelling(challenge)
    anatomy = draw_patient(spec)
    extra = draw_extra_parts(Draws(spec.seed), labelling.owners)
    anatomy = replace(anatomy, parts=(*anatomy.parts, *extra))
    ct_to_mr = draw_ct_to_mr(spec, anatomy)
    grid = _draw_grid(spec, anatomy, of_chest=labelling.of_chest)
    view = View(anatomy, grid, numbers=labelling.owners, slab_voxels=slab_voxels)
    scanner = _draw_ct(spec, anatomy, grid)
    if sum(socket.modality == "CT" for socket in challenge.sockets) > 1:
        scanner = replace(scanner, contrast=False)
    ct, labels = scanner.scan(view, label_slab=labelling.label_slab)
    if spec.randomise:
        labels = outline_as_rater(labels, Draws(spec.seed), load_levels()[str(spec.randomise)])
    images = {challenge.reference.channel: ct}
    for socket in challenge.sockets:
        if socket.modality == "MR" and spec.with_mr:
            mr_view = _view_mr(spec, view, ct_to_mr, socket)
            images[socket.channel] = _draw_mr(spec).scan(mr_view)
        elif socket.modality == "CT" and not socket.reference:
            enhanced = replace(scanner, contrast=True, stream=CONTRAST_STREAM)
            images[socket.channel] = enhanced.scan(view)[0]
    truth = _record_truth(spec, anatomy, ct_to_mr, measure_presence(labels, challenge))
    phantom = Phantom(challenge, images, labels, truth)
    if phantom.mr is None:
        return phantom
    return replace(phantom, truth=replace(truth, mr_field_mm=_field_of_view(phantom.mr.grid)))


def draw_patient(spec: PhantomSpec) -> Anatomy:
    """Draw the patient of a specification, before any challenge's extra parts."""
    if not spec.randomise:
        return make_anatomy(spec.seed, metal_rate=spec.metal_rate)
    level, d = load_levels()[str(spec.randomise)], Draws(spec.seed)
    rate = spec.metal_rate
    if rate is None:
        rate = METAL_RATE if happens(d, "metal", level.metal_share) else 0.0
    return vary_anatomy(make_anatomy(spec.seed, metal_rate=rate), d, level)


def _draw_grid(spec: PhantomSpec, anatomy: Anatomy, *, of_chest: bool) -> Grid:
    grid = draw_ct_grid(spec, anatomy, of_chest=of_chest)
    if not spec.randomise:
        return grid
    return vary_ct_grid(grid, Draws(spec.seed), load_levels()[str(spec.randomise)])


def _draw_ct(spec: PhantomSpec, anatomy: Anatomy, grid: Grid) -> CtScanner:
    scanner = CtScanner.draw(spec.seed, anatomy)
    if not spec.randomise:
        return scanner
    return VariedCt.vary(scanner, load_levels()[str(spec.randomise)], pixel_mm=grid.spacing_mm[2])


def _draw_mr(spec: PhantomSpec) -> MrScanner:
    scanner = MrScanner.draw(spec.seed)
    if not spec.randomise:
        return scanner
    return VariedMr.vary(scanner, load_levels()[str(spec.randomise)])


def _view_mr(spec: PhantomSpec, ct: View, ct_to_mr: RigidTransform, socket: Socket) -> View:
    if socket.placed != "registered":
        raise InputError(f"channel {socket.channel}: phantoms have no MR on the CT's grid")
    if spec.randomise:
        spec = vary_mr_spec(spec, load_levels()[str(spec.randomise)])
    grid = draw_mr_grid(spec, ct.anatomy, ct_to_mr)
    return replace(ct, grid=grid, to_ct=ct_to_mr.inverse(), flexion_deg=spec.neck_flexion_deg)


def measure_presence(labels: Volume, challenge: Challenge) -> dict[str, float]:
    """Return 1 for each organ in the field, 0.5 if it touches the first or last plane, else 0."""
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


def _record_truth(
    spec: PhantomSpec, anatomy: Anatomy, ct_to_mr: RigidTransform, presence: dict[str, float]
) -> Truth:
    """What is known of a patient and the scans, but for the MR's field of view."""
    points = np.asarray(list(anatomy.landmarks.values()))
    pose = anatomy.pose
    bent = replace(pose, flexion_deg=pose.flexion_deg + spec.neck_flexion_deg)
    in_ct, in_mr = pose.to_world(points), ct_to_mr.apply(bent.to_world(points))
    return Truth(
        seed=spec.seed,
        size=spec.size,
        sex=anatomy.sex,
        age=anatomy.age,
        ct_to_mr=ct_to_mr,
        neck_flexion_deg=spec.neck_flexion_deg,
        landmarks_ct=dict(zip(anatomy.landmarks, map(_vector, in_ct), strict=True)),
        landmarks_mr=dict(zip(anatomy.landmarks, map(_vector, in_mr), strict=True)),
        presence=presence,
        mr_field_mm=None,
    )


def _vector(values: Doubles) -> Vector:
    return float(values[0]), float(values[1]), float(values[2])


def _field_of_view(grid: Grid) -> tuple[Vector, Vector]:
    ends = grid.to_world(np.asarray([(-0.5, -0.5, -0.5), [n - 0.5 for n in grid.shape]]))
    return _vector(ends[0]), _vector(ends[1])
