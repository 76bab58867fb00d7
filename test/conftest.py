"""What every test gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import docker_engine
import pytest

from oarseg.system import log

Say = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The challenges whose whole way through the container is tested."""
    parser.addoption(
        "--profiles",
        default="segrap_oar,structseg_lung_gtv",
        help="challenges for test_profile_container.py, comma-separated, or all",
    )


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Leave the package's logger as it was: the command line configures it for good."""
    before = log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate
    yield
    log.LOGGER.handlers[:], log.LOGGER.level, log.LOGGER.propagate = before


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Say:
    """Prints into the log at once, of tests that pass as well."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n    {text}", flush=True)

    return say


@pytest.fixture(scope="session")
def image(say: Say) -> str:
    seconds = docker_engine.build()
    size = docker_engine.image_size()
    say(f"image {docker_engine.IMAGE}: {size / 1e9:.2f} GB uncompressed, built in {seconds:.0f} s")
    say(f"flags: {' '.join(docker_engine.FLAGS)}")
    return docker_engine.IMAGE
