"""What every test gets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import docker_engine
import instruction_sets
import pytest

from oarseg.system import log

Say = Callable[[str], None]

# Torch's record of what it compiles, thousands of lines an export. It does not propagate, but
# pytest listens to such loggers too and would bury what failed under it.
logging.getLogger("torch.__trace").disabled = True


def pytest_addoption(parser: pytest.Parser) -> None:
    """The challenges whose whole way through the container is tested."""
    parser.addoption(
        "--profiles",
        default="segrap_oar,structseg_lung_gtv",
        help="challenges for test_profile_container.py, comma-separated, or all",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say what the suite runs on, quietly started as well."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(instruction_sets.described())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what asks for the image, lest it runs where there is no engine."""
    for item in items:
        asks = "image" in getattr(item, "fixturenames", ())
        if asks and item.get_closest_marker("gpu") is None:
            item.add_marker(pytest.mark.container)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Leave the package's logger as it was made: the command line configures it for good.

    Not as it was before the test: a fixture of a whole module may have configured it.
    """
    yield
    log.LOGGER.handlers.clear()
    log.LOGGER.setLevel(logging.NOTSET)
    log.LOGGER.propagate = True


@pytest.fixture(params=[False, True], ids=["CPU of float32", "CPU of bfloat16"])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the CPU has bfloat16; a test that takes this runs on one without and one with."""
    has: bool = request.param
    instruction_sets.pretend(monkeypatch, bfloat16=has)
    return has


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
