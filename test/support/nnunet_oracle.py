"""Stock nnU-Net as the oracle: small networks, run by nnU-Net and exported for us.

Images are smooth (noise blurred over a few voxels) and each network has learnt, in a few
seconds, to tell intensity ranges apart. So logits vary slowly and a label border is a
surface, as with a real model. With random weights the two largest logits lie within half
precision's rounding of each other in 0.1 % of the voxels, and there nnU-Net's own answer
is decided by how it rounds its sums.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from one_fold import OneFold
from scipy import ndimage

from oarseg.challenges import catalogue
from oarseg.model.bundle import Bundle, file_sha256
from oarseg.model.entries.channels import Channel, Normalisation
from oarseg.model.entries.networks import ModelFile, Resampling
from oarseg.model.manifest import Label, Manifest, write_manifest

SCHEMES = {
    "ct": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "none": "NoNormalization",
    "rescale_0_1": "RescaleTo01Normalization",
    "rgb_0_1": "RGBTo01Normalization",
}
CT = Normalisation(scheme="ct", mean=12.5, std=310.0, lower=-950.0, upper=1200.0)
ZSCORE = Normalisation(scheme="zscore")


@dataclass(frozen=True)
class Recipe:
    """A model: what is not said is as small and plain as it can be."""

    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int] = (16, 24, 24)
    channels: tuple[Normalisation, ...] = (CT, ZSCORE)
    labels: dict[str, Any] = field(
        default_factory=lambda: {"background": 0, **{f"s{k}": k for k in range(1, 6)}}
    )
    region_order: tuple[int, ...] | None = None
    transpose: tuple[int, int, int] = (0, 1, 2)
    folds: int = 1
    mirror_axes: tuple[int, ...] = ()
    residual: bool = False
    features: tuple[int, int, int] = (8, 12, 16)
    data_resampling: Resampling = field(default_factory=lambda: Resampling(order=3))
    logits_resampling: Resampling = field(default_factory=lambda: Resampling(order=1))


@dataclass(frozen=True)
class Oracle:
    """A model as nnU-Net holds it and as we do."""

    recipe: Recipe
    plans: dict[str, Any]
    dataset: dict[str, Any]
    networks: tuple[torch.nn.Module, ...]
    bundle: Bundle

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def engines(self) -> list[TorchEngine]:
        """The networks themselves, so that all that is left to compare is what is around them."""
        return [TorchEngine(net, f"fold {fold}") for fold, net in enumerate(self.networks)]

    def predict(
        self, channels: list[NDArray[Any]], spacing_mm: tuple[float, float, float], mirror: bool
    ) -> NDArray[Any]:
        """nnU-Net's label map on the image's grid."""
        predictor = nnUNetPredictor(
            use_mirroring=mirror,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        plans = PlansManager(copy.deepcopy(self.plans))
        predictor.manual_initialization(
            copy.deepcopy(self.networks[0]),
            plans,
            plans.get_configuration("3d_fullres"),
            [network.state_dict() for network in self.networks],
            self.dataset,
            "nnUNetTrainer",
            self.recipe.mirror_axes,
        )
        return np.asarray(
            predictor.predict_single_npy_array(
                np.stack(channels).astype(np.float32), {"spacing": list(spacing_mm)}
            )
        )


class TorchEngine(OneFold):
    """nnU-Net's own network as one of our engines."""

    def __init__(self, network: torch.nn.Module, name: str) -> None:
        self.name = name
        self._network = network

    def __call__(self, tile: NDArray[np.float32], /) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self._network(torch.from_numpy(tile)).numpy())


def make(recipe: Recipe, folder: Path) -> Oracle:
    """The networks of a recipe, and the weights folder made of them."""
    heads = len(recipe.region_order or [name for name in recipe.labels if name != "ignore"])
    regions = recipe.region_order is not None
    networks = tuple(
        _fitted(recipe.residual, recipe.features, len(recipe.channels), heads, regions, fold)
        for fold in range(recipe.folds)
    )
    files = tuple(export_network(net, recipe, folder, fold) for fold, net in enumerate(networks))
    bundle = Bundle(folder, manifest_of(recipe, files), "0" * 64)
    return Oracle(recipe, plans_of(recipe), dataset_of(recipe), networks, bundle)


@lru_cache(maxsize=8)
def _fitted(
    residual: bool,
    features: tuple[int, int, int],
    channels: int,
    heads: int,
    regions: bool,
    fold: int,
    steps: int = 60,
) -> torch.nn.Module:
    """A network that has learnt for a few seconds on patches of smooth noise."""
    torch.manual_seed(fold)
    torch.set_num_threads(1)
    architecture = _architecture(residual, features)
    network: torch.nn.Module = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        channels,
        heads,
        deep_supervision=False,
    ).train()
    image = np.stack([(i - i.mean()) / i.std() for i in images((24, 48, 48), channels, seed=90)])
    x = torch.from_numpy(image.astype(np.float32))
    target = _target(x[0], x[-1], heads, regions)
    optimiser = torch.optim.Adam(network.parameters(), 3e-2)
    draw = np.random.default_rng(fold)
    for _ in range(steps):
        z, j, i = (int(draw.integers(0, limit)) for limit in (9, 25, 25))
        part = (slice(z, z + 16), slice(j, j + 24), slice(i, i + 24))
        loss = _loss(network(x[(slice(None), *part)][None]), target[(..., *part)][None])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def _target(a: torch.Tensor, b: torch.Tensor, heads: int, regions: bool) -> torch.Tensor:
    if regions:
        return torch.stack([a > -0.5 + 0.8 * k for k in range(heads - 1)] + [b > 0.8]).float()
    bins = torch.bucketize(a, torch.linspace(-1.2, 1.2, heads - 3))
    return torch.where(b > 1, heads - 2, torch.where(b < -1, heads - 1, bins))


def _loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if target.is_floating_point():
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)
    return torch.nn.functional.cross_entropy(logits, target)


def untrained(recipe: Recipe, architecture: dict[str, Any]) -> torch.nn.Module:
    """A network of any size with random weights."""
    torch.manual_seed(0)
    made = _architecture(recipe.residual, recipe.features)
    network: torch.nn.Module = get_network_from_plans(
        made["network_class_name"],
        made["arch_kwargs"] | architecture,
        made["_kw_requires_import"],
        len(recipe.channels),
        len(recipe.labels),
        deep_supervision=False,
    )
    return network.eval()


def export_network(network: torch.nn.Module, recipe: Recipe, folder: Path, fold: int) -> ModelFile:
    path = folder / f"fold_{fold}.onnx"
    example = torch.zeros(1, len(recipe.channels), *recipe.patch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example,),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            opset_version=17,
            dynamo=False,
        )
    return ModelFile(path.name, file_sha256(path), str(fold), "fp32")


def manifest_of(recipe: Recipe, files: tuple[ModelFile, ...]) -> Manifest:
    without = {"ignore"} if recipe.region_order is None else {"ignore", "background"}
    names = [name for name in recipe.labels if name not in without]
    values = recipe.region_order or tuple(recipe.labels[name] for name in names)
    return Manifest(
        format_version=1,
        challenge="none",
        title="random",
        warning="random weights",
        channels=tuple(Channel(f"c{i}", how) for i, how in enumerate(recipe.channels)),
        spacing_mm=recipe.spacing_mm,
        patch_size=recipe.patch,
        transpose_forward=recipe.transpose,
        data_resampling=recipe.data_resampling,
        logits_resampling=recipe.logits_resampling,
        labels=tuple(Label(value, name) for value, name in zip(values, names, strict=True)),
        regions=recipe.region_order is not None,
        mirror_axes=recipe.mirror_axes,
        models=files,
        parity=(),
        training="none",
        licence="none",
        versions={},
    )


def write_han_seg_weights(folder: Path, *, folds: int) -> Path:
    """A weights folder for HaN-Seg: tiny networks that know nothing; the MR is optional."""
    structures = catalogue.load_challenge("han_seg").structures
    names = {"background": 0, **{structure.name: structure.label for structure in structures}}
    none = Normalisation("none")
    recipe = Recipe((8.0, 6.0, 6.0), channels=(CT, none), labels=names, folds=folds)
    manifest = replace(
        make(recipe, folder).manifest,
        challenge="han_seg",
        channels=(
            Channel("CT", CT),
            Channel("MR_T1", none, optional=True, standardise="mean_one"),
        ),
        labels=tuple(Label(value, name) for name, value in names.items()),
    )
    write_manifest(manifest, folder)
    return folder


def dataset_of(recipe: Recipe) -> dict[str, Any]:
    dataset: dict[str, Any] = {
        "channel_names": {str(i): f"c{i}" for i in range(len(recipe.channels))},
        "labels": recipe.labels,
        "file_ending": ".nrrd",
        "numTraining": 1,
    }
    if recipe.region_order is not None:
        dataset["regions_class_order"] = list(recipe.region_order)
    return dataset


def plans_of(recipe: Recipe) -> dict[str, Any]:
    back = [int(axis) for axis in np.argsort(recipe.transpose)]
    return {
        "dataset_name": "Dataset999_Random",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(recipe.transpose),
        "transpose_backward": back,
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(i): {
                "mean": how.mean,
                "std": how.std,
                "percentile_00_5": how.lower,
                "percentile_99_5": how.upper,
            }
            for i, how in enumerate(recipe.channels)
        },
        "configurations": {"3d_fullres": _configuration(recipe)},
    }


def _configuration(recipe: Recipe) -> dict[str, Any]:
    def resampling(how: Resampling, *, is_seg: bool) -> dict[str, Any]:
        return {
            "is_seg": is_seg,
            "order": how.order,
            "order_z": how.order_z,
            "force_separate_z": how.force_separate_z,
        }

    function = "resample_data_or_seg_to_shape"
    return {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(recipe.patch),
        "spacing": list(recipe.spacing_mm),
        "normalization_schemes": [SCHEMES[how.scheme] for how in recipe.channels],
        "use_mask_for_norm": [how.use_mask for how in recipe.channels],
        "resampling_fn_data": function,
        "resampling_fn_data_kwargs": resampling(recipe.data_resampling, is_seg=False),
        "resampling_fn_seg": function,
        "resampling_fn_seg_kwargs": resampling(Resampling(order=1), is_seg=True),
        "resampling_fn_probabilities": function,
        "resampling_fn_probabilities_kwargs": resampling(recipe.logits_resampling, is_seg=False),
        "batch_dice": True,
        "architecture": _architecture(recipe.residual, recipe.features),
    }


def _architecture(residual: bool, features: tuple[int, int, int]) -> dict[str, Any]:
    name = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    kwargs: dict[str, Any] = {
        "n_stages": 3,
        "features_per_stage": list(features),
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    kwargs["n_blocks_per_stage" if residual else "n_conv_per_stage"] = [1, 1, 1]
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def images(
    shape: tuple[int, int, int], count: int, *, seed: int = 0, margin: int = 0
) -> list[NDArray[Any]]:
    """Smooth random images in the range of CT, int16; ``margin`` voxels of 0 around them."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        smooth = ndimage.gaussian_filter(draw.standard_normal(shape), (1.5, 3, 3))
        image = np.rint(smooth / smooth.std() * 400 + 20).astype(np.int16)
        image[image == 0] = 1
        if margin:
            inner = np.zeros(shape, bool)
            inner[(slice(margin, -margin),) * 3] = True
            image[~inner] = 0
        found.append(image)
    return found
