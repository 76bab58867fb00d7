"""An MR scanner whose sequence, coil, ghosts and tissues vary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Image
from oarseg.imaging.volume import Grid
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.randomise.levels import Level, deviation, within
from oarseg.phantom.randomise.texture import Texture
from oarseg.phantom.randomise.tissues import vary_signals
from oarseg.phantom.scanner import MrScanner, Slab


@dataclass(frozen=True, kw_only=True)
class VariedMr(MrScanner):
    """An MR scanner of a level above 0.

    Attributes:
        level: how far it varies.
        texture: of all tissue.
        texture_share: its standard deviation, of the signal.
        ghost: signal of the ghost, of the true one.
        ghost_shift: how far it lies away along y, of the field.
    """

    level: Level
    texture: Texture
    texture_share: float
    ghost: float
    ghost_shift: float

    @classmethod
    def vary(cls, base: MrScanner, level: Level) -> VariedMr:
        """Draw the scanner that takes a seed's MR at a level."""
        d = Draws(base.seed)
        usual = vars(base) | {"noise": base.noise * within(d, "mr/noise", level.mr_noise)}
        return cls(
            **usual,
            level=level,
            texture=Texture.draw(d, "mr"),
            texture_share=0.06 + abs(deviation(d, "mr/texture", level.signal_share / 4)),
            ghost=within(d, "mr/ghost", level.ghost),
            ghost_shift=within(d, "mr/ghost/shift", (0.15, 0.5)),
        )

    def draw_values(self) -> dict[str, float]:
        """Draw the signal of each tissue in this patient."""
        signals = vary_signals(self.sequence, Draws(self.seed), self.level)
        return {name: signal * self.gain for name, signal in signals.items()}

    def draw_bias(self, grid: Grid) -> tuple[Image, Image, Image]:
        """Draw the factors along z, y, x whose product is the coil's sensitivity."""
        along, down, across = MrScanner.draw_bias(self, grid)
        power = np.float32(self.level.bias)
        return along**power, down**power, across**power

    def add_texture(self, slab: Slab) -> None:
        """Add correlated texture to a painted slab."""
        sampled = self.texture.sample(*slab.coordinates)
        slab.image *= np.clip(1.0 + np.float32(self.texture_share) * sampled, 0.5, 1.5)

    def receive(self, signal: Image, plane: int) -> NDArray[np.int16]:
        """Add the ghost, then take the magnitude under noise."""
        shift = round(self.ghost_shift * signal.shape[0])
        return MrScanner.receive(self, signal + self.ghost * np.roll(signal, shift, axis=0), plane)
