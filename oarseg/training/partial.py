"""Train on cases in which only some structures are labelled.

Where a case has no mask of a structure, its background may hold that structure. The loss
then must not teach "background" there: it counts the structure's probability as
background's in that case – or, where organs overlap, that of whatever label the rest of
the voxel's organs give – as in marginal loss (Shi et al., "Marginal loss and exclusion
loss for partially supervised multi-organ segmentation", Medical Image Analysis 70, 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_NEVER = -1e4  # a logit whose probability is 0 in float32 and bfloat16, and finite in half


def merge_unlabelled(logits: torch.Tensor, unlabelled: Sequence[Mapping[int, int]]) -> torch.Tensor:
    """Merge each sample's unlabelled classes into the classes that stand for them.

    Args:
        logits: (samples, classes, …), background first.
        unlabelled: for each sample, unlabelled class → the class that stands for it in the
            labels, usually background (0).

    Returns:
        Logits of the same shape. Their softmax is 0 for an unlabelled class, and the sum of
        both probabilities for the class that stands for it, so that cross-entropy and Dice
        do not depend on how the network distinguishes the two.
    """
    if not any(unlabelled):
        return logits
    merged = []
    for sample, classes in zip(logits, unlabelled, strict=True):
        parts = list(sample.unbind(0))
        for kept in set(classes.values()):
            group = [kept, *(k for k, stands in classes.items() if stands == kept)]
            parts[kept] = torch.logsumexp(sample[group], dim=0)
        for index in classes:
            parts[index] = torch.full_like(sample[0], _NEVER)
        merged.append(torch.stack(parts))
    return torch.stack(merged)


class PartialLoss(torch.nn.Module):
    """A loss of (logits or a list of them, targets) that respects unlabelled structures.

    Attributes:
        unlabelled: one mapping per sample of the next batch; see ``merge_unlabelled``.
    """

    def __init__(self, loss: torch.nn.Module) -> None:
        """Wrap a loss."""
        super().__init__()
        self.loss = loss
        self.unlabelled: Sequence[Mapping[int, int]] = ()

    def forward(self, logits: Any, target: Any) -> torch.Tensor:
        """Return the wrapped loss of the merged logits."""
        if isinstance(logits, (list, tuple)):
            merged: Any = [merge_unlabelled(x, self.unlabelled) for x in logits]
        else:
            merged = merge_unlabelled(logits, self.unlabelled)
        result: torch.Tensor = self.loss(merged, target)
        return result


def unlabelled_of(dataset: Mapping[str, Any]) -> dict[str, dict[int, int]]:
    """Return case → unlabelled label → the label that it is part of in that case.

    Args:
        dataset: nnU-Net's ``dataset.json``, as ``prepare`` writes it.
    """
    listed: Mapping[str, Mapping[str, int]] = dataset.get("oarseg", {}).get("unlabelled", {})
    return {
        case: {int(label): kept for label, kept in labels.items()}
        for case, labels in listed.items()
    }
