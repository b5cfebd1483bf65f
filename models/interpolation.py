"""Interpolation as a network: each new pixel is a fixed weighted sum of its neighbours.

The kernels of MATLAB's `imresize`: box, triangle, Keys's cubic (Cubic convolution interpolation
for digital image processing, 1981, a = -1/2) and Lanczos-3 (Duchon, Lanczos filtering in one and
two dimensions, 1979).

Ours differs in the arithmetic only. Enlarging by a whole number s repeats the same s sets of
weights along an axis, so each is a weighted sum of shifted pictures, and the s sums interleave.
Multiplications and additions, not a convolution: on a GPU convolutions may round to TF32.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from models.registry import register


def cubic_kernel(x: Tensor) -> Tensor:
    """Keys's cubic convolution kernel with a = -1/2, zero beyond |x| = 2.

    Any shape in, the same shape out. `x` is a distance in pixels. Source: Keys 1981, eq. 15.
    """
    d = x.abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d <= 1, near, torch.where(d <= 2, far, torch.zeros_like(d)))  # noqa: PLR2004


def triangle_kernel(x: Tensor) -> Tensor:
    """The bilinear kernel, 1 - |x| and zero beyond |x| = 1. Same shape out; `x` in pixels."""
    return (1 - x.abs()).clamp(min=0)


def box_kernel(x: Tensor) -> Tensor:
    """The nearest-neighbour kernel, 1 for -1/2 <= x < 1/2. Same shape out; `x` in pixels."""
    return ((x >= -0.5) & (x < 0.5)).to(x.dtype)  # noqa: PLR2004


def lanczos3_kernel(x: Tensor) -> Tensor:
    """sinc(x) · sinc(x/3), zero from |x| = 3 on. Same shape out; `x` in pixels."""
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))  # noqa: PLR2004


@dataclass(frozen=True)
class Kernel:
    """A kernel function and its support: zero beyond `radius` pixels."""

    function: Callable[[Tensor], Tensor]
    radius: float


KERNELS = {
    "nearest": Kernel(box_kernel, 0.5),
    "bilinear": Kernel(triangle_kernel, 1.0),
    "bicubic": Kernel(cubic_kernel, 2.0),
    "lanczos": Kernel(lanczos3_kernel, 3.0),
}
# Bicubic enlargement looks this many LR pixels away.
BICUBIC_REACH_LR_PX = math.ceil(KERNELS["bicubic"].radius)


def enlarge(x: Tensor, scale: int, kernel: str = "bicubic") -> Tensor:
    """Enlarge pictures by a whole number, as MATLAB's `imresize` does.

    N×C×h×w to N×C×(scale·h)×(scale·w), any C and any size from 1×1 on, same dtype and device;
    any value range (the answer may leave it: bicubic and Lanczos overshoot). Weights are computed
    in float64 and borders are mirrored with the edge pixel repeated. Exact up to rounding in
    float64. `kernel` is one of nearest, bilinear, bicubic, lanczos.

    Raises:
        ValueError: unknown kernel, or a scale below 1.
        TypeError: `x` is not floating point; whole numbers cannot hold the weights.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; known: {', '.join(KERNELS)}")
    if scale < 1:
        raise ValueError(f"scale {scale!r} is below 1")
    if not x.is_floating_point():
        raise TypeError(f"enlarge needs a floating-point picture, not {x.dtype}")
    # rows first, as MATLAB does where both axes have the same scale
    for axis in (2, 3):
        x = _enlarge_axis(x, scale, KERNELS[kernel], axis)
    return x


def _enlarge_axis(x: Tensor, scale: int, kernel: Kernel, axis: int) -> Tensor:
    """Make one axis `scale` times as long.

    New pixel scale·q + p lies at q + d with d = (p + 1/2)/scale - 1/2, counted in old pixels from
    the first one. d is the same for all q, and so are the weights.
    """
    border = math.ceil(kernel.radius)
    padded = _mirror(x, border, axis)
    phases = []
    for p in range(scale):
        d = (p + 0.5) / scale - 0.5
        first, weights = _weights(kernel, d)
        terms = [
            padded.narrow(axis, border + first + k, x.shape[axis]) * weight
            for k, weight in enumerate(weights.unbind())
        ]
        phases.append(reduce(torch.add, terms))
    return torch.stack(phases, dim=axis + 1).flatten(axis, axis + 1)


def _weights(kernel: Kernel, d: float) -> tuple[int, Tensor]:
    """The first old pixel within the kernel's reach of `d`, and the weights from there on.

    Float64, of sum 1. On the CPU: a number on the CPU multiplies a picture on any device.
    """
    first, last = math.ceil(d - kernel.radius), math.floor(d + kernel.radius)
    pixels = torch.arange(first, last + 1, dtype=torch.float64, device="cpu")
    weights = kernel.function(d - pixels)
    return first, weights / weights.sum()


def _mirror(x: Tensor, border: int, axis: int) -> Tensor:
    """Add `border` pixels at both ends, mirrored with the edge repeated, as often as needed."""
    size = x.shape[axis]
    index = torch.arange(-border, size + border, device=x.device) % (2 * size)
    return x.index_select(axis, torch.minimum(index, 2 * size - 1 - index))


class Interpolation(nn.Module):
    """`enlarge` with a fixed scale and kernel, callable like a network. No parameters."""

    def __init__(self, scale: int, kernel: str) -> None:
        super().__init__()
        self.scale = scale
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """N×C×h×w to N×C×(scale·h)×(scale·w)."""
        return enlarge(x, self.scale, self.kernel)


@register(channels="y", enlarged=False, trainable=False)
def nearest(scale: int) -> nn.Module:
    """Pixel repetition."""
    return Interpolation(scale, "nearest")


@register(channels="y", enlarged=False, trainable=False)
def bilinear(scale: int) -> nn.Module:
    """Triangle kernel, 2×2 pixels."""
    return Interpolation(scale, "bilinear")


@register(channels="y", enlarged=False, trainable=False)
def bicubic(scale: int) -> nn.Module:
    """Cubic convolution with a = -1/2, 4×4 pixels: the baseline of every published table."""
    return Interpolation(scale, "bicubic")


@register(channels="y", enlarged=False, trainable=False)
def lanczos(scale: int) -> nn.Module:
    """Windowed sinc, 6×6 pixels."""
    return Interpolation(scale, "lanczos")
