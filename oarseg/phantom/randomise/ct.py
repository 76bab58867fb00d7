"""A CT scanner whose kernel, dose, table and tissues vary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from oarseg.imaging.arrays import Image, Mask
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.randomise.additions import arms_raised
from oarseg.phantom.randomise.levels import Level, happens, within
from oarseg.phantom.randomise.texture import Texture
from oarseg.phantom.randomise.tissues import vary_hu
from oarseg.phantom.scanner import HU_LIMITS, CtScanner, Slab, plane_rng

TEXTURED_HU = (-250.0, 250.0)
STARVATION_STREAM = 131
# How much water from side to side leaves enough photons, and how much more doubles the noise.
ENOUGH_MM = 200.0
DOUBLING_MM = 80.0
MOST_STARVED = 8.0
STREAK_MM = 40.0
EMPTY_HU = -700
COUCH_CURVE_MM = -45.0


@dataclass(frozen=True, kw_only=True)
class VariedCt(CtScanner):
    """A CT scanner of a level above 0.

    Attributes:
        level: how far it varies.
        kernel: -1 for the softest, 0 as painted, 1 for the sharpest.
        texture: of soft tissue.
        texture_hu: its standard deviation.
        drift_hu: how many HU soft tissue drifts along x, y and z from the middle.
        round_field: whether there is nothing outside a circle.
        starvation: noise in streaks from side to side, of the usual noise.
        pixel_mm: spacing along x.
    """

    level: Level
    kernel: float
    texture: Texture
    texture_hu: float
    drift_hu: tuple[float, float, float]
    round_field: bool
    starvation: float
    pixel_mm: float

    @classmethod
    def vary(cls, base: CtScanner, level: Level, *, pixel_mm: float) -> VariedCt:
        """Draw the scanner that takes a seed's CT at a level, with pixels of this width."""
        d = Draws(base.seed)
        drift = level.cupping_hu
        usual = vars(base) | {
            "noise_hu": within(d, "ct/noise", level.noise_hu),
            "couch_y_mm": base.couch_y_mm + within(d, "ct/couch", (-4.0, 30.0)),
            "face_mask": happens(d, "ct/mask", level.mask_share) and not arms_raised(d, level),
            "contrast": happens(d, "ct/contrast", level.contrast_share),
            "streak_hu": within(d, "ct/streaks", level.streak_hu),
            "headrest": happens(d, "ct/headrest", level.headrest_share),
            "couch_curve_mm": COUCH_CURVE_MM if happens(d, "ct/curved", 0.3) else 0.0,
            "mask_mm": within(d, "ct/mask/mm", (0.7, 1.8)),
        }
        return cls(
            **usual,
            level=level,
            kernel=within(d, "ct/kernel", level.kernel),
            texture=Texture.draw(d, "ct"),
            texture_hu=within(d, "ct/texture", level.texture_hu),
            drift_hu=(
                within(d, "ct/drift/x", (-drift, drift)),
                within(d, "ct/drift/y", (-drift, drift)),
                within(d, "ct/drift/z", (-drift, drift)),
            ),
            round_field=happens(d, "ct/round", level.round_field_share),
            starvation=within(d, "ct/starvation", level.starvation),
            pixel_mm=pixel_mm,
        )

    def draw_values(self) -> dict[str, float]:
        """Draw the HU of each tissue in this patient."""
        plain = replace(self, contrast=False)
        values = vary_hu(
            CtScanner.draw_values(plain), Draws(self.seed), self.level, contrast=self.contrast
        )
        values["air"] = -1000.0
        return values

    def add_texture(self, slab: Slab) -> None:
        """Add correlated texture and a drift to soft tissue."""
        x, y, z = slab.coordinates
        soft = (slab.image > TEXTURED_HU[0]) & (slab.image < TEXTURED_HU[1])
        change = self.texture.sample(x, y, z) * np.float32(self.texture_hu)
        for axis, drift in zip((x, y, z), self.drift_hu, strict=True):
            change += np.clip(axis * np.float32(1 / 120.0), -1, 1) * np.float32(drift)
        slab.image += change * soft

    def expose(self, plane: Image, number: int) -> NDArray[np.int16]:
        """Return a plane (y, x) in HU as the kernel makes it; ``number`` is its index."""
        rng = plane_rng(self.seed, self.stream, number)
        noise = rng.standard_normal(plane.shape, dtype=np.float32)
        blurred = gaussian_filter(noise, 0.8)
        if self.kernel > 0:
            grain = noise - self.kernel * 0.6 * blurred
            image = plane + self.kernel * 0.8 * (plane - gaussian_filter(plane, 0.8))
        else:
            grain = (1.0 + self.kernel) * noise - self.kernel * 3.0 * blurred
            image = gaussian_filter(plane, 0.05 - 0.65 * self.kernel)
        spread = np.where(plane < EMPTY_HU, 0.35 * self.noise_hu, self.noise_hu)
        exposed: Any = image + grain * (spread / grain.std()).astype(np.float32)
        if self.starvation:
            exposed += self._starve(plane, number)
        if self.round_field:
            exposed[_outside_circle(plane.shape)] = HU_LIMITS[0]
        return cast(NDArray[np.int16], np.rint(np.clip(exposed, *HU_LIMITS)).astype(np.int16))

    def _starve(self, plane: Image, number: int) -> Image:
        """Return the streaks of a plane's rows (y) that hold much water from side to side."""
        water_mm = np.clip(plane + 1000.0, 0.0, 2000.0).sum(axis=1) * (self.pixel_mm / 1000.0)
        excess = np.exp2(np.maximum(water_mm - ENOUGH_MM, 0.0) / DOUBLING_MM) - 1.0
        height = np.minimum(excess, MOST_STARVED) * (self.starvation * self.noise_hu)
        if not height.any():
            return np.zeros(plane.shape, np.float32)
        rng = plane_rng(self.seed, STARVATION_STREAM, number)
        noise = rng.standard_normal(plane.shape, dtype=np.float32)
        streaks = gaussian_filter1d(noise, STREAK_MM / self.pixel_mm, axis=1, mode="wrap")
        streaks *= (height / streaks.std())[:, None].astype(np.float32)
        return cast(Image, streaks * (plane > EMPTY_HU))


def _outside_circle(shape: tuple[int, ...]) -> Mask:
    height, width = shape
    rows = (np.arange(height) - (height - 1) / 2)[:, None] / (height / 2)
    columns = (np.arange(width) - (width - 1) / 2) / (width / 2)
    outside: Mask = rows * rows + columns * columns > 1.0
    return outside
