"""Choose, before the work, where a case's sums of logits lie, and how many of them there are."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

from oarseg.errors import DeviceError
from oarseg.imaging.volume import Grid
from oarseg.inference.device.vram import Sums, case_bytes, choose_sums
from oarseg.inference.engines.choice import Engines
from oarseg.inference.preprocessing import IndexBox, network_placement
from oarseg.model.manifest import Manifest
from oarseg.system import memory
from oarseg.system.memory import gib
from oarseg.system.usage import resident_mib
from oarseg.workflows.computation.forecast import forecast_memory
from oarseg.workflows.settings import RunDescription

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SumsPlace:
    """Where sums lie.

    Attributes:
        where: on the GPU, or on the host.
        joint: all folds share one, of their mean; else each has its own.
        memory_bytes: the host's memory that the case will take, its images included.
    """

    where: Literal["gpu", "host"] = "host"
    joint: bool = False
    memory_bytes: int = 0


@dataclass(frozen=True)
class CaseSize:
    """What the memory of a case depends on.

    Attributes:
        grid: the CT's.
        box: the part of it that is segmented; None for all.
        mr_voxels: of all MRs, as read.
        images_bytes: of the CT and the MRs, as read.
    """

    grid: Grid
    box: IndexBox | None
    mr_voxels: int
    images_bytes: int

    def without_images(self) -> CaseSize:
        """Return the same after the images were freed."""
        return replace(self, mr_voxels=0, images_bytes=0)

    @property
    def kept(self) -> IndexBox:
        """The part that is segmented."""
        depth, height, width = self.grid.shape
        return self.box or ((0, depth), (0, height), (0, width))


def place_sums(size: CaseSize, engines: Engines, run: RunDescription) -> SumsPlace:
    """Compare the memory that a case will need with what there is.

    Each fold's own sums are taken where they fit, one sum of all otherwise: on the GPU if the
    networks run there, else on the host.

    Raises:
        ResourceError: memory does not do for one sum on the host either.
        DeviceError: the GPU does not answer, and a supervisor takes over.
    """
    try:
        found = _on_gpu(size, engines, run)
    except DeviceError:
        if run.supervised:
            raise
        found = None  # the networks' run will say what is wrong
    if found is not None:
        needed = _check(size, run, joint=found.joint, sums_on_host=False)
        return replace(found, memory_bytes=needed)
    joint, needed = _must_join(size, run)
    return SumsPlace("host", joint, needed)


def _on_gpu(size: CaseSize, engines: Engines, run: RunDescription) -> SumsPlace | None:
    """Choose sums on the GPU; None if they do not fit, or are of several configurations."""
    manifest = run.weights.manifest
    if engines.gpu is None or len(manifest.members) > 1:
        return None
    if run.probabilities:
        log.info("sums of logits are kept on the host, which is slower: probabilities need them")
        return None
    found = [
        _sums_of(part, network, size, run)
        for part, network in zip(engines.all, manifest.networks, strict=True)
    ]
    if None in found:
        return None
    return SumsPlace("gpu", joint="joint" in found)


def _sums_of(
    engines: Engines, manifest: Manifest, size: CaseSize, run: RunDescription
) -> Sums | None:
    """Choose the sums of one configuration on its GPU; None if they do not fit."""
    if engines.gpu is None:
        return None
    free = engines.gpu.free_bytes()
    place = network_placement(size.grid.shape, size.grid.spacing_mm, manifest, size.kept)
    mirror = run.mirroring and bool(manifest.mirror_axes)
    joint, folds = run.precision == "fast", engines.folds
    found = choose_sums(free, place, manifest, folds=folds, joint=joint, mirror=mirror)
    need = case_bytes(place, manifest, folds=folds, joint=found != "separate", mirror=mirror)
    log.debug("forecast on the GPU: %s of %s, sums %s", gib(need), gib(free), found)
    if found is None:
        log.info(
            "sums of logits are kept on the host, which is slower: one takes %s of the GPU's "
            "memory, and %s are free",
            gib(need),
            gib(free),
        )
    return found


def _must_join(size: CaseSize, run: RunDescription) -> tuple[bool, int]:
    """Tell whether the folds share one sum: each one's own would not fit, or the run is fast.

    Returns:
        That, and the bytes that the case will take.
    """
    separate = _forecast(size, run, joint=False)
    join = any(len(network.folds) > 1 for network in run.weights.manifest.networks) and (
        run.precision == "fast" or separate.bytes > memory.tightest_room().left
    )
    return join, _check(size, run, joint=join)


def _check(size: CaseSize, run: RunDescription, *, joint: bool, sums_on_host: bool = True) -> int:
    """Make sure that a case fits into memory; return the bytes that it will take in all."""
    need = _forecast(size, run, joint=joint, sums_on_host=sums_on_host)
    log.debug("forecast: %.0f MiB on top of %.0f MiB", need.bytes / 2**20, resident_mib())
    croppable = size.box is None and run.challenge.reference.modality == "CT"
    memory.check_memory(need, hint=", use --region body" if croppable else "")
    return size.images_bytes + need.bytes


def _forecast(
    size: CaseSize, run: RunDescription, *, joint: bool, sums_on_host: bool = True
) -> memory.Need:
    return forecast_memory(
        size.grid,
        manifest=run.weights.manifest,
        box=size.kept,
        mr_voxels=size.mr_voxels,
        images_bytes=size.images_bytes,
        activations=run.activations,
        joint=joint,
        sums_on_host=sums_on_host,
    )
