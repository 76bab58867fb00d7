"""How good a model's segmentation of an organ is to be expected, by how far its folds agree.

``calibration.json`` lies beside the manifest and names it by its SHA-256. The manifest does not
name it in turn: the manifest's hash stands for the model in every report, so that it must stay the
same when a model is calibrated, or calibrated once more with further cases. A calibration holds
numbers only, each with a range, and its own hash stands in the reports that use it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import FailFast, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from oarseg.challenges.structures import STRICT
from oarseg.errors import OutputError, WeightsError
from oarseg.model.entries.refusal import first_problem
from oarseg.model.entries.value_types import Share, ShortName
from oarseg.model.manifest import Region

CALIBRATION: Final = "calibration.json"
CALIBRATE_AGAIN: Final = "calibrate again with 'oarseg evaluate --calibrate', or remove it"
LARGEST_CALIBRATION_BYTES: Final = 1 << 18
# Fewer say nothing of the spread of a model's errors.
FEWEST_CASES: Final = 5
# Agreements in reports have four digits, so no line through them is steeper.
STEEPEST: Final = 1e4
# Reports round; an agreement is beyond those seen only if it is so by more.
ROUNDING: Final = 5e-5


@dataclass(frozen=True, config=STRICT)
class HowCompared:
    """How the folds were run that were compared; with other settings they agree otherwise.

    Attributes:
        folds: how many.
        mirroring, step: as in a report's ``effort``.
        region: what was segmented, which decides where tiles lie.
        repair: what was repaired; it changes the Dice and not the agreement.
    """

    folds: Annotated[int, Field(ge=2, le=100, strict=True)]
    mirroring: Annotated[bool, Field(strict=True)]
    step: Annotated[float, Field(gt=0, le=1)]
    region: Region
    repair: Annotated[tuple[ShortName, ...], Field(max_length=16)] = ()

    def is_as(self, other: HowCompared) -> bool:
        """Tell whether folds were run alike, for steps as they stand in JSON."""
        alike = replace(self, step=other.step) == other
        return alike and math.isclose(self.step, other.step)


@dataclass(frozen=True, config=STRICT)
class OrganCalibration:
    """The expected Dice of an organ: ``mean_dice + slope * (agreement - mean_agreement)``.

    Attributes:
        organ: its name.
        cases: how many it was learned from.
        lowest_agreement, highest_agreement: among these.
        mean_agreement, mean_dice: over these.
        slope: 0 where agreement says nothing of the Dice.
        error: root mean square of what was wrong when each case was left out in turn.
    """

    organ: ShortName
    cases: Annotated[int, Field(ge=FEWEST_CASES, le=1_000_000, strict=True)]
    lowest_agreement: Share
    highest_agreement: Share
    mean_agreement: Share
    mean_dice: Share
    slope: Annotated[float, Field(ge=0, le=STEEPEST)]
    error: Share

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        low, high = self.lowest_agreement - ROUNDING, self.highest_agreement + ROUNDING
        if not low <= self.mean_agreement <= high:
            raise ValueError("mean_agreement must lie between the lowest and the highest")
        return self

    def expected(self, agreement: float) -> ExpectedDice:
        """Expect the Dice of a case whose folds agree that far."""
        if agreement < self.lowest_agreement - ROUNDING:
            # Nothing is known of such cases but that they are unlike all that were seen.
            return ExpectedDice(None, None, "below")
        above = agreement > self.highest_agreement + ROUNDING
        seen = min(max(agreement, self.lowest_agreement), self.highest_agreement)
        dice = self.mean_dice + self.slope * (seen - self.mean_agreement)
        return ExpectedDice(min(max(dice, 0.0), 1.0), self.error, "above" if above else None)


@plain_dataclass(frozen=True)
class ExpectedDice:
    """What is expected of an organ in a case.

    Attributes:
        dice: None where the folds agree less than in any case of the calibration.
        error: how far it may be off, as a root mean square.
        beyond: the folds agree less or more than in any case of the calibration; above, the Dice
            is that of the highest agreement seen.
    """

    dice: float | None
    error: float | None
    beyond: Literal["below", "above"] | None


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """What was learned of a model from cases that no fold has seen.

    Attributes:
        manifest_sha256: the model that it is of.
        compared: how the folds were run.
        organs: those with enough cases.
    """

    format_version: Literal[1]
    manifest_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    compared: HowCompared
    organs: Annotated[tuple[OrganCalibration, ...], Field(min_length=1, max_length=256), FailFast()]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len({row.organ for row in self.organs}) != len(self.organs):
            raise ValueError("organs must differ from each other")
        return self

    def expected_dice(
        self, agreement: Mapping[str, float | None], compared: HowCompared
    ) -> dict[str, ExpectedDice | None] | None:
        """Expect the Dice of each organ of a case.

        Args:
            agreement: mean pairwise Dice of the folds, by organ; None where no fold found it.
            compared: how the folds were run.

        Returns:
            None for an organ that no fold found or that was not calibrated. The whole is None where
            the folds were run otherwise than for the calibration.
        """
        if not compared.is_as(self.compared):
            return None
        known = {row.organ: row for row in self.organs}
        return {
            name: None if value is None or name not in known else known[name].expected(value)
            for name, value in agreement.items()
        }


def read_calibration(folder: Path, manifest_sha256: str) -> tuple[Calibration, bytes] | None:
    """Read the calibration of a weights folder, and its bytes; None where it has none.

    Args:
        folder: the weights folder.
        manifest_sha256: of its manifest.

    Raises:
        WeightsError: it cannot be read, is damaged, or is of another model.
    """
    path = folder / CALIBRATION
    try:
        if not path.exists():
            return None
        if not path.is_file():
            raise WeightsError(f"{path}: expected a file, found none; {CALIBRATE_AGAIN}")
        with path.open("rb") as stream:
            text = stream.read(LARGEST_CALIBRATION_BYTES + 1)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if len(text) > LARGEST_CALIBRATION_BYTES:
        raise WeightsError(
            f"{path}: file: expected at most {LARGEST_CALIBRATION_BYTES} bytes; {CALIBRATE_AGAIN}"
        )
    try:
        found = TypeAdapter(Calibration).validate_json(text)
    except ValidationError as error:
        raise WeightsError(f"{path}: {first_problem(error)}; {CALIBRATE_AGAIN}") from error
    if found.manifest_sha256 != manifest_sha256:
        raise WeightsError(
            f"{path}: is of the model with the manifest {found.manifest_sha256[:12]}…, this one is "
            f"{manifest_sha256[:12]}…; {CALIBRATE_AGAIN}"
        )
    return found, text


def write_calibration(calibration: Calibration, folder: Path) -> Path:
    """Write ``calibration.json`` into a weights folder, in place of the one there.

    Raises:
        OutputError: it cannot be written.
    """
    document: Any = TypeAdapter(Calibration).dump_python(calibration, mode="json")
    text = json.dumps(document, indent=1) + "\n"
    with _begun_file(folder) as begun:
        begun.write_text(text, encoding="utf-8")
        os.replace(begun, folder / CALIBRATION)
    return folder / CALIBRATION


def check_writable(folder: Path) -> None:
    """Make sure that a calibration can be written, before long work for it.

    Raises:
        OutputError: it cannot.
    """
    with _begun_file(folder) as begun:
        begun.write_bytes(b"")


@contextlib.contextmanager
def _begun_file(folder: Path) -> Iterator[Path]:
    """Give a file of this process alone, so that of two at once the last one's stays, whole."""
    begun = folder / f".begun_{os.getpid()}_{CALIBRATION}"
    try:
        yield begun
    except OSError as error:
        raise OutputError(
            f"{folder / CALIBRATION}: cannot be written ({error.strerror}); copy the weights "
            "folder to where you may write, and pass the copy"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            begun.unlink(missing_ok=True)
