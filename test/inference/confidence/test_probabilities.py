from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunet_oracle import CT, Recipe, images, manifest_of
from numpy.typing import NDArray
from one_fold import OneFold

from oarseg.errors import OutputError
from oarseg.imaging.orientation import Turn
from oarseg.inference.confidence import probabilities
from oarseg.inference.confidence.probabilities import Probabilities
from oarseg.inference.preprocessing import NetworkInput, Placement, preprocess
from oarseg.inference.region.footprint import BlockMask
from oarseg.inference.streaming import segment_streaming
from oarseg.model.entries.networks import ModelFile, Resampling
from oarseg.model.manifest import Manifest

PATCH = (6, 8, 10)
FILE = ModelFile("fold_0.onnx", "0" * 64, "0", "fp32")
LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}
SHAPE = (15, 19, 21)


class Levels(OneFold):
    def __call__(self, patch: NDArray[Any]) -> NDArray[Any]:
        levels = np.linspace(-1.2, 1.2, 4, dtype=np.float32).reshape(-1, 1, 1, 1)
        return np.asarray(-5 * (patch[0, :1] - levels) ** 2, np.float32)[None]


def kept(
    folder: Path, grid: tuple[float, float, float], *, mask: BlockMask | None = None, **changes: Any
) -> tuple[Probabilities, NDArray[np.uint8]]:
    recipe = Recipe((2.0, 1.0, 1.0), patch=PATCH, channels=(CT,), labels=LABELS, **changes)
    manifest: Manifest = manifest_of(recipe, (FILE,))
    net_input: NetworkInput = preprocess(images(SHAPE, 1, margin=1), grid, manifest)
    classes = {"a": (1,), "b or c": (2, 3), "all": (0, 1, 2, 3)}
    chances = Probabilities(net_input.placement, manifest, classes, folder)
    labels = segment_streaming(
        net_input, [Levels()], manifest, mask=mask, chances=chances, threads=2
    )
    return chances, labels


def volume(chances: Probabilities, organ: str, turn: Turn | None = None) -> NDArray[Any]:
    return np.stack(list(chances.planes(organ, turn or Turn())))


def test_the_largest_is_the_label(tmp_path: Path) -> None:
    chances, labels = kept(tmp_path, (2.0, 0.8, 0.9))
    a, rest = volume(chances, "a"), volume(chances, "b or c")
    assert a.shape == SHAPE
    assert (labels[a > 0.51] == 1).all()
    assert (rest[labels >= 2] > 0.3).all()
    # The crop to non-zero leaves a margin that nothing is known of.
    assert not a[0].any()
    assert volume(chances, "all")[1:-1, 1:-1, 1:-1] == pytest.approx(1, abs=1e-3)


def test_outside_the_body_they_are_zero(tmp_path: Path) -> None:
    blocks = np.zeros((4, 5, 6), bool)
    blocks[1:3, 1:4, 0:4] = True
    mask = BlockMask(blocks, (4, 4, 4), SHAPE)
    whole, _ = kept(tmp_path, (2.0, 1.0, 1.0))
    masked, _ = kept(tmp_path, (2.0, 1.0, 1.0), mask=mask)
    inside = mask.voxels()
    assert not volume(masked, "all")[~inside].any()
    assert np.array_equal(volume(masked, "a")[inside], volume(whole, "a")[inside])


def test_planes_that_repeat_are_kept_each_time(tmp_path: Path) -> None:
    """In separate-z several planes of the image are one of the network's."""
    chances, labels = kept(
        tmp_path, (1.0, 0.3, 0.3), logits_resampling=Resampling(1, force_separate_z=True)
    )
    a = volume(chances, "a")
    same = [z for z in range(1, 15) if (labels[z] == labels[z - 1]).all() and labels[z].any()]
    assert same
    assert all(np.array_equal(a[z], a[z - 1]) for z in same)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1)])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_they_are_turned_back_as_the_label_map(
    order: tuple[int, int, int], transpose: tuple[int, int, int], tmp_path: Path
) -> None:
    turn = Turn(order, (True, False, True))
    chances, labels = kept(tmp_path, (1.5, 1.0, 1.2), transpose=transpose)
    plain = volume(chances, "a")
    assert np.array_equal(volume(chances, "a", turn), turn.back(plain))
    assert plain.shape == labels.shape


def test_planes_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    place = Placement(
        (200, 64, 64), (1, 1, 1), (0, 1, 2), ((0, 200), (0, 64), (0, 64)), (200, 64, 64), (1, 1, 1)
    )
    recipe = Recipe((1.0, 1.0, 1.0), patch=PATCH, channels=(CT,), labels=LABELS)
    chances = Probabilities(place, manifest_of(recipe, (FILE,)), {"a": (1,)}, tmp_path)
    assert not list(tmp_path.iterdir()), "a file without a name"
    tracemalloc.start()
    assert sum(1 for _ in chances.planes("a", Turn((2, 1, 0)))) == 64
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 64 * 64 * 2 / 4
    chances.close()


def test_a_disk_without_room_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(probabilities.os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="room for the probabilities, found No space left"):
        kept(tmp_path, (2.0, 1.0, 1.0))
