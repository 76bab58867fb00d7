"""What every test gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oarseg import log


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Leave the package's logger as it was: the command line configures it for good."""
    before = log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate
    yield
    log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate = before
