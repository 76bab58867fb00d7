"""Networks that add up their tiles themselves: the same sums as logits that are added after."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_onnx import write_pointwise

from oarseg.errors import InferenceError, WeightsError
from oarseg.inference import deadline
from oarseg.inference.engines import choice
from oarseg.inference.engines.openvino import OpenVinoEngine, has_bf16
from oarseg.inference.engines.openvino_sums import OpenVinoSums, graph_rounds
from oarseg.inference.engines.protocol import AddsTiles, run_once
from oarseg.inference.ensemble import Ensemble
from oarseg.inference.half_precision import PlainArithmetic
from oarseg.inference.tiling import gaussian_weights
from oarseg.model import bundle
from oarseg.model.entries.networks import Arithmetic
from oarseg.model.manifest import Exactness

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (32, 64, 64)
SMALL = (4, 6, 8)
pytestmark = pytest.mark.skipif(
    not graph_rounds("f32"), reason="OpenVINO rounds otherwise on this CPU"
)


def opened(
    paths: Sequence[Path], patch: Sequence[int], classes: int, precision: Arithmetic = "f32"
) -> tuple[OpenVinoSums, NDArray[np.float32]]:
    """Networks on a tile of noise, and the tile."""
    channels = 2 if classes == 31 else 1
    tile = np.random.default_rng(0).standard_normal((1, channels, *patch)).astype(np.float32)
    logits = np.zeros((1, classes, *patch), np.float32)
    sums = tuple(np.zeros((1, classes, *patch), np.float16) for _ in range(2))
    return OpenVinoSums(paths, tile, logits, sums, threads=2, precision=precision), tile


def views(ring: NDArray[np.float16], patch: Sequence[int], slot: int) -> list[NDArray[np.float16]]:
    """A tile's place in a ring, whose planes wrap around."""
    rows, columns = slice(3, 3 + patch[1]), slice(5, 5 + patch[2])
    return [ring[:, part, rows, columns] for part in (slice(slot, patch[0]), slice(0, slot))]


def ring(patch: Sequence[int], classes: int) -> NDArray[np.float16]:
    """Sums of all sizes, also those next to nothing."""
    rng = np.random.default_rng(1)
    shape = (classes, patch[0], patch[1] + 9, patch[2] + 11)
    return np.asarray(rng.standard_normal(shape) * 10.0 ** rng.integers(-7, 4, shape), np.float16)


def check_equal(
    engine: OpenVinoSums,
    tile: NDArray[np.float32],
    patch: Sequence[int],
    classes: int,
    *,
    step: float = 0.0,
) -> None:
    """Twice, as buffers are used again, beside the reference on the logits.

    Args:
        step: of the logits, by which both graphs may differ.
    """
    weights = gaussian_weights(tuple(patch)).astype(np.float32)
    found = ring(patch, classes)
    expected = found.copy()
    with ThreadPoolExecutor(2) as pool:
        for slot in (1, 3):
            assert engine.add(tile, views(found, patch, slot), weights, pool)
            logits = engine(tile)[0]
            PlainArithmetic().add(views(expected, patch, slot), logits, weights)
    if step:
        most = 2 * step * float(np.abs(logits).max())
        assert np.allclose(found.astype(float), expected.astype(float), rtol=2**-10, atol=most)
    else:
        assert np.array_equal(found, expected)
    assert not np.array_equal(found, ring(patch, classes))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_sums_of_shipped_networks_are_nnunets(precision: Arithmetic) -> None:
    if precision == "bf16" and not has_bf16():
        pytest.skip("no bfloat16 on this CPU")
    paths = sorted((ROOT / "weights").glob("*_fp32.onnx"))
    for files in (paths[:1], paths):
        engine, tile = opened(files, SHIPPED, 31, precision)
        assert engine.answers == 1
        assert engine.name == ", ".join(path.name for path in files)
        # Whether the last layer's own result is rounded to bfloat16 may depend on the CPU.
        step = 2**-8 if precision == "bf16" else 0.0
        check_equal(engine, tile, SHIPPED, 31, step=step)
        engine.rest()
        check_equal(engine, tile, SHIPPED, 31, step=step)


def test_networks_that_cannot_be_split_add_too(tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, slope in zip(paths, (1.0, -3.0), strict=True):
        write_pointwise(path, SMALL, (slope, -0.7, 0.5))
    for files in (paths[:1], paths):
        check_equal(*opened(files, SMALL, 3), SMALL, 3)


def test_sums_beyond_half_precision_become_infinite(tmp_path: Path) -> None:
    """So that the painter finds them, as it does where nnU-Net's would."""
    write_pointwise(tmp_path / "a.onnx", SMALL, (1.0, 0.0, 0.0))
    engine, tile = opened([tmp_path / "a.onnx"], SMALL, 3)
    tile[...] = 4000.0
    found = ring(SMALL, 3)
    found[0] = 65000.0
    with ThreadPoolExecutor(2) as pool:
        assert engine.add(tile, views(found, SMALL, 1), np.ones(SMALL, np.float32), pool)
    assert all(np.isinf(part[0]).all() for part in views(found, SMALL, 1))
    assert found[0, 0, 0, 0] == 65000.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_told(tmp_path: Path, value: float) -> None:
    write_pointwise(tmp_path / "a.onnx", SMALL, (1.0, 2.0, 0.5))
    engine, tile = opened([tmp_path / "a.onnx"], SMALL, 3)
    weights, sums = np.ones(SMALL, np.float32), ring(SMALL, 3)
    with ThreadPoolExecutor(2) as pool:
        assert engine.add(tile, views(sums, SMALL, 1), weights, pool)
        tile[0, 0, 2, 3, 4] = value
        assert not engine.add(tile, views(sums, SMALL, 1), weights, pool)


def test_a_run_for_its_time_adds_nothing_and_compiles_no_second_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pointwise(tmp_path / "a.onnx", SMALL, (1.0, 2.0, 0.5))
    engine, tile = opened([tmp_path / "a.onnx"], SMALL, 3)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(OpenVinoEngine, "__init__", refuse)
    run_once(engine, tile)
    sums, expected = ring(SMALL, 3), ring(SMALL, 3)
    weights = np.full(SMALL, 0.5, np.float32)
    with ThreadPoolExecutor(2) as pool:
        assert engine.add(tile, views(sums, SMALL, 1), weights, pool)
    slopes = np.array([1.0, 2.0, 0.5], np.float32).reshape(3, 1, 1, 1)
    logits = tile[0] * slopes + np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)
    PlainArithmetic().add(views(expected, SMALL, 1), logits, weights)
    assert np.allclose(sums.astype(float), expected.astype(float), rtol=1e-3, atol=1e-3)


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"a\.onnx: not a usable ONNX file"):
        opened([tmp_path / "a.onnx"], SMALL, 3)


def test_cases_are_added_by_the_networks_and_their_engines_share_the_sums() -> None:
    engines = choice.open_engines(bundle.load_bundle(ROOT / "weights"), device="cpu", threads=2)
    taken = engines.take()
    assert len(taken) == 3
    assert all(isinstance(engine, AddsTiles) for engine in taken)
    buffers = {id(engine._graph()._before) for engine in taken if isinstance(engine, OpenVinoSums)}
    assert len(buffers) == 1


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_networks_whose_flips_are_averaged_give_logits(precision: Exactness) -> None:
    shipped = bundle.load_bundle(ROOT / "weights")
    turned = replace(shipped, manifest=replace(shipped.manifest, mirror_axes=(1,)))

    def adds(weights: bundle.Bundle, *, mirroring: bool) -> bool:
        opened = choice.open_engines(
            weights, exactness=precision, device="cpu", threads=1, mirroring=mirroring
        )
        return all(isinstance(engine, AddsTiles) for engine in opened.take())

    rounds = precision == "exact" or graph_rounds(choice.fast_arithmetic(shipped.manifest))
    assert adds(shipped, mirroring=True) == rounds
    assert adds(turned, mirroring=False) == rounds
    assert not adds(turned, mirroring=True)


def test_weights_that_were_given_may_go(tmp_path: Path) -> None:
    """A deadline's measurement frees the ring whose weights they were, and runs once more."""
    write_pointwise(tmp_path / "a.onnx", SMALL, (1.0, 2.0, 0.5))
    engine, tile = opened([tmp_path / "a.onnx"], SMALL, 3)
    weights = np.ones(SMALL, np.float32)
    gone = weakref.ref(weights)
    with ThreadPoolExecutor(1) as pool:
        engine.add(tile, views(ring(SMALL, 3), SMALL, 1), weights, pool)
        del weights
        gc.collect()
        assert gone() is not None  # OpenVINO would read what is no longer there
        engine.run(tile)
        engine.add(tile, views(ring(SMALL, 3), SMALL, 1), np.ones(SMALL, np.float32), pool)
    gc.collect()
    assert gone() is None


def test_only_one_graph_is_there_at_a_time(tmp_path: Path) -> None:
    write_pointwise(tmp_path / "a.onnx", SMALL, (1.0, 2.0, 0.5))
    engine, tile = opened([tmp_path / "a.onnx"], SMALL, 3)
    sums, logits = engine._sums, engine._logits
    assert (sums is None, logits is None) == (False, True)
    engine(tile)
    assert (engine._sums is None, engine._logits is None) == (True, False)
    engine.rest()
    engine.run(tile)
    assert (engine._sums is None, engine._logits is None) == (False, True)


def test_where_openvino_rounds_otherwise_logits_are_added_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choice, "graph_rounds", lambda _: False)
    engines = choice.open_engines(bundle.load_bundle(ROOT / "weights"), device="cpu", threads=2)
    assert not any(isinstance(engine, AddsTiles) for engine in engines.take())


class Adder:
    """Adds ones, and says whether they are finite."""

    name, answers = "a.onnx", 1

    def __init__(self, *, finite: bool = True) -> None:
        self.finite, self.ran, self.added = finite, 0, 0

    def __call__(self, tile: NDArray[np.float32], /) -> NDArray[np.float32]:
        return np.ones((1, 3, *tile.shape[2:]), np.float32)

    def run(self, tile: NDArray[np.float32]) -> None:
        self.ran += 1

    def add(
        self,
        tile: NDArray[np.float32],
        totals: Sequence[NDArray[np.float16]],
        weights: NDArray[np.float32],
        pool: Executor,
    ) -> bool:
        self.added += 1
        for part in totals:
            part += 1
        return self.finite

    def rest(self) -> None:
        pass


class Image:
    """What an ensemble cuts tiles from."""

    channels = 1

    def cut(self, window: object, start: object, tile: NDArray[np.float32]) -> None:
        tile[...] = 0


class Window:
    patch = SMALL


def test_an_ensemble_gives_what_adds_only_where_it_is_wanted_and_without_flips() -> None:
    engine = Adder()

    def first(*, adds: bool, flips: Sequence[tuple[int, ...]] = ()) -> object:
        ensemble = Ensemble(Image(), Window(), [engine], adds=adds)  # type: ignore[arg-type]
        return next(next(ensemble.row([(0, 0, 0)], flips)).folds)

    assert callable(first(adds=True))
    assert isinstance(first(adds=False), np.ndarray)
    assert isinstance(first(adds=True, flips=[(0,)]), np.ndarray)


def test_the_tile_with_logits_that_are_not_finite_is_named() -> None:
    ensemble = Ensemble(Image(), Window(), [Adder(finite=False)], adds=True)  # type: ignore[arg-type]
    answer = next(ensemble.row([(1, 2, 3)]))
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(InferenceError, match=r"a\.onnx: .* tile at \(1, 2, 3\)"),
    ):
        next(answer.folds)([], np.ones(SMALL, np.float32), pool)


def test_a_deadline_times_what_a_case_will_run() -> None:
    engine = Adder()
    timed = deadline._TimedAdder(engine)
    timed.again = True
    sums = np.zeros((3, *SMALL), np.float16)
    with ThreadPoolExecutor(1) as pool:
        tile, weights = np.zeros((1, 1, *SMALL), np.float32), np.ones(SMALL, np.float32)
        assert timed.add(tile, [sums], weights, pool)
    assert (engine.ran, engine.added) == (1, 1)
    assert 0 < timed.last_s < timed.all_s
    timed.run(tile)
    assert engine.ran == 2
