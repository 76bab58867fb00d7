"""Change contrast and sharpness of patches, so that a network takes them as unknown.

Label-driven: tissues' means are drawn anew for each patch, after SynthSeg (Billot et al.,
Medical Image Analysis 86, 2023), which draws whole images from labels; here the image stays and
only its organs are lifted or lowered. Windows and gamma change the scale of a channel. Blur stands
for soft kernels, movement and thick slices.
"""

from __future__ import annotations

import torch

SHIFT_SIGMA = 0.08  # of a normalised channel; about 25 HU where its spread is 300 HU
GAIN_SIGMA = 0.25
# Lower and upper bound of a window, in shares of the channel's range.
LOWER, UPPER = (0.0, 0.1), (0.35, 1.0)
GAMMA = (0.8, 1.25)
# Standard deviation of a blur, in voxels, and where its kernel ends.
BLUR_SIGMA = (0.4, 1.6)
BLUR_REACH = 5


def uniform(rng: torch.Generator, low: float, high: float) -> float:
    """Draw a number between two bounds."""
    return low + (high - low) * float(torch.rand((), generator=rng))


def resample_tissues(
    data: torch.Tensor,
    labels: torch.Tensor,
    *,
    share: float,
    scaled: frozenset[int],
    rng: torch.Generator,
) -> torch.Tensor:
    """Return patches in which each label of some has another mean; background keeps its own.

    Args:
        data: (samples, channels, z, y, x), changed in place.
        labels: (samples, 1, z, y, x), 0 for background and less for what is ignored.
        share: probability that a patch is changed.
        scaled: channels without an offset, such as MR, where 0 stays 0: they get factors.
        rng: of the draws.
    """
    classes = int(labels.max().clamp(min=0)) + 1
    for sample in range(len(data)):
        if float(torch.rand((), generator=rng)) >= share:
            continue
        index = labels[sample, 0].long().clamp(min=0)
        for channel in range(data.shape[1]):
            table = torch.randn(classes, generator=rng)
            table[0] = 0.0
            change = table.to(data.device, data.dtype)[index]
            if channel in scaled:
                data[sample, channel] *= torch.exp(change * GAIN_SIGMA)
            else:
                data[sample, channel] += change * SHIFT_SIGMA
    return data


def change_windows(
    data: torch.Tensor, *, share: float, scaled: frozenset[int], rng: torch.Generator
) -> torch.Tensor:
    """Return patches of which some are clipped to a drawn window and bent by a gamma.

    Args:
        data: (samples, channels, z, y, x), changed in place.
        share: probability that a channel of a patch is changed.
        scaled: channels whose lowest value must stay, such as MR, where 0 means that none is.
        rng: of the draws.
    """
    for sample in data:
        for number, channel in enumerate(sample):
            if float(torch.rand((), generator=rng)) >= share:
                continue
            least, most = channel.min(), channel.max()
            lift = 0.0 if number in scaled else uniform(rng, *LOWER)
            low = least + (most - least) * lift
            high = least + (most - least) * uniform(rng, *UPPER)
            if high <= low:
                continue
            level = ((channel - low) / (high - low)).clamp(0.0, 1.0)
            channel.copy_(low + (high - low) * level ** uniform(rng, *GAMMA))
    return data


def blur(data: torch.Tensor, *, share: float, rng: torch.Generator) -> torch.Tensor:
    """Return patches of which some are blurred, all their channels alike.

    Args:
        data: (samples, channels, z, y, x), changed in place.
        share: probability that a patch is blurred.
        rng: of the draws.
    """
    for sample in data:
        if float(torch.rand((), generator=rng)) < share:
            sigma = uniform(rng, *BLUR_SIGMA)
            for axis in range(1, 4):
                sample.copy_(_blur_along(sample, axis, sigma))
    return data


def _blur_along(channels: torch.Tensor, axis: int, sigma: float) -> torch.Tensor:
    """Convolve channels (c, z, y, x) with a Gaussian along an axis; edges are repeated."""
    steps = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=channels.device, dtype=channels.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    lines = channels.movedim(axis, -1)
    flat = lines.reshape(-1, 1, lines.shape[-1])
    padded = torch.nn.functional.pad(flat, (BLUR_REACH, BLUR_REACH), mode="replicate")
    done = torch.nn.functional.conv1d(padded, (kernel / kernel.sum()).view(1, 1, -1))
    return done.reshape(lines.shape).movedim(-1, axis)
