"""Which phantom to make: its seed, its size, and what is fixed of its scans."""

from __future__ import annotations

from dataclasses import dataclass

from oarseg.errors import InputError

Range = tuple[float, float]
Voxels = tuple[int, int, int]


@dataclass(frozen=True)
class CtSize:
    """Size of a CT; the seed draws from the ranges.

    Attributes:
        shape: voxels (z, y, x).
        inplane_mm: spacing in plane.
        slice_mm: distance between slices.
    """

    shape: Voxels
    inplane_mm: Range
    slice_mm: Range


@dataclass(frozen=True)
class MrSize:
    """Size of an MR; the seed draws from the ranges.

    Attributes:
        shape: voxels (z, y, x).
        fov_mm: field of view in plane.
        reach_mm: extent across the slices.
    """

    shape: Voxels
    fov_mm: Range
    reach_mm: Range


CT_SIZES: dict[str, CtSize] = {
    "tiny": CtSize((40, 64, 64), (6.1, 6.3), (7.6, 7.8)),
    "small": CtSize((104, 224, 224), (1.74, 1.84), (2.9, 3.05)),
    "medium": CtSize((120, 512, 512), (0.95, 1.0), (2.45, 2.55)),
    "median": CtSize((189, 1024, 1024), (0.64, 0.64), (2.0, 2.0)),
    "maximum": CtSize((323, 1024, 1024), (0.52, 0.52), (2.0, 2.0)),
}
# As wide and as thick as StructSeg's CTs of the chest.
CHEST_CT_SIZES: dict[str, CtSize] = {
    "tiny": CtSize((40, 64, 64), (7.5, 7.8), (9.6, 10.0)),
    "small": CtSize((96, 192, 192), (2.5, 2.65), (4.0, 4.2)),
    "medium": CtSize((95, 384, 384), (1.3, 1.35), (4.1, 4.3)),
    "median": CtSize((95, 512, 512), (1.17, 1.17), (5.0, 5.0)),
    "maximum": CtSize((127, 512, 512), (1.37, 1.37), (3.0, 3.0)),
}
MR_SIZES: dict[str, MrSize] = {
    "tiny": MrSize((20, 56, 56), (250, 290), (180, 200)),
    "small": MrSize((44, 176, 176), (240, 300), (185, 220)),
    "medium": MrSize((44, 256, 256), (240, 300), (185, 220)),
    "median": MrSize((56, 512, 512), (245, 330), (185, 220)),
    "maximum": MrSize((84, 512, 512), (245, 330), (252, 290)),
}
METAL_RATE = 0.2
RANDOMISE_LEVELS = (0, 1, 2)
MR_FOV_LIMITS_MM = (100.0, 600.0)
MR_SLICE_LIMITS_MM = (0.5, 10.0)


@dataclass(frozen=True)
class PhantomSpec:
    """Which phantom to make.

    Attributes:
        seed: determines everything that is not given here.
        size: one of ``CT_SIZES``.
        neck_flexion_deg: neck flexion added between CT and MR.
        with_mr: whether to make the MR.
        mr_fov_mm: the MR's field of view in plane; None lets the seed decide.
        mr_slice_mm: distance between its slices; None follows from the size.
        metal: give a fifth of the teeth a metal crown, whatever the seed says.
        randomise: how far the patient and the scans vary: 0 as little as ever, 2 as far as
            real ones do.

    Raises:
        InputError: an unknown size or level, a negative seed, a flexion beyond 10°, or a field of
            view or slices that no scanner has.
    """

    seed: int
    size: str = "small"
    neck_flexion_deg: float = 0.0
    with_mr: bool = True
    mr_fov_mm: float | None = None
    mr_slice_mm: float | None = None
    metal: bool = False
    randomise: int = 0

    @property
    def metal_rate(self) -> float | None:
        """Fraction of teeth with a metal crown; None lets the seed decide."""
        return METAL_RATE if self.metal else None

    def __post_init__(self) -> None:
        if self.size not in CT_SIZES:
            raise InputError(f"size {self.size!r}: expected one of {', '.join(CT_SIZES)}")
        if self.randomise not in RANDOMISE_LEVELS:
            levels = ", ".join(map(str, RANDOMISE_LEVELS))
            raise InputError(f"randomise {self.randomise!r}: expected one of {levels}")
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
