"""nnUNetPredictor on the networks of a weights folder, for comparisons on real ensembles."""

from __future__ import annotations

import copy
from typing import Any

import nnunet_oracle as oracle
import numpy as np
import onnx
import onnxruntime
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from oarseg.model.bundle import Bundle
from oarseg.training.planning import SMALL

LARGEST_LOGIT_DIFFERENCE = 1e-3


# The shipped ensemble's, as its plan has it; the toy networks are the tests' own.
SHIPPED: dict[str, Any] = {
    "n_stages": len(SMALL.features),
    "features_per_stage": list(SMALL.features),
    "kernel_sizes": [[3, 3, 3]] * len(SMALL.features),
    "strides": [list(stride) for stride in SMALL.strides],
    "n_conv_per_stage": [2] * len(SMALL.features),
    "n_conv_per_stage_decoder": [1] * (len(SMALL.features) - 1),
}


def predictor(
    bundle: Bundle, *, threads: int, architecture: dict[str, Any] = SHIPPED, device: str = "cpu"
) -> nnUNetPredictor:
    """nnU-Net's predictor as it would be after loading the same checkpoints.

    Raises:
        ValueError: a network rebuilt from its ONNX file gives other logits than that file.
    """
    torch.set_num_threads(threads)
    manifest = bundle.manifest
    recipe = oracle.Recipe(
        manifest.spacing_mm,
        patch=manifest.patch_size,
        channels=tuple(channel.normalisation for channel in manifest.channels),
        labels={label.name: label.value for label in manifest.labels},
        transpose=manifest.transpose_forward,
        residual="n_blocks_per_stage" in architecture,
    )
    plans = oracle.plans_of(recipe)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= architecture
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    dataset = oracle.dataset_of(recipe)
    network: torch.nn.Module = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        len(recipe.channels),
        manager.get_label_manager(dataset).num_segmentation_heads,
        deep_supervision=False,
    ).eval()
    weights = [_parameters(network, str(path)) for path in bundle.paths("fp32")]
    made = nnUNetPredictor(
        use_mirroring=False,
        perform_everything_on_device=device != "cpu",
        device=torch.device(device),
        allow_tqdm=False,
    )
    made.manual_initialization(
        network, manager, configuration, weights, dataset, "nnUNetTrainer", None
    )
    return made


def engines(predictor: nnUNetPredictor) -> list[oracle.TorchEngine]:
    """The networks of a predictor as engines of ours."""
    found = []
    for fold, parameters in enumerate(predictor.list_of_parameters):
        network = copy.deepcopy(predictor.network)
        network.load_state_dict(parameters)
        found.append(oracle.TorchEngine(network.eval(), f"fold {fold}"))
    return found


def _parameters(network: torch.nn.Module, path: str) -> dict[str, torch.Tensor]:
    """A network's parameters out of its ONNX file, in the order of the network's own."""
    stored = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load(path).graph.initializer
    }
    # One parameter may have several names in torch and has one in the file.
    by_tensor: dict[int, torch.Tensor] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if name in stored:
            by_tensor[id(parameter)] = stored[name]
    state = {
        name: by_tensor.get(id(parameter), parameter)
        for name, parameter in network.named_parameters(remove_duplicate=False)
    }
    network.load_state_dict(state)
    _check(network, path)
    return {name: value.clone() for name, value in network.state_dict().items()}


def _check(network: torch.nn.Module, path: str) -> None:
    session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    patch = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with torch.inference_mode():
        mine = network(torch.from_numpy(patch)).numpy()
    difference = float(np.abs(mine - session.run(None, {"image": patch})[0]).max())
    if difference > LARGEST_LOGIT_DIFFERENCE:
        raise ValueError(f"{path}: torch and ONNX Runtime differ by {difference}")
