"""Call itk-elastix for rigid and B-spline registration, silently and in memory.

The settings of each stage are in ``align`` (rigid) and ``deformable`` (B-spline).

elastix runs on one thread with a fixed seed: otherwise its partial sums, and with them the
last digits of the transform, would depend on the number of threads.

Only the extension modules needed are imported, on first use. The package's own
``itk.ElastixRegistrationMethod`` loads over a thousand modules in about ten seconds; this
takes two.
"""

from __future__ import annotations

import importlib
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from oarseg.errors import RegistrationError, ResourceError
from oarseg.imaging.bspline import BSplineTransform
from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Grid, Vector, Volume, reversed_triple

ParameterMap = dict[str, tuple[str, ...]]

SEED = 20240229
HISTOGRAM_BINS = 32


@dataclass(frozen=True)
class ElastixStage:
    """Settings of one call of elastix.

    Attributes:
        shrink: shrink factors of the pyramid, coarse to fine, the same along every axis.
        iterations: iterations of the optimiser per level.
        samples: random samples, redrawn in each iteration.
        max_step_mm: largest mean step at the start of each level.
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
        mask: region of ``fixed`` to sample in.
        moving: MR, float32.
        start: fixed world → moving world.
        stage: settings.

    Raises:
        RegistrationError: elastix failed, usually because too few samples hit the MR.
        ResourceError: elastix cannot be loaded.
    """
    found = _run_elastix(fixed, mask, moving, start, _rigid_map(stage))
    return start.after(_read_rigid(found))


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

    The optimiser and metric of ``refine_rigid``, with a penalty on the bending energy.

    Args:
        fixed, mask, moving, start: as for ``refine_rigid``.
        stage: settings; the spacing of the control points halves with each level.
        knots_mm: spacing of the control points at the last level.
        stiffness: weight of the bending energy.

    Raises:
        RegistrationError: as ``refine_rigid``.
    """
    found = _run_elastix(fixed, mask, moving, start, _bspline_map(stage, knots_mm, stiffness))
    return BSplineTransform(start, *_read_spline(found))


def _run_elastix(
    fixed: Volume,
    mask: NDArray[np.bool_],
    moving: Volume,
    start: RigidTransform,
    values: ParameterMap,
) -> Any:
    """Run elastix; return the parameter map of the transform to apply before ``start``."""
    # Whatever it failed with is raised below, where it is needed.
    wait([begin_loading()])
    method = _itk_module("itkElastixRegistrationMethodPython")
    elastix = method.itkElastixRegistrationMethodIF3IF3_New()
    elastix.SetFixedImage(_to_itk_image(fixed.array.astype(np.float32, copy=False), fixed.grid))
    elastix.SetFixedMask(_to_itk_image(mask.astype(np.uint8), fixed.grid))
    elastix.SetMovingImage(
        _to_itk_image(
            moving.array.astype(np.float32, copy=False), _move_to_fixed_world(moving.grid, start)
        )
    )
    elastix.SetParameterObject(_to_parameter_object(values))
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


@cache
def begin_loading() -> Future[None]:
    """Begin to load what a registration needs of ITK, while other work goes on.

    Half of its time would pass in the first call otherwise: ITK loads parts when they are used.

    Returns:
        Ends with the loading; one for all registrations of the process.
    """
    pool = ThreadPoolExecutor(1)
    loading = pool.submit(_load)
    pool.shutdown(wait=False)
    return loading


def _load() -> None:
    method = _itk_module("itkElastixRegistrationMethodPython")
    method.itkElastixRegistrationMethodIF3IF3_New()
    grid = Grid((1, 1, 1), (1.0, 1.0, 1.0))
    for kind in (np.float32, np.uint8):
        _to_itk_image(np.zeros(grid.shape, kind), grid)
    _to_parameter_object({})


def _itk_module(name: str) -> Any:
    """Import one of ITK's extension modules, without torch and xarray.

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


def _move_to_fixed_world(grid: Grid, start: RigidTransform) -> Grid:
    """Place the moving grid in the fixed world by ``start``, so that elastix starts at 0."""
    back = start.inverse()
    origin = back.apply(np.array([grid.origin_mm]))[0]
    direction = np.asarray(back.rotation) @ np.asarray(grid.direction)
    return Grid(
        grid.shape,
        grid.spacing_mm,
        cast(Vector, tuple(origin.tolist())),
        RigidTransform.from_arrays(direction, np.zeros(3)).rotation,
    )


def _to_itk_image(array: NDArray[Any], grid: Grid) -> Any:
    kind = {"float32": "IF3", "uint8": "IUC3"}[array.dtype.name]
    buffers = _itk_module("itkPyBufferPython")
    # A copy of a small image: elastix may outlive the array it was made from.
    image = getattr(buffers, f"itkPyBuffer{kind}").GetImageFromArray(array, False)
    image.SetSpacing(reversed_triple(grid.spacing_mm))
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(np.asarray(grid.direction, float))
    return image


def _to_parameter_object(values: ParameterMap) -> Any:
    module = _itk_module("elxParameterObjectPython")
    parameters = module.elastixParameterObject_New()
    parameters.AddParameterMap(values)
    return parameters


def _rigid_map(stage: ElastixStage) -> ParameterMap:
    return _as_texts(
        _common_parameters(stage)
        | {
            "Registration": "MultiResolutionRegistration",
            "Metric": "AdvancedMattesMutualInformation",
            "ImageSampler": "RandomCoordinate",
            "Transform": "EulerTransform",
            "AutomaticTransformInitialization": "false",
            "AutomaticScalesEstimation": "true",
        }
    )


def _bspline_map(stage: ElastixStage, knots_mm: float, stiffness: float) -> ParameterMap:
    factors = [2**level for level in reversed(range(len(stage.shrink)))]
    return _as_texts(
        _common_parameters(stage)
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


def _common_parameters(stage: ElastixStage) -> dict[str, Any]:
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


def _as_texts(values: dict[str, Any]) -> ParameterMap:
    return {
        name: tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)
        for name, value in values.items()
    }


def _read_rigid(found: Any) -> RigidTransform:
    angles = [float(v) for v in found["TransformParameters"]]
    centre = [float(v) for v in found["CenterOfRotationPoint"]]
    return RigidTransform.about(
        cast(Vector, tuple(centre)),
        angles_deg=cast(Vector, tuple(np.rad2deg(angles[:3]).tolist())),
        shift_mm=cast(Vector, tuple(angles[3:])),
    )


def _read_spline(found: Any) -> tuple[Grid, NDArray[np.float64]]:
    """Read the control points and their coefficients."""
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
