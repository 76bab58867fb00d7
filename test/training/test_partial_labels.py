"""Cases of which only some structures are labelled: what the loss may and may not teach."""

from pathlib import Path

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from oarseg.challenges import catalogue
from oarseg.errors import InputError
from oarseg.training.partial import PartialLoss, merge_unlabelled, unlabelled_of
from oarseg.training.preparation.presence import find_contradictions, read_presence

HAN_SEG = catalogue.load_challenge("han_seg")


def nnunets_loss() -> DC_and_CE_loss:
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    return DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)


def test_background_takes_the_probability_of_what_is_unlabelled() -> None:
    logits = torch.randn(2, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    plain = logits.softmax(1)
    merged = merge_unlabelled(logits, [{1: 0, 3: 0}, {}]).softmax(1)
    assert torch.equal(merged[1], plain[1])
    assert torch.allclose(merged[0, 0], plain[0, [0, 1, 3]].sum(0), atol=1e-6)
    assert torch.allclose(merged[0, 2], plain[0, 2], atol=1e-6)
    assert not merged[0, [1, 3]].any()


def gradient(unlabelled: dict[int, int]) -> torch.Tensor:
    """Of the loss by the logits of class 1, on a case whose labels show only class 2."""
    logits = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    logits.requires_grad_()
    target = torch.zeros(1, 1, 4, 4, 4)
    target[..., 2:] = 2
    loss = PartialLoss(nnunets_loss())
    loss.unlabelled = [unlabelled]
    loss(logits, target).backward()
    assert logits.grad is not None
    return logits.grad[0, 1]


def test_the_loss_does_not_teach_that_an_unlabelled_structure_is_background() -> None:
    # Where the labels say background, a labelled class is pushed down (a positive
    # gradient); an unlabelled one is pushed up, as background is.
    background = (..., slice(0, 2))
    assert bool((gradient({})[background] > 0).all())
    assert bool((gradient({1: 0})[background] < 0).all())
    # Where another structure is labelled it is pushed down all the same.
    assert bool((gradient({1: 0})[..., 2:] > 0).all())


def test_an_overlap_counts_as_the_organ_that_is_labelled() -> None:
    # Class 1 is the lobe, 2 lobe and hippocampus, and nobody has outlined the hippocampus.
    logits = torch.randn(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(2))
    logits.requires_grad_()
    merged = merge_unlabelled(logits, [{2: 1}]).softmax(1)
    plain = logits.softmax(1)
    assert torch.allclose(merged[0, 1], plain[0, 1] + plain[0, 2], atol=1e-6)
    assert torch.allclose(merged[0, 0], plain[0, 0], atol=1e-6)
    loss = PartialLoss(nnunets_loss())
    loss.unlabelled = [{2: 1}]
    loss(logits, torch.ones(1, 1, 2, 2, 2)).backward()
    assert logits.grad is not None
    assert bool((logits.grad[0, 1:] < 0).all())  # either may be true
    assert bool((logits.grad[0, 0] > 0).all())


def test_a_fully_labelled_batch_has_nnunets_loss() -> None:
    logits = torch.randn(2, 3, 4, 4, 4)
    target = torch.randint(0, 3, (2, 1, 4, 4, 4)).float()
    loss = PartialLoss(nnunets_loss())
    loss.unlabelled = [{}, {}]
    assert torch.equal(loss(logits, target), nnunets_loss()(logits, target))


def test_unlabelled_classes_come_from_the_dataset_file() -> None:
    listed = {"case_01": {"6": 4, "8": 0}}
    assert unlabelled_of({"oarseg": {"unlabelled": listed}}) == {"case_01": {6: 4, 8: 0}}
    assert unlabelled_of({"labels": {}}) == {}


@pytest.mark.parametrize(
    "text",
    [
        "case,Brainstem,OpticChiasm,remark\ncase_01,1,0.5,x\ncase_19,0.5,0,y\n",
        "\ufeffOAR;case_01;case_19\nBrainstem;1;0.5\nOpticChiasm;0.5;0\n",
    ],
    ids=["structures in columns", "structures in rows"],
)
def test_presence_table(tmp_path: Path, text: str) -> None:
    path = tmp_path / "OAR_data.csv"
    path.write_text(text, encoding="utf-8")
    assert read_presence(path, HAN_SEG) == {
        "case_01": {"Brainstem": 1.0, "OpticChiasm": 0.5},
        "case_19": {"Brainstem": 0.5, "OpticChiasm": 0.0},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,Heart\ncase_01,1\n", "expected structures of han_seg"),
        ("", "expected structures of han_seg"),
        ("case,Brainstem\ncase_01,yes\n", "case_01: expected 0, 0.5 or 1, found 'yes'"),
        ("case,Brainstem,Lips\ncase_01,1\n", "case_01: expected 0, 0.5 or 1, found ''"),
    ],
)
def test_broken_presence_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "OAR_data.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_presence(path, HAN_SEG)


def test_table_and_masks_may_contradict_each_other() -> None:
    presence = {"Lips": 1.0, "Glottis": 0.5, "OpticChiasm": 0.0, "Brainstem": 1.0}
    assert find_contradictions(presence, ("Lips", "Glottis")) == (
        "no mask though the table has it in the field: Lips, Glottis",
        "a mask though the table has it absent: OpticChiasm",
    )
    assert find_contradictions({"Lips": 1.0, "OpticChiasm": 0.0}, ("OpticChiasm",)) == ()
