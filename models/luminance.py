"""Luminance as MATLAB's `rgb2ycbcr` has it (ITU-R BT.601, studio range), on tensors."""

from torch import Tensor

RED, GREEN, BLUE, BLACK = 65.481, 128.553, 24.966, 16.0


def luminance(rgb: Tensor) -> Tensor:
    """N×3×H×W in 0–1 to N×1×H×W in 16/255–235/255; not rounded."""
    red, green, blue = rgb[:, 0:1], rgb[:, 1:2], rgb[:, 2:3]
    return (RED * red + GREEN * green + BLUE * blue + BLACK) / 255
