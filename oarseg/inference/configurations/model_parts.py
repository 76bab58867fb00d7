"""One configuration of a model, ready to run on a case."""

from __future__ import annotations

from dataclasses import dataclass

from oarseg.inference.configurations.case_input import CaseInput
from oarseg.inference.engines.choice import Engines
from oarseg.inference.preprocessing import NetworkInput
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import Effort, Work, plan_tiles
from oarseg.model.manifest import Manifest


@dataclass(frozen=True, eq=False)
class ModelPart:
    """A configuration's description, what it sees of a case, and its networks."""

    manifest: Manifest
    net_input: NetworkInput
    engines: Engines

    def work(self, mask: BlockMask | None, effort: Effort) -> Work:
        """Select the tiles to compute; see ``plan_tiles``."""
        return plan_tiles(self.net_input.placement, self.manifest, mask=mask, step=effort.step)


def parts_of(manifest: Manifest, case: CaseInput, engines: Engines) -> tuple[ModelPart, ...]:
    """List a model's configurations in the order in which they run."""
    every = zip(manifest.networks, case.networks, engines.all, strict=True)
    return tuple(ModelPart(*part) for part in every)
