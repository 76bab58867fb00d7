"""Write a torch network as an ONNX file, in single or half precision."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import torch

from oarseg.model.entries.networks import Precision
from oarseg.model.onnx_file import OPSETS
from oarseg.training.exporting.onnx_file import strip_metadata
from oarseg.training.nnunet_files.results_folder import Results


def write_onnx(
    network: torch.nn.Module, path: Path, results: Results, precision: Precision
) -> None:
    """Export one network with a static patch of one image: ``image`` → ``logits``."""
    model = HalfNetwork(network) if precision == "fp16" else network
    shape = (1, *results.input_shape)
    with warnings.catch_warnings():
        # torch's exporter warns of torch's own code.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model.eval(),
            (torch.zeros(shape),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            opset_version=OPSETS[-1],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    strip_metadata(path)


class HalfNetwork(torch.nn.Module):
    """A network in half precision with float32 input, output and normalisation.

    Instance normalisation sums squares over a whole patch, which overflows half
    precision. That is why plain half-precision exports give masks that are all black.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        """Convert a copy of a network."""
        super().__init__()
        self.network = copy.deepcopy(network).half()
        for module in list(self.network.modules()):
            for name, child in module.named_children():
                if isinstance(child, torch.nn.InstanceNorm3d):
                    setattr(module, name, Float32Norm(child.float()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return float32 logits."""
        logits: torch.Tensor = self.network(image.half())
        return logits.float()


class Float32Norm(torch.nn.Module):
    """A normalisation computed in float32 inside a half-precision network."""

    def __init__(self, norm: torch.nn.Module) -> None:
        """Wrap a normalisation layer."""
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise in float32 and return half precision."""
        result: torch.Tensor = self.norm(x.float())
        return result.half()
