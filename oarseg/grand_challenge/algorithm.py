"""The settings of an algorithm on Grand Challenge, from the model and its challenge."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from oarseg.challenges.challenge import Challenge, LargestImage, Socket
from oarseg.errors import InputError
from oarseg.imaging.volume import Grid
from oarseg.inference.engines import choice
from oarseg.model.bundle import Bundle
from oarseg.model.manifest import Manifest
from oarseg.system.memory import GIB
from oarseg.system.usage import resident_mib
from oarseg.workflows.computation.forecast import forecast_memory

# What the platform offers, in GB; a challenge may allow less.
MEMORY_CHOICES_GB = (4, 8, 16, 32, 64)
# The forecast is of the arrays; allocators and the system's caches come on top.
SAFETY = 1.15
# Images are read into memory as they are stored.
STORED_BYTES = 2


@dataclass(frozen=True)
class AlgorithmSettings:
    """What the platform's form asks for.

    Attributes:
        challenge: title of the challenge.
        interfaces: sets of inputs that the model works with, the fullest first.
        output: slug of the output socket; empty if the challenge has none.
        shape: of the largest image, (z, y, x).
        forecast_gib: the largest peak of memory expected for it.
        memory_gb: the smallest choice that holds it; None if none does.
        time_limit_s: that the model brings; None leaves it to the platform.
    """

    challenge: str
    interfaces: tuple[tuple[Socket, ...], ...]
    output: str
    shape: tuple[int, int, int]
    forecast_gib: float
    memory_gb: int | None
    time_limit_s: float | None

    def lines(self) -> Iterator[str]:
        """Yield the settings as lines of text."""
        yield f"Algorithm settings on Grand Challenge, for {self.challenge}"
        for number, sockets in enumerate(self.interfaces, start=1):
            inputs = ", ".join(f"images/{socket.slug} ({socket.modality})" for socket in sockets)
            yield f"  interface {number}   {inputs}"
        if self.output:
            yield f"  output        images/{self.output}"
        else:
            yield (
                "  output        none that the platform takes: give the challenge's file "
                '[output] slug = "…" and ending = ".mha", and export with it'
            )
        size = "×".join(map(str, self.shape))
        memory = f"{self.memory_gb} GB" if self.memory_gb else "more than the platform gives"
        yield f"  memory        {memory}: forecast {self.forecast_gib:.1f} GiB for {size} voxels"
        yield "  GPU           not needed; the image takes one if it is there"
        limit = "none in the model: everything is computed, however long it takes"
        if self.time_limit_s is not None:
            limit = f"{self.time_limit_s:g} s in the model; set no less on the platform"
        yield f"  time limit    {limit} (oarseg export --time-limit)"


def algorithm_settings(
    bundle: Bundle, rules: Challenge, *, largest: LargestImage | None = None
) -> AlgorithmSettings:
    """Find the settings; opens the networks on the CPU, to see what they take.

    Args:
        bundle: the model.
        rules: its challenge.
        largest: the largest reference image; None takes the one that the challenge's data have.

    Raises:
        InputError: neither says how large images are.
    """
    extent = largest or rules.reference.largest
    if extent is None:
        raise InputError(
            f"challenge {rules.name}: expected the size of its largest image, found none; give "
            "--largest Z Y X and --spacing Z Y X in mm"
        )
    forecast = forecast_bytes(bundle, rules, extent)
    return AlgorithmSettings(
        challenge=rules.title,
        interfaces=tuple(interfaces(bundle.manifest, rules)),
        output=rules.output.slug if not rules.output.path else "",
        shape=extent.shape,
        forecast_gib=forecast / GIB,
        memory_gb=smallest_memory_gb(forecast),
        time_limit_s=bundle.manifest.run.time_limit_s,
    )


def interfaces(manifest: Manifest, rules: Challenge) -> Iterator[tuple[Socket, ...]]:
    """Yield the sets of sockets that a model works with: all, and those it cannot do without."""
    optional = {channel.name for channel in manifest.channels if channel.optional}
    yield rules.sockets
    needed = tuple(s for s in rules.sockets if s.reference or s.channel not in optional)
    if needed != rules.sockets:
        yield needed


def smallest_memory_gb(forecast: float) -> int | None:
    """Return the smallest choice of memory for a forecast in bytes."""
    wanted = forecast * SAFETY
    return next((gb for gb in MEMORY_CHOICES_GB if gb * 10**9 >= wanted), None)


def forecast_bytes(bundle: Bundle, rules: Challenge, extent: LargestImage) -> int:
    """Forecast the peak of memory for the largest image, the process's own included."""
    manifest = bundle.manifest
    grid = Grid(extent.shape, extent.spacing_mm)
    engines = choice.open_engines(
        bundle,
        exactness=manifest.run.precision or "exact",
        device="cpu",
        mirroring=manifest.run.mirroring is not False,
    )
    activations = choice.activation_bytes(engines, manifest)
    others = [_grid(socket, grid) for socket in rules.sockets if not socket.reference]
    registered = [
        other.voxels
        for socket, other in zip((s for s in rules.sockets if not s.reference), others, strict=True)
        if socket.placed == "registered"
    ]
    images = STORED_BYTES * (grid.voxels + sum(other.voxels for other in others))
    depth, height, width = grid.shape
    need = forecast_memory(
        grid,
        manifest=manifest,
        box=((0, depth), (0, height), (0, width)),
        mr_voxels=sum(registered),
        images_bytes=images,
        activations=activations,
        joint=manifest.run.precision == "fast",
    )
    return round(resident_mib() * 2**20) + images + need.bytes


def _grid(socket: Socket, reference: Grid) -> Grid:
    """Return the grid of a socket's largest image; the reference's where it is not known."""
    extent = socket.largest
    return reference if extent is None else Grid(extent.shape, extent.spacing_mm)
