"""itk-elastix's rigid registration, quiet and in memory.

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

from oarseg.errors import RegistrationError
from oarseg.rigid import RigidTransform
from oarseg.volume import Grid, Vector, Volume, reversed_triple

SEED = 20240229
HISTOGRAM_BINS = 32


@dataclass(frozen=True)
class Stage:
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


def refine(
    fixed: Volume, mask: NDArray[np.bool_], moving: Volume, start: RigidTransform, stage: Stage
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
    """
    method = importlib.import_module("itk.itkElastixRegistrationMethodPython")
    elastix = method.itkElastixRegistrationMethodIF3IF3_New()
    elastix.SetFixedImage(_image(fixed.array.astype(np.float32, copy=False), fixed.grid))
    elastix.SetFixedMask(_image(mask.astype(np.uint8), fixed.grid))
    elastix.SetMovingImage(
        _image(moving.array.astype(np.float32, copy=False), _seen_from_fixed(moving.grid, start))
    )
    elastix.SetParameterObject(_parameters(stage))
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
    return start.after(_result(elastix.GetTransformParameterObject().GetParameterMap(0)))


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
    buffers = importlib.import_module("itk.itkPyBufferPython")
    # A copy of a small image: elastix may outlive the array it was made from.
    image = getattr(buffers, f"itkPyBuffer{kind}").GetImageFromArray(array, False)
    image.SetSpacing(reversed_triple(grid.spacing_mm))
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(np.asarray(grid.direction, float))
    return image


def _parameters(stage: Stage) -> Any:
    module = importlib.import_module("itk.elxParameterObjectPython")
    parameters = module.elastixParameterObject_New()
    parameters.AddParameterMap(_parameter_map(stage))
    return parameters


def _parameter_map(stage: Stage) -> dict[str, tuple[str, ...]]:
    schedule = tuple(str(factor) for factor in stage.shrink for _ in range(3))
    values: dict[str, Any] = {
        "Registration": "MultiResolutionRegistration",
        "FixedImagePyramid": "FixedSmoothingImagePyramid",
        "MovingImagePyramid": "MovingSmoothingImagePyramid",
        "Interpolator": "LinearInterpolator",
        "Metric": "AdvancedMattesMutualInformation",
        "NumberOfHistogramBins": HISTOGRAM_BINS,
        "Optimizer": "AdaptiveStochasticGradientDescent",
        "AutomaticParameterEstimation": "true",
        "MaximumNumberOfIterations": stage.iterations,
        "MaximumStepLength": stage.max_step_mm,
        "Transform": "EulerTransform",
        "AutomaticTransformInitialization": "false",
        "AutomaticScalesEstimation": "true",
        "HowToCombineTransforms": "Compose",
        "ImageSampler": "RandomCoordinate",
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
    texts = {name: (str(value),) for name, value in values.items()}
    return texts | {"ImagePyramidSchedule": schedule}


def _result(found: Any) -> RigidTransform:
    angles = [float(v) for v in found["TransformParameters"]]
    centre = [float(v) for v in found["CenterOfRotationPoint"]]
    return RigidTransform.about(
        cast(Vector, tuple(centre)),
        angles_deg=cast(Vector, tuple(np.rad2deg(angles[:3]).tolist())),
        shift_mm=cast(Vector, tuple(angles[3:])),
    )
