"""What a stand-in for a fold's engine has besides its answer."""

from __future__ import annotations


class OneFold:
    """One array of logits a tile, and no buffers to free."""

    name = "fold_0.onnx"
    answers = 1

    def rest(self) -> None:
        """See ``Engine``."""
