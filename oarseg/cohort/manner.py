"""How a cohort is worked on: what all its workers must agree on, and what changes no label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.cohort.plan import FOLDER
from oarseg.errors import InputError
from oarseg.results.folder import replace_text

MANNER: Final = FOLDER / "manner.json"


@dataclass(frozen=True, config=STRICT)
class Manner:
    """How a cohort is worked on.

    Attributes:
        attempts: that a case has; deaths of what computes it count.
        lease_s: an attempt without a sign of life for that long is taken over.
        feeders: cases that are in work beside the one in the network; None measures the first
            cases, and chooses then.
    """

    attempts: Annotated[int, Field(ge=1)] = 3
    lease_s: Annotated[float, Field(gt=0)] = 60.0
    feeders: Annotated[int, Field(ge=0)] | None = None


_MANNER: Final = TypeAdapter(Manner)


def write_manner(output: Path, manner: Manner) -> None:
    """Write it for the workers.

    Raises:
        OutputError: it cannot be written.
    """
    replace_text(output, MANNER, _MANNER.dump_json(manner).decode() + "\n")


def read_manner(output: Path) -> Manner:
    """Read what the run has written; the usual manner before a run.

    Raises:
        InputError: the file is damaged.
    """
    path = output / MANNER
    try:
        return _MANNER.validate_json(path.read_bytes())
    except FileNotFoundError:
        return Manner()
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{path}: expected how to work on a cohort, cannot read it; run oarseg cohort run anew"
        ) from error
