"""Choose what of a case is labelled with ``--region organs``."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from oarseg.imaging.arrays import Labels
from oarseg.inference.configurations.case_input import CaseInput
from oarseg.inference.engines.choice import Engines
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.region.localiser import (
    MARGIN_MM,
    OrganRegion,
    find_organ_region,
    reaches_edge,
)
from oarseg.workflows.report import Notes
from oarseg.workflows.settings import RunDescription

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Labelled:
    """The part of a case that is labelled.

    Attributes:
        body: the patient; None where none was found, and the whole image is labelled.
        organs: where a first look found organs; None where the whole body is labelled.
    """

    body: BlockMask | None
    organs: OrganRegion | None = None

    @property
    def mask(self) -> BlockMask | None:
        """The part to label; None labels everything."""
        return self.body if self.organs is None else self.organs.mask

    def cuts(self, labels: Labels) -> bool:
        """Tell whether an organ goes on where nothing was labelled; labels are (z, y, x)."""
        if self.body is None or self.organs is None:
            return False
        return reaches_edge(labels, self.organs.mask, self.body)


def look_first(
    network: CaseInput,
    body: BlockMask | None,
    run: RunDescription,
    notes: Notes,
    engines: Engines,
) -> Labelled:
    """Find where organs may lie, if that is what is to be labelled, and note it."""
    if run.region != "organs" or body is None:
        return Labelled(body)
    (net_input,) = network.networks
    taken = engines.hosted().take(mean=notes.sums.joint)
    found = find_organ_region(net_input, taken[0], run.weights.manifest, body)
    if len(taken) > 1:
        taken[0].rest()
    if found is None:
        notes.warn("a first look found no organ: the whole body is segmented")
        return Labelled(body)
    notes.look = look_record(found)
    log.info("first look: %d of the body's %d tiles needed", found.tiles, found.body_tiles)
    return Labelled(body, found)


def look_record(found: OrganRegion) -> dict[str, Any]:
    """Describe a first look for the report."""
    return {
        "margin_mm": MARGIN_MM,
        "tiles": found.tiles,
        "body_tiles": found.body_tiles,
        "look_tiles": found.look_tiles,
        "left_out_voxels": found.left_out,
        "whole_body": False,
    }


def look_again(part: Labelled, notes: Notes) -> Labelled:
    """Fall back to the whole body, and note it, as an organ goes on beyond the region."""
    notes.warn("an organ reaches the edge of where a first look found any: the body is segmented")
    if notes.look is not None:
        notes.look["whole_body"] = True
    return Labelled(part.body)
