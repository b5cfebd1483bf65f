"""A square of a picture."""

from dataclasses import dataclass
from typing import Any

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
