"""A square of a picture, and the square of it that is worth looking at."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Window:
    """A square of a picture, in pixels."""

    top: int
    left: int
    side: int

    def of(self, picture: NDArray[Any]) -> NDArray[Any]:
        """The pixels of H×W or H×W×3 inside the window."""
        return picture[self.top : self.top + self.side, self.left : self.left + self.side]


def choose_window(hr: NDArray[np.uint8], sr: NDArray[np.uint8], most_px: int, scale: int) -> Window:
    """Where the squared error is largest, on the grid of LR pixels and at most so many wide.

    Two pictures of the same size, H×W or H×W×3; the first of equal windows, row by row.
    """
    height, width = hr.shape[:2]
    side = min(most_px, height, width) // scale * scale
    error = ((hr.astype(np.float64) - sr) ** 2).reshape(height, width, -1).sum(axis=2)
    sums = np.pad(error, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    totals = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    totals = totals[::scale, ::scale]
    top, left = np.unravel_index(np.argmax(totals), totals.shape)
    return Window(int(top) * scale, int(left) * scale, side)
