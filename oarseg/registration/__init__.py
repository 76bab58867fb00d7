"""Rigid MR → CT registration that does not trust headers, with its own verdict."""

from oarseg.registration.accuracy import Accuracy, accuracy, target_registration_errors
from oarseg.registration.align import Registration, register
from oarseg.registration.resample import move, standardise
from oarseg.registration.verdict import Thresholds, Verdict

__all__ = [
    "Accuracy",
    "Registration",
    "Thresholds",
    "Verdict",
    "accuracy",
    "move",
    "register",
    "standardise",
    "target_registration_errors",
]
