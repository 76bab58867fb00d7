"""What a cross-validation said of a model when it was trained."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import FailFast, Field, model_validator
from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.model.entries.value_types import Share, ShortName, ShortText


@dataclass(frozen=True, config=STRICT)
class ValidatedDice:
    """The Dice of an organ over the validation cases of all folds.

    Attributes:
        organ: its name.
        cases: how many counted.
        mean: over them.
        sd: standard deviation (n − 1); None for one case.
    """

    organ: ShortName
    cases: Annotated[int, Field(ge=1, le=1_000_000)]
    mean: Share
    sd: Share | None = None


@dataclass(frozen=True, config=STRICT)
class CrossValidation:
    """The cross-validated Dice of each organ of which there is one.

    Attributes:
        note: what the figures are, or why there are none.
        organs: empty where there are none.
    """

    note: ShortText
    organs: Annotated[tuple[ValidatedDice, ...], Field(max_length=256), FailFast()] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({row.organ for row in self.organs}) != len(self.organs):
            raise ValueError("organs must differ from each other")
        return self

    def record(self) -> dict[str, Any]:
        """Describe it for a report."""
        rows = {
            row.organ: {"cases": row.cases, "mean_dice": row.mean, "sd": row.sd}
            for row in self.organs
        }
        return {"note": self.note, "organs": rows}
