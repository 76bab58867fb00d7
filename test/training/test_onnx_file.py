"""No ONNX file tells on what machine it was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from oarseg.training.exporting.onnx_file import described_parts, strip_metadata

SHIPPED = sorted((Path(__file__).parents[2] / "weights").glob("*.onnx"))


def notes(path: Path) -> list[str]:
    """Every property and doc string of a file."""
    parts = list(described_parts(onnx.load(str(path))))
    found = [entry.value for part in parts for entry in getattr(part, "metadata_props", ())]
    return found + [part.doc_string for part in parts if part.doc_string]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_hold_no_notes(path: Path) -> None:
    assert notes(path) == []
    assert b"/site-packages/" not in path.read_bytes()


def test_there_are_shipped_files() -> None:
    assert len(SHIPPED) == 6


def test_only_the_notes_are_removed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "x.onnx"
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.LeakyReLU()).eval()
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, 5, 5, 5),),
        str(path),
        input_names=["image"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    before = onnx.load(str(path))
    assert any("site-packages" in note for note in notes(path))
    image = np.random.default_rng(0).normal(size=(1, 1, 5, 5, 5)).astype(np.float32)

    def run() -> object:
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {"image": image})[0].tobytes()

    wanted = run()
    strip_metadata(path)
    after = onnx.load(str(path))
    assert notes(path) == []
    assert run() == wanted
    for model in (before, after):
        for part in described_parts(model):
            if hasattr(part, "metadata_props"):
                del part.metadata_props[:]
            part.ClearField("doc_string")
    assert before == after
