"""What a training's network makes of one picture while it learns: small PNGs for the report.

Where bicubic errs most in the first validation picture, as 8-bit luminance or RGB, whichever the
network gives: `step-<step>-x<scale>.png`, and beside them once `hr-x<scale>.png` and
`bicubic-x<scale>.png`. They live in the checkpoint until the training is done.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.interpolation import enlarge
from models.registry import Architecture
from tasks.bicubic import resize, shrink
from tasks.color import grey_of_rgb, is_grey
from tasks.images import write_png
from tasks.protocol import Picture, sr_picture
from tasks.window import Window, choose_window

FOLDER = "snapshots"
MAX_SNAPSHOTS = 6
SIDE_PX = 96


class Snapshots:
    """The pictures taken so far, by file name."""

    def __init__(self) -> None:
        self._taken: dict[str, NDArray[np.uint8]] = {}
        self._windows: dict[int, Window] = {}

    def take(self, step: int, scale: int, sr: NDArray[np.uint8]) -> None:
        """Keep the window of an answer, C×H×W, whose references were taken."""
        picture = sr[0] if len(sr) == 1 else sr.transpose(1, 2, 0)
        self._keep(f"step-{step:07d}-x{scale}.png", self._as_hr(picture, scale), scale)

    def take_references(self, architecture: Architecture, picture: Picture, scale: int) -> None:
        """Choose the window, and keep it of the HR picture and of its bicubic enlargement."""
        hr = picture.hr_y if architecture.channels == "y" else picture.hr
        x = picture.x if architecture.enlarged else enlarge(picture.x, scale)
        # By luminance, so that all networks show the same place.
        bicubic_y = resize(shrink(picture.hr_y, scale), scale, border="clamped")
        self._windows[scale] = choose_window(picture.hr_y, bicubic_y, SIDE_PX, scale)
        self._keep(f"hr-x{scale}.png", hr, scale)
        bicubic = self._as_hr(sr_picture(architecture, x), scale)
        self._keep(f"bicubic-x{scale}.png", bicubic, scale)

    def write(self, folder: Path) -> None:
        """Write them all into `folder`/snapshots."""
        (folder / FOLDER).mkdir()
        for name, picture in sorted(self._taken.items()):
            write_png(folder / FOLDER / name, picture)

    def state_dict(self) -> dict[str, Tensor]:
        """The pictures as tensors, for a checkpoint."""
        return {name: torch.from_numpy(picture) for name, picture in self._taken.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on with the pictures of a checkpoint, unless they are of another place or picture."""
        loaded = {name: tensor.cpu().numpy() for name, tensor in state.items()}
        is_ours = self._taken.keys() <= loaded.keys() and all(
            np.array_equal(loaded[name], own) for name, own in self._taken.items()
        )
        if is_ours:
            self._taken = loaded

    def _as_hr(self, picture: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        """An RGB network's answer to a grey picture in grey, so that the ruler has its rule."""
        is_converted = not is_grey(picture) and is_grey(self._taken[f"hr-x{scale}.png"])
        return grey_of_rgb(picture) if is_converted else picture

    def _keep(self, name: str, picture: NDArray[np.uint8], scale: int) -> None:
        self._taken[name] = np.ascontiguousarray(self._windows[scale].of(picture))


def snapshot_steps(validation_steps: Sequence[int]) -> frozenset[int]:
    """At most six of the validations, evenly spaced, the last one among them."""
    num = len(validation_steps)
    wanted = min(num, MAX_SNAPSHOTS)
    return frozenset(validation_steps[-(-(k + 1) * num // wanted) - 1] for k in range(wanted))
