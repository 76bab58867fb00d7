"""An ensemble in each form: the same logits, one form open at a time."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from one_fold import OneFold
from small_onnx import write_pointwise

from oarseg.errors import WeightsError
from oarseg.inference.engines.forms import Networks, separate_networks
from oarseg.inference.engines.onnx_runtime import JoinedOnnxEngine
from oarseg.inference.engines.openvino import OpenVinoEngine

ROOT = Path(__file__).resolve().parents[2]
PATCH = (4, 6, 8)


class Opened(OneFold):
    """An engine of some folds."""

    def __init__(self, answers: int) -> None:
        self.answers = answers

    def __call__(self, _: object) -> NDArray[np.float32]:
        raise AssertionError("not to be run")


class Opener:
    """Notes what is opened, and that what was open before is gone by then."""

    def __init__(self, *, joined: bool) -> None:
        self.joined = joined
        self.forms: list[tuple[int, bool]] = []
        self._alive: list[weakref.ref[Opened]] = []

    def __call__(self, folds: int, mean: bool) -> Sequence[Opened]:
        gc.collect()
        assert [one() for one in self._alive] == [None] * len(self._alive)
        self.forms.append((folds, mean))
        one = mean or self.joined
        engines = [Opened(1 if mean else folds)] if one else [Opened(1) for _ in range(folds)]
        self._alive = [weakref.ref(engine) for engine in engines]
        return engines


def answers(networks: Networks, folds: int, mean: bool = False) -> list[int]:
    return [engine.answers for engine in networks.take(folds, mean=mean)]


def test_folds_that_are_open_apart_also_serve_where_fewer_are_wanted() -> None:
    opener = Opener(joined=False)
    networks = Networks(3, opener)
    assert answers(networks, 3) == [1, 1, 1]
    assert answers(networks, 2) == [1, 1]
    assert answers(networks, 9) == [1, 1, 1]
    assert opener.forms == [(3, False)]
    assert answers(networks, 3, mean=True) == [1]
    assert answers(networks, 2, mean=True) == [1]
    # The mean of one is the one.
    assert answers(networks, 1, mean=True) == [1]
    assert opener.forms == [(3, False), (3, True), (2, True), (1, False)]


def test_a_graph_of_all_is_opened_again_where_fewer_are_wanted() -> None:
    opener = Opener(joined=True)
    networks = Networks(3, opener)
    assert [answers(networks, n) for n in (3, 3, 2, 2)] == [[3], [3], [2], [2]]
    assert opener.forms == [(3, False), (2, False)]


def test_engines_without_a_mean_leave_it_to_the_caller() -> None:
    networks = separate_networks([Opened(1), Opened(1)])
    assert answers(networks, 2, mean=True) == [1, 1]


def folds(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"fold_{fold}.onnx" for fold in range(count)]
    for fold, path in enumerate(paths):
        write_pointwise(path, PATCH, (1.0 + fold, -2.0 * fold, 0.5))
    return paths


def logits(count: int, classes: int, patch: Sequence[int]) -> NDArray[np.float32]:
    return np.full((count, classes, *patch), np.nan, np.float32)


def test_openvinos_graph_of_all_folds_answers_to_the_bit_as_each_alone() -> None:
    """Three of the shipped networks, whose 31 classes are computed in pieces."""
    paths = sorted((ROOT / "weights").glob("*_fp32.onnx"))
    patch = (32, 64, 64)
    tile = np.random.default_rng(0).standard_normal((1, 2, *patch)).astype(np.float32)
    alone = logits(1, 31, patch)
    wanted = [OpenVinoEngine([p], tile, alone, threads=2)(tile)[0].copy() for p in paths]
    joined = OpenVinoEngine(paths, tile, logits(3, 31, patch), threads=2)
    assert joined.answers == 3
    assert joined.name == ", ".join(path.name for path in paths)
    assert np.array_equal(joined(tile), np.stack(wanted))
    mean = OpenVinoEngine(paths, tile, logits(1, 31, patch), threads=2, mean=True)
    assert mean.answers == 1
    assert np.allclose(mean(tile)[0], np.mean(wanted, axis=0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("mean", [False, True])
def test_onnx_runtimes_graph_of_all_folds(tmp_path: Path, count: int, mean: bool) -> None:
    paths = folds(tmp_path, count)
    tile = np.random.default_rng(0).standard_normal((1, 1, *PATCH)).astype(np.float32)
    out = logits(1 if mean else count, 3, PATCH)
    engine = JoinedOnnxEngine(paths, tile, out, threads=1, mean=mean)
    assert engine.answers == len(out)
    each = [
        np.concatenate([(1 + f) * tile, -2 * f * tile + 1, 0.5 * tile + 2], axis=1)
        for f in range(count)
    ]
    expected = np.mean(each, axis=0) if mean else np.concatenate(each)
    for turned in (tile, -tile, tile):
        found = engine(turned)
        if turned is tile:
            assert np.allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_a_fold_of_another_patch_is_named(tmp_path: Path) -> None:
    paths = folds(tmp_path, 2)
    write_pointwise(paths[1], (4, 6, 9), (1.0, 2.0, 3.0))
    tile, out = np.zeros((1, 1, *PATCH), np.float32), logits(2, 3, PATCH)
    for engine in (JoinedOnnxEngine, OpenVinoEngine):
        with pytest.raises(WeightsError, match=r"fold_1\.onnx: expected the static shapes"):
            engine(paths, tile, out, threads=1)


def test_a_fold_that_is_no_network_is_named(tmp_path: Path) -> None:
    paths = folds(tmp_path, 2)
    paths[1].write_bytes(b"no network")
    tile, out = np.zeros((1, 1, *PATCH), np.float32), logits(2, 3, PATCH)
    for engine in (JoinedOnnxEngine, OpenVinoEngine):
        with pytest.raises(WeightsError, match=r"fold_1\.onnx: not a usable ONNX file"):
            engine(paths, tile, out, threads=1)
