"""The user's settings, and the description of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from oarseg.cases.dicom_cases import WantedSeries
from oarseg.challenges.challenge import Challenge
from oarseg.imaging.files import read_scan
from oarseg.inference.confidence.probabilities import organ_classes
from oarseg.model.agreement import check_region
from oarseg.model.bundle import Bundle
from oarseg.model.manifest import Exactness, Region
from oarseg.plausibility.repair import Repair
from oarseg.registration import Method
from oarseg.results.dicom.segmentation import SegmentationForm


@dataclass(frozen=True)
class Settings:
    """The choices of the user.

    Attributes:
        challenge: a challenge's name or TOML file; None selects the one of the weights.
        threads: 0 uses every core available to this process.
        region, precision, mirroring: see ``RunDescription``; None takes the model's default,
            else the program's.
        time_limit_s: for the whole run; None disables the limit.
        structure_set: write an RT Structure Set for each case whose reference is DICOM.
        segmentation: the form of a DICOM Segmentation to write; None without one.
        started_s: start of the run on the ``time.monotonic`` clock; None takes the start of
            this process.
        resample: resample images onto the reference's grid where they should share it.
        assume_hu: accept a CT's values as Hounsfield units without a check.
        limits: the largest images to accept, by their headers.
        registration: how the MR is registered to the CT; see ``registration.register_mr``.
        repair: what to repair in the label map; see ``plausibility.repair``.
        probabilities: names of the organs whose probabilities are written.
        report_pages: write a page to look at for each case.
        series: which series of DICOM to take where there are several.
    """

    input: Path
    output: Path
    weights: Path
    challenge: str | None = None
    device: Literal["auto", "cuda", "cpu"] = "auto"
    threads: int = 0
    region: Region | None = None
    precision: Exactness | None = None
    resample: bool = False
    assume_hu: bool = False
    limits: read_scan.Limits = field(default_factory=read_scan.Limits)
    registration: Method = "rigid"
    mirroring: bool | None = None
    structure_set: bool = False
    segmentation: SegmentationForm | None = None
    repair: tuple[Repair, ...] = ()
    probabilities: tuple[str, ...] = ()
    report_pages: bool = False
    time_limit_s: float | None = None
    started_s: float | None = None
    series: WantedSeries = field(default_factory=WantedSeries)


@dataclass(frozen=True)
class RunDescription:
    """Everything that is the same for each case of a run.

    Attributes:
        settings: the user's choices.
        weights: the model.
        challenge: the challenge that the weights are for.
        threads: how many to use; never 0.
        region: ``body`` crops to the patient before the network; ``full`` places nnU-Net's
            tiles over the whole image. In both, tiles without a voxel of the body are skipped,
            and voxels outside the body are background. ``all`` computes every tile and every
            voxel, as stock nnU-Net does.
        precision: ``exact`` gives nnU-Net's answer on any CPU; ``fast`` takes bfloat16 where
            that agrees well enough with it.
        mirroring: average predictions over the flips that the model allows, as nnU-Net does.
        activations: bytes that a network allocates while it runs and frees afterwards.
        probabilities: classes of each organ whose probabilities are written, by its name.
        supervised: another process starts this one anew if its GPU fails.
        adds: networks add up their tiles themselves where they can.
    """

    settings: Settings
    weights: Bundle
    challenge: Challenge
    threads: int
    region: Region = "body"
    precision: Exactness = "exact"
    mirroring: bool = True
    activations: int = 0
    probabilities: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    supervised: bool = False
    adds: bool = True


def describe_run(
    settings: Settings, weights: Bundle, challenge: Challenge, *, threads: int
) -> RunDescription:
    """Settle each choice: by the user, else by the model, else by the program.

    Raises:
        InputError: the region is the body's, and the reference image is no CT to find it in; or
            probabilities are asked for of what is no organ of the model.
    """
    asked, model = settings, weights.manifest.run
    region = asked.region or model.region or default_region(challenge)
    check_region(region, challenge)
    mirroring = model.mirroring if asked.mirroring is None else asked.mirroring
    return RunDescription(
        settings,
        weights,
        challenge,
        threads,
        region=region,
        precision=asked.precision or model.precision or "exact",
        mirroring=mirroring is not False,
        probabilities=organ_classes(asked.probabilities, challenge.organs, weights.manifest),
    )


def default_region(challenge: Challenge) -> Region:
    """Choose what is segmented if neither the user nor the model says so."""
    return "body" if challenge.reference.modality == "CT" else "all"
