"""Correlated texture as a sum of waves, so that a voxel's depends on its position only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oarseg.imaging.arrays import Image
from oarseg.imaging.volume import Vector
from oarseg.phantom.patient.parts import Draws

LENGTHS_MM = (5.0, 60.0)
FINE_WAVES = 4


@dataclass(frozen=True)
class Texture:
    """Waves, each with its vector (rad/mm) and phase; the sum has a standard deviation of 1."""

    waves: tuple[Vector, ...]
    phases: tuple[float, ...]

    @classmethod
    def draw(cls, d: Draws, key: str) -> Texture:
        """Draw waves in all directions, of lengths that are uniform in log scale."""
        rng = d.rng("randomise/texture/" + key)
        waves, phases = [], []
        for _ in range(FINE_WAVES):
            direction = rng.standard_normal(3)
            length = float(np.exp(rng.uniform(*np.log(LENGTHS_MM))))
            wave = direction / np.linalg.norm(direction) * (2 * np.pi / length)
            waves.append((float(wave[0]), float(wave[1]), float(wave[2])))
            phases.append(float(rng.uniform(0, 2 * np.pi)))
        return cls(tuple(waves), tuple(phases))

    def sample(self, x: Image, y: Image, z: Image) -> Image:
        """Return the texture at points in mm, float32 of their shape."""
        total = np.zeros(x.shape, np.float32)
        for (a, b, c), phase in zip(self.waves, self.phases, strict=True):
            # Wavefronts bend a little, so that no stripes are seen.
            bend = np.sin(x * np.float32(b) + y * np.float32(c) + z * np.float32(a))
            argument = x * np.float32(a) + y * np.float32(b) + z * np.float32(c)
            total += np.sin(argument + bend * np.float32(1.5) + np.float32(phase))
        total *= np.float32(np.sqrt(2.0 / len(self.waves)))
        return total
