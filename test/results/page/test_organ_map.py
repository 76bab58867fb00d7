import numpy as np
import pytest

from oarseg.challenges.challenge import Organ
from oarseg.errors import InputError
from oarseg.imaging.orientation import Turn
from oarseg.labels.mask import CroppedMask
from oarseg.results.page.organ_map import OrganMap, map_organs

SHAPE = (4, 6, 8)


class Given:
    """Masks by name, cropped by nothing."""

    unknown = ()

    def __init__(self, masks: dict[str, np.ndarray]) -> None:
        self.masks = masks

    def mask(self, organ: Organ) -> CroppedMask | None:
        found = self.masks.get(organ.name)
        return None if found is None else CroppedMask(found[1:], (1, 0, 0))

    def lacks(self, organ: Organ) -> str:
        return ""


def organs(*names: str) -> list[Organ]:
    return [Organ(name=name, colour=(1, 2, 3), labels=(1,)) for name in names]


def unpacked(found: OrganMap, number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    whole = np.zeros(shape, bool)
    box = tuple(slice(a, a + n) for a, n in zip(found.start, found.codes.shape, strict=True))
    whole[box] = np.isin(found.codes, found.members[number])
    return whole


@pytest.mark.parametrize("turn", [Turn(), Turn((2, 0, 1), (True, False, True))])
def test_overlapping_organs_come_back(turn: Turn) -> None:
    random = np.random.default_rng(0)
    masks = {name: random.random(SHAPE) < 0.4 for name in ("A", "B", "C")}
    for mask in masks.values():
        mask[0] = False
    found = map_organs(Given(masks), organs("A", "B", "Absent", "C"), SHAPE, turn)
    for number, name in ((0, "A"), (1, "B"), (3, "C")):
        expected = turn.array(masks[name])
        assert np.array_equal(unpacked(found, number, expected.shape), expected)
        points = np.argwhere(expected)
        box = found.boxes[number]
        assert box is not None
        assert [side.start for side in box] == list(points.min(0))
        assert [side.stop - 1 for side in box] == list(points.max(0))
    assert found.members[2] == ()
    assert found.boxes[2] is None


def test_no_organ_at_all() -> None:
    found = map_organs(Given({}), organs("A"), SHAPE, Turn())
    assert found.codes.shape == (1, 1, 1)
    assert not found.codes.any()


def test_more_combinations_than_codes() -> None:
    random = np.random.default_rng(0)
    shape = (4, 40, 40)
    names = [f"Organ{k}" for k in range(12)]
    masks = {name: random.random(shape) < 0.5 for name in names}
    with pytest.raises(InputError, match="more than 255 ways"):
        map_organs(Given(masks), organs(*names), shape, Turn())
