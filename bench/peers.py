"""What others get out of the box: SimpleITK's usual recipe and elastix's default map.

Both at full resolution, from the headers' alignment as they stand, and once more from
the images' centres laid on each other, which is the usual remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import itk
import numpy as np
import SimpleITK as sitk

from oarseg.imaging.rigid import RigidTransform
from oarseg.imaging.volume import Volume, to_sitk

THREADS = 2
Peer = Callable[[Volume, Volume], RigidTransform]


def simpleitk(ct: Volume, mr: Volume, *, centred: bool) -> RigidTransform:
    """The recipe of SimpleITK's own rigid CT–MR notebook, with a fixed seed."""
    fixed, moving = (sitk.Cast(to_sitk(volume), sitk.sitkFloat32) for volume in (ct, mr))
    start: sitk.Transform = sitk.Euler3DTransform()
    if centred:
        start = sitk.CenteredTransformInitializer(
            fixed, moving, start, sitk.CenteredTransformInitializerFilter.GEOMETRY
        )
    method = sitk.ImageRegistrationMethod()
    method.SetGlobalDefaultNumberOfThreads(THREADS)
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.01, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(
        learningRate=1.0,
        numberOfIterations=100,
        convergenceMinimumValue=1e-6,
        convergenceWindowSize=10,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    return _rigid(method.Execute(fixed, moving))


def elastix(ct: Volume, mr: Volume, *, centred: bool) -> RigidTransform:
    """Elastix's default parameter map "rigid"."""
    images = [
        itk.image_view_from_array(np.ascontiguousarray(v.array, np.float32)) for v in (ct, mr)
    ]
    for image, volume in zip(images, (ct, mr), strict=True):
        image.SetSpacing(volume.grid.spacing_mm[::-1])
        image.SetOrigin(volume.grid.origin_mm)
        image.SetDirection(np.asarray(volume.grid.direction, float))
    parameters = itk.ParameterObject.New()
    values = parameters.GetDefaultParameterMap("rigid")
    values["AutomaticTransformInitialization"] = ("true" if centred else "false",)
    values["WriteResultImage"] = ("false",)
    parameters.AddParameterMap(values)
    method = itk.ElastixRegistrationMethod.New(
        *images, parameter_object=parameters, log_to_console=False, number_of_threads=THREADS
    )
    method.UpdateLargestPossibleRegion()
    found = method.GetTransformParameterObject().GetParameterMap(0)
    angles = [float(v) for v in found["TransformParameters"]]
    euler = sitk.Euler3DTransform()
    euler.SetCenter([float(v) for v in found["CenterOfRotationPoint"]])
    euler.SetRotation(*angles[:3])
    euler.SetTranslation(angles[3:])
    return _rigid(euler)


def _rigid(transform: sitk.Transform) -> RigidTransform:
    probe = np.vstack([np.zeros(3), np.eye(3)])
    image = np.array([transform.TransformPoint(tuple(p)) for p in probe.tolist()])
    return RigidTransform.from_arrays((image[1:] - image[0]).T, image[0])


PEERS: dict[str, Peer] = {
    "SimpleITK, headers": partial(simpleitk, centred=False),
    "SimpleITK, centres": partial(simpleitk, centred=True),
    "elastix default, headers": partial(elastix, centred=False),
    "elastix default, centres": partial(elastix, centred=True),
}
