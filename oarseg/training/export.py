"""nnU-Net checkpoints → ONNX files and a manifest, each file compared with torch."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import onnxruntime
import torch
from pydantic import ValidationError

from oarseg import __version__
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError, WeightsError
from oarseg.imaging.arrays import Image
from oarseg.imaging.orientation import Axes
from oarseg.inference.engines.choice import F32_MIN_AGREEMENT, F32_MIN_DICE
from oarseg.inference.engines.cuda_choice import F16_MIN_AGREEMENT, F16_MIN_DICE
from oarseg.inference.engines.onnx_runtime import CUDA_PROVIDER, NoCudaError
from oarseg.inference.engines.openvino import has_bf16
from oarseg.model import agreement
from oarseg.model.bundle import file_sha256
from oarseg.model.calibration import CALIBRATION
from oarseg.model.conditioning import Conditioning, prepared_conditioning
from oarseg.model.entries.channels import Channel, ChannelRecipe
from oarseg.model.entries.cross_validation import CrossValidation
from oarseg.model.entries.networks import Arithmetic, ModelFile, Parity, Precision, Runtime, Stage
from oarseg.model.manifest import (
    FORMAT_VERSION,
    KeepLargest,
    Label,
    Manifest,
    RunDefaults,
    describe_member,
    describe_network,
    parse_manifest,
    write_manifest,
)
from oarseg.model.model_folder import MANIFEST
from oarseg.model.onnx_file import OPSETS
from oarseg.training.nnunet_files.checkpoint import Checkpoint, build_network, read_checkpoint
from oarseg.training.nnunet_files.json_file import invalid, shown
from oarseg.training.nnunet_files.own_challenge import channel_names, noted_challenge
from oarseg.training.nnunet_files.postprocessing import (
    find_postprocessing,
    read_postprocessing,
)
from oarseg.training.nnunet_files.results_folder import (
    Results,
    Which,
    finished_folds,
    fold_checkpoints,
    open_results,
)
from oarseg.training.onnx_file import strip_metadata
from oarseg.training.parity import (
    Patches,
    compare_with_torch,
    figures_text,
    network_outputs,
    patches_from,
    smooth_noise,
)
from oarseg.training.validation_summaries import cross_validation_of

log = logging.getLogger(__name__)

LOGITS = "logits.npy"
RUNTIMES = ("onnxruntime", "openvino")
NOT_STATED = "not stated"
OF_SEVERAL = "none: of several configurations whose probabilities are averaged"
# nnU-Net's names of normalisations, which stand in place of a channel's own name.
NAMELESS = ("nonorm", "zscore", "rescale_to_0_1", "rgb_to_0_1")


@dataclass(frozen=True)
class Bar:
    """Agreement with torch in float32 that a precision needs in order to be written."""

    argmax_agreement: float
    min_dice: float


# nnU-Net's readers of volumes, and the axes to which they turn an image. The Nibabel ones
# turn round the order of the axes, so that all give what SimpleITK gives.
READERS: dict[str, Axes] = {
    "SimpleITKIO": "stored",
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIO": "stored",
    "NibabelIOWithReorient": "RAS",
}

BARS: dict[Precision, Bar] = {
    "fp32": Bar(F32_MIN_AGREEMENT, F32_MIN_DICE),
    "fp16": Bar(F16_MIN_AGREEMENT, F16_MIN_DICE),
}


@dataclass(frozen=True)
class Interface:
    """A model's channels and labels, known before anything is exported."""

    channels: tuple[Channel, ...]
    labels: tuple[Label, ...]
    regions: bool


@dataclass(frozen=True)
class TrainedModel:
    """A results folder that can be exported.

    Attributes:
        checkpoints: one per fold, in the order of the ensemble.
        challenge: what it was trained for.
        conditioning: what was done to its training images before nnU-Net.
        stage: the stage before, of a cascade.
        postprocessing: what nnU-Net found to improve its label maps.
        cross_validation: what training left of the folds' Dice.
    """

    results: Results
    interface: Interface
    checkpoints: Mapping[str, Checkpoint]
    challenge: Challenge
    conditioning: Conditioning
    stage: TrainedModel | None = None
    postprocessing: tuple[KeepLargest, ...] = ()
    cross_validation: CrossValidation | None = None


@dataclass(frozen=True)
class Card:
    """Description of a model in words, for the manifest.

    Attributes:
        name: start of each ONNX file's name, so that a single file can be identified.
        run: defaults of a run, for platforms that pass no options.
    """

    title: str = NOT_STATED
    warning: str = "Not validated for clinical use."
    training: str = NOT_STATED
    licence: str = NOT_STATED
    name: str = "model"
    run: RunDefaults = field(default_factory=RunDefaults)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the user did not state."""
        stated = {"title": self.title, "training": self.training, "licence": self.licence}
        return tuple(key for key, text in stated.items() if text == NOT_STATED)


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


def export_ensemble(
    folder: Path,
    out: Path,
    *,
    card: Card,
    more: Sequence[Path] = (),
    folds: Sequence[str] = (),
    checkpoint: Which = "final",
    challenge: Challenge | None = None,
    preprocessed: Path | None = None,
    postprocessing: Path | Literal["auto", "none"] = "auto",
    precisions: Sequence[Precision] = get_args(Precision),
) -> Manifest:
    """Write a weights folder from a results folder, or from several.

    Args:
        folder: nnU-Net's ``<trainer>__<plans>__<configuration>``; of a cascade the stage before
            is taken from the folder beside it.
        out: the weights folder; replaced only once everything has succeeded.
        card: title, warning, training data and licence in words.
        more: results folders of other configurations, whose probabilities are averaged with the
            first's.
        folds: names of the folds, as in ``fold_<name>``; empty takes those that are finished.
        checkpoint: each fold's last or best.
        challenge: the challenge that the model was trained for; None takes the one that
            ``prepare`` noted, or else makes one of ``dataset.json``.
        preprocessed: cases to compare on, see ``patches_from``; None uses smooth noise.
        postprocessing: nnU-Net's ``postprocessing.json``; ``auto`` takes the one that it left in
            ``folder`` for these folds, if it is there.
        precisions: precisions to try; one below its bar is left out.

    Raises:
        InputError: a results folder cannot be exported, or they are not of one data set.
        WeightsError: float32 itself differs from torch, or the model is not one for the
            challenge.
    """
    # What was determined for one configuration is not for its average with others.
    steps = "none" if more and postprocessing == "auto" else postprocessing
    models = [
        read_model(
            each,
            folds=folds,
            checkpoint=checkpoint,
            challenge=challenge,
            card=card,
            postprocessing=steps if number == 0 else "none",
        )
        for number, each in enumerate((folder, *more))
    ]
    _check_together(models, card)
    several = len(models) > 1 or models[0].stage is not None
    if preprocessed and several:
        raise InputError(
            f"{preprocessed}: the cases of one configuration do not do for several; leave "
            "--preprocessed out to compare on noise"
        )
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
        exporter = _Exporter(Path(scratch), card, preprocessed, precisions, several)
        manifest = join_members([exporter.manifest_of(model) for model in models])
        write_manifest(manifest, Path(scratch))
        _install(Path(scratch), out, manifest)
    return manifest


def join_members(manifests: Sequence[Manifest]) -> Manifest:
    """Make one manifest of several configurations' own."""
    first, *others = manifests
    if not others:
        return first
    return replace(
        first,
        further=tuple(describe_member(other) for other in others),
        cross_validation=CrossValidation(OF_SEVERAL),
    )


@dataclass
class _Exporter:
    """Writes the networks of several results folders, each folder's once.

    Attributes:
        folder: to write to.
        several: there is more than one configuration.
    """

    folder: Path
    card: Card
    preprocessed: Path | None
    precisions: Sequence[Precision]
    several: bool
    done: dict[Path, Manifest] = field(default_factory=dict)

    def manifest_of(self, model: TrainedModel) -> Manifest:
        """Write a model's networks, and its stage's; return their manifest."""
        stage = None if model.stage is None else self.manifest_of(model.stage)
        source = model.results.folder.resolve()
        if source not in self.done:
            self.done[source] = self._written(model)
        return with_stage(self.done[source], model, stage)

    def _written(self, model: TrainedModel) -> Manifest:
        results = model.results
        samples = (
            patches_from(self.preprocessed, results) if self.preprocessed else smooth_noise(results)
        )
        files: list[ModelFile] = []
        figures: list[Parity] = []
        for fold, read in model.checkpoints.items():
            stem = self.folder / f"{self._name(model)}_fold_{fold}"
            for precision, parity in _written(results, read, stem, samples, self.precisions):
                file = stem.with_name(parity[0].file)
                files.append(ModelFile(file.name, file_sha256(file), fold, precision))
                figures.extend(parity)
        kept = _whole_precisions(files, tuple(model.checkpoints))
        return describe_manifest(model, self.card, kept, figures)

    def _name(self, model: TrainedModel) -> str:
        """Begin the files' names so that those of two folders differ."""
        if not self.several:
            return self.card.name
        return f"{self.card.name}_{len(self.done) + 1}_{model.results.configuration}"


def with_stage(manifest: Manifest, model: TrainedModel, stage: Manifest | None) -> Manifest:
    """Complete a cascade's manifest by that of the stage before it."""
    if stage is None:
        return manifest
    results = model.results
    how = results.settings.resampling_fn_seg_kwargs.recipe()
    return replace(manifest, stage=Stage(describe_network(stage), results.hints, how))


def _check_together(models: Sequence[TrainedModel], card: Card) -> None:
    """Make sure that models can be averaged, and what is made of them can be described.

    Raises:
        InputError: they are of different data sets, or a cascade's stage cannot be used.
    """
    first = models[0]
    folders = [model.results.folder.resolve() for model in models]
    again = next((folder for folder in folders if folders.count(folder) > 1), None)
    if again is not None:
        raise InputError(f"{again}: expected each model once, found it twice; name it once")
    stages = [model.stage for model in models if model.stage is not None]
    for other in [*models[1:], *stages]:
        same = (
            [c.recipe for c in other.interface.channels]
            == [c.recipe for c in first.interface.channels]
            and other.interface.labels == first.interface.labels
            and other.interface.regions == first.interface.regions
        )
        if not same:
            raise InputError(
                f"{other.results.folder}: expected the channels and labels of "
                f"{first.results.folder}, found others; only models of one data set are averaged"
            )
        if other.conditioning != first.conditioning:
            raise InputError(
                f"{other.results.folder}: expected images read as for {first.results.folder}, "
                "found another image_reader_writer in plans.json, or other preparation; train "
                "both on one data set"
            )
    try:
        join_members([outline(model, card) for model in models])
    except ValidationError as error:
        raise invalid(first.results.folder, error, inside="the model") from error


def outline(model: TrainedModel, card: Card) -> Manifest:
    """Describe a model before it is written."""
    file = ModelFile(f"{card.name}_fold_0_fp32.onnx", "0" * 64, "0", "fp32")
    stage = None if model.stage is None else outline(model.stage, card)
    return with_stage(describe_manifest(model, card, [file], []), model, stage)


def read_model(
    folder: Path,
    *,
    card: Card,
    folds: Sequence[str] = (),
    checkpoint: Which = "final",
    challenge: Challenge | None = None,
    postprocessing: Path | Literal["auto", "none"] = "auto",
) -> TrainedModel:
    """Read and check everything that an export needs, before the long work.

    Raises:
        InputError: the results folder cannot be exported.
        WeightsError: the model is not one for the challenge.
    """
    results = open_results(folder)
    rules = challenge or trained_challenge(results)
    try:
        interface = Interface(
            _channels(results, rules), results.dataset.classes, results.dataset.has_regions
        )
        agreement.check_agreement(interface, rules, source=str(folder))
        paths = fold_checkpoints(results, folds or finished_folds(results, checkpoint), checkpoint)
        checkpoints = {fold: read_checkpoint(path) for fold, path in paths.items()}
        how = _conditioning(results, rules)
        agreement.check_region(card.run.region, rules)
        stage = _read_stage(
            results, card=card, folds=tuple(paths), checkpoint=checkpoint, challenge=rules
        )
        steps = _postprocessing(results, tuple(checkpoints), postprocessing)
        known = cross_validation_of(results, rules, tuple(checkpoints), checkpoint)
        model = TrainedModel(results, interface, checkpoints, rules, how, stage, steps, known)
        outline(model, card)  # what inference would refuse
    except ValidationError as error:
        raise invalid(folder, error, inside="the model") from error
    for read in model.checkpoints.values():
        build_network(results, read)
    return model


def _read_stage(
    results: Results,
    *,
    card: Card,
    folds: Sequence[str],
    checkpoint: Which,
    challenge: Challenge,
) -> TrainedModel | None:
    """Read the stage before a cascade, with the cascade's folds as nnU-Net's instructions say."""
    folder = results.stage_folder
    if folder is None:
        return None
    if results.dataset.oarseg.classes is not None:
        # Its channels are numbered as classes, and the stage's label map as the challenge's labels.
        raise InputError(
            f"{results.folder}: expected no cascade of merged pairs; export another configuration"
        )
    if not folder.is_dir():
        raise InputError(
            f"{results.folder}: is a cascade, expected its stage before in {folder}, found none; "
            "put that results folder beside it"
        )
    before = open_results(folder)
    # Looked at before it is read, as a stage may name itself, or a cascade that names it.
    if before.stage_folder is not None or before.dataset.labels != results.dataset.labels:
        raise InputError(
            f"{folder}: expected a stage with the labels of {results.folder.name} and none before "
            "it, found another; retrain the cascade on it"
        )
    return read_model(
        folder,
        card=card,
        folds=folds,
        checkpoint=checkpoint,
        challenge=challenge,
        postprocessing="none",
    )


def _postprocessing(
    results: Results, folds: Sequence[str], chosen: Path | Literal["auto", "none"]
) -> tuple[KeepLargest, ...]:
    """Read the file that was named, or the one that lies there."""
    if chosen == "none":
        return ()
    if results.dataset.oarseg.classes is not None:
        # Of a class that holds both organs of a pair it would leave one.
        if chosen != "auto":
            raise InputError(
                f"{chosen}: expected no postprocessing for a model with merged pairs; pass "
                "--postprocessing none, and --repair components to oarseg segment"
            )
        return ()
    path = find_postprocessing(results, folds) if chosen == "auto" else chosen
    if path is None:
        return ()
    painted = {label.value for label in results.dataset.classes}
    return read_postprocessing(path, painted | set(results.dataset.values))


def trained_challenge(results: Results) -> Challenge:
    """Return the challenge that ``prepare`` noted, or else one made of ``dataset.json``.

    Raises:
        InputError: none can be made.
    """
    return noted_challenge(results.dataset, results.folder / "dataset.json")


def _conditioning(results: Results, challenge: Challenge) -> Conditioning:
    """Tell what was done to the training images: by ``prepare``, or by nnU-Net's reader."""
    if results.dataset.oarseg.is_there:
        return prepared_conditioning(challenge)
    return Conditioning(axes=_axes(results))


def _axes(results: Results) -> Axes:
    reader = results.plans.image_reader_writer
    if reader not in READERS:
        raise InputError(
            f"{results.folder / 'plans.json'}: image_reader_writer: expected one of "
            f"{', '.join(READERS)}, found {shown(reader)}; a model of such images cannot be used"
        )
    return READERS[reader]


def _written(
    results: Results,
    checkpoint: Checkpoint,
    stem: Path,
    samples: Patches,
    precisions: Sequence[Precision],
) -> Iterator[tuple[Precision, list[Parity]]]:
    """Write a fold in each precision; yield those that reach their bars, with their figures."""
    wanted = network_outputs(build_network(results, checkpoint), samples, stem.with_name(LOGITS))
    for precision in precisions:
        file = stem.with_name(f"{stem.name}_{precision}.onnx")
        log.info("%s: exporting, then comparing with torch", file.name)
        write_onnx(build_network(results, checkpoint), file, results, precision)
        found = _compared(file, samples, wanted, precision)
        if found:
            yield precision, found


def _compared(file: Path, samples: Patches, wanted: Image, precision: Precision) -> list[Parity]:
    """Compare a file in every library that may run it here; return [] if it misses its bar."""
    found = [compare_with_torch(file, samples, wanted)]
    if not _passes(found[0], precision):
        return []
    # Recorded in any case: inference chooses library and arithmetic by these figures.
    for runtime, how in _other_runs(precision):
        try:
            found.append(compare_with_torch(file, samples, wanted, runtime=runtime, arithmetic=how))
        except NoCudaError as why:
            log.warning("%s: not compared on the GPU: %s", file.name, why)
    return found


def _other_runs(precision: Precision) -> Iterator[tuple[Runtime, Arithmetic]]:
    """Yield the other ways in which inference may run a file of a precision, if this machine can.

    A file in half precision is run on a GPU without its conversions round normalisations. On the
    CPU that shows that the graph is right; on a GPU, that its kernels are.
    """
    cuda = CUDA_PROVIDER in onnxruntime.get_available_providers()
    if precision == "fp16":
        yield "onnxruntime", "f16"
        if cuda:
            yield "cuda", "f16"
        return
    yield "openvino", "f32"
    if has_bf16():
        yield "openvino", "bf16"
    if cuda:
        yield "cuda", "tf32"


def _passes(parity: Parity, precision: Precision) -> bool:
    bar = BARS[precision]
    good = parity.argmax_agreement >= bar.argmax_agreement and parity.min_dice >= bar.min_dice
    if not good and precision == "fp32":
        raise WeightsError(f"{parity.file}: ONNX differs from torch: {figures_text(parity)}")
    if not good:
        log.warning("%s: left out, below its bar: %s", parity.file, figures_text(parity))
    return good


def _whole_precisions(models: Sequence[ModelFile], folds: Sequence[str]) -> list[ModelFile]:
    """Keep only precisions that every fold has; a mixed ensemble would not be one model."""
    count = {p: sum(model.precision == p for model in models) for p in get_args(Precision)}
    return [model for model in models if count[model.precision] == len(folds)]


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


def describe_manifest(
    model: TrainedModel,
    card: Card,
    models: Sequence[ModelFile],
    figures: Sequence[Parity],
) -> Manifest:
    """The manifest of an export; it mirrors along the axes that every fold allows."""
    results, interface = model.results, model.interface
    settings = results.settings
    axes = set.intersection(*(set(c.mirror_axes) for c in model.checkpoints.values()))
    if settings.flat:
        axes = {axis + 1 for axis in axes}
    kept = {file.file for file in models}
    return Manifest(
        format_version=FORMAT_VERSION,
        challenge=model.challenge.name,
        title=card.title,
        warning=card.warning,
        channels=interface.channels,
        spacing_mm=settings.spacing,
        patch_size=settings.patch_size,
        transpose_forward=results.plans.transpose_forward,
        data_resampling=settings.resampling_fn_data_kwargs.recipe(),
        logits_resampling=settings.resampling_fn_probabilities_kwargs.recipe(),
        labels=interface.labels,
        regions=interface.regions,
        mirror_axes=tuple(sorted(axes)),
        models=tuple(models),
        parity=tuple(parity for parity in figures if parity.file in kept),
        training=card.training,
        licence=card.licence,
        versions={
            "oarseg": __version__,
            **{name: version(name) for name in ("nnunetv2", "torch", *RUNTIMES)},
        },
        own_challenge=agreement.own_facts(model.challenge),
        run=_run_defaults(model, card),
        conditioning=model.conditioning,
        configuration=results.configuration,
        postprocessing=model.postprocessing,
        cross_validation=model.cross_validation,
    )


def _run_defaults(model: TrainedModel, card: Card) -> RunDefaults:
    """Choose the region if the user did not: every voxel for what was trained in stock nnU-Net."""
    if card.run.region is not None or model.results.dataset.oarseg.is_there:
        return card.run
    return replace(card.run, region="all")


def _channels(results: Results, challenge: Challenge) -> tuple[Channel, ...]:
    recipes = results.dataset.oarseg.channels
    if recipes is None:
        recipes = tuple(ChannelRecipe(socket.channel) for socket in challenge.sockets)
        _check_channels(results, challenge)
    if len(recipes) != len(results.dataset.channels):
        raise InputError(
            f"{results.folder}: the model takes {len(results.dataset.channels)} channels, "
            f"oarseg.channels in dataset.json describes {len(recipes)}; prepare the data set again"
        )
    return tuple(
        Channel(
            recipe.name,
            results.plans.normalisation(number),
            recipe.optional,
            recipe.absent_value,
            recipe.standardise,
            recipe.window_hu,
        )
        for number, recipe in enumerate(recipes)
    )


def _check_channels(results: Results, challenge: Challenge) -> None:
    """Compare the data set's channels with the challenge's inputs, in order.

    Raises:
        InputError: their number or a name differs.
    """
    names, sockets = channel_names(results.dataset), challenge.sockets
    given = ", ".join(socket.channel for socket in sockets)
    if len(names) != len(sockets):
        raise InputError(
            f"{results.folder}: the model takes {len(names)}: {', '.join(names)}; "
            f"challenge {challenge.name} has {len(sockets)} inputs: {given}; leave --challenge "
            "out, or name the right one"
        )
    for number, (name, socket) in enumerate(zip(names, sockets, strict=True)):
        told = {socket.channel.casefold(), socket.modality.casefold(), *NAMELESS}
        if not {name.casefold(), results.dataset.channels[number].casefold()} & told:
            raise InputError(
                f"{results.folder / 'dataset.json'}: channel {number} is {name}, challenge "
                f"{challenge.name} gives {socket.channel} there; leave --challenge out, or pass "
                "one with these channels ('oarseg challenges --from dataset.json' writes it)"
            )


def _named_files(out: Path) -> list[str]:
    """The ONNX files of an earlier export; none where its manifest cannot be read."""
    try:
        text = (out / MANIFEST).read_bytes()
        manifest = parse_manifest(text, source=str(out))
    except (OSError, WeightsError):
        return []
    return sorted(_all_files(manifest))


def _all_files(manifest: Manifest) -> set[str]:
    return {model.file for network in manifest.networks for model in network.models}


def _install(scratch: Path, out: Path, manifest: Manifest) -> None:
    """Move a finished export into place and remove what an earlier one left there.

    Files that no manifest there names may be anything, and stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep = _all_files(manifest)
    # Of the model that was there, which stays whole where this cannot be removed.
    (out / CALIBRATION).unlink(missing_ok=True)
    for name in _named_files(out):
        (out / name).unlink(missing_ok=True)
    for name in [*sorted(keep), MANIFEST]:
        shutil.move(scratch / name, out / name)
