"""The nnU-Net trainer of this project; nnU-Net finds it through ``nnUNet_extTrainer``.

It keeps nnU-Net's network, loss and sampling, and adds what head-and-neck organs need:
no mirroring across the sagittal plane, modality dropout, and settings from the plans.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from oarseg.errors import InputError
from oarseg.training.augmentation import light_transforms
from oarseg.training.contrast import blur, change_windows, resample_tissues
from oarseg.training.nnunet_files.checkpoint import only_plain_data, read_checkpoint
from oarseg.training.partial import PartialLoss, unlabelled_of
from oarseg.training.repeatable import (
    augmenting_in_this_process,
    deterministic_algorithms,
    seed_all,
)
from oarseg.training.settings import settings_of

SAGITTAL_ARRAY_AXIS = 2  # x of (z, y, x)
CLASS_WEIGHT_RANGE = (0.25, 6.0)


class FloatLoss(torch.nn.Module):
    """Evaluates a loss in float32 on whatever precision the network gives.

    Dice sums over some 10⁵ voxels, which bfloat16 cannot hold.
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        """Wrap a loss of (list of logits, list of targets)."""
        super().__init__()
        self.loss = loss

    def forward(self, logits: Any, target: Any) -> torch.Tensor:
        """The wrapped loss of float32 logits, outside any autocast."""
        with torch.autocast("cpu", enabled=False):
            if isinstance(logits, (list, tuple)):
                result: torch.Tensor = self.loss([x.float() for x in logits], target)
            else:
                result = self.loss(logits.float(), target)
        return result


def class_weights(volumes: torch.Tensor, *, power: float) -> torch.Tensor:
    """Weights of the cross-entropy: rare structures count more, background least.

    Args:
        volumes: voxels of each class, background first.
        power: of (median volume of the structures / a structure's volume).

    Returns:
        float32, within ``CLASS_WEIGHT_RANGE``; 1 for a structure that no case has.
    """
    counts = volumes.double()
    there = counts[1:][counts[1:] > 0]
    typical = there.median() if len(there) else counts.new_ones(())
    weights = (typical / counts.clamp(min=1)) ** power
    weights[counts == 0] = 1
    return weights.clamp(*CLASS_WEIGHT_RANGE).float()


class RestartingPolyLR(PolyLRScheduler):
    """nnU-Net's polynomial schedule, begun anew at some epochs."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        initial_lr: float,
        epochs: int,
        restarts: tuple[int, ...],
    ) -> None:
        """Decay from ``initial_lr`` over each stretch between restarts."""
        self.bounds = (0, *restarts, epochs)
        self.following = 0
        super().__init__(optimizer, initial_lr, epochs)

    def step(self, current_step: int | None = None) -> None:
        """Set the rate of an epoch; without one, of the next."""
        if current_step is None or current_step == -1:
            current_step = self.following
        self.following = current_step + 1
        start = max(bound for bound in self.bounds[:-1] if bound <= current_step)
        stop = min(bound for bound in self.bounds if bound > start)
        rate = self.initial_lr * (1 - (current_step - start) / (stop - start)) ** self.exponent
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._last_lr = [rate for _ in self.optimizer.param_groups]


class OarsegTrainer(nnUNetTrainer):
    """nnU-Net's trainer with the settings that the plans hold under ``oarseg``."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        """Take nnU-Net's arguments, whose names it looks up in this signature."""
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = settings_of(plans)
        self.num_epochs = self.settings.epochs
        self.num_iterations_per_epoch = self.settings.iterations
        self.num_val_iterations_per_epoch = self.settings.validation_iterations
        self.initial_lr = self.settings.learning_rate
        self.oversample_foreground_percent = self.settings.oversample_foreground
        self.probabilistic_oversampling = self.settings.probabilistic_oversampling
        self.save_every = 1 if self.settings.epochs <= 100 else 25
        seed = self.settings.seed + (fold if isinstance(fold, int) else 0)
        torch.manual_seed(seed)
        self.dropout_rng = torch.Generator().manual_seed(seed)
        self.unlabelled = unlabelled_of(dataset_json)
        self.partial_loss: PartialLoss | None = None

    def run_training(self) -> None:
        """Train; where the settings ask for it, the same each time."""
        with deterministic_algorithms() if self.settings.deterministic else nullcontext():
            super().run_training()

    def get_dataloaders(self) -> Any:
        """nnU-Net's loaders, with workers or in this process."""
        with augmenting_in_this_process() if self.settings.deterministic else nullcontext():
            return super().get_dataloaders()

    def on_train_epoch_start(self) -> None:
        """Begin an epoch; a repeatable one draws the same after a resumption as before."""
        super().on_train_epoch_start()
        if self.settings.deterministic:
            fold = self.fold if isinstance(self.fold, int) else 0
            seed_all(self.settings.seed, fold, self.current_epoch)
            self.dropout_rng.manual_seed(torch.initial_seed())

    def on_epoch_end(self) -> None:
        """End an epoch; before a restart keep a checkpoint, a network of its own for an ensemble.

        Snapshot ensembles: Huang et al., ICLR 2017.
        """
        super().on_epoch_end()
        if self.current_epoch in self.settings.restarts:
            kept = Path(self.output_folder) / f"checkpoint_epoch_{self.current_epoch}.pth"
            self.save_checkpoint(str(kept))

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Optimizer and polynomial schedule of the settings."""
        optimizer: torch.optim.Optimizer
        if self.settings.optimizer == "sgd":
            optimizer, _ = super().configure_optimizers()
        else:
            optimizer = torch.optim.AdamW(
                self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay
            )
        schedule = RestartingPolyLR(
            optimizer, self.initial_lr, self.num_epochs, self.settings.restarts
        )
        return optimizer, schedule

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802 - nnU-Net's name
        """nnU-Net's choice, less the axes along which a mirror image is another organ."""
        rotation, dummy_2d, patch, axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        sagittal = list(self.plans_manager.transpose_forward).index(SAGITTAL_ARRAY_AXIS)
        if self.settings.mirroring == "none":
            axes = ()
        self.inference_allowed_mirroring_axes = tuple(a for a in axes if a != sagittal) or None
        return rotation, dummy_2d, patch, self.inference_allowed_mirroring_axes

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:  # type: ignore[override,unused-ignore]
        """The augmentation of the settings."""
        if self.settings.augmentation == "light":
            return light_transforms(*args, **kwargs)
        return nnUNetTrainer.get_training_transforms(*args, **kwargs)

    def _build_loss(self) -> torch.nn.Module:
        loss: torch.nn.Module = super()._build_loss()
        if self.settings.class_weight_power and not self.label_manager.has_regions:
            weights = class_weights(self._volumes(), power=self.settings.class_weight_power)
            entropy = getattr(loss, "loss", loss).ce  # inside nnU-Net's deep supervision
            entropy.weight = weights.to(self.device)
        if self.unlabelled:
            if self.label_manager.has_regions:
                raise InputError("cases without some masks: regions cannot be trained on them")
            loss = self.partial_loss = PartialLoss(loss)
        return FloatLoss(loss) if self._cpu_bfloat16 else loss

    def _volumes(self) -> torch.Tensor:
        """Voxels of each class in the fold's training cases."""
        cases, _ = self.do_split()
        dataset = self.dataset_class(self.preprocessed_dataset_folder, cases)
        heads = self.label_manager.num_segmentation_heads
        volumes = np.zeros(heads, np.int64)
        for case in cases:
            labels = np.asarray(dataset.load_case(case)[1][:])
            known = labels[(labels >= 0) & (labels < heads)].astype(np.int64)
            volumes += np.bincount(known, minlength=heads)
        return torch.from_numpy(volumes)

    @property
    def _cpu_bfloat16(self) -> bool:
        return (
            self.settings.bfloat16_on_cpu
            and self.device.type == "cpu"
            and torch.cpu._is_avx512_bf16_supported()
        )

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step of nnU-Net's, after changes of contrast and modality dropout."""
        batch["data"] = self._drop_modalities(self._change_contrast(batch))
        self._tell_unlabelled(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._cpu_bfloat16):
            result: dict[str, Any] = super().train_step(batch)
        return result

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One step of nnU-Net's."""
        self._tell_unlabelled(batch)
        result: dict[str, Any] = super().validation_step(batch)
        return result

    def _tell_unlabelled(self, batch: dict[str, Any]) -> None:
        if self.partial_loss is not None:
            self.partial_loss.unlabelled = [self.unlabelled.get(k, {}) for k in batch["keys"]]

    def _drop_modalities(self, data: torch.Tensor) -> torch.Tensor:
        """Set optional channels of some samples to their absent value, all or none of them."""
        if not self.settings.modality_dropout or not self.settings.optional_channels:
            return data
        drop = torch.rand(len(data), generator=self.dropout_rng) < self.settings.modality_dropout
        optional = dict(self.settings.optional_channels)
        for channel, absent in optional.items():
            data[drop, channel] = absent
        if self.settings.reference_dropout:
            draws = torch.rand(len(data), generator=self.dropout_rng)
            alone = (draws < self.settings.reference_dropout) & ~drop
            for channel in set(range(data.shape[1])) - optional.keys():
                data[alone, channel] = 0.0
        return data

    def _change_contrast(self, batch: dict[str, Any]) -> torch.Tensor:
        """Draw other means for some patches' labels, other windows, and blur."""
        data: torch.Tensor = batch["data"]
        scaled = frozenset(number for number, _ in self.settings.optional_channels)
        if self.settings.resampled_tissues and not self.label_manager.has_regions:
            target = batch["target"]
            data = resample_tissues(
                data,
                target[0] if isinstance(target, list) else target,
                share=self.settings.resampled_tissues,
                scaled=scaled,
                rng=self.dropout_rng,
            )
        if self.settings.contrast_windows:
            share = self.settings.contrast_windows
            data = change_windows(data, share=share, scaled=scaled, rng=self.dropout_rng)
        if self.settings.blurred:
            data = blur(data, share=self.settings.blurred, rng=self.dropout_rng)
        return data

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Go on from a checkpoint, after making sure that it holds nothing but data."""
        read_checkpoint(Path(filename_or_checkpoint))
        with only_plain_data():
            super().load_checkpoint(filename_or_checkpoint)

    def plot_network_architecture(self) -> None:
        """Leave out nnU-Net's drawing, which needs a program that few machines have."""
