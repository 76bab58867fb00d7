"""Training on cases of which only some structures are labelled.

Where a case has no mask of a structure, its background may hold that structure. The loss
then must not teach "background" there: it counts the structure's probability as
background's in that case, as in marginal loss (Shi et al., "Marginal loss and exclusion
loss for partially supervised multi-organ segmentation", Medical Image Analysis 70, 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_NEVER = -1e4  # a logit whose probability is 0 in float32 and bfloat16, and finite in half


def merge_unlabelled(logits: torch.Tensor, unlabelled: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits in which each sample's unlabelled classes are part of its background.

    Args:
        logits: (samples, classes, …), background first.
        unlabelled: classes of each sample that its labels say nothing of.

    Returns:
        Logits of that shape. Softmax gives 0 for an unlabelled class and for background
        the sum of its probability and theirs, so cross-entropy and Dice leave them alone.
    """
    if not any(unlabelled):
        return logits
    merged = []
    for sample, classes in zip(logits, unlabelled, strict=True):
        parts = list(sample.unbind(0))
        if classes:
            parts[0] = torch.logsumexp(sample[[0, *classes]], dim=0)
            for index in classes:
                parts[index] = torch.full_like(sample[0], _NEVER)
        merged.append(torch.stack(parts))
    return torch.stack(merged)


class PartialLoss(torch.nn.Module):
    """A loss of (logits or a list of them, targets) that knows what is unlabelled.

    Attributes:
        unlabelled: classes without labels in each sample of the batch to come.
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        """Wrap a loss."""
        super().__init__()
        self.loss = loss
        self.unlabelled: Sequence[Sequence[int]] = ()

    def forward(self, logits: Any, target: Any) -> torch.Tensor:
        """The wrapped loss of the merged logits."""
        if isinstance(logits, (list, tuple)):
            merged: Any = [merge_unlabelled(x, self.unlabelled) for x in logits]
        else:
            merged = merge_unlabelled(logits, self.unlabelled)
        result: torch.Tensor = self.loss(merged, target)
        return result


def unlabelled_of(dataset: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Case → label values that the case's masks do not cover, from ``dataset.json``."""
    listed: Mapping[str, Sequence[int]] = dataset.get("oarseg", {}).get("unlabelled", {})
    return {case: tuple(values) for case, values in listed.items()}
