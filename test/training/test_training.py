"""Settings and trainer, without a training."""

import json
from pathlib import Path

import pytest
import torch

from oarseg.errors import InputError
from oarseg.training.planning import PLANNERS, SMALL, Workspace, plan_and_preprocess
from oarseg.training.run import train_folds
from oarseg.training.settings import TrainerSettings, as_document, parse_settings, settings_of
from oarseg.training.trainers.OarsegTrainer import (
    FloatLoss,
    OarsegTrainer,
    RestartingPolyLR,
    class_weights,
)


def test_settings_survive_the_plans_file() -> None:
    settings = parse_settings(
        '{"optimizer": "adamw", "modality_dropout": 0.25}',
        base=TrainerSettings(iterations=3),
        optional_channels=((1, 0.0),),
        epochs=7,
    )
    assert settings.epochs == 7
    assert settings.iterations == 3
    assert settings.optional_channels == ((1, 0.0),)
    plans = json.loads(json.dumps({"oarseg": as_document(settings)}))
    assert settings_of(plans) == settings
    assert settings_of({}) == TrainerSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON object"),
        ("[1]", "expected a JSON object"),
        ('{"epoch": 3}', "epoch"),
        ('{"modality_dropout": 1.5}', "modality_dropout"),
    ],
)
def test_wrong_settings_are_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_settings(text, base=TrainerSettings(), optional_channels=())


class Stub(OarsegTrainer):
    """A trainer without nnU-Net's constructor."""

    def __init__(self, settings: TrainerSettings) -> None:
        self.settings = settings
        self.dropout_rng = torch.Generator().manual_seed(0)
        self.device = torch.device("cpu")


def test_modality_dropout_clears_whole_channels_of_some_samples() -> None:
    trainer = Stub(TrainerSettings(modality_dropout=0.5, optional_channels=((1, -1.0),)))
    data = trainer._drop_modalities(torch.ones(400, 2, 2, 2, 2))
    assert bool((data[:, 0] == 1).all())
    dropped = (data[:, 1] == -1).flatten(1)
    assert bool((dropped.all(1) == dropped.any(1)).all())
    assert 150 < int(dropped.all(1).sum()) < 250


def test_no_dropout_without_settings() -> None:
    data = torch.ones(4, 2, 2, 2, 2)
    assert torch.equal(Stub(TrainerSettings())._drop_modalities(data.clone()), data)


def test_schedule_begins_anew_at_a_restart() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    schedule = RestartingPolyLR(optimizer, 1.0, 6, (4,))
    rates = []
    for epoch in range(6):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    expected = [(1 - e / 4) ** 0.9 for e in range(4)] + [1.0, 0.5**0.9]
    assert rates == pytest.approx(expected)


def test_loss_is_evaluated_in_float32() -> None:
    class Probe(torch.nn.Module):
        def forward(self, logits: list[torch.Tensor], _: object) -> torch.Tensor:
            assert all(x.dtype == torch.float32 for x in logits)
            return logits[0].sum()

    # 4097 ones: bfloat16 cannot count beyond 256.
    logits = [torch.ones(4097, dtype=torch.bfloat16)]
    assert FloatLoss(Probe())(logits, None).item() == 4097


@pytest.mark.parametrize("hardware", [False, True])
def test_training_takes_bfloat16_where_it_is_asked_for_and_in_hardware(
    monkeypatch: pytest.MonkeyPatch, hardware: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: hardware)
    assert Stub(TrainerSettings(bfloat16_on_cpu=True))._cpu_bfloat16 == hardware
    assert not Stub(TrainerSettings())._cpu_bfloat16


def test_the_trainer_is_alone_in_the_folder_nnunet_searches() -> None:
    """Stock nnU-Net imports every file there to find it."""
    folder = Path(__file__).parents[2] / "oarseg/training/trainers"
    assert [p.name for p in folder.glob("*.py")] == ["OarsegTrainer.py"]


def test_stock_nnunet_finds_the_trainer(tmp_path: Path) -> None:
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    space = Workspace(tmp_path / "raw/Dataset101_X", tmp_path / "work")
    space.activate()
    import os

    folder = os.environ["nnUNet_extTrainer"]  # noqa: SIM112 - nnU-Net's name
    found = recursive_find_python_class(folder, "OarsegTrainer", None, base_folder=folder)
    assert found is not None
    assert found.__name__ == "OarsegTrainer"


def test_small_preset_fits_its_patch() -> None:
    for axis in range(3):
        stride = 1
        for stage in SMALL.strides:
            stride *= stage[axis]
        assert SMALL.patch_size[axis] % stride == 0
    assert len(SMALL.features) == len(SMALL.strides)


def test_planning_refuses_before_any_work(tmp_path: Path) -> None:
    space = Workspace(tmp_path / "raw/Dataset101_X", tmp_path / "work")
    with pytest.raises(
        InputError, match=r"expected dataset\.json, found none; run .oarseg prepare."
    ):
        plan_and_preprocess(space, plans="nnUNetPlans", settings=TrainerSettings(), workers=1)
    space.raw.mkdir(parents=True)
    (space.raw / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match=f"expected one of {', '.join(PLANNERS)}"):
        plan_and_preprocess(space, plans="other", settings=TrainerSettings(), workers=1)
    with pytest.raises(InputError, match="planning has not run"):
        train_folds(space, plans="nnUNetPlans", folds=[0], device="cpu")


def test_class_weights_favour_the_small_and_stay_in_range() -> None:
    weights = class_weights(torch.tensor([1_000_000, 16, 400, 900, 0]), power=0.5)
    # The median of 16, 400 and 900 is 400: √(400/16) = 5, 1, √(400/900) = 2/3.
    assert weights.tolist() == pytest.approx([0.25, 5.0, 1.0, 2 / 3, 1.0])
    assert class_weights(torch.tensor([9, 1, 100, 10_000]), power=1.0)[1] == 6.0


def test_initial_weights_must_be_there_for_every_fold(tmp_path: Path) -> None:
    space = Workspace(tmp_path / "Dataset101_X", tmp_path / "work")
    space.preprocessed.mkdir(parents=True)
    (space.preprocessed / "oarsegSmall.json").write_text("{}")
    start = tmp_path / "start" / "fold_0" / "checkpoint_final.pth"
    start.parent.mkdir(parents=True)
    start.touch()
    with pytest.raises(InputError, match=r"fold_1.*initial weights of fold 1, found none"):
        train_folds(
            space,
            plans="oarsegSmall",
            folds=[0, 1],
            device="cpu",
            initial_weights=tmp_path / "start",
        )
