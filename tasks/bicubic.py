"""MATLAB's `imresize(…, 'bicubic')` on arrays, to the last digit.

The degradation of every super-resolution table: cubic convolution (Keys 1981, a = -1/2), widened
by the scale when shrinking, weights of sum 1, rows before columns. What MATLAB does to 8-bit
pictures is not what it does to doubles: 8-bit pictures are rounded after each of the two passes.

Two ways to the same answer. In general an axis is a sparse matrix of float64 weights, summed from
the first tap to the last. For 8-bit pictures at the usual scales each weight is a whole number
over a common denominator, and every sum of whole numbers below 2^24 is exact in float32, in any
order: there the picture goes strip by strip through small dense matrix products, many times
faster and equal bit for bit.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from scipy import sparse

from tasks.color import to_8bit
from tasks.errors import ImageError

Border = Literal["clamped", "symmetric"]
Scale = Fraction | int | float

_PEAK = 255
# The weights of ×1/2, ×1/4, ×2, ×4 are whole numbers over 4096, those of ×1/3 and ×3 over 81. A
# power of two makes float64 exact as well; an odd number leaves no sum half-way between two grey
# levels. So neither leaves a rounding to chance.
_DENOMINATORS = (4096, 81)
_EXACT_IN_FLOAT32 = 2**24
_WHOLE = 1e-9
# New pixels per dense product: more waste flops on zeros, fewer waste time on calls.
_BLOCK = 8
_MAX_PERIOD = 16
# OpenBLAS computes a product of so few multiplications on the calling thread. Beyond, several
# threads share it and, with products as small as ours, spend their time waiting for one another.
_ONE_THREAD = 2**18
_GREY, _COLOURED = 2, 3


def resize(image: NDArray[Any], scale: Scale, *, border: Border) -> NDArray[Any]:
    """Resize a picture as MATLAB's `imresize(image, scale, 'bicubic')`.

    H×W or H×W×C, any C, to ceil(H·scale)×ceil(W·scale) of the same kind. uint8 gives uint8, each
    pass clipped to 0–255 and rounded half up; floating point of any range gives float64, neither
    clipped nor rounded. A float `scale` means the simplest fraction that it rounds from.
    `clamped` repeats the edge pixel, `symmetric` mirrors with the edge pixel repeated: clamped is
    what made the 8-bit LR images of the published test sets, symmetric what newer MATLABs do.

    Beside the answer an 8-bit picture at ×2, ×3, ×4 takes a strip of a few rows; else the picture
    is held three times in float64.

    Raises:
        ImageError: an axis is empty.
        ValueError: neither two nor three axes, a scale that is not positive, an unknown border.
        TypeError: neither uint8 nor floating point.
    """
    ratio = _ratio(scale)
    _check(image, border)
    coloured = image.reshape(*image.shape[:2], -1)
    block = _block(ratio) if image.dtype == np.uint8 else None
    if block is None:
        resized = _resize_by_taps(coloured, ratio, border)
    else:
        resized = _resize_by_blocks(coloured, ratio, border, block)
    return resized.reshape(*resized.shape[:2], *image.shape[2:])


def shrink(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """The LR image of an HR image: cropped to a multiple of `scale`, then `resize`d by 1/scale.

    H×W or H×W×C to floor(H/scale)×floor(W/scale) of the same kind. 8-bit pictures (0–255) with
    clamped borders, floating point with symmetric ones: so each agrees with the published data.

    Raises:
        ImageError: an axis is shorter than `scale`.
        ValueError, TypeError: as `resize`.
    """
    border: Border = "clamped" if image.dtype == np.uint8 else "symmetric"
    return resize(crop_to_multiple(image, scale), Fraction(1, scale), border=border)


def crop_to_multiple(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """The largest top-left part whose height and width are multiples of `scale`, as a view.

    H×W or H×W×C, any dtype and value range.

    Raises:
        ImageError: an axis is shorter than `scale`.
        ValueError: a scale below 1.
    """
    if scale < 1:
        raise ValueError(f"scale {scale!r} is below 1")
    height, width = image.shape[:2]
    if min(height, width) < scale:
        raise ImageError(f"a picture of {width}×{height} pixels is too small for scale {scale}")
    return image[: height - height % scale, : width - width % scale]


def _ratio(scale: Scale) -> Fraction:
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale {scale!r} is not a positive number")
    exact = Fraction(scale)
    simple = exact.limit_denominator(10_000)
    # 1/3 as a float is a fraction over 2^54; what was meant is 1/3
    return simple if isinstance(scale, float) and float(simple) == scale else exact


def _check(image: NDArray[Any], border: str) -> None:
    if border not in ("clamped", "symmetric"):
        raise ValueError(f"unknown border {border!r}; known: clamped, symmetric")
    if image.ndim not in (_GREY, _COLOURED):
        raise ValueError(f"a picture has two or three axes, not the shape {image.shape}")
    if 0 in image.shape:
        raise ImageError(f"a picture of shape {image.shape} has no pixels")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"pictures are uint8 or floating point, not {image.dtype}")


def _taps(num_outputs: int, ratio: Fraction) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Indices (from 0, unbounded) and weights of each new pixel, num_outputs × taps.

    The steps, and so the rounding, of `contributions` in MATLAB's imresize.m.
    """
    import torch  # seconds to import, and most who import this module shrink nothing

    from models.interpolation import cubic_kernel

    scale = float(ratio)
    stretch = min(scale, 1.0)
    centres = np.arange(1, num_outputs + 1) / scale + 0.5 * (1 - 1 / scale)
    width = 4 / stretch
    first = np.floor(centres - width / 2)
    indices = first[:, None] + np.arange(math.ceil(width) + 2)
    distances = stretch * (centres[:, None] - indices)
    weights = stretch * cubic_kernel(torch.from_numpy(distances)).numpy()
    return indices.astype(np.int64) - 1, weights / weights.sum(axis=1, keepdims=True)


def _inside(indices: NDArray[np.int64], size: int, border: Border) -> NDArray[np.int64]:
    """Indices beyond an axis of that size brought back onto it."""
    if border == "clamped":
        return np.clip(indices, 0, size - 1)
    wrapped = indices % (2 * size)
    return np.minimum(wrapped, 2 * size - 1 - wrapped)


@lru_cache(maxsize=64)
def _axis_matrix(size: int, ratio: Fraction, border: Border) -> sparse.csr_array:
    """The weights along an axis, new size × size, float64, each row's taps in order.

    Taps that the border sends to the same pixel stay apart: they are summed in MATLAB's order.
    """
    indices, weights = _taps(math.ceil(size * ratio), ratio)
    used = np.any(weights != 0, axis=0)
    indices, weights = _inside(indices[:, used], size, border), weights[:, used]
    row_ends = np.arange(0, weights.size + 1, weights.shape[1])
    return sparse.csr_array((weights.ravel(), indices.ravel(), row_ends), (len(weights), size))


def _resize_by_taps(image: NDArray[Any], ratio: Fraction, border: Border) -> NDArray[Any]:
    """H×W×C in any kind to ceil(H·ratio)×ceil(W·ratio)×C, in float64 throughout."""
    resized = image
    for _ in range(2):
        matrix = _axis_matrix(len(resized), ratio, border)
        flat = resized.reshape(len(resized), -1).astype(np.float64)
        summed = (matrix @ flat).reshape(-1, *resized.shape[1:])
        # the other axis first: after two turns the picture stands as it came
        resized = (to_8bit(summed) if image.dtype == np.uint8 else summed).swapaxes(0, 1)
    return np.ascontiguousarray(resized)


@dataclass(frozen=True)
class _Block:
    """The weights of a run of new pixels; the next run has the same ones, `step` pixels on.

    `weights` is new pixels × old pixels, whole numbers over `denominator`; `first` is the old
    pixel of its first column in the first run, zero or negative.
    """

    weights: NDArray[np.float32]
    denominator: int
    first: int
    step: int

    def num_inputs(self, num_outputs: int) -> int:
        """Old pixels under the runs that cover so many new ones."""
        num_runs = -(-num_outputs // len(self.weights))
        return (num_runs - 1) * self.step + int(self.weights.shape[1])

    def round(self, sums: NDArray[np.float32]) -> None:
        """Whole-numbered sums to grey levels, in place: clip, round half up."""
        sums *= np.float32(1 / self.denominator)
        sums += np.float32(0.5)
        np.clip(sums, 0, _PEAK, out=sums)
        np.floor(sums, out=sums)


@lru_cache(maxsize=64)
def _block(ratio: Fraction) -> _Block | None:
    """The block of that ratio, or None where float32 is not proven exact."""
    period = ratio.numerator
    if period > _MAX_PERIOD:
        return None
    num_outputs = -(-_BLOCK // period) * period
    indices, weights = _taps(num_outputs, ratio)
    first = int(indices[weights != 0].min())
    dense = np.zeros((num_outputs, int(indices[weights != 0].max()) - first + 1))
    row, tap = np.nonzero(weights)
    dense[row, indices[row, tap] - first] = weights[row, tap]
    step = num_outputs * ratio.denominator // period
    for denominator in _DENOMINATORS:
        whole = np.rint(dense * denominator)
        largest_sum = np.abs(whole).sum(axis=1).max() * _PEAK
        if np.abs(dense * denominator - whole).max() < _WHOLE and largest_sum < _EXACT_IN_FLOAT32:
            return _Block(whole.astype(np.float32), denominator, first, step)
    return None


def _resize_by_blocks(
    image: NDArray[np.uint8], ratio: Fraction, border: Border, block: _Block
) -> NDArray[np.uint8]:
    """H×W×C to ceil(H·ratio)×ceil(W·ratio)×C, a strip of new rows at a time."""
    height, width, channels = image.shape
    rows = image.reshape(height, -1)
    resized = np.empty((math.ceil(height * ratio), math.ceil(width * ratio), channels), np.uint8)
    strip = _Strip(block, width, resized.shape[1], channels, border)
    for run in range(-(-len(resized) // len(block.weights))):
        top = block.first + run * block.step
        indices = _inside(np.arange(top, top + block.weights.shape[1]), height, border)
        part = resized[run * len(block.weights) :][: len(block.weights)]
        part[...] = strip.fill(rows, indices)[: len(part)]
    return resized


class _Strip:
    """Buffers of one run of new rows, and the two passes over them.

    `padded` is rows × (border, picture, border) × channels; `windows` shows the same memory as
    runs × rows × (old pixels · channels), overlapping, so that the columns' pass is one batched
    matrix product that copies nothing.
    """

    def __init__(
        self, block: _Block, width: int, new_width: int, channels: int, border: Border
    ) -> None:
        num_rows, num_inputs = block.weights.shape
        self.block, self.left, self.right = block, -block.first, width - block.first
        length = max(block.num_inputs(new_width), self.right)
        self.rows = np.empty((num_inputs, width * channels), np.float32)
        self.columns = _inside(block.first + np.arange(length), width, border) + self.left
        self.padded = np.empty((num_rows, length, channels), np.float32)
        num_runs = -(-new_width // num_rows)
        self.result = np.empty((num_rows, num_runs * num_rows, channels), np.float32)
        self.new_width = new_width
        # each channel sees its own pixels only: the weights, interleaved with zeros
        self.weights = np.kron(block.weights.T, np.eye(channels, dtype=np.float32))
        part = max(1, _ONE_THREAD // block.weights.size)
        self.parts = [slice(start, start + part) for start in range(0, width * channels, part)]
        self.windows = _runs(self.padded, num_runs, block.step, num_inputs)
        self.result_runs = _runs(self.result, num_runs, num_rows, num_rows)

    def fill(self, rows: NDArray[np.uint8], indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Those rows of all old ones to new rows × new width × channels, whole 0–255."""
        for row, index in zip(self.rows, indices, strict=True):
            row[:] = rows[index]
        flat = self.padded.reshape(len(self.padded), -1)
        picture = flat[:, self.left * self.padded.shape[2] :][:, : rows.shape[1]]
        for part in self.parts:
            np.matmul(self.block.weights, self.rows[:, part], out=picture[:, part])
        self.block.round(picture)
        self.padded[:, : self.left] = self.padded[:, self.columns[: self.left]]
        self.padded[:, self.right :] = self.padded[:, self.columns[self.right :]]
        np.matmul(self.windows, self.weights, out=self.result_runs)
        self.block.round(self.result)
        return self.result[:, : self.new_width]


def _runs(
    buffer: NDArray[np.float32], num_runs: int, step: int, length: int
) -> NDArray[np.float32]:
    """Rows × pixels × channels, contiguous, seen as runs × rows × (length · channels)."""
    row, pixel, item = buffer.strides
    shape = (num_runs, len(buffer), length * buffer.shape[2])
    return as_strided(buffer, shape, (step * pixel, row, item))
