"""For any bytes in place of a slice: a sound volume or an InputError, soon and in little memory.

``make fuzz`` does the same for many more.
"""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import dicom_fuzzing
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oarseg.errors import InputError

pytestmark = pytest.mark.dicom
MUTATIONS = 500


@settings(
    max_examples=MUTATIONS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(random=st.randoms(use_true_random=False))
def test_any_slice_gives_a_volume_or_an_input_error(tmp_path: Path, random: Random) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(dicom_fuzzing.make(random).data)
    start = time.process_time()
    dicom_fuzzing.check(path)
    assert time.process_time() - start < dicom_fuzzing.LONGEST_S


@pytest.mark.parametrize("number", range(len(dicom_fuzzing.seeds())))
def test_every_seed_is_a_good_slice(tmp_path: Path, number: int) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(dicom_fuzzing.seeds()[number].data)
    found = dicom_fuzzing.check(path)
    assert found is not None
    np.testing.assert_array_equal(found.array, dicom_fuzzing.volume().array)


def test_mutations_reach_behind_the_header(tmp_path: Path) -> None:
    """Both outcomes are common, and refusals are of many kinds."""
    kinds: set[str] = set()
    read = 0
    for number in range(400):
        path = tmp_path / "x.dcm"
        path.write_bytes(dicom_fuzzing.make(Random(number)).data)
        try:
            dicom_fuzzing.read_series(path)
            read += 1
        except InputError as error:
            kinds.add(str(error).partition(": expected ")[2].split(",")[0][:25])
    assert read > 20
    assert len(kinds) > 15, kinds
