"""nnU-Net's postprocessing.json: which labels keep their largest part only.

``nnUNetv2_find_best_configuration`` and ``nnUNetv2_determine_postprocessing`` write it beside a
pickle of the same content, which is never opened.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from oarseg.errors import InputError
from oarseg.model.manifest import KeepLargest
from oarseg.training.nnunet_files.json_file import READ, invalid, read_json_object
from oarseg.training.nnunet_files.results_folder import Results

log = logging.getLogger(__name__)

POSTPROCESSING: Final = "postprocessing.json"
MOST_STEPS: Final = 512

Value = Annotated[int, Field(ge=1, le=255, strict=True)]
Values = Annotated[tuple[Value, ...], Field(min_length=1, max_length=255)]
# A label, a region, or a list of either; nnU-Net takes the union.
LabelsOrRegions = Value | Annotated[tuple[Value | Values, ...], Field(min_length=1, max_length=255)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class _Arguments:
    """The arguments of a step; another one would change what it does."""

    labels_or_regions: LabelsOrRegions
    background_label: Annotated[int, Field(strict=True)] = 0

    @model_validator(mode="after")
    def _removes(self) -> Self:
        if self.background_label != 0:
            raise ValueError("background_label: expected 0, as removed voxels are background")
        return self

    @property
    def step(self) -> KeepLargest:
        given = self.labels_or_regions
        parts = given if isinstance(given, tuple) else (given,)
        values = (v for part in parts for v in (part if isinstance(part, tuple) else (part,)))
        return KeepLargest(tuple(dict.fromkeys(values)))


@dataclass(frozen=True, config=READ)
class _Document:
    """The part of the file that says what is done; the rest are scores."""

    # nnU-Net has no other function.
    postprocessing_fns: Annotated[
        tuple[Literal["remove_all_but_largest_component_from_segmentation"], ...],
        Field(max_length=MOST_STEPS),
    ]
    postprocessing_kwargs: Annotated[tuple[_Arguments, ...], Field(max_length=MOST_STEPS)]

    @model_validator(mode="after")
    def _paired(self) -> Self:
        functions, arguments = len(self.postprocessing_fns), len(self.postprocessing_kwargs)
        if functions != arguments:
            raise ValueError(
                f"postprocessing_kwargs: expected one for each of {functions} functions, "
                f"found {arguments}"
            )
        return self


def read_postprocessing(path: Path, known: Iterable[int]) -> tuple[KeepLargest, ...]:
    """Read a ``postprocessing.json``.

    Args:
        path: the file.
        known: values that the model's label map or its training labels may hold.

    Returns:
        The steps, in nnU-Net's order; none where it found none that helps.

    Raises:
        InputError: no such file, a pickle, a step that nnU-Net does not have, or a label that
            the model does not have.
    """
    if path.suffix in (".pkl", ".pickle"):
        raise InputError(
            f"{path}: expected {POSTPROCESSING}, found a pickle, which is not opened as it could "
            f"run anything; nnU-Net writes {POSTPROCESSING} beside it, pass that"
        )
    document: dict[str, Any] = read_json_object(path)
    try:
        found = TypeAdapter(_Document).validate_python(document)
    except ValidationError as error:
        raise invalid(path, error) from error
    steps = tuple(arguments.step for arguments in found.postprocessing_kwargs)
    unknown = sorted({value for step in steps for value in step.labels} - set(known))
    if unknown:
        raise InputError(
            f"{path}: expected labels of this model, found {unknown[0]}; pass the file that "
            "nnU-Net wrote for it, or --postprocessing none"
        )
    return steps


def find_postprocessing(results: Results, folds: Sequence[str]) -> Path | None:
    """Find the file that nnU-Net left for an ensemble of these folds; say what was found.

    One that was determined for other folds is not taken.
    """
    files = sorted(results.folder.glob(f"crossval_results_folds_*/{POSTPROCESSING}"))
    wanted = results.folder / f"crossval_results_folds_{'_'.join(folds)}" / POSTPROCESSING
    if wanted in files:
        log.info(
            "postprocessing: %s is kept with the model; --postprocessing none leaves it out", wanted
        )
        return wanted
    if files:
        log.warning(
            "postprocessing: %s is for other folds than %s and was left out; pass "
            "--postprocessing to take it all the same",
            files[0],
            ", ".join(folds),
        )
    return None
