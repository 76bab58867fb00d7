"""For any bytes the reader gives a sound image or an InputError, soon and in little memory.

``make fuzz`` does the same for many more files.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import fuzzing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oarseg.errors import InputError
from oarseg.imaging.files.read_scan import read_volume
from oarseg.system.memory import VIRTUAL_RESERVE

MUTATIONS = 5000
LONGEST_S = 1.0
MOST_BYTES = 256 << 20


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where no more than a little memory can be had beyond what the tests use already."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    used = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmData:")
    )
    fuzzing.seeds()
    # The forecast keeps its reserve free, and would refuse every file without it.
    resource.setrlimit(resource.RLIMIT_DATA, (used + MOST_BYTES + VIRTUAL_RESERVE, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_DATA, before)


@settings(
    max_examples=MUTATIONS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(random=st.randoms(use_true_random=False))
def test_any_file_gives_an_image_or_an_input_error(folder: Path, random: Random) -> None:
    file = fuzzing.make(random)
    path = folder / f"x.{file.ending}"
    path.write_bytes(file.data)
    start = time.process_time()
    fuzzing.check(path)
    assert time.process_time() - start < LONGEST_S


@pytest.mark.parametrize("number", range(len(fuzzing.seeds())))
def test_every_seed_is_a_good_file(tmp_path: Path, number: int) -> None:
    """Otherwise its mutations would all end at the same first refusal."""
    seed = fuzzing.seeds()[number]
    path = tmp_path / f"x.{seed.ending}"
    path.write_bytes(seed.data)
    fuzzing.assert_invariants(read_volume(path, limits=fuzzing.LIMITS))


def test_mutations_reach_behind_the_header(tmp_path: Path) -> None:
    """Both outcomes are common, and refusals are of many kinds."""
    kinds: dict[str, int] = {}
    for number in range(1000):
        file = fuzzing.make(Random(number))
        path = tmp_path / f"x.{file.ending}"
        path.write_bytes(file.data)
        try:
            read_volume(path, limits=fuzzing.LIMITS)
            kind = "read"
        except InputError as error:
            kind = str(error).removeprefix(f"{path}: expected ").split(",")[0][:20]
        kinds[kind] = kinds.get(kind, 0) + 1
    assert kinds["read"] > 100
    assert len(kinds) > 20, kinds
