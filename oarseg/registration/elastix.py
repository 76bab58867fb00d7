"""itk-elastix's registration, rigid and by B-splines, quiet and in memory.

elastix runs on one thread and with a fixed seed: its partial sums, and with them the
last digits of the transform, would otherwise depend on the number of threads.

Only the extension modules that are needed are imported, and only on first use: the
package's own ``itk.ElastixRegistrationMethod`` loads over a thousand modules and takes
about ten seconds, this takes two.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import RegistrationError, ResourceError
from oarseg.imaging.bspline import BSplineTransform
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Vector, Volume, reversed_triple

Map = dict[str, tuple[str, ...]]

SEED = 20240229
HISTOGRAM_BINS = 32


@dataclass(frozen=True)
class ElastixStage:
    """One call of elastix.

    Attributes:
        shrink: the pyramid's factors, coarse to fine, the same along every axis.
        iterations: of the optimiser at each level.
        samples: random points drawn anew in each iteration.
        max_step_mm: the longest mean step at the start of each level.
    """

    shrink: tuple[int, ...]
    iterations: int
    samples: int
    max_step_mm: float


def refine_rigid(
    fixed: Volume,
    mask: NDArray[np.bool_],
    moving: Volume,
    start: RigidTransform,
    stage: ElastixStage,
) -> RigidTransform:
    """Improve a rigid transform by maximising Mattes mutual information.

    Adaptive stochastic gradient descent (Klein et al., IJCV 2009) on elastix's
    AdvancedMattesMutualInformation (Mattes et al., IEEE TMI 2003).

    Args:
        fixed: CT, float32.
        mask: where in ``fixed`` samples are drawn.
        moving: MR, float32.
        start: fixed world → moving world.

    Raises:
        RegistrationError: elastix gave up, as a rule because too few samples met the MR.
        ResourceError: elastix cannot be loaded.
    """
    found = _run(fixed, mask, moving, start, _rigid_map(stage))
    return start.after(_rigid(found))


def fit_bspline(
    fixed: Volume,
    mask: NDArray[np.bool_],
    moving: Volume,
    start: RigidTransform,
    stage: ElastixStage,
    *,
    knots_mm: float,
    stiffness: float,
) -> BSplineTransform:
    """Refine a rigid transform by a cubic B-spline (Rueckert et al., IEEE TMI 1999).

    The same optimiser and metric as ``refine_rigid``, less the bending energy of the spline.

    Args:
        fixed, mask, moving, start: as for ``refine_rigid``.
        stage: one level of the control grid for each level of the pyramid, halved in turn.
        knots_mm: distance of the last level's control points.
        stiffness: weight of the bending energy.

    Raises:
        RegistrationError: as ``refine_rigid``.
    """
    found = _run(fixed, mask, moving, start, _bspline_map(stage, knots_mm, stiffness))
    return BSplineTransform(start, *_spline(found))


def _run(
    fixed: Volume,
    mask: NDArray[np.bool_],
    moving: Volume,
    start: RigidTransform,
    values: Map,
) -> Any:
    """The parameter map of the transform it found after ``start``."""
    method = _itk_module("itkElastixRegistrationMethodPython")
    elastix = method.itkElastixRegistrationMethodIF3IF3_New()
    elastix.SetFixedImage(_image(fixed.array.astype(np.float32, copy=False), fixed.grid))
    elastix.SetFixedMask(_image(mask.astype(np.uint8), fixed.grid))
    elastix.SetMovingImage(
        _image(moving.array.astype(np.float32, copy=False), _seen_from_fixed(moving.grid, start))
    )
    elastix.SetParameterObject(_parameters(values))
    elastix.SetLogToConsole(False)
    elastix.SetLogToFile(False)
    elastix.SetNumberOfThreads(1)
    try:
        elastix.Update()
    except RuntimeError as error:
        raise RegistrationError(
            "MR: elastix could not align it with the CT, as a rule because the two show "
            "different regions; check that both are of the same patient"
        ) from error
    return elastix.GetTransformParameterObject().GetParameterMap(0)


def _itk_module(name: str) -> Any:
    """One of ITK's extension modules, without torch and xarray.

    ITK imports both wherever they are installed, to take their arrays: two seconds, and a
    failure where one of them is broken. Only NumPy's arrays are passed to it here.

    Raises:
        ResourceError: it cannot be loaded.
    """
    try:
        helpers: Any = importlib.import_module("itk.support.helpers")
        helpers._HAVE_TORCH = helpers._HAVE_XARRAY = False
        return importlib.import_module(f"itk.{name}")
    except (ImportError, OSError) as error:
        raise ResourceError(
            f"itk-elastix cannot be loaded ({error}); install it again, or pass --registration none"
        ) from error


def _seen_from_fixed(grid: Grid, start: RigidTransform) -> Grid:
    """The moving grid where ``start`` puts it in the fixed world: elastix then starts at 0."""
    back = start.inverse()
    origin = back.apply(np.array([grid.origin_mm]))[0]
    direction = np.asarray(back.rotation) @ np.asarray(grid.direction)
    return Grid(
        grid.shape,
        grid.spacing_mm,
        cast(Vector, tuple(origin.tolist())),
        RigidTransform.from_arrays(direction, np.zeros(3)).rotation,
    )


def _image(array: NDArray[Any], grid: Grid) -> Any:
    kind = {"float32": "IF3", "uint8": "IUC3"}[array.dtype.name]
    buffers = _itk_module("itkPyBufferPython")
    # A copy of a small image: elastix may outlive the array it was made from.
    image = getattr(buffers, f"itkPyBuffer{kind}").GetImageFromArray(array, False)
    image.SetSpacing(reversed_triple(grid.spacing_mm))
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(np.asarray(grid.direction, float))
    return image


def _parameters(values: Map) -> Any:
    module = _itk_module("elxParameterObjectPython")
    parameters = module.elastixParameterObject_New()
    parameters.AddParameterMap(values)
    return parameters


def _rigid_map(stage: ElastixStage) -> Map:
    return _texts(
        _common(stage)
        | {
            "Registration": "MultiResolutionRegistration",
            "Metric": "AdvancedMattesMutualInformation",
            "ImageSampler": "RandomCoordinate",
            "Transform": "EulerTransform",
            "AutomaticTransformInitialization": "false",
            "AutomaticScalesEstimation": "true",
        }
    )


def _bspline_map(stage: ElastixStage, knots_mm: float, stiffness: float) -> Map:
    factors = [2**level for level in reversed(range(len(stage.shrink)))]
    return _texts(
        _common(stage)
        | {
            "Registration": "MultiMetricMultiResolutionRegistration",
            "Metric": ("AdvancedMattesMutualInformation", "TransformBendingEnergyPenalty"),
            "Metric0Weight": 1.0,
            "Metric1Weight": stiffness,
            "ImageSampler": ("RandomCoordinate", "RandomCoordinate"),
            "Transform": "RecursiveBSplineTransform",
            "FinalGridSpacingInPhysicalUnits": knots_mm,
            "GridSpacingSchedule": tuple(factor for factor in factors for _ in range(3)),
        }
    )


def _common(stage: ElastixStage) -> dict[str, Any]:
    return {
        "FixedImagePyramid": "FixedSmoothingImagePyramid",
        "MovingImagePyramid": "MovingSmoothingImagePyramid",
        "ImagePyramidSchedule": tuple(factor for factor in stage.shrink for _ in range(3)),
        "Interpolator": "LinearInterpolator",
        "NumberOfHistogramBins": HISTOGRAM_BINS,
        "Optimizer": "AdaptiveStochasticGradientDescent",
        "AutomaticParameterEstimation": "true",
        "MaximumNumberOfIterations": stage.iterations,
        "MaximumStepLength": stage.max_step_mm,
        "HowToCombineTransforms": "Compose",
        "NumberOfSpatialSamples": stage.samples,
        "NewSamplesEveryIteration": "true",
        "RequiredRatioOfValidSamples": 0.05,
        "ErodeMask": "false",
        "UseDirectionCosines": "true",
        "RandomSeed": SEED,
        "NumberOfResolutions": len(stage.shrink),
        "FixedImageDimension": 3,
        "MovingImageDimension": 3,
        "FixedInternalImagePixelType": "float",
        "MovingInternalImagePixelType": "float",
        "Resampler": "DefaultResampler",
        "ResampleInterpolator": "FinalLinearInterpolator",
        "WriteResultImage": "false",
        "WriteTransformParametersEachIteration": "false",
    }


def _texts(values: dict[str, Any]) -> Map:
    return {
        name: tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)
        for name, value in values.items()
    }


def _rigid(found: Any) -> RigidTransform:
    angles = [float(v) for v in found["TransformParameters"]]
    centre = [float(v) for v in found["CenterOfRotationPoint"]]
    return RigidTransform.about(
        cast(Vector, tuple(centre)),
        angles_deg=cast(Vector, tuple(np.rad2deg(angles[:3]).tolist())),
        shift_mm=cast(Vector, tuple(angles[3:])),
    )


def _spline(found: Any) -> tuple[Grid, NDArray[np.float64]]:
    """The control points and their coefficients."""
    size, spacing, origin, direction = (
        [float(v) for v in found[f"Grid{name}"]]
        for name in ("Size", "Spacing", "Origin", "Direction")
    )
    shape = reversed_triple(int(n) for n in size)
    # elastix lists a direction matrix by columns.
    rows = RigidTransform.from_arrays(np.array(direction).reshape(3, 3).T, np.zeros(3)).rotation
    grid = Grid(shape, reversed_triple(spacing), cast(Vector, tuple(origin)), rows)
    coefficients = np.array([float(v) for v in found["TransformParameters"]])
    return grid, coefficients.reshape(3, *shape)
