"""What the user chose for a run, and what is loaded once for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from oarseg.challenges.challenge import Challenge
from oarseg.imaging.files import read_scan
from oarseg.inference.deadline import Deadline
from oarseg.inference.engines.choice import Engines
from oarseg.model.bundle import Bundle
from oarseg.registration import Method

Region = Literal["body", "full"]


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    Attributes:
        challenge: a challenge's name or TOML file; None takes the one the weights are for.
        threads: 0 takes every core this process may use.
        region: ``body`` crops to the patient before the network, ``full`` lays nnU-Net's
            own tiles over the whole image. Either way tiles without a voxel of the body
            are left out, and outside the body all is background.
        mirroring: average over the flips that the model allows, as nnU-Net does.
        time_limit_s: seconds for the whole run; None computes everything.
        started_s: when the run began, by ``time.monotonic``; None: with this process.
        resample: bring images that should lie on the reference's grid onto it.
        assume_hu: take a CT's values for Hounsfield units, whatever they look like.
        limits: what the headers of input files may promise.
        registration: how the MR is brought onto the CT, see ``registration.register``.
    """

    input: Path
    output: Path
    weights: Path
    challenge: str | None = None
    device: Literal["auto", "cuda", "cpu"] = "auto"
    threads: int = 0
    region: Region = "body"
    resample: bool = False
    assume_hu: bool = False
    limits: read_scan.Limits = field(default_factory=read_scan.Limits)
    registration: Method = "rigid"
    mirroring: bool = True
    time_limit_s: float | None = None
    started_s: float | None = None


@dataclass
class Model:
    """Everything that is loaded once and serves every case.

    Attributes:
        engines: replaced by those of the CPU if the GPU fails in the middle of a case.
        activations: bytes that a network takes while it runs and gives back.
        deadline: None without a time limit.
    """

    weights: Bundle
    challenge: Challenge
    engines: Engines
    threads: int
    settings: Settings
    activations: int = 0
    deadline: Deadline | None = None
