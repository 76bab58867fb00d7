"""Choose how a case is computed: the arithmetic, and what the time limit leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import DeviceError
from oarseg.imaging.volume import Shape
from oarseg.inference.configurations.case_input import CaseInput
from oarseg.inference.configurations.model_parts import ModelPart, parts_of
from oarseg.inference.deadline import Deadline, choose_effort, describe_losses
from oarseg.inference.engines import choice
from oarseg.inference.engines.choice import BF16_MIN_DICE, Engines
from oarseg.inference.engines.cuda_choice import F16_MIN_AGREEMENT, F16_MIN_DICE
from oarseg.inference.engines.onnx_runtime import NoCudaError
from oarseg.inference.engines.protocol import Engine
from oarseg.inference.ensemble import Ensemble
from oarseg.inference.painting import label_logits
from oarseg.inference.preprocessing import NetworkInput
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import Effort, Work, plan_tiles
from oarseg.labels.dice import count_labels, dice_by_label
from oarseg.model.manifest import Manifest
from oarseg.workflows.report import Notes
from oarseg.workflows.settings import RunDescription

# bfloat16 is used for a case if that share of the compared voxels has float32's label.
MIN_AGREEMENT = 0.999
# Tiles that are computed in both arithmetics, and the voxels that a structure's Dice needs.
COMPARED_TILES, COMPARED_VOXELS = 6, 50
_BARS = {"float16": (F16_MIN_AGREEMENT, F16_MIN_DICE)}
LESS_PRECISE = "exact arithmetic (bfloat16 instead of float32)"


@dataclass(frozen=True)
class TileAgreement:
    """How the labels of two arithmetics agree on some tiles of a case.

    Attributes:
        tiles: how many were compared.
        agreement: share of voxels with the same label.
        min_dice: the lowest Dice of the structures that are large enough; 1 without any.
        bar: the agreement and the Dice that the arithmetic needs.
    """

    tiles: int
    agreement: float
    min_dice: float
    bar: tuple[float, float] = (MIN_AGREEMENT, BF16_MIN_DICE)

    @property
    def passed(self) -> bool:
        """Whether the faster arithmetic may be used."""
        return self.agreement >= self.bar[0] and self.min_dice >= self.bar[1]

    @property
    def text(self) -> str:
        """The figures, in words."""
        return (
            f"on {self.tiles} tiles {self.agreement:.2%} of the labels agree with float32's, "
            f"lowest Dice {self.min_dice:.4f}"
        )


@dataclass(frozen=True, eq=False)
class Computation:
    """Chooses how one case is computed, and notes it.

    Attributes:
        network: the preprocessed case, for each configuration of the model.
        body: the part to label; None labels everything.
        run: what is the same for every case.
        notes: gets the effort, what was given up, and warnings.
    """

    network: CaseInput
    body: BlockMask | None
    run: RunDescription
    notes: Notes

    def choose(self, engines: Engines, deadline: Deadline | None) -> Engines:
        """Choose arithmetic and effort; if time is short, bfloat16 before anything is left out.

        Args:
            engines: those of the run.
            deadline: the time limit; None computes everything.

        Returns:
            The engines to use for this case.
        """
        notes = self.notes
        engines = self.prove(engines)
        networks = self.run.weights.manifest.networks
        whole = Effort(mirror=self.run.mirroring and any(n.mirror_axes for n in networks))
        notes.effort = whole
        if deadline is None:
            return engines
        expected = self._fit_effort(engines, whole, deadline)
        if notes.effort != whole and (fast := self._open_faster(engines)):
            engines = fast
            expected = self._fit_effort(engines, whole, deadline)
            notes.given_up = (LESS_PRECISE, *notes.given_up)
        if notes.given_up:
            notes.warn(f"to meet the time limit, left out: {', '.join(notes.given_up)}")
        left = deadline.left()
        if expected > left:
            notes.warn(
                f"even so about {expected:.0f} s are needed and {left:.0f} s are left: the time "
                "limit will be missed; give more time, a GPU or more CPUs"
            )
        return engines

    def _fit_effort(self, engines: Engines, whole: Effort, deadline: Deadline) -> float:
        """Note as much effort as fits into the time left; return its expected seconds."""
        self.notes.effort, expected = choose_effort(
            deadline.left(),
            parts_of(self.run.weights.manifest, self.network, engines),
            whole=whole,
            joint=self.notes.sums.joint,
            mask=self.body,
            threads=self.run.threads,
        )
        folds = max(part.folds for part in engines.all)
        self.notes.given_up = describe_losses(whole, self.notes.effort, folds)
        return expected

    def _open_faster(self, engines: Engines) -> Engines | None:
        """Open the networks in bfloat16, which costs less Dice than leaving out a fold or a tile.

        Returns:
            None where they are in use, cannot be had, or do not agree on this case.
        """
        run, how = self.run, engines.choice
        if (how.engine, how.arithmetic) != ("openvino", "float32") or run.precision == "fast":
            return None
        if all(choice.fast_arithmetic(n) == "f32" for n in run.weights.manifest.networks):
            return None
        fast = choice.open_engines(
            run.weights,
            exactness="fast",
            device="cpu",
            threads=run.threads,
            mean=self.notes.sums.joint,
            mirroring=run.mirroring,
            adds=run.adds,
        )
        proven = self.prove(fast, exact=engines)
        return None if proven is engines else proven

    def prove(self, engines: Engines, *, exact: Engines | None = None) -> Engines:
        """Compare an arithmetic that no export has measured with float32, on tiles of the case.

        Args:
            engines: the networks to judge.
            exact: the same in float32; opened where they are needed.

        Returns:
            ``engines`` if they were measured or agree, else the exact ones.
        """
        if all(part.measured for part in engines.all):
            return engines
        if engines.choice.device == "cuda":
            return self._prove_on_gpu(engines)
        run = self.run
        exact = exact or choice.open_engines(
            run.weights,
            device="cpu",
            threads=run.threads,
            mirroring=run.mirroring,
            adds=run.adds,
        )
        return engines if self._agrees(engines, exact) else exact

    def _prove_on_gpu(self, engines: Engines) -> Engines:
        """Compare with float32 on the same GPU, if there is room for both; see ``prove``.

        What agrees counts as measured from then on: it is the arithmetic of the GPU's kernels,
        and shows on any case.
        """
        try:
            exact = choice.open_reference(self.run.weights, threads=self.run.threads)
            agrees = self._agrees(engines, exact)
        except (NoCudaError, DeviceError) as why:
            self.notes.warn(f"{engines.choice.arithmetic} was not compared with float32: {why}")
            return engines
        return engines.as_measured() if agrees else exact

    def _agrees(self, engines: Engines, exact: Engines) -> bool:
        """Compare two ensembles on the case, and note how they agree."""
        manifest = self.run.weights.manifest
        fast, sure = (parts_of(manifest, self.network, each) for each in (engines, exact))
        return all(self._agree(*pair) for pair in zip(fast, sure, strict=True))

    def _agree(self, fast: ModelPart, exact: ModelPart) -> bool:
        """Compare one configuration's."""
        if fast.engines.measured:
            return True
        notes, network, manifest = self.notes, fast.net_input, fast.manifest
        work = plan_tiles(network.placement, manifest, mask=self.body)
        found = compare_engines(
            network, work, manifest, fast.engines, exact.engines, joint=notes.sums.joint
        )
        notes.comparison = found.text
        if not found.passed:
            name = fast.engines.choice.arithmetic
            notes.warn(f"computed in float32: {name} is not exact enough, {found.text}")
        return found.passed


def compare_engines(
    network: NetworkInput,
    work: Work,
    manifest: Manifest,
    fast: Engines,
    exact: Engines,
    *,
    joint: bool = False,
) -> TileAgreement:
    """Compare the labels of two ensembles on a few tiles, spread evenly over the case.

    ``joint`` says in which form the first of them is to be used afterwards.
    """
    tiles = tuple(work.tiles())
    count = min(len(tiles), COMPARED_TILES)
    if not count:
        return TileAgreement(0, 1.0, 1.0)
    bar = _BARS.get(fast.choice.arithmetic, TileAgreement.bar)
    chosen = [tiles[(2 * number + 1) * len(tiles) // (2 * count)] for number in range(count)]
    ours, wanted = (
        _tile_labels(network, work, manifest, engines.hosted().take(mean=mean), chosen)
        for engines, mean in ((fast, joint), (exact, False))
    )
    dice = dice_by_label(ours, wanted, labels=255)
    large = count_labels(wanted, 256)[1:] >= COMPARED_VOXELS
    return TileAgreement(
        count, float(np.mean(ours == wanted)), float(np.min(dice[large], initial=1.0)), bar
    )


def _tile_labels(
    network: NetworkInput,
    work: Work,
    manifest: Manifest,
    engines: Sequence[Engine],
    tiles: Sequence[Shape],
) -> NDArray[np.uint8]:
    """Label single tiles, (tiles, *patch), by the sum of the folds' logits."""
    predict = Ensemble(network, work.window, engines, joint=True)
    labels = np.empty((len(tiles), *work.window.patch), np.uint8)
    for answer, out in zip(predict.row(tiles), labels, strict=True):
        (logits,) = answer.folds
        out[...] = label_logits(logits, manifest)
    return labels
