"""MR → CT registration that does not trust headers, with its own verdict."""

from oarseg.registration.accuracy import (
    TG132_MAX_MM,
    TG132_MEAN_MM,
    Accuracy,
    accuracy,
    target_registration_errors,
)
from oarseg.registration.align import Method, Registration, register_mr
from oarseg.registration.deformable import Refinement
from oarseg.registration.record import record, transform_of
from oarseg.registration.verdict import Thresholds, Verdict

__all__ = [
    "TG132_MAX_MM",
    "TG132_MEAN_MM",
    "Accuracy",
    "Method",
    "Refinement",
    "Registration",
    "Thresholds",
    "Verdict",
    "accuracy",
    "record",
    "register_mr",
    "target_registration_errors",
    "transform_of",
]
