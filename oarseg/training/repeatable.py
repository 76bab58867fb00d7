"""Make trainings repeatable on the same machine with the same number of threads."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

# nnU-Net's name. With 0 the training's own process augments; the batches of workers would
# arrive in an order that varies.
WORKERS = "nnUNet_n_proc_DA"


def seed_all(*seeds: int) -> None:
    """Seed every generator that nnU-Net and its augmentation draw from."""
    state = int(np.random.SeedSequence(seeds).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


@contextmanager
def augmenting_in_this_process() -> Iterator[None]:
    """Make nnU-Net's data loaders that are created meanwhile start no workers."""
    before = os.environ.get(WORKERS)
    os.environ[WORKERS] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WORKERS]
        else:
            os.environ[WORKERS] = before


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Make torch sum in a fixed order where it can, and warn where it cannot."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
