"""An MR scanner whose sequence, coil, ghosts and tissues vary, and whose slices are thick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from oarseg.imaging.arrays import Image
from oarseg.imaging.volume import Grid
from oarseg.phantom.patient.parts import Draws
from oarseg.phantom.randomise.levels import Level, deviation, within
from oarseg.phantom.randomise.texture import Texture
from oarseg.phantom.randomise.tissues import vary_signals
from oarseg.phantom.scanner import MrScanner, Slab, View

THICKNESS = (-1 / 3, 1 / 3)  # of a slice, from its middle


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

    def paint(self, view: View, first: int, last: int, values: Mapping[str, float]) -> Slab:
        """Paint the patient averaged over what the slices are thick."""
        slab = MrScanner.paint(self, view, first, last, values)
        step, origin = view.grid.index_to_world()
        for share in THICKNESS:
            x, y, z = (origin + step[:, 0] * share).tolist()
            beside = replace(view, grid=replace(view.grid, origin_mm=(x, y, z)))
            slab.image += MrScanner.paint(self, beside, first, last, values).image
        slab.image /= np.float32(len(THICKNESS) + 1)
        return slab

    def add_texture(self, slab: Slab) -> None:
        """Add correlated texture to a painted slab."""
        sampled = self.texture.sample(*slab.coordinates)
        slab.image *= np.clip(1.0 + np.float32(self.texture_share) * sampled, 0.5, 1.5)

    def receive(self, signal: Image, plane: int) -> NDArray[np.int16]:
        """Add the ghost, then take the magnitude under noise."""
        shift = round(self.ghost_shift * signal.shape[0])
        return MrScanner.receive(self, signal + self.ghost * np.roll(signal, shift, axis=0), plane)
