"""What ``nnUNetv2_find_best_configuration`` recommends, from the file that it leaves."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from oarseg.errors import InputError
from oarseg.training.nnunet_files.json_file import READ, invalid, read_json_object
from oarseg.training.nnunet_files.plans import Identifier

INFORMATION: Final = "inference_information.json"


@dataclass(frozen=True, config=READ)
class _Selected:
    configuration: Identifier
    trainer: Identifier
    plans_identifier: Identifier

    @property
    def folder(self) -> str:
        return f"{self.trainer}__{self.plans_identifier}__{self.configuration}"


@dataclass(frozen=True, config=READ)
class _Best:
    selected_model_or_models: Annotated[tuple[_Selected, ...], Field(min_length=1, max_length=16)]
    postprocessing_file: str = ""


@dataclass(frozen=True, config=READ)
class _Information:
    best_model_or_ensemble: _Best
    folds: Annotated[tuple[Annotated[int, Field(ge=0, le=1000)], ...], Field(max_length=100)] = (
        field(default=())
    )


@dataclass(frozen=True)
class Recommendation:
    """The models to use.

    Attributes:
        folders: their results folders; probabilities of several are averaged.
        folds: of each.
        determined: the folder in which nnU-Net determined the postprocessing; None if it does not
            lie there any more.
    """

    folders: tuple[Path, ...]
    folds: tuple[str, ...]
    determined: Path | None


def read_recommendation(dataset: Path) -> Recommendation:
    """Read the recommendation of a data set.

    Args:
        dataset: its folder in ``nnUNet_results``, or the file itself.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = dataset if dataset.is_file() else dataset / INFORMATION
    if not path.is_file():
        raise InputError(
            f"{dataset}: expected a data set's folder in nnUNet_results with {INFORMATION}, found "
            "none; run nnUNetv2_find_best_configuration, or pass results folders instead of --best"
        )
    try:
        found = TypeAdapter(_Information).validate_python(read_json_object(path))
    except ValidationError as error:
        raise invalid(path, error) from error
    best = found.best_model_or_ensemble
    folders = tuple(path.parent / chosen.folder for chosen in best.selected_model_or_models)
    if len(set(folders)) != len(folders):
        raise InputError(f"{path}: selected_model_or_models: expected each model once")
    return Recommendation(
        folders, tuple(str(fold) for fold in found.folds), _determined(best, folders)
    )


def _determined(best: _Best, folders: tuple[Path, ...]) -> Path | None:
    """Find where nnU-Net compared postprocessings: its path may be of another machine."""
    name = PurePosixPath(best.postprocessing_file.replace("\\", "/")).parent.name
    inside = folders[0] if len(folders) == 1 else folders[0].parent / "ensembles"
    there = inside / name
    return there if name not in ("", ".", "..") and there.is_dir() else None
