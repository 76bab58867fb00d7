"""CT and MR pairs with known truth: such as must be found, and such as must not pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from oarseg.imaging.regrid import resample_moving
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Volume, from_sitk
from oarseg.phantom import Phantom, PhantomSpec, make_phantom
from oarseg.phantom.grids import draw_ct_to_mr, draw_mr_grid
from oarseg.phantom.patient.anatomy import make_anatomy
from oarseg.phantom.patient.neck import transverse_junction
from oarseg.phantom.scanner import MrScanner, View

# Anatomical coordinates: beside C3 to C7, in the glottis and in both lobes of the thyroid.
NECK_POINTS = [transverse_junction(n, side) for n in range(3, 8) for side in (1.0, -1.0)]
NECK_POINTS += [(0.0, -32.0, -113.5), (17.0, -26.0, -136.0), (-17.0, -26.0, -136.0)]
# On and in the head, MNI space in LPS: nasion, occiput, both temples, two in the brain.
TEMPLATE_POINTS = np.array(
    [[0, -75, -30], [0, 100, -20], [65, 20, -40], [-65, 20, -40], [40, -30, 40], [-40, 40, 40.0]]
)


def _nowhere() -> np.ndarray:
    return np.zeros((0, 3))


@dataclass(frozen=True)
class Pair:
    """A CT, an MR, and points (n, 3) known in both worlds.

    Attributes:
        kind: what was done to it.
        ct_points, mr_points: landmarks; none where CT and MR do not belong together.
        ct_neck, mr_neck: ``NECK_POINTS``, those inside the MR's field.
    """

    name: str
    kind: str
    ct: Volume
    mr: Volume
    ct_points: np.ndarray = field(default_factory=_nowhere)
    mr_points: np.ndarray = field(default_factory=_nowhere)
    ct_neck: np.ndarray = field(default_factory=_nowhere)
    mr_neck: np.ndarray = field(default_factory=_nowhere)


def spread_spec(seed: int, size: str = "small", *, flexion_deg: float = 0.0) -> PhantomSpec:
    """A phantom with an MR field of 240–420 mm and slices of 3–5 mm; every other with metal."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 7001]))
    return PhantomSpec(
        seed,
        size,
        flexion_deg,
        mr_fov_mm=round(float(rng.uniform(240, 420)), 1),
        mr_slice_mm=round(float(rng.uniform(3, 5)), 2),
        metal=seed % 2 == 0,
    )


def phantom_pair(spec: PhantomSpec, kind: str) -> Pair:
    """A phantom, its six landmarks and its neck."""
    phantom = make_phantom(spec)
    truth, mr = phantom.truth, phantom.mr
    if mr is None:
        raise ValueError(f"phantom {spec.seed} has no MR")
    ct_points, mr_points = (
        np.array([where[name] for name in truth.landmarks_ct])
        for where in (truth.landmarks_ct, truth.landmarks_mr)
    )
    neck = _neck(spec, truth.ct_to_mr)
    index = mr.grid.to_index(neck[1])
    inside = ((index >= 0) & (index <= np.array(mr.grid.shape) - 1)).all(1)
    return Pair(
        f"{spec.seed}",
        kind,
        phantom.ct,
        mr,
        ct_points,
        mr_points,
        ct_neck=neck[0][inside],
        mr_neck=neck[1][inside],
    )


def _neck(spec: PhantomSpec, transform: RigidTransform) -> tuple[np.ndarray, np.ndarray]:
    pose = make_anatomy(spec.seed).pose
    points = np.array(NECK_POINTS)
    bent = replace(pose, flexion_deg=pose.flexion_deg + spec.neck_flexion_deg)
    return pose.to_world(points), transform.apply(bent.to_world(points))


def plain(seeds: range, size: str = "small") -> Iterator[Pair]:
    """Phantoms as ``oarseg phantom`` makes them."""
    for seed in seeds:
        yield phantom_pair(PhantomSpec(seed, size), "as made")


def spread(seeds: range, size: str = "small") -> Iterator[Pair]:
    """Both images of one pose."""
    for seed in seeds:
        yield phantom_pair(spread_spec(seed, size), "same pose")


def flexed(seeds: range, size: str = "small") -> Iterator[Pair]:
    """The neck bent by 3° between the scans, forwards and backwards in turn."""
    for seed in seeds:
        angle = 3.0 if seed % 2 else -3.0
        yield phantom_pair(spread_spec(seed, size, flexion_deg=angle), "neck 3°")


Spoil = Callable[[Phantom, PhantomSpec], tuple[Volume, Volume]]


def impostors(seeds: range, size: str = "small") -> Iterator[Pair]:
    """Pairs that must not pass: each seed spoiled in one of the ways, in turn."""
    yield from _in_turn(seeds, size, [kind for kind in SPOILS if kind not in LOOKALIKES])


def lookalikes(seeds: range, size: str = "small") -> Iterator[Pair]:
    """Heads that fit as a whole: another patient's of the same size, and a mirrored one."""
    yield from _in_turn(seeds, size, LOOKALIKES)


def _in_turn(seeds: range, size: str, kinds: Sequence[str]) -> Iterator[Pair]:
    for number, seed in enumerate(seeds):
        yield spoiled(seed, kinds[number % len(kinds)], size)


def spoiled(seed: int, kind: str, size: str = "small") -> Pair:
    """A phantom pair spoiled in one of ``SPOILS``' ways."""
    spec = spread_spec(seed, size)
    ct, mr = SPOILS[kind](make_phantom(spec), spec)
    return Pair(f"{seed}", kind, ct, mr)


def _mr(phantom: Phantom) -> Volume:
    if phantom.mr is None:
        raise ValueError("the phantom has no MR")
    return phantom.mr


def _white_noise(phantom: Phantom, spec: PhantomSpec) -> tuple[Volume, Volume]:
    mr = _mr(phantom)
    rng = np.random.default_rng(spec.seed)
    return phantom.ct, mr.with_array(rng.uniform(0, 500, mr.array.shape).astype(np.float32))


def _smooth_noise(phantom: Phantom, spec: PhantomSpec) -> tuple[Volume, Volume]:
    """Blobs as large as organs."""
    mr = _mr(phantom)
    noise = np.random.default_rng(spec.seed).standard_normal(mr.array.shape).astype(np.float32)
    blobs = ndimage.gaussian_filter(noise, [12.0 / s for s in mr.grid.spacing_mm])
    return phantom.ct, mr.with_array(np.abs(blobs) * 500 / float(blobs.std()))


def _flipped(axis: int) -> Spoil:
    def spoil(phantom: Phantom, _spec: PhantomSpec) -> tuple[Volume, Volume]:
        mr = _mr(phantom)
        return phantom.ct, mr.with_array(np.ascontiguousarray(np.flip(mr.array, axis)))

    return spoil


def _other(scale: float) -> Spoil:
    """Another patient's MR, enlarged about its middle."""

    def spoil(phantom: Phantom, spec: PhantomSpec) -> tuple[Volume, Volume]:
        mr = _mr(make_phantom(replace(spread_spec(spec.seed + 50_000, spec.size))))
        middle = (np.array([mr.grid.shape]) - 1) / 2
        centre = mr.grid.to_world(middle)[0]
        origin = centre + scale * (np.array(mr.grid.origin_mm) - centre)
        sz, sy, sx = mr.grid.spacing_mm
        grid = replace(
            mr.grid,
            spacing_mm=(scale * sz, scale * sy, scale * sx),
            origin_mm=tuple(origin.tolist()),
        )
        return phantom.ct, Volume(mr.array, grid)

    return spoil


def _chest(phantom: Phantom, spec: PhantomSpec) -> tuple[Volume, Volume]:
    """The same patient's MR, taken of the chest, of which the CT shows nothing."""
    anatomy = make_anatomy(spec.seed, metal_rate=spec.metal_rate)
    transform = draw_ct_to_mr(spec, anatomy)
    grid = draw_mr_grid(spec, anatomy, transform)
    lowest = phantom.ct.grid.origin_mm[2]
    place = transform.apply(np.array([[*phantom.ct.grid.origin_mm[:2], lowest]]))[0][2]
    reach = (grid.shape[0] - 1) * grid.spacing_mm[0]
    x, y, _ = grid.origin_mm
    grid = replace(grid, origin_mm=(x, y, float(place - reach - 40)))
    mr = MrScanner.draw(spec.seed).scan(View(anatomy, grid, transform.inverse()))
    return phantom.ct, mr


def _apart(*, ct_above: bool) -> Spoil:
    """The CT of one end of the head, the MR of the other, cut with a gap of 10 mm."""

    def spoil(phantom: Phantom, _spec: PhantomSpec) -> tuple[Volume, Volume]:
        mr, ct = _mr(phantom), phantom.ct
        half = mr.grid.shape[0] // 2
        mr_part = _planes(mr, 0, half) if ct_above else _planes(mr, half, mr.grid.shape[0])
        corners = np.array([[z, y, x] for z in (0, 1) for y in (0, 1) for x in (0, 1)])
        ends = corners * (np.array(mr_part.grid.shape) - 1)
        edge = phantom.truth.ct_to_mr.inverse().apply(mr_part.grid.to_world(ends))[:, 2]
        gap = 10.0
        limit = edge.max() + gap if ct_above else edge.min() - gap
        plane = int(np.clip((limit - ct.grid.origin_mm[2]) / ct.grid.spacing_mm[0], 8,
                            ct.grid.shape[0] - 8))  # fmt: skip
        rest = (plane, ct.grid.shape[0]) if ct_above else (0, plane)
        return _planes(ct, *rest), mr_part

    return spoil


def _planes(volume: Volume, first: int, last: int) -> Volume:
    grid = volume.grid
    origin = grid.to_world(np.array([[first, 0, 0]]))[0]
    part = volume.array[first:last]
    return Volume(part, replace(grid, shape=part.shape, origin_mm=tuple(origin.tolist())))


SPOILS: dict[str, Spoil] = {
    "white noise": _white_noise,
    "smooth noise": _smooth_noise,
    "flipped top to bottom": _flipped(0),
    "flipped front to back": _flipped(1),
    "another patient × 1.2": _other(1.2),
    "another patient ÷ 1.2": _other(1 / 1.2),
    "chest, not in the CT": _chest,
    "no overlap, CT above": _apart(ct_above=True),
    "no overlap, CT below": _apart(ct_above=False),
    "another patient": _other(1.0),
    "mirrored left to right": _flipped(2),
}
LOOKALIKES = ("another patient", "mirrored left to right")


def template_pairs(folder: Path, seeds: range) -> Iterator[Pair]:
    """The templates, the MR moved, cut and in thick slices, a seed each."""
    ct = from_sitk(sitk.ReadImage(str(folder / "ct_template_2mm.nii.gz")))
    ct = ct.with_array(from_cormack(ct.array))
    image = sitk.ReadImage(str(folder / "t1_template_mni152.nii.gz"))
    # Slices of 4 mm: a Gaussian of that width at half maximum, along z only.
    thick = from_sitk(sitk.SmoothingRecursiveGaussian(image, [0.1, 0.1, 1.7]))
    for seed in seeds:
        mr, truth = moved_template(thick, np.random.default_rng(seed))
        points = truth.apply(TEMPLATE_POINTS)
        yield Pair(f"{seed}", "templates", ct, mr, TEMPLATE_POINTS, points)


def from_cormack(values: np.ndarray) -> np.ndarray:
    """HU from the Clinical Toolbox's scale, which stretches −100…100 HU elevenfold."""
    soft = np.where(values < 3100, -100 + (values - 900) / 11, 100 + (values - 3100))
    return np.where(values < 900, values - 1000, soft).astype(np.int16)


def moved_template(mr: Volume, rng: np.random.Generator) -> tuple[Volume, RigidTransform]:
    """Turn by up to 8° an axis, shift by up to 60 mm (z −600…165), cut a random field."""
    centre = mr.grid.to_world((np.array([mr.grid.shape]) - 1) / 2)[0]
    truth = RigidTransform.about(
        tuple(centre.tolist()),
        angles_deg=tuple(rng.uniform(-8, 8, 3).tolist()),
        shift_mm=(*rng.uniform(-60, 60, 2).tolist(), float(rng.uniform(-600, 165))),
    )
    extent = np.array([*rng.uniform(140, 240, 2), rng.uniform(110, 170)])
    spacing = np.array([0.8, 0.8, 4.0])
    middle = truth.apply(centre[None])[0] + rng.uniform(-1, 1, 3) * [10, 10, 15]
    shape = tuple((extent / spacing).astype(int)[::-1].tolist())
    origin = middle - (np.array(shape[::-1]) - 1) * spacing / 2
    grid = Grid(shape, tuple(spacing[::-1].tolist()), tuple(origin.tolist()))
    seen = resample_moving(mr, truth.inverse(), grid, outside=0.0).array * rng.uniform(1, 30)
    noise = np.abs(rng.normal(0, 0.02 * seen.max(), seen.shape))
    return Volume((seen + noise).astype(np.float32), grid), truth
