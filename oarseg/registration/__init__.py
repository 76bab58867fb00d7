"""Registration of an MR to a CT, without trust in headers and with its own verdict."""

from oarseg.registration.accuracy import (
    TG132_MAX_MM,
    TG132_MEAN_MM,
    Accuracy,
    landmark_accuracy,
    target_registration_errors,
)
from oarseg.registration.align import Method, Registration, register_mr
from oarseg.registration.deformable import Refinement
from oarseg.registration.record import registration_record, transform_of
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
    "landmark_accuracy",
    "register_mr",
    "registration_record",
    "target_registration_errors",
    "transform_of",
]
