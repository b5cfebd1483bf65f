"""Luminance and colour as MATLAB's `rgb2ycbcr` and `ycbcr2rgb` (ITU-R BT.601, studio range).

The ruler measures luminance: 16–235 of a colour picture, and the grey levels 0–255 themselves of
a grey picture. One convention, one function; the other one in use, which turns grey pictures into
colour first, has its own name below.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.errors import ImageError

# The first row of rgb2ycbcr.m in thousandths: whole numbers, so that no rounding is left to chance.
_Y_THOUSANDTHS = (65_481, 128_553, 24_966)
# Rows Y, Cb, Cr; columns R, G, B in 0–255. The digits of MATLAB's rgb2ycbcr.m.
_RGB_TO_YCBCR = (
    np.array(
        [
            [65.481, 128.553, 24.966],
            [-37.797, -74.203, 112.0],
            [112.0, -93.786, -18.214],
        ]
    )
    / 255
)
_YCBCR_TO_RGB = np.linalg.inv(_RGB_TO_YCBCR)
# Y spans 219 of 255 levels, so a change of Y changes R, G and B by this much.
RGB_PER_Y = 255 / 219
_Y_OF_BLACK = 16.0
_YCBCR_OF_BLACK: NDArray[np.float64] = np.array([_Y_OF_BLACK, 128.0, 128.0])

_GREY, _COLOURED = 2, 3


def to_8bit(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Clip to 0–255 and round half up: any shape, floating point to uint8."""
    rounded: NDArray[np.uint8] = (np.clip(values, 0, 255) + 0.5).astype(np.uint8)
    return rounded


def is_grey(image: NDArray[Any]) -> bool:
    """Whether a picture is H×W (grey) and not H×W×3 (RGB), of any dtype.

    Raises:
        ImageError: it is neither.
    """
    if image.ndim == _GREY:
        return True
    if image.ndim == _COLOURED and image.shape[2] == 3:  # noqa: PLR2004
        return False
    raise ImageError(f"a picture is H×W (grey) or H×W×3 (RGB), not of shape {image.shape}")


def as_rgb(image: NDArray[Any]) -> NDArray[Any]:
    """H×W×3 of the same dtype: a grey picture three times, an RGB picture itself.

    Raises:
        ImageError: neither H×W nor H×W×3.
    """
    return np.repeat(image[:, :, None], 3, axis=2) if is_grey(image) else image


def luminance(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The 8-bit luminance that PSNR and SSIM are measured on, H×W.

    H×W×3 RGB: MATLAB's `rgb2ycbcr`, Y = 16 + (65.481 R + 128.553 G + 24.966 B)/255 rounded half
    up, 16–235. H×W grey: itself, 0–255.

    Raises:
        ImageError: neither H×W nor H×W×3.
        TypeError: not uint8.
    """
    _check_8bit(image)
    if is_grey(image):
        return image
    above_black = _rounded_quotient(_thousandths(image), 255_000)
    return above_black + np.uint8(_Y_OF_BLACK)


def luminance_f64(image: NDArray[Any]) -> NDArray[np.float64]:
    """The luminance without rounding, H×W float64.

    uint8 or floating point in 0–255. H×W×3 RGB as `luminance`, 16–235; H×W grey: itself.

    Raises:
        ImageError: neither H×W nor H×W×3.
    """
    if is_grey(image):
        return image.astype(np.float64)
    return _weighted(image, _RGB_TO_YCBCR[0]) + _Y_OF_BLACK


def grey_of_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An RGB network's answer to a grey picture, brought back to grey levels.

    H×W×3 to H×W, uint8 0–255: the luminance 16–235 stretched to 0–255, rounded half up. R = G = B
    = v gives v. So a grey picture's answer is measured against the grey picture itself.

    Raises:
        ImageError: not H×W×3.
        TypeError: not uint8.
    """
    _check_8bit(image)
    if is_grey(image):
        raise ImageError(f"an RGB picture is H×W×3, not of shape {image.shape}")
    return _rounded_quotient(_thousandths(image), sum(_Y_THOUSANDTHS))


def luminance_with_grey_converted(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """8-bit luminance under the convention of papers with RGB networks (EDSR, CARN, LESRCNN).

    H×W or H×W×3 to H×W, uint8 16–235. They load a grey picture as RGB, so its luminance spans 219
    levels and not 255, and its PSNR is higher by 20·log10(255/219) = 1.32 dB. Only for a figure
    that stands beside those papers' columns; the ruler is `luminance`.

    Raises:
        ImageError: neither H×W nor H×W×3.
        TypeError: not uint8.
    """
    return luminance(as_rgb(image))


def rgb_to_ycbcr_f64(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """MATLAB's `rgb2ycbcr` without rounding, H×W×3 to H×W×3 float64.

    RGB in 0–255, uint8 or floating point; Y in 16–235, Cb and Cr in 16–240 around 128.

    Raises:
        ImageError: not H×W×3.
    """
    _check_rgb(rgb)
    return _weighted(rgb, _RGB_TO_YCBCR) + _YCBCR_OF_BLACK


def ycbcr_to_rgb_f64(ycbcr: NDArray[Any]) -> NDArray[np.float64]:
    """MATLAB's `ycbcr2rgb`, the inverse of `rgb_to_ycbcr_f64`, neither clipped nor rounded.

    H×W×3 to H×W×3 float64; 0–255 for colours that exist.

    Raises:
        ImageError: not H×W×3.
    """
    _check_rgb(ycbcr)
    return _weighted(np.subtract(ycbcr, _YCBCR_OF_BLACK), _YCBCR_TO_RGB)


def _thousandths(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """65481 R + 128553 G + 24966 B, exactly: H×W×3 to H×W."""
    total = np.zeros(image.shape[:2], np.int32)
    for channel, weight in enumerate(_Y_THOUSANDTHS):
        total += image[:, :, channel] * np.int32(weight)
    return total


def _rounded_quotient(values: NDArray[np.int32], divisor: int) -> NDArray[np.uint8]:
    """Non-negative values over an even divisor, rounded half up."""
    quotient: NDArray[np.uint8] = ((values + divisor // 2) // divisor).astype(np.uint8)
    return quotient


def _weighted(image: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
    """Each pixel's three values summed with each row of weights."""
    summed: NDArray[np.float64] = image @ weights.T
    return summed


def _check_8bit(image: NDArray[Any]) -> None:
    if image.dtype != np.uint8:
        raise TypeError(f"8-bit pictures are uint8, not {image.dtype}")


def _check_rgb(image: NDArray[Any]) -> None:
    if is_grey(image):
        raise ImageError(f"a colour picture is H×W×3, not of shape {image.shape}")
