"""Plans and data set files from anywhere: read as nnU-Net reads them, or refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_fuzzing as fuzzing
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import (
    nnUNetTrainerBN,
)
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from oarseg.cli.main import main
from oarseg.errors import InputError
from oarseg.training.nnunet_files.architecture import create_network
from oarseg.training.nnunet_files.results_folder import open_results

Document = dict[str, Any]
UNETS = "dynamic_network_architectures.architectures"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fuzzing.make_folder(tmp_path)


def change(path: Path, how: Callable[[Document], object]) -> None:
    """Edit a JSON file in place."""
    document = json.loads(path.read_text())
    how(document)
    path.write_text(json.dumps(document))


def arguments_of(plans: Document) -> Document:
    kwargs: Document = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    return kwargs


def export_by_command(folder: Path, out: Path) -> int:
    words = ["--title", "t", "--training", "t", "--licence", "l"]
    return main(["export", str(folder), "--out", str(out), "--folds", "0", *words])


def test_a_command_named_by_plans_does_not_run(
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    intruder = tmp_path / "intruder"
    order = {"nonlin": "subprocess.getoutput", "nonlin_kwargs": {"cmd": f"touch {intruder}"}}
    change(folder / "plans.json", lambda plans: arguments_of(plans).update(order))
    assert export_by_command(folder, tmp_path / "weights") == 1
    assert not intruder.exists()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "nonlin_kwargs.cmd" in last or "subprocess.getoutput" in last


def test_a_class_named_by_plans_is_not_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def rename(plans: Document) -> None:
        plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = (
            "evil.PlainConvUNet"
        )

    change(folder / "plans.json", rename)
    with pytest.raises(InputError, match=r"uses PlainConvUNet \('evil.PlainConvUNet'\); supported"):
        open_results(folder)


def test_mednext_is_refused_in_one_sentence(folder: Path) -> None:
    """Its package is in no index, so that nothing could build it here."""
    name = "nnunet_mednext.network_architecture.mednextv1.MedNextV1.MedNeXt"
    change(
        folder / "plans.json",
        lambda plans: plans["configurations"]["3d_fullres"]["architecture"].update(
            network_class_name=name
        ),
    )
    with pytest.raises(InputError, match=rf"uses MedNeXt \('{name}'\); supported are") as error:
        open_results(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change_to", "message"),
    [
        ({"conv_op": "os.system"}, r"conv_op 'os.system': supported are torch's Conv3d"),
        ({"norm_op": "torch.load"}, r"norm_op 'torch.load': supported"),
        ({"dropout_op": "builtins.eval"}, r"dropout_op 'builtins.eval': supported"),
        ({"nonlin": "torch.nn.Softmax"}, r"nonlin 'torch.nn.Softmax': supported"),
        ({"pool": "max"}, r"arch_kwargs\.pool: Unexpected keyword argument"),
        ({"features_per_stage": [8, 10**9, 16]}, r"features_per_stage.1: .*4096"),
        ({"n_stages": 10**6}, r"n_stages: .*less than or equal to 12"),
        ({"n_conv_per_stage": [1, 1, 10**8]}, r"n_conv_per_stage.2: .*64"),
        ({"kernel_sizes": [[3, 3, 3]] * 2}, r"kernel_sizes: expected 3 entries, found 2"),
        ({"kernel_sizes": 2}, r"kernel_sizes: expected odd"),
        ({"strides": [[1, 1, 1], [5, 5, 5], [1, 1, 1]]}, r"strides: stage 1 does not divide"),
        ({"strides": 2}, r"strides: expected 1 in the first stage"),
        ({"norm_op_kwargs": {"eps": float("nan")}}, r"norm_op_kwargs.eps"),
        ({"n_conv_per_stage": None}, r"n_conv_per_stage: expected for .*PlainConvUNet, found none"),
        ({"n_blocks_per_stage": 1}, r"n_blocks_per_stage: is no argument of .*PlainConvUNet"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_argument_of_the_network_has_a_list_or_a_range(
    folder: Path, change_to: Document, message: str
) -> None:
    change(folder / "plans.json", lambda plans: arguments_of(plans).update(change_to))
    with pytest.raises(InputError, match=message):
        open_results(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("patch_size", [4096, 4096, 4096], "too many for so many features"),
        ("spacing", [0, 1, 1], "spacing.0"),
        ("spacing", [float("nan"), 1, 1], "spacing.0"),
        ("normalization_schemes", ["os.system", "CTNormalization"], "supported are CTNormal"),
        ("resampling_fn_data", "os.system", "resampling_fn_data"),
        ("resampling_fn_probabilities_kwargs", {"order": 3}, "expected order 0 or 1, found 3"),
        ("resampling_fn_probabilities_kwargs", {"order": 1, "order_z": 2}, "0 or 1, found 2"),
        ("preprocessor_name", "MyPreprocessor", "preprocessor_name: .*'DefaultPreprocessor'"),
        ("inherits_from", "3d_fullres", "cannot be resolved"),
        ("inherits_from", "\x1b[31m", r"'\\x1b\[31m' is not in the plans"),
        ("data_identifier", "../../x", "data_identifier"),
    ],
)
def test_settings_of_no_plan_are_refused(
    folder: Path, key: str, value: object, message: str
) -> None:
    def set_key(plans: Document) -> None:
        plans["configurations"]["3d_fullres"][key] = value

    change(folder / "plans.json", set_key)
    with pytest.raises(InputError, match=message):
        open_results(folder)


def make_old(plans: Document, name: str) -> None:
    """Describe the network as nnU-Net did before 2.4."""
    configuration = plans["configurations"]["3d_fullres"]
    new = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": name,
        "UNet_base_num_features": 8,
        "unet_max_num_features": 20,
        "n_conv_per_stage_encoder": [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": new["strides"],
        "conv_kernel_sizes": new["kernel_sizes"],
    }


@pytest.mark.parametrize("name", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_old_plans_give_nnunets_network(folder: Path, name: str) -> None:
    change(folder / "plans.json", lambda plans: make_old(plans, name))
    architecture = open_results(folder).settings.architecture
    assert architecture.network_class_name.startswith(UNETS)
    mine = create_network(architecture, channels=2, classes=6)
    theirs = PlansManager(json.loads((folder / "plans.json").read_text()))
    settings = theirs.get_configuration("3d_fullres")
    wanted = get_network_from_plans(
        f"{UNETS}.unet.{name}",  # it has moved; nnU-Net finds it by a search through the package
        settings.network_arch_init_kwargs,
        settings.network_arch_init_kwargs_req_import,
        2,
        6,
        deep_supervision=False,
    )
    assert repr(mine) == repr(wanted)
    assert shapes(mine) == shapes(wanted)


def test_the_batch_norm_trainer_makes_another_network_of_plans(folder: Path) -> None:
    folder = folder.rename(folder.with_name("nnUNetTrainerBN__nnUNetPlans__3d_fullres"))
    mine = create_network(open_results(folder).settings.architecture, channels=2, classes=6)
    theirs = PlansManager(json.loads((folder / "plans.json").read_text()))
    settings = theirs.get_configuration("3d_fullres")
    wanted = nnUNetTrainerBN.build_network_architecture(theirs, settings, 2, 6, False)
    assert repr(mine) == repr(wanted)
    assert shapes(mine) == shapes(wanted)


def test_a_word_that_is_not_supported_is_named_beside_those_that_are(folder: Path) -> None:
    def resample_otherwise(plans: Document) -> None:
        settings = plans["configurations"]["3d_fullres"]
        settings["resampling_fn_data"] = "resample_torch_fornnunet"

    change(folder / "plans.json", resample_otherwise)
    with pytest.raises(
        InputError,
        match=r"resampling_fn_data: expected 'resample_data_or_seg_to_shape', "
        r"found resample_torch_fornnunet$",
    ):
        open_results(folder)


def shapes(network: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in network.state_dict().items()}


def test_modality_is_the_old_word_for_channel_names(folder: Path) -> None:
    def rename(dataset: Document) -> None:
        dataset["modality"] = dataset.pop("channel_names")

    change(folder / "dataset.json", rename)
    assert open_results(folder).dataset.channels == ("c0", "c1")


def test_labels_may_be_text(folder: Path) -> None:
    before = open_results(folder).dataset.classes

    def as_text(dataset: Document) -> None:
        dataset["labels"] = {name: str(value) for name, value in dataset["labels"].items()}

    change(folder / "dataset.json", as_text)
    assert open_results(folder).dataset.classes == before


def test_resampling_without_its_options_takes_those_of_nnunets_function(folder: Path) -> None:
    def without(plans: Document) -> None:
        options = plans["configurations"]["3d_fullres"]["resampling_fn_data_kwargs"]
        del options["order_z"], options["force_separate_z"]

    change(folder / "plans.json", without)
    recipe = open_results(folder).settings.resampling_fn_data_kwargs.recipe()
    assert (recipe.order, recipe.order_z, recipe.force_separate_z) == (3, 0, False)


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a fault in line 1, column 1"),
        (b"\xff\xfe\x00", "bytes or numbers that are none"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "bytes or numbers that are none"),
        (b"[]", "expected a JSON object, found a list"),
    ],
    ids=["empty", "no text", "deep", "a long number", "a list"],
)
def test_a_file_that_is_no_json_object(
    folder: Path, name: str, content: bytes, message: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_results(folder)


def test_a_dataset_cannot_name_a_file_as_its_challenge(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text("name = 'x'")
    record = {"oarseg": {"challenge": str(path)}}
    change(folder / "dataset.json", lambda dataset: dataset.update(record))
    with pytest.raises(InputError, match=r"oarseg: challenge .*expected one of"):
        open_results(folder)
