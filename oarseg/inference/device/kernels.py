"""The four kernels that a GPU runs besides the network, and how they are launched.

Each float operation is written as an intrinsic that rounds to the nearest and is never fused, as
NVRTC contracts ``a * b + c`` to one operation and nnU-Net rounds both. CuPy compiles with
``-ftz=true``; what that flushes is below 1.2e-38, and the smallest half is 6e-8.

The tests run this very text, thread by thread, without a GPU (``test/support/cuda_source.py``).
So it keeps to a part of C: no pointer arithmetic, no ``continue``, loops that all threads share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

# Threads of a block.
_BLOCK = 256

# Conversions of halves, which are kept as their bits, so that no header of CUDA is needed.
CONVERSIONS = r"""
__device__ float widen(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ unsigned short narrow(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ unsigned short narrow_double(double value) {
    unsigned short bits;
    asm("cvt.rn.f16.f64 %0, %1;" : "=h"(bits) : "d"(value));
    return bits;
}
"""

SOURCE = r"""
// Adds logits, mirrored along some axes, to a sum; a thread for each voxel of each class.
extern "C" __global__ void add_logits(
    const float *logits, // (classes, depth, height, width)
    float *total,        // the same
    long long classes, long long depth, long long height, long long width,
    int flip_z, int flip_y, int flip_x,
    int fresh,    // begin with these logits, whatever the sum was
    int divisor)  // what the sum is divided by afterwards
{
    long long element = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (element >= classes * depth * height * width) return;
    long long x = element % width;
    long long y = element / width % height;
    long long plane = element / (width * height);
    long long z = plane % depth;
    z = flip_z ? depth - 1 - z : z;
    y = flip_y ? height - 1 - y : y;
    x = flip_x ? width - 1 - x : x;
    float sum = logits[((plane / depth * depth + z) * height + y) * width + x];
    if (!fresh) {
        sum = __fadd_rn(total[element], sum);
    }
    if (divisor > 1) {
        sum = __fdiv_rn(sum, (float)divisor);
    }
    total[element] = sum;
}

// Adds one fold's weighted logits to its sums; a thread for each voxel of the tile.
extern "C" __global__ void add_tile(
    const float *logits,            // (classes, depth, height, width)
    const float *share,             // (depth, height, width), what a logit is multiplied by
    const unsigned short *gaussian, // (depth, height, width), what is added to the weights
    unsigned short *sums,           // (classes, depth, rows, columns)
    unsigned short *weights,        // (depth, rows, columns)
    int *fault,                     // number of the first tile with a logit that is not finite
    long long classes, long long depth, long long height, long long width,
    long long rows, long long columns,
    long long z, long long y, long long x, // the tile's first voxel
    int weigh,                             // add to the weights too
    int tile)                              // its number, from 1 on
{
    long long voxel = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long voxels = depth * height * width;
    if (voxel >= voxels) return;
    long long slot = (z + voxel / (height * width)) % depth;
    long long row = y + voxel / width % height;
    long long place = (slot * rows + row) * columns + x + voxel % width;
    if (weigh) {
        weights[place] = narrow(__fadd_rn(widen(weights[place]), widen(gaussian[voxel])));
    }
    for (long long index = 0; index < classes; index++) {
        float logit = logits[index * voxels + voxel];
        long long sum = index * depth * rows * columns + place;
        sums[sum] = narrow(__fadd_rn(widen(sums[sum]), __fmul_rn(logit, share[voxel])));
        if (!(fabsf(logit) <= 3.4028234e38f)) {
            atomicCAS(fault, 0, tile);
        }
    }
}

// Takes the mean of the folds' quotients for one plane, and clears its slot of the ring.
extern "C" __global__ void finish_plane(
    unsigned short *sums,    // (folds, classes, depth, rows, columns)
    unsigned short *weights, // (depth, rows, columns)
    unsigned short *plane,   // (classes, height, width), the image's part
    int *fault,              // number of the first plane whose logits are not finite
    long long folds, long long classes, long long depth, long long rows, long long columns,
    long long slot,
    long long above, long long left, long long height, long long width,
    int number)              // the plane's, from 1 on; 0 where nothing of it is in the image
{
    long long pixel = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= rows * columns) return;
    long long row = pixel / columns - above;
    long long column = pixel % columns - left;
    int inside = number > 0 && row >= 0 && row < height && column >= 0 && column < width;
    long long place = slot * rows * columns + pixel;
    float weight = widen(weights[place]);
    weights[place] = 0;
    // No tile covers the corners: their weights are 0, and so are their sums.
    if (weight == 0.0f) {
        weight = 1.0f;
    }
    for (long long index = 0; index < classes; index++) {
        unsigned short mean = 0;
        for (long long fold = 0; fold < folds; fold++) {
            long long sum = (fold * classes + index) * depth * rows * columns + place;
            unsigned short quotient = narrow(__fdiv_rn(widen(sums[sum]), weight));
            mean = fold > 0 ? narrow(__fadd_rn(widen(mean), widen(quotient))) : quotient;
            sums[sum] = 0;
        }
        if (folds > 1) {
            mean = narrow(__fdiv_rn(widen(mean), (float)folds));
        }
        if (inside) {
            plane[(index * height + row) * width + column] = mean;
            if (!(fabsf(widen(mean)) <= 65504.0f)) {
                atomicCAS(fault, 0, number);
            }
        }
    }
}

// Interpolates a plane of labels as SciPy does, in float64 and in its order; a thread a voxel.
extern "C" __global__ void paint_plane(
    const unsigned short *before,    // (classes, height, width), the first plane
    const unsigned short *last,      // the second
    unsigned char *labels,           // (rows, columns)
    const long long *row_taps,       // (rows, 2)
    const double *row_weights,       // (rows, 2)
    const long long *column_taps,    // (columns, 2)
    const double *column_weights,    // (columns, 2)
    const unsigned char *values,     // (classes), the labels
    const unsigned char *mask,       // (block rows, block columns) of this plane
    const long long *row_blocks,     // (rows), which block each lies in
    const long long *column_blocks,  // (columns)
    double weight_before, double weight_last,
    long long classes, long long height, long long width, long long rows, long long columns,
    long long block_columns,
    int regions)                     // each class is a region, painted where it is positive
{
    long long pixel = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (pixel >= rows * columns) return;
    long long row = pixel / columns;
    long long column = pixel % columns;
    labels[pixel] = 0;
    if (!mask[row_blocks[row] * block_columns + column_blocks[column]]) return;
    unsigned char label = 0;
    float best = 0.0f;
    for (long long index = 0; index < classes; index++) {
        double total = 0.0;
        for (long long tap = 0; tap < 8; tap++) {
            double across = tap < 4 ? weight_before : weight_last;
            long long i = 2 * row + tap / 2 % 2;
            long long j = 2 * column + tap % 2;
            if (across != 0.0 && row_weights[i] != 0.0 && column_weights[j] != 0.0) {
                long long place = (index * height + row_taps[i]) * width + column_taps[j];
                double value = widen(tap < 4 ? before[place] : last[place]);
                value = __dmul_rn(__dmul_rn(__dmul_rn(value, across), row_weights[i]),
                                  column_weights[j]);
                total = __dadd_rn(total, value);
            }
        }
        float logit = widen(narrow_double(total));
        if (regions ? logit > 0.0f : (index == 0 || logit > best)) {
            best = logit;
            label = values[index];
        }
    }
    labels[pixel] = label;
}
"""


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel that runs one thread for each of its elements."""

    function: Any

    def __call__(self, elements: int, *arguments: Any) -> None:
        """Launch it for so many elements on the current stream."""
        self.function((-(-elements // _BLOCK),), (_BLOCK,), arguments)


@dataclass(frozen=True)
class Kernels:
    """The kernels, compiled for one GPU."""

    add_logits: Kernel
    add_tile: Kernel
    finish_plane: Kernel
    paint_plane: Kernel


def compile_kernels(xp: ModuleType) -> Kernels:
    """Compile the kernels with NVRTC, by CuPy."""
    module = xp.RawModule(code=CONVERSIONS + SOURCE)
    names = ("add_logits", "add_tile", "finish_plane", "paint_plane")
    return Kernels(*(Kernel(module.get_function(name)) for name in names))


def lengths(values: Sequence[int]) -> tuple[np.int64, ...]:
    """Convert to what the kernels take as ``long long``."""
    return tuple(np.int64(value) for value in values)
