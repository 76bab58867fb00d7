"""One bias a class: what is fitted, and that the networks have it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from oarseg.cli.main import build_parser
from oarseg.training.nnunet_files.checkpoint import load_weights, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import class_biases

    return class_biases


def phantom(module: ModuleType, seed: int) -> object:
    """Organ 1 is under-estimated everywhere, organ 2 is found as it is, 3 is nowhere."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((4, 8, 8), np.uint8)
    truth[:, :4, :4], truth[:, 4:, 4:] = 1, 2
    one = np.where(truth == 1, rng.uniform(0.3, 0.6, truth.shape), 0.0)
    two = np.where(truth == 2, rng.uniform(0.8, 0.9, truth.shape), 0.05)
    return module.collect(truth, [one, two, np.zeros_like(one)])


def test_an_underestimated_organ_is_lifted_and_the_others_stay(module: ModuleType) -> None:
    cases = [phantom(module, seed) for seed in range(4)]
    none = np.zeros(4, np.float32)
    biases = module.fit(cases, 4)
    assert biases[0] == 0  # the background's
    assert biases[1] > 0
    assert biases[2:].tolist() == [0, 0]
    assert module.mean_dice(cases, none) < 0.95
    assert module.mean_dice(cases, biases) > 0.99
    before, after = module.check(cases, 4)
    assert before == pytest.approx(module.mean_dice(cases, none), abs=0.02)
    assert after > 0.98


def test_a_bias_ends_at_its_limit(module: ModuleType) -> None:
    """More would always be better here: an organ that the network hardly sees."""
    truth = np.ones((2, 4, 4), np.uint8)
    case = module.collect(truth, [np.linspace(0.1, 0.6, truth.size).reshape(truth.shape)])
    assert module.fit([case], 2).tolist() == [0, module.MOST]


def test_label_maps_are_whole_images_with_the_biases(module: ModuleType) -> None:
    case = phantom(module, 0)
    lifted = case.image(np.array([0, 2, 0, 0], np.float32))
    assert lifted.shape == (4, 8, 8)
    assert bool((lifted[:, :4, :4] == 1).all())
    assert bool((lifted[:, :4, 4:] == 0).all())


def test_every_logit_of_a_class_rises_by_its_bias(module: ModuleType, tmp_path: Path) -> None:
    import weights

    trained = tmp_path / "best" / "trainer"
    networks = []
    for fold in range(2):
        network = weights.untrained_network()
        (trained / f"fold_{fold}").mkdir(parents=True)
        saved = {"network_weights": network.state_dict(), "current_epoch": 3}
        torch.save(saved, trained / f"fold_{fold}" / "checkpoint_final.pth")
        networks.append(network)
    biases = np.linspace(-1, 1, 31).astype(np.float32)
    out = tmp_path / "biased"
    module.write_networks(trained, out, biases)
    patch = torch.rand(1, 2, 32, 64, 64)
    for fold, network in enumerate(networks):
        network.eval()
        network.decoder.deep_supervision = False
        with torch.no_grad():
            before = network(patch)
            load_weights(network, read_checkpoint(out / f"fold_{fold}" / "checkpoint_final.pth"))
            after = network(patch)
        expected = torch.from_numpy(biases).view(1, -1, 1, 1, 1).expand_as(before)
        torch.testing.assert_close(after - before, expected, atol=1e-4, rtol=0)


def test_a_network_of_other_classes_is_refused(module: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"31 biases, found decoder\.seg_layers\.3\.bias"):
        module.add_biases({"decoder.seg_layers.3.bias": torch.zeros(5)}, torch.zeros(31))
    with pytest.raises(ValueError, match="found none"):
        module.add_biases({"other": torch.zeros(31)}, torch.zeros(31))


def test_its_phantoms_are_its_own(module: ModuleType) -> None:
    import held_out

    import weights

    used = {
        (level, seed + number)
        for level, seed, cases in [
            *held_out.HELD_OUT.values(),
            *((*pair, 100) for pair in weights.VALIDATION.values()),
        ]
        for number in range(cases)
    }
    own = {(level, seed + n) for level, seed in module.FITTED.values() for n in range(100)}
    assert not used & own
    assert max(seed for _, seed in own) < min(weights.TRAINING.values())


def test_its_commands_are_ones_that_oarseg_takes(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def parse(*arguments: object, log: Path) -> None:
        parsed.append(str(arguments[0]))
        told = build_parser().parse_args([str(a) for a in arguments])
        if arguments[0] == "segment":
            told.output.mkdir(parents=True)

    monkeypatch.setattr(module, "oarseg", parse)
    import weights

    monkeypatch.setattr(weights, "oarseg", parse)
    job = weights.Job(tmp_path, None, 1, 1, None, "{}", "cpu", 1)
    assert module.predict(job, tmp_path / "weights", 1) == {}
    assert parsed == ["phantom", "segment"] * 2
