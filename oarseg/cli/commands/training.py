"""The commands ``oarseg prepare``, ``oarseg train`` and ``oarseg export``."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from oarseg.challenges.challenge import Challenge
from oarseg.cli.commands.challenges import describe_challenge
from oarseg.cli.interrupts import quiet_forked_workers
from oarseg.cli.options import (
    MOST_THREADS,
    Subparsers,
    add_challenge,
    add_registration_argument,
    add_run_defaults,
    chosen_challenge,
    say_notice,
    whole_number,
)
from oarseg.cli.refusals import refusals_told
from oarseg.errors import InputError

if TYPE_CHECKING:
    from oarseg.training.nnunet_files.recommendation import Recommendation

logger = logging.getLogger(__name__)


def add_prepare(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg prepare``."""
    parser = commands.add_parser("prepare", help="convert a data set to nnU-Net's raw data set")
    parser.add_argument("data", type=Path, help="folder of the data set as published")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DatasetNNN_NAME", help="folder to write to"
    )
    add_challenge(parser)
    parser.add_argument("--labels", type=Path, help="folder of the labels (default: DATA)")
    parser.add_argument(
        "--labelled",
        type=Path,
        metavar="CSV",
        help="table of cases and organs, 0 where the organ was not contoured (default: none)",
    )
    parser.add_argument(
        "--resample",
        action="store_true",
        help="resample images that should be on the reference's grid and are not",
    )
    parser.add_argument(
        "--transforms",
        choices=("register", "files"),
        default="register",
        help="register each MR (default), or read <case>_ct_to_mr.tfm beside the images",
    )
    add_registration_argument(parser)
    parser.add_argument(
        "--ct-windows",
        action="store_true",
        help="two channels of the CT, clipped to soft tissue and to bone, instead of one",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1, MOST_THREADS),
        default=1,
        help="cases prepared in parallel (default: 1)",
    )
    parser.set_defaults(command=run_prepare)


@quiet_forked_workers()
def run_prepare(arguments: argparse.Namespace) -> int:
    """Prepare a data set for training; return 0 only if no case was left out."""
    from oarseg.training.preparation.dataset import prepare_dataset as run

    done = run(
        arguments.data,
        arguments.out,
        challenge=chosen_challenge(arguments),
        labels=arguments.labels,
        labelled=arguments.labelled,
        transforms=arguments.transforms,
        resample=arguments.resample,
        method=arguments.registration,
        ct_windows=arguments.ct_windows,
        workers=arguments.workers,
        progress=logger.info,
    )
    print(f"{len(done.cases)} cases in {arguments.out}")
    if not done.left_out:
        return 0
    logger.warning(
        "%d of %d cases left out: %s",
        len(done.left_out),
        len(done.cases) + len(done.left_out),
        ", ".join(problem.name for problem in done.left_out),
    )
    return 1


def add_train(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg train``."""
    parser = commands.add_parser("train", help="train folds with nnU-Net")
    parser.add_argument("raw", type=Path, help="raw data set that 'oarseg prepare' wrote")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for plans, cases and results"
    )
    parser.add_argument(
        "--plans",
        default="nnUNetPlans",
        help="plans of nnU-Net by name, or oarsegSmall or oarsegTiny (default: nnUNetPlans)",
    )
    parser.add_argument(
        "--folds",
        nargs="+",
        default=["0", "1", "2", "3", "4"],
        help="folds to train, or all for one network of all cases (default: 0 1 2 3 4)",
    )
    parser.add_argument(
        "--settings",
        default="{}",
        metavar="JSON",
        help="settings of the trainer, as in oarseg/training/settings.py (default: none)",
    )
    parser.add_argument(
        "--epochs",
        type=whole_number(1, 10**6),
        help="the same as epochs in --settings (default: that)",
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    parser.add_argument(
        "--gpus",
        type=whole_number(1, MOST_THREADS),
        default=1,
        help="GPUs to train on together (default: 1)",
    )
    parser.add_argument(
        "--threads",
        type=whole_number(0, MOST_THREADS),
        default=0,
        help="torch's threads on the CPU (default: 0, torch's own choice)",
    )
    parser.add_argument(
        "--workers",
        type=whole_number(1, MOST_THREADS),
        default=2,
        help="cases preprocessed in parallel (default: 2)",
    )
    parser.add_argument(
        "--initial-weights",
        type=Path,
        help="start from a checkpoint, or each fold from its own in a results folder (default: "
        "from nothing)",
    )
    parser.set_defaults(command=run_train)


@quiet_forked_workers(kept=True)
def run_train(arguments: argparse.Namespace) -> int:
    """Plan, preprocess and train; skip what an earlier run has finished."""
    with refusals_told(arguments.work):
        return _train(arguments)


def _train(arguments: argparse.Namespace) -> int:
    from oarseg.training.planning import (
        Workspace,
        check_raw_dataset,
        default_settings,
        optional_channels,
        plan_and_preprocess,
    )
    from oarseg.training.preparation.merged_pairs import check_work, merge_pairs
    from oarseg.training.run import train_folds
    from oarseg.training.settings import parse_settings

    check_raw_dataset(arguments.raw)
    settings = parse_settings(
        arguments.settings,
        base=default_settings(arguments.plans),
        optional_channels=optional_channels(arguments.raw),
        epochs=arguments.epochs,
    )
    raw, work = arguments.raw.resolve(), arguments.work.resolve()
    space = Workspace(merge_pairs(raw, work) if settings.merge_pairs else raw, work)
    check_work(space.raw, space.preprocessed)
    plan_and_preprocess(space, plans=arguments.plans, settings=settings, workers=arguments.workers)
    results = train_folds(
        space,
        plans=arguments.plans,
        folds=[int(fold) if fold.isdecimal() else fold for fold in arguments.folds],
        device=arguments.device,
        gpus=arguments.gpus,
        threads=arguments.threads,
        initial_weights=arguments.initial_weights,
    )
    print(results)
    return 0


def add_export(commands: Subparsers[argparse.ArgumentParser]) -> None:
    """Add ``oarseg export``."""
    parser = commands.add_parser("export", help="convert checkpoints to ONNX files and a manifest")
    parser.add_argument(
        "results",
        type=Path,
        nargs="*",
        help="nnU-Net's folder <trainer>__<plans>__<configuration>; of several the probabilities "
        "are averaged",
    )
    parser.add_argument(
        "--best",
        type=Path,
        metavar="DatasetNNN_NAME",
        help="a data set's folder in nnUNet_results: export what nnUNetv2_find_best_configuration "
        "recommends there, with its folds (default: the folders that are named)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("model"), help="weights folder to write (default: model)"
    )
    parser.add_argument(
        "--folds",
        nargs="+",
        default=(),
        help="folds of the ensemble, numbers or all (default: those that are finished)",
    )
    parser.add_argument(
        "--checkpoint",
        choices=("final", "best"),
        default="final",
        help="each fold's last (default) or best checkpoint",
    )
    add_challenge(
        parser,
        default=None,
        without="the one that prepare noted, else one made of the results' dataset.json",
    )
    parser.add_argument(
        "--preprocessed",
        type=Path,
        help="nnU-Net's folder <plans>_<configuration>, whose cases are used to compare with torch "
        "(default: smooth noise)",
    )
    parser.add_argument(
        "--postprocessing",
        metavar="FILE|none",
        default="auto",
        help="nnU-Net's postprocessing.json for this model (default: the one that it left in the "
        "results folder for these folds, if any)",
    )
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=("fp32", "fp16"),
        help="number formats of the ONNX files (default: both)",
    )
    parser.add_argument("--title", help="title of the model, for reports (default: not stated)")
    parser.add_argument(
        "--name", default="model", help="start of the ONNX files' names (default: model)"
    )
    parser.add_argument(
        "--warning",
        default="Not validated for clinical use.",
        help="warning in every report (default: %(default)s)",
    )
    parser.add_argument("--training", help="training data, in words (default: not stated)")
    parser.add_argument("--licence", help="licence of the weights (default: not stated)")
    group = parser.add_argument_group(
        "defaults of a run", "kept with the model, for platforms that pass no options"
    )
    add_run_defaults(group)
    parser.set_defaults(command=run_export)


def run_export(arguments: argparse.Namespace) -> int:
    """Export folds, compare them with torch and print the figures."""
    with refusals_told(arguments.out):
        return _export(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from oarseg.model.manifest import RunDefaults
    from oarseg.training.exporting.ensemble import export_ensemble as run
    from oarseg.training.exporting.manifest_entries import NOT_STATED, Card
    from oarseg.training.exporting.parity import figures_text

    if not arguments.out.parent.is_dir():
        raise InputError(f"{arguments.out.parent}: expected a folder, found none; make it first")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(
            f"{arguments.out}: expected a folder, found a file; name another with --out"
        )
    chosen = _chosen_results(arguments)
    first, *more = chosen.folders
    rules = _trained_for(arguments, first)
    card = Card(
        arguments.title or NOT_STATED,
        arguments.warning,
        arguments.training or NOT_STATED,
        arguments.licence or NOT_STATED,
        arguments.name,
        RunDefaults(
            region=arguments.region,
            precision=arguments.precision,
            mirroring=arguments.mirroring,
            time_limit_s=arguments.time_limit,
        ),
    )
    manifest = run(
        first,
        arguments.out,
        more=more,
        folds=chosen.folds,
        checkpoint=arguments.checkpoint,
        challenge=rules,
        card=card,
        preprocessed=arguments.preprocessed,
        postprocessing=_postprocessing_of(arguments.postprocessing, chosen.determined),
        precisions=arguments.formats or ("fp32", "fp16"),
    )
    told = {p: None for network in manifest.networks for p in network.parity}
    for parity in told:
        print(f"{parity.file}: {figures_text(parity)}")
    for network in manifest.networks:
        print(f"{arguments.out}: {network.configuration}, folds {', '.join(network.folds)}")
    print(f"{arguments.out}: for challenge {rules.name}")
    if rules == manifest.own_challenge:
        print(describe_challenge(rules))
    if card.left_out:
        logger.warning(
            "the manifest does not state %s; whoever uses the model needs them: export again "
            "with %s",
            ", ".join(card.left_out),
            ", ".join(f"--{key}" for key in card.left_out),
        )
    return 0


def _chosen_results(arguments: argparse.Namespace) -> Recommendation:
    """Return the results folders to export and their folds; none takes those that are finished."""
    from oarseg.training.nnunet_files.recommendation import Recommendation, read_recommendation

    if arguments.best is None:
        if not arguments.results:
            raise InputError("expected a results folder, or --best and a data set's, found neither")
        return Recommendation(tuple(arguments.results), tuple(arguments.folds), None)
    if arguments.results:
        raise InputError("--best: expected no results folder beside it; pass one of the two")
    found = read_recommendation(arguments.best)
    logger.info("recommended: %s", ", ".join(folder.name for folder in found.folders))
    folds = tuple(arguments.folds) or found.folds
    if found.determined is not None and folds != found.folds:
        logger.warning(
            "postprocessing: %s is for folds %s and was left out; pass --postprocessing to take it "
            "all the same",
            found.determined,
            ", ".join(found.folds),
        )
        return replace(found, folds=folds, determined=None)
    return replace(found, folds=folds)


def _postprocessing_of(text: str, determined: Path | None) -> Path | Literal["auto", "none"]:
    """Return what to read: of a recommendation the file that nnU-Net determined with it."""
    if text == "none":
        return "none"
    if text != "auto":
        return Path(text)
    from oarseg.training.nnunet_files.postprocessing import POSTPROCESSING

    there = None if determined is None else determined / POSTPROCESSING
    return there if there is not None and there.is_file() else "auto"


def _trained_for(arguments: argparse.Namespace, folder: Path) -> Challenge:
    """Return the challenge that the options choose, or else the one of the results folder."""
    from oarseg.training.exporting.read_model import trained_challenge
    from oarseg.training.nnunet_files.results_folder import open_results

    results = open_results(folder)
    if arguments.challenge is not None:
        return chosen_challenge(arguments)
    if arguments.label_table is not None:
        raise InputError("--label-table: expected with --challenge, which takes it; pass both")
    rules = trained_challenge(results)
    say_notice(rules)
    return rules
