"""Train the shipped ensemble's networks for as long as one likes, on phantoms alone.

    python bench/weights.py build/weights --rounds 1000 --templates DIR

A round makes new phantoms of levels 0 and 2, trains some epochs on them from the weights so
far, and validates the ensemble of the networks at the ends of the learning rate's schedules
(``restarts``). Within a round, the latest weights are validated every hour, too. What is there
is not done again, so that the job goes on where it was killed. It is a process group of its own
at nice 19, whose number lies in ``job.pgid``: ``kill -STOP -- -$(cat build/weights/job.pgid)``
pauses it, ``kill -CONT`` lets it go on. Its folder holds

- ``log.csv``: a row for each validation and set (level 0, level 2, templates), for the last of
  which ``templates.py`` says where organs lie and how large they may be;
- ``best/``: checkpoint and weights folder with the highest mean Dice on the set of level 2;
- ``preprocessed/``: some cases, for ``oarseg export --preprocessed``;
- ``sets/``: the sets, whose seeds are never trained on;
- ``rounds/<n>/``: phantoms and nnU-Net's folders; of finished rounds the checkpoint only.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from cases import ROOT
from pairs import from_cormack
from templates import PLACES, WHOLE, compare_places, count_raised
from training_curve import write_card

from oarseg.challenges.catalogue import load_challenge
from oarseg.imaging.volume import from_sitk, to_sitk
from oarseg.labels.dice import dice_by_label
from oarseg.training.planning import PRESETS

PLANS = "oarsegSmall"
DATASET = "Dataset101_PhantomHaN"
RESULTS = f"work/results/{DATASET}/OarsegTrainer__{PLANS}__3d_fullres"
PREPROCESSED = f"work/preprocessed/{DATASET}"
HOUR_S = 3600
REST = 10  # a validation is followed by at least so many times its own duration without one
POLL_S = 5
KEPT_CASES = 16
# First seeds; those of validation are far from those of training.
VALIDATION = {"level0": (0, 300), "level2": (2, 3000)}
TRAINING = {0: 20_000, 2: 40_000}
COLUMNS = (
    "time", "round", "epoch", "set", "cases", "mean_dice", "missed", "structures",
    "off_mm", "outside", "stray_mm", "raised",
)  # fmt: skip
WARNING = "NOT FOR CLINICAL USE: trained on synthetic images only, not on patients."


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        root: the job's folder.
        start: weights folder, checkpoint or nothing from which the first round begins.
        cases: phantoms of each level in a round.
        validation: phantoms of each level in a validation set.
        templates: folder of the templates, or None.
        settings: of the trainer, JSON.
        device: ``cpu`` or ``cuda``.
        workers: processes that make and prepare phantoms.
        first: number of the first round; a round's number draws its phantoms.
    """

    root: Path
    start: Path | None
    cases: int
    validation: int
    templates: Path | None
    settings: str
    device: str
    workers: int
    first: int = 0

    def round_folder(self, number: int) -> Path:
        """Return a round's folder."""
        return self.root / "rounds" / f"{number:03d}"

    def last_checkpoint(self, number: int) -> Path | None:
        """Return the checkpoint from which a round begins."""
        if number > self.first:
            return self.round_folder(number - 1) / "checkpoint.pth"
        return self.root / "start.pth" if self.start else None


def main() -> None:
    """Run the job."""
    job, rounds = parse_arguments()
    job.root.mkdir(parents=True, exist_ok=True)
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)
    os.nice(19 - os.nice(0))
    (job.root / "job.pgid").write_text(f"{os.getpgid(0)}\n", encoding="ascii")
    make_sets(job)
    if job.start and not (job.root / "start.pth").is_file():
        write_start(job.start, job.root / "start.pth")
    run_rounds(replace(job, settings=with_arithmetic(job)), rounds)


def with_arithmetic(job: Job) -> str:
    """Return the trainer's settings, with the arithmetic that is faster on this CPU.

    The settings win where they name one.
    """
    settings: dict[str, Any] = json.loads(job.settings)
    if job.device != "cpu" or "bfloat16_on_cpu" in settings:
        return job.settings
    seconds = time_steps()
    faster = seconds["bfloat16"] < seconds["float32"]
    print(f"a step of the network alone: {seconds}")
    return json.dumps(settings | {"bfloat16_on_cpu": faster})


def time_steps() -> dict[str, float]:
    """Return the processor seconds of a step by arithmetic, measured by ``step_time.py``."""
    command = [sys.executable, str(ROOT / "bench" / "step_time.py")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds: dict[str, float] = json.loads(done.stdout)
    return seconds


def run_rounds(job: Job, rounds: int) -> None:
    """Run the rounds that are not finished."""
    for number in range(job.first, job.first + rounds):
        if not (job.round_folder(number) / "checkpoint.pth").is_file():
            run_round(job, number)


def parse_arguments() -> tuple[Job, int]:
    """Return the job and how many rounds it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="the job's folder")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument(
        "--start", type=Path, help="weights folder or checkpoint to begin with (default: none)"
    )
    parser.add_argument(
        "--first-round", type=int, default=0, help="its number: rounds before it had other phantoms"
    )
    parser.add_argument("--cases", type=int, default=32, help="phantoms a level and round")
    parser.add_argument("--validation", type=int, default=5, help="phantoms a level")
    parser.add_argument("--templates", type=Path, help="folder of the CT and T1 templates")
    parser.add_argument("--settings", default="{}", help="of the trainer, JSON")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    told = parser.parse_args()
    usual = json.loads((ROOT / "bench" / "weights.json").read_text(encoding="utf-8"))
    settings = json.dumps(usual | json.loads(told.settings))
    job = Job(
        told.root, told.start, told.cases, told.validation, told.templates, settings,
        told.device, told.workers, told.first_round,
    )  # fmt: skip
    return job, told.rounds


def oarseg(*arguments: object, log: Path) -> None:
    """Run a command of oarseg, its output added to a file.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    with log.open("ab") as out:
        subprocess.run(command(*arguments), stdout=out, stderr=out, check=True)


def command(*arguments: object) -> list[str]:
    """Return the command line of oarseg in this Python."""
    return [sys.executable, "-m", "oarseg.cli", *map(str, arguments)]


def write_start(given: Path, out: Path) -> None:
    """Write a checkpoint with the weights of a checkpoint or of a weights folder's last fold.

    Of the folds that this job makes the last one is the end of the training. An ONNX file of ours
    keeps the parameters' names. It lacks the outputs of deep supervision, which are drawn anew.
    """
    if given.is_file():
        shutil.copy(given, out)
        return
    import onnx
    import torch
    from onnx import numpy_helper

    network = untrained_network()
    parameters = network.state_dict()
    file = sorted(given.glob("*fp32.onnx"))[-1]
    for tensor in onnx.load(str(file)).graph.initializer:
        if tensor.name in parameters:  # copied in place: a parameter has several names
            parameters[tensor.name].copy_(torch.from_numpy(numpy_helper.to_array(tensor).copy()))
    torch.save({"network_weights": parameters}, out)


def untrained_network() -> Any:
    """Build the network of the plans, as nnU-Net would."""
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    preset, classes = PRESETS[PLANS], len(load_challenge("han_seg").structures) + 1
    stages = len(preset.features)
    return PlainConvUNet(
        2, stages, preset.features, torch.nn.Conv3d, 3, preset.strides, 2, classes, 1,
        conv_bias=True, norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=True,
    )  # fmt: skip


def make_sets(job: Job) -> None:
    """Make the validation sets that are not there yet."""
    sets = job.root / "sets"
    for name, (level, seed) in VALIDATION.items():
        make_phantoms(job, name, level=level, seed=seed, cases=job.validation)
    if job.templates and not (sets / "templates.done").is_file():
        write_templates(job.templates, sets / "templates")
        (sets / "templates.done").touch()


def make_phantoms(job: Job, name: str, *, level: int, seed: int, cases: int) -> None:
    """Make a set of phantoms in the job's folder, unless it is there."""
    done = job.root / "sets" / f"{name}.done"
    if done.is_file():
        return
    done.parent.mkdir(parents=True, exist_ok=True)
    oarseg(
        "phantom", done.with_suffix(""), "--seed", seed, "--cases", cases, "--layout", "platform",
        "--randomise", level, "--workers", job.workers, log=job.root / "job.log",
    )  # fmt: skip
    done.touch()


def write_templates(templates: Path, out: Path) -> None:
    """Write the templates as the platform would give them, the CT in HU."""
    for slug in ("ct", "t1-mri"):
        (out / "images" / slug).mkdir(parents=True, exist_ok=True)
    ct = from_sitk(sitk.ReadImage(str(templates / "ct_template_2mm.nii.gz")))
    ct = ct.with_array(from_cormack(ct.array))
    sitk.WriteImage(to_sitk(ct), str(out / "images/ct/template_CT.mha"))
    mr = sitk.ReadImage(str(templates / "t1_template_mni152.nii.gz"))
    sitk.WriteImage(mr, str(out / "images/t1-mri/template_MR_T1.mha"))


def run_round(job: Job, number: int) -> None:
    """Make a round's phantoms, train on them, validate, and keep the checkpoint only."""
    folder = job.round_folder(number)
    folder.mkdir(parents=True, exist_ok=True)
    prepare_round(job, number)
    started, checked = time.time(), time.time()
    pause: float = HOUR_S
    with (folder / "train.log").open("ab") as out:
        line, env = train_command(job, number), train_environment()
        child = subprocess.Popen(line, stdout=out, stderr=out, env=env)
        while child.poll() is None:
            time.sleep(POLL_S)
            latest = folder / RESULTS / "fold_all" / "checkpoint_latest.pth"
            if time.time() - checked > pause and latest.is_file():
                begun = time.time()
                validate(job, number, [latest])
                checked = time.time()
                pause = rest_after(checked - begun)
    if child.returncode:
        raise SystemExit(f"{folder / 'train.log'}: the training ended with {child.returncode}")
    made = snapshots(folder / RESULTS / "fold_all")
    validate(job, number, made)
    print(f"round {number}: {time.time() - started:.0f} s")
    keep_plans(job, number)
    shutil.copy(made[-1], folder / "checkpoint.part")
    (folder / "checkpoint.part").rename(folder / "checkpoint.pth")
    for name in ("phantoms", "raw", "work"):
        shutil.rmtree(folder / name, ignore_errors=True)


def rest_after(seconds: float) -> float:
    """Return how many seconds to train before the next validation, after one of some seconds.

    An hour, but on a busy machine longer: else most of what it leaves would go into validating.
    """
    return max(HOUR_S, seconds * REST)


def prepare_round(job: Job, number: int) -> None:
    """Make and prepare a round's phantoms, and give it the first round's normalisation."""
    folder, log = job.round_folder(number), job.root / "job.log"
    if (folder / "prepared").is_file():
        return
    for level, first in TRAINING.items():
        oarseg(
            "phantom", folder / "phantoms", "--seed", first + number * job.cases,
            "--cases", job.cases, "--randomise", level, "--workers", job.workers, log=log,
        )  # fmt: skip
    oarseg(
        "prepare", folder / "phantoms", "--out", folder / "raw" / DATASET,
        "--transforms", "files", "--workers", job.workers, log=log,
    )  # fmt: skip
    kept = job.root / "plans"
    if kept.is_dir():
        (folder / PREPROCESSED).mkdir(parents=True, exist_ok=True)
        for name in ("dataset_fingerprint.json", f"{PLANS}.json"):
            shutil.copy(kept / name, folder / PREPROCESSED / name)
        shutil.copy(folder / "raw" / DATASET / "dataset.json", folder / PREPROCESSED)
    (folder / "prepared").touch()


def keep_plans(job: Job, number: int) -> None:
    """Keep the plans of the first round for all others."""
    kept = job.root / "plans"
    kept.mkdir(exist_ok=True)
    for name in ("dataset_fingerprint.json", f"{PLANS}.json"):
        if not (kept / name).is_file():
            shutil.copy(job.round_folder(number) / PREPROCESSED / name, kept / name)


def keep_cases(job: Job, number: int) -> Path:
    """Keep some preprocessed cases, on which an export compares the networks with torch's.

    In noise, which it would take instead, trained networks find crumbs of a few voxels, whose Dice
    a single tie spoils.
    """
    kept = job.root / "preprocessed" / f"{PLANS}_3d_fullres"
    if not kept.is_dir():
        kept.mkdir(parents=True)
        made = job.round_folder(number) / PREPROCESSED / kept.name
        for case in sorted(made.glob("*_seg.b2nd"))[:KEPT_CASES]:
            for path in (case, case.with_name(case.name.replace("_seg", ""))):
                shutil.copy(path, kept / path.name)
    return kept


def train_command(job: Job, number: int) -> list[str]:
    """Return the command line of a round's training."""
    folder, start = job.round_folder(number), job.last_checkpoint(number)
    return command(
        "train", folder / "raw" / DATASET, "--work", folder / "work", "--plans", PLANS,
        "--folds", "all", "--device", job.device, "--workers", job.workers,
        "--settings", job.settings, *(("--initial-weights", start) if start else ()),
    )  # fmt: skip


def train_environment() -> dict[str, str]:
    """Return the environment of a training, whose threads sleep while they wait for each other.

    Where other programs keep the cores busy, a thread may wait long for one that has no core; while
    it spins it takes what that one needs.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ


def snapshots(fold: Path) -> list[Path]:
    """Return the checkpoints at the ends of a finished training's schedules, the last one last."""
    kept = sorted(
        fold.glob("checkpoint_epoch_*.pth"), key=lambda path: int(path.stem.rsplit("_", 1)[1])
    )
    return [*kept, fold / "checkpoint_final.pth"]


def validate(job: Job, number: int, checkpoints: list[Path]) -> None:
    """Export checkpoints as an ensemble, segment the sets with it, and keep it if it is the best.

    Their networks are the folds 0, 1, …, although all have seen every case.
    """
    trial = job.root / "trial"
    shutil.rmtree(trial, ignore_errors=True)
    fold = checkpoints[0].parent
    results = trial / Path(RESULTS).name
    for place, checkpoint in enumerate(checkpoints):
        (results / f"fold_{place}").mkdir(parents=True)
        shutil.copy(checkpoint, results / f"fold_{place}" / "checkpoint_final.pth")
    for name in ("plans.json", "dataset.json"):
        shutil.copy(fold.parent / name, results / name)
    epoch = len(list_epochs(fold))
    oarseg(
        "export", results, "--out", trial / "weights", "--folds", *range(len(checkpoints)),
        "--preprocessed", keep_cases(job, number), "--formats", "fp32",
        "--title", "HaN-Seg phantom networks", "--name", "phantom", "--warning", WARNING,
        "--training", "phantoms of levels 0 and 2", "--licence", "Apache-2.0",
        log=job.root / "job.log",
    )  # fmt: skip
    found = {name: measure(job, name, trial) for name in [*VALIDATION, "templates"]}
    best = best_so_far(job.root / "log.csv")
    write_rows(job.root / "log.csv", number, epoch, {n: r for n, r in found.items() if r})
    write_card(job.root / "log.csv", trial / "weights" / "README.md")
    reached = found["level2"]
    if reached and reached.mean > best:
        shutil.rmtree(job.root / "best", ignore_errors=True)
        trial.rename(job.root / "best")


def list_epochs(fold: Path) -> list[str]:
    """Return the lines of nnU-Net's logs that end an epoch."""
    logs = sorted(fold.glob("training_log_*.txt"))
    lines = [line for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if "Epoch time:" in line]


@dataclass(frozen=True)
class Reached:
    """Result on a set.

    Attributes:
        cases: how many there are.
        mean: over structures of their mean Dice; NaN if there is no truth.
        missed: structures in single cases that were not found.
        structures: by structure: mean Dice, or where there is no truth the volume in cm³.
        off_mm: by structure: from its centroid to its published place.
        outside: structures whose volumes no patient has.
        stray_mm: from a structure to the farthest of its stray parts.
        raised: by check: findings that the field does not explain; cases without a report
            as ``failed``.
    """

    cases: int
    mean: float
    missed: int
    structures: dict[str, float]
    off_mm: dict[str, float] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    stray_mm: float = 0.0
    raised: dict[str, int] = field(default_factory=dict)


def measure(job: Job, name: str, trial: Path) -> Reached | None:
    """Segment a set with the trial's weights; None if there is no such set."""
    data = job.root / "sets" / name
    if not data.is_dir():
        return None
    out = trial / name
    # Status 1 where a case failed; what is missing counts as missed.
    with (job.root / "job.log").open("ab") as log:
        line = command("segment", "--input", data, "--output", out, "--weights", trial / "weights")
        subprocess.run(line, stdout=log, stderr=log, check=False)
    if name == "templates":
        return measure_templates(out)
    names = [structure.name for structure in load_challenge("han_seg").structures]
    rows = np.array([scores for _, scores in case_scores(data / "truth", out, len(names))])
    means = np.nanmean(rows, axis=0)
    found = {name: round(float(mean), 4) for name, mean in zip(names, means, strict=True)}
    reached = Reached(len(rows), float(np.nanmean(means)), int((rows == 0).sum()), found)
    return add_checks(reached, data / "truth", out)


def add_checks(reached: Reached, truths: Path, out: Path) -> Reached:
    """Add what the checks raise on the cases of a set, beside what is truly cut or missing."""
    raised: Counter[str] = Counter()
    stray = 0.0
    for path in sorted(truths.glob("*/*_truth.json")):
        checks = read_checks(out, path.parent.name)
        if checks is None:
            raised["failed"] += 1
            continue
        presence = json.loads(path.read_text(encoding="utf-8"))["presence"]
        cut, missing = (
            frozenset(organ for organ, there in presence.items() if there == state)
            for state in (0.5, 0.0)
        )
        raised += count_raised(checks, cut=cut, missing=missing)
        stray = max(stray, *(organ["stray_farthest_mm"] for organ in checks["organs"].values()))
    return replace(reached, stray_mm=stray, raised=dict(sorted(raised.items())))


def read_checks(out: Path, case: str) -> dict[str, Any] | None:
    """Read what a case's report says of the checks; None where there is no report."""
    path = out / "reports" / f"{case}.json"
    if not path.is_file():
        return None
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")).get("checks")
    return found


def case_scores(truths: Path, out: Path, labels: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each case's Dice by label; 0 for all of a case that failed."""
    for path in sorted(truths.glob("*/label.nrrd")):
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        made = find_labels(out, path.parent.name)
        guess = np.zeros_like(truth) if made is None else read_labels(made)
        yield path.parent.name, dice_by_label(guess, truth, labels=labels)


def find_labels(out: Path, case: str) -> Path | None:
    """Return the label map that was written for a case."""
    return next(iter(sorted((out / "images").glob(f"*/{case}*"))), None)


def read_labels(path: Path) -> np.ndarray:
    """Read a label map (z, y, x)."""
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def measure_templates(out: Path) -> Reached:
    """Return volumes and places of the organs that lie in the templates' field."""
    checks = read_checks(out, "template")
    if checks is None:
        return Reached(1, float("nan"), len(PLACES), {}, raised={"failed": 1})
    found = compare_places(checks["organs"])
    below = frozenset(checks["organs"]) - WHOLE
    return Reached(
        1, float("nan"), found.missed, found.volumes_cm3, found.off_mm, found.outside,
        max(organ["stray_farthest_mm"] for organ in checks["organs"].values()),
        dict(sorted(count_raised(checks, cut=below, missing=below).items())),
    )  # fmt: skip


def best_so_far(log: Path) -> float:
    """Return the highest mean Dice on the set of level 2 in a log."""
    means = [float(row["mean_dice"]) for row in read_rows(log) if row["set"] == "level2"]
    return max(means, default=-1.0)


def write_rows(log: Path, number: int, epoch: int, found: dict[str, Reached]) -> None:
    """Add a validation to the log; one with fewer columns gets the others, empty."""
    now = datetime.datetime.now().isoformat(timespec="seconds")
    rows = read_rows(log)
    for name, r in found.items():
        values = (
            now, number, epoch, name, r.cases, f"{r.mean:.4f}", r.missed, json.dumps(r.structures),
            json.dumps(r.off_mm), " ".join(r.outside), f"{r.stray_mm:.0f}", json.dumps(r.raised),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
    part = log.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    part.replace(log)


def read_rows(log: Path) -> list[dict[str, str]]:
    """Read a log's rows; none where it has not been begun."""
    if not log.is_file():
        return []
    with log.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
