"""Contrast as unknown: other means for labels, windows, and patches without their CT."""

from __future__ import annotations

import torch

from oarseg.training.contrast import blur, change_windows, resample_tissues
from oarseg.training.settings import TrainerSettings, parse_settings, settings_of
from oarseg.training.trainers.OarsegTrainer import OarsegTrainer

MR = frozenset({1})


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def halves() -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of ones, of which the upper half is label 2 and one voxel is ignored."""
    labels = torch.zeros(1, 1, 4, 4, 4)
    labels[:, :, 2:] = 2
    labels[0, 0, 0, 0, 0] = -1
    return torch.ones(1, 2, 4, 4, 4), labels


def test_a_label_gets_one_other_mean_and_background_keeps_its_own() -> None:
    data, labels = halves()
    changed = resample_tissues(data.clone(), labels, share=1.0, scaled=MR, rng=seeded())
    for channel in changed[0]:
        assert bool((channel[:2] == 1).all())
        assert channel[2:].unique().numel() == 1
        assert float(channel[3, 3, 3]) != 1.0


def test_where_the_mr_is_absent_it_stays_absent() -> None:
    data, labels = halves()
    data[:, 1] = 0
    changed = resample_tissues(data, labels, share=1.0, scaled=MR, rng=seeded())
    assert not changed[:, 1].any()
    assert bool((changed[:, 0, 2:] != 1).all())


def test_the_share_of_patches_is_the_probability() -> None:
    data, labels = torch.ones(400, 1, 1, 1, 2), torch.ones(400, 1, 1, 1, 2)
    changed = resample_tissues(data, labels, share=0.3, scaled=frozenset(), rng=seeded())
    assert 80 < int((changed[:, 0, 0, 0, 0] != 1).sum()) < 160


def test_a_window_clips_and_keeps_the_order() -> None:
    ramp = torch.linspace(-2, 4, 64).reshape(1, 1, 4, 4, 4).repeat(1, 2, 1, 1, 1)
    changed = change_windows(ramp.clone(), share=1.0, scaled=MR, rng=seeded())
    for channel, before in zip(changed[0], ramp[0], strict=True):
        assert bool((channel.flatten().diff() >= 0).all())
        assert float(before.min()) <= float(channel.min())
        assert float(channel.max()) < float(before.max())
    assert float(changed[0, 1].min()) == -2.0
    assert float(changed[0, 0].min()) > -2.0


def test_a_constant_channel_and_a_share_of_0_change_nothing() -> None:
    constant = torch.zeros(1, 2, 4, 4, 4)
    assert not change_windows(constant, share=1.0, scaled=MR, rng=seeded()).any()
    ramp = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
    assert torch.equal(change_windows(ramp.clone(), share=0.0, scaled=MR, rng=seeded()), ramp)


class Stub(OarsegTrainer):
    """A trainer without nnU-Net's constructor."""

    class _Labels:
        has_regions = False

    def __init__(self, settings: TrainerSettings) -> None:
        self.settings = settings
        self.dropout_rng = seeded()
        self.label_manager = self._Labels()


def test_no_patch_loses_both_modalities() -> None:
    settings = TrainerSettings(
        modality_dropout=0.4, reference_dropout=0.4, optional_channels=((1, 0.0),)
    )
    data = Stub(settings)._drop_modalities(torch.ones(500, 2, 1, 1, 1)).flatten(1)
    without_ct, without_mr = (data == 0).T
    assert 150 < int(without_mr.sum()) < 250
    assert 70 < int(without_ct.sum()) < 170
    assert not bool((without_ct & without_mr).any())


def test_plans_without_the_settings_train_as_before() -> None:
    settings = settings_of({"oarseg": {"modality_dropout": 0.2}})
    assert settings.reference_dropout == 0
    assert settings.contrast_windows == 0
    assert settings.resampled_tissues == 0
    assert settings.blurred == 0
    trainer, (data, labels) = Stub(settings), halves()
    state = trainer.dropout_rng.get_state()
    changed = trainer._change_contrast({"data": data.clone(), "target": [labels]})
    assert torch.equal(changed, data)
    assert torch.equal(trainer.dropout_rng.get_state(), state)


def test_the_trainer_changes_the_contrast_that_the_settings_ask_for() -> None:
    told = '{"resampled_tissues": 1.0, "contrast_windows": 1.0}'
    settings = parse_settings(told, base=TrainerSettings(), optional_channels=((1, 0.0),))
    data, labels = halves()
    changed = Stub(settings)._change_contrast({"data": data.clone(), "target": [labels]})
    assert not torch.equal(changed, data)


def test_blur_keeps_the_mean_and_the_edges_and_spreads_a_point_alike_in_all_channels() -> None:
    point = torch.zeros(1, 2, 15, 15, 15)
    point[:, :, 7, 7, 7] = 1
    changed = blur(point.clone() + 3, share=1.0, rng=seeded()) - 3
    assert torch.equal(changed[:, 0], changed[:, 1])
    torch.testing.assert_close(changed.sum((2, 3, 4)), torch.ones(1, 2), atol=2e-3, rtol=0)
    assert float(changed[0, 0, 7, 7, 7]) < 0.9
    torch.testing.assert_close(changed[0, 0, 6, 7, 7], changed[0, 0, 7, 7, 8])
    flat = torch.full((1, 2, 4, 6, 8), 5.0)
    torch.testing.assert_close(blur(flat.clone(), share=1.0, rng=seeded()), flat)


def test_blur_is_of_a_share_of_the_patches_and_on_where_the_settings_ask() -> None:
    data = torch.rand(200, 1, 3, 3, 3, generator=seeded())
    changed = blur(data.clone(), share=0.2, rng=seeded())
    assert 20 < int((changed != data).flatten(1).any(1).sum()) < 65
    settings = parse_settings('{"blurred": 1.0}', base=TrainerSettings(), optional_channels=())
    patch, labels = torch.rand(1, 2, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4)
    blurred = Stub(settings)._change_contrast({"data": patch.clone(), "target": [labels]})
    assert not torch.equal(blurred, patch)
