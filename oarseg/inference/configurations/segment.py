"""Segments a case with every configuration of a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from oarseg.imaging.arrays import Labels
from oarseg.inference import resampling
from oarseg.inference.confidence.agreement import FoldAgreement
from oarseg.inference.confidence.probabilities import Probabilities
from oarseg.inference.configurations.averaging import AveragePainter
from oarseg.inference.configurations.case_input import CaseInput
from oarseg.inference.configurations.label_resize import LabelPlane, resize_labels
from oarseg.inference.configurations.model_parts import ModelPart, parts_of
from oarseg.inference.configurations.plane_feed import PlaneFeed
from oarseg.inference.engines.choice import Engines
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.preprocessing import NetworkInput
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import (
    ALL,
    Effort,
    ReportProgress,
    segment_streaming,
    stream_planes,
)
from oarseg.model.entries.networks import Stage
from oarseg.model.manifest import Manifest


@dataclass
class Turns:
    """Lets engines rest when others begin, as no two configurations run at once."""

    _running: Sequence[Engine] = ()

    def begin(self, engines: Sequence[Engine]) -> None:
        """Make room for engines that are about to run."""
        if engines is not self._running:
            for engine in self._running:
                engine.rest()
            self._running = engines


@dataclass(frozen=True, eq=False)
class _Run:
    """What is the same for each configuration; see ``segment_case_input``."""

    effort: Effort
    joint: bool
    mask: BlockMask | None
    threads: int
    tick: Callable[[], None]
    turns: Turns
    chances: Probabilities | None

    def alone(
        self,
        part: ModelPart,
        *,
        agreement: FoldAgreement | None = None,
        chances: Probabilities | None = None,
    ) -> Labels:
        """Label a case by one configuration."""
        engines = part.engines.take(self.effort.folds, mean=self.joint)
        self.turns.begin(engines)
        return segment_streaming(
            part.net_input,
            engines,
            part.manifest,
            effort=self.effort,
            joint=self.joint,
            mask=self.mask,
            progress=lambda *_: self.tick(),
            threads=self.threads,
            gpu=part.engines.gpu,
            agreement=agreement,
            chances=chances,
        )

    def together(self, parts: Sequence[ModelPart]) -> Labels:
        """Label a case by the average of several configurations, plane by plane on the host."""
        place = parts[0].net_input.placement
        labels = np.zeros(place.shape, np.uint8)
        works = [part.work(self.mask, self.effort) for part in parts]
        if not all(work.count for work in works):
            return labels
        with ThreadPoolExecutor(max(self.threads, 1)) as pool:
            feeds = [
                PlaneFeed(
                    part.net_input.placement,
                    part.manifest,
                    stream_planes(
                        part.net_input,
                        part.engines.take(self.effort.folds, mean=self.joint),
                        part.manifest,
                        work,
                        effort=self.effort,
                        joint=self.joint,
                        pool=pool,
                        begin=self.turns.begin,
                        tick=self.tick,
                    ),
                )
                for part, work in zip(parts, works, strict=True)
            ]
            painter = AveragePainter(
                place,
                parts[0].manifest,
                labels,
                feeds,
                mask=works[0].mask,
                pool=pool,
                chances=self.chances,
            )
            for target in range(place.crop_shape[0]):
                painter.paint(target)
        return labels


def segment_case_input(
    case: CaseInput,
    engines: Engines,
    manifest: Manifest,
    *,
    effort: Effort = ALL,
    joint: bool = False,
    mask: BlockMask | None = None,
    progress: ReportProgress | None = None,
    threads: int = 1,
    agreement: FoldAgreement | None = None,
    chances: Probabilities | None = None,
) -> Labels:
    """Label every voxel of the image's grid: stages first, then what is averaged.

    Args:
        case: from ``preprocess_case``.
        engines: of all configurations.
        manifest: the model.
        effort, joint, mask, progress, threads, chances: as for ``segment_streaming``.
        agreement: as there, of a model of one configuration or of a cascade's last; folds of
            several are not compared.

    Returns:
        Label values (z, y, x) on the image's grid.

    Raises:
        InferenceError, WeightsError, DeviceError: see ``segment_streaming``.
    """
    parts = parts_of(manifest, case, engines)
    done = itertools.count(1)

    def tick() -> None:
        if progress is not None:
            progress(next(done), total)

    run = _Run(effort, joint, mask, threads, tick, Turns(), chances)
    total = sum(part.work(mask, effort).count for part in parts)
    members: list[ModelPart] = []
    before: ModelPart | None = None
    for part in parts:
        stage = part.manifest.stage
        if stage is not None and before is not None:
            members.remove(before)
            show_stage(run.alone(before), part.net_input, stage)
        members.append(part)
        before = part
    if len(members) > 1:
        return run.together(members)
    return run.alone(members[0], agreement=agreement, chances=chances)


def show_stage(labels: Labels, net_input: NetworkInput, stage: Stage) -> None:
    """Fill a cascade's input with the label map (z, y, x) of the stage before it."""
    place, hint = net_input.placement, net_input.hint
    if hint is None:
        raise ValueError("the network's input was not made for a cascade")
    view = place.view(labels)

    def plane(index: int) -> LabelPlane:
        found: LabelPlane = view[index].astype(np.int16)
        if hint.outside is not None:
            found[(found == 0) & hint.outside[index]] = -1
        return found

    how = resampling.choose_scheme(
        stage.resampling, place.crop_spacing_mm, place.network_spacing_mm
    )
    resize_labels(plane, place.crop_shape, how, stage.resampling.order, hint.map)
