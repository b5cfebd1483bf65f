"""PSNR and SSIM, as the published tables measure them.

The rules are constants: 8-bit luminance (`tasks.color.luminance`), `scale` pixels cropped from
every side, peak 255; SSIM with Wang et al.'s Gaussian window where it lies inside the picture.
One picture, one number; a data set's number is the mean over its pictures.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ImageError

PEAK = 255
# Wang, Bovik, Sheikh, Simoncelli, Image quality assessment, IEEE TIP 2004, section III-B.
SSIM_WINDOW_PX = 11
SSIM_SIGMA_PX = 1.5
SSIM_C1 = (0.01 * PEAK) ** 2
SSIM_C2 = (0.03 * PEAK) ** 2

# Rows smoothed by one dense product: more waste flops on zeros, fewer waste time on calls.
_BLOCK = 16
# Side of the tiles that SSIM goes through: so small that their memory is reused and not returned to
# the system in between, which costs more than the arithmetic, and that OpenBLAS computes each
# product on the calling thread, where several threads would mostly wait for one another.
_TILE_PX = 80


@dataclass(frozen=True)
class Quality:
    """What one SR picture is worth: PSNR in dB (infinite if identical) and SSIM (-1 to 1)."""

    psnr_db: float
    ssim: float


def measure(sr_y: NDArray[np.uint8], hr_y: NDArray[np.uint8], scale: int) -> Quality:
    """PSNR and SSIM of one picture; arguments and errors as `psnr_db` and `ssim`."""
    return Quality(psnr_db(sr_y, hr_y, scale), ssim(sr_y, hr_y, scale))


def psnr_db(sr_y: NDArray[np.uint8], hr_y: NDArray[np.uint8], scale: int) -> float:
    """Peak signal-to-noise ratio, 10·log10(255²/MSE), in dB; infinite for equal pictures.

    Both H×W uint8 luminance, 0–255, before the crop of `scale` pixels from every side.

    Raises:
        ImageError: nothing is left after the crop.
        ValueError: shapes that differ or are not H×W, or a scale below 1.
        TypeError: not uint8.
    """
    sr, hr = _cropped(sr_y, hr_y, scale, least_px=1)
    difference = np.subtract(sr, hr, dtype=np.int32).ravel()
    squared_error = int(np.sum(difference * difference, dtype=np.int64))
    return psnr_of_sum_db(squared_error, difference.size)


def psnr_of_sum_db(squared_error: int, num_pixels: int) -> float:
    """The same, from the sum of squared differences of that many pixels."""
    if squared_error == 0:
        return math.inf
    return 10 * math.log10(PEAK**2 * num_pixels / squared_error)


def ssim(sr_y: NDArray[np.uint8], hr_y: NDArray[np.uint8], scale: int) -> float:
    """Mean structural similarity (Wang et al. 2004, eq. 13), -1 to 1, in float64.

    Gaussian window 11×11, σ = 1.5 pixels, K1 = 0.01, K2 = 0.03, only where the window lies inside
    the cropped picture. Both H×W uint8 luminance, 0–255, before the crop of `scale` pixels.

    Raises:
        ImageError: less than 11×11 pixels are left after the crop.
        ValueError: shapes that differ or are not H×W, or a scale below 1.
        TypeError: not uint8.
    """
    sr, hr = _cropped(sr_y, hr_y, scale, least_px=SSIM_WINDOW_PX)
    height, width = hr.shape
    num_rows, num_columns = height - SSIM_WINDOW_PX + 1, width - SSIM_WINDOW_PX + 1
    num_windows: int = num_rows * num_columns
    total = math.fsum(
        _ssim_sum(sr[rows, columns], hr[rows, columns])
        for _, rows in _blocks(num_rows, _TILE_PX)
        for _, columns in _blocks(num_columns, _TILE_PX)
    )
    return total / num_windows


def _ssim_sum(sr: NDArray[np.uint8], hr: NDArray[np.uint8]) -> float:
    """The sum of SSIM over all windows inside a tile, H×W."""
    mean_sr, mean_hr, mean_squares, mean_product = _smooth(_moments(sr, hr))
    product_of_means = mean_sr * mean_hr
    squares_of_means = mean_sr * mean_sr + mean_hr * mean_hr
    variances = mean_squares - squares_of_means
    covariance = mean_product - product_of_means
    likeness = (2 * product_of_means + SSIM_C1) * (2 * covariance + SSIM_C2)
    likeness /= (squares_of_means + SSIM_C1) * (variances + SSIM_C2)
    return float(likeness.sum())


def _cropped(
    sr_y: NDArray[Any], hr_y: NDArray[Any], scale: int, least_px: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if sr_y.shape != hr_y.shape or hr_y.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"two H×W luminances of one shape, not {sr_y.shape} and {hr_y.shape}")
    if sr_y.dtype != np.uint8 or hr_y.dtype != np.uint8:
        raise TypeError(f"8-bit luminance is uint8, not {sr_y.dtype} and {hr_y.dtype}")
    if scale < 1:
        raise ValueError(f"scale {scale!r} is below 1")
    height, width = hr_y.shape
    if min(height, width) - 2 * scale < least_px:
        raise ImageError(
            f"a picture of {width}×{height} pixels is too small: {scale} pixels are cropped from "
            f"every side and {least_px}×{least_px} must remain"
        )
    inside = (slice(scale, -scale), slice(scale, -scale))
    return sr_y[inside], hr_y[inside]


def _moments(sr: NDArray[np.uint8], hr: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What SSIM averages, 4×H×W: sr, hr, sr² + hr², sr·hr.

    Four and not Wang's five: the two variances appear as their sum only.
    """
    moments = np.empty((4, *hr.shape))
    moments[0], moments[1] = sr, hr
    np.multiply(moments[0], moments[1], out=moments[3])
    np.multiply(moments[0], moments[0], out=moments[2])
    moments[2] += moments[1] * moments[1]
    return moments


def _smooth(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Planes N×H×W averaged under the Gaussian window, N×(H-10)×(W-10).

    A window's rows and columns are averaged one after the other (the Gaussian is separable), a
    block of neighbours at a time as a product with a banded matrix.
    """
    num_planes, height, width = planes.shape
    num_rows, num_columns = height - SSIM_WINDOW_PX + 1, width - SSIM_WINDOW_PX + 1
    tall = np.empty((num_planes, num_rows, width))
    for block, reach in _blocks(num_rows, _BLOCK):
        np.matmul(_band(block), planes[:, reach], out=tall[:, block])
    smooth = np.empty((num_planes, num_rows, num_columns))
    for block, reach in _blocks(num_columns, _BLOCK):
        np.matmul(tall[..., reach], _band(block).T, out=smooth[..., block])
    return smooth


def _blocks(num_windows: int, length: int) -> list[tuple[slice, slice]]:
    """An axis of windows cut into lengths, each with the slice of pixels under its windows."""
    starts = range(0, num_windows, length)
    ends = [min(start + length, num_windows) for start in starts]
    return [
        (slice(start, end), slice(start, end + SSIM_WINDOW_PX - 1))
        for start, end in zip(starts, ends, strict=True)
    ]


def _band(block: slice) -> NDArray[np.float64]:
    """Gaussian weights of sum 1, a row of averages each, shifted by a pixel from row to row."""
    return _BAND[: block.stop - block.start, : block.stop - block.start + SSIM_WINDOW_PX - 1]


def _gaussian_band() -> NDArray[np.float64]:
    offsets = np.arange(SSIM_WINDOW_PX) - SSIM_WINDOW_PX // 2
    gaussian = np.exp(-(offsets**2) / (2 * SSIM_SIGMA_PX**2))
    band = np.zeros((_BLOCK, _BLOCK + SSIM_WINDOW_PX - 1))
    for row in range(_BLOCK):
        band[row, row : row + SSIM_WINDOW_PX] = gaussian / gaussian.sum()
    return band


_BAND = _gaussian_band()
