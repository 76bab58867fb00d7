"""Convert a registration to plain data for reports, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from oarseg.imaging.bspline import BSplineTransform
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.transform import Transform
from oarseg.imaging.volume import Grid
from oarseg.registration.align import Registration


def registration_record(found: Registration) -> dict[str, Any]:
    """Return verdict, seconds and transform (CT world → MR world) as data for JSON."""
    transform = found.transform
    return {
        **asdict(found.verdict),
        "seconds": round(found.seconds, 2),
        "rotation": transform.rigid_part.rotation,
        "translation_mm": transform.rigid_part.translation_mm,
        "refinement": asdict(found.refinement) if found.refinement else None,
        "bspline": _spline_record(transform) if isinstance(transform, BSplineTransform) else None,
    }


def _spline_record(transform: BSplineTransform) -> dict[str, Any]:
    # A tenth of a micrometre suffices and keeps the report readable.
    values = np.round(transform.coefficients_mm, 4)
    return {"grid": asdict(transform.grid), "coefficients_mm": values.ravel().tolist()}


def transform_of(saved: Mapping[str, Any]) -> Transform:
    """Rebuild the transform from a ``registration_record`` read from JSON."""
    rigid = RigidTransform.from_arrays(
        np.array(saved["rotation"]), np.array(saved["translation_mm"])
    )
    spline = saved.get("bspline")
    if spline is None:
        return rigid
    grid = TypeAdapter(Grid).validate_python(spline["grid"])
    coefficients = np.array(spline["coefficients_mm"]).reshape(3, *grid.shape)
    return BSplineTransform(rigid, grid, coefficients)
