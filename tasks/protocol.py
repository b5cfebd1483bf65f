"""How a test picture meets a network, and how its answer becomes luminance.

Luminance networks: the 8-bit luminance goes double -> down -> up or network ->
8 bits. RGB networks: the 8-bit LR picture goes in, the answer is rounded to
8 bits and its luminance is measured. Both are the protocols of the published
tables; nothing here is an option. One path for interpolations and networks.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.interpolation import enlarge
from models.registry import Architecture
from tasks.bicubic import crop_to_multiple, shrink
from tasks.color import as_rgb, grey_of_rgb, is_grey, luminance
from tasks.config import Role
from tasks.images import read_image
from tasks.layout import picture_pairs


@dataclass(frozen=True)
class Picture:
    """A test picture as a network meets it: input N×C×h×w in 0–1, HR luminance and kind."""

    name: str
    x: Tensor
    hr: NDArray[np.uint8]
    hr_y: NDArray[np.uint8]


def load_pictures(
    architecture: Architecture, role: Role, dataset: str, scale: int
) -> list[Picture]:
    """The pictures of one data set as the network meets them."""
    return [
        load_picture(architecture, hr, lr, scale) for hr, lr in picture_pairs(role, dataset, scale)
    ]


def load_picture(architecture: Architecture, hr: Path, lr: Path, scale: int) -> Picture:
    """One picture as the network meets it, from its two files.

    Raises:
        ImageError: one of them is corrupt.
    """
    return prepare(architecture, hr.name, read_image(hr), read_image(lr), scale)


def prepare(
    architecture: Architecture,
    name: str,
    hr: NDArray[np.uint8],
    lr: NDArray[np.uint8],
    scale: int,
) -> Picture:
    """Prepare one picture: HR cropped to a multiple of the scale, and the network's input."""
    hr = crop_to_multiple(hr, scale)
    x = planes_of(architecture, hr, lr, scale)
    if architecture.enlarged:
        x = enlarge(x, scale)
    # Networks compute in single precision; interpolations stay exact.
    return Picture(name, x.float() if architecture.trainable else x, hr, luminance(hr))


def planes_of(
    architecture: Architecture, hr: NDArray[np.uint8], lr: NDArray[np.uint8], scale: int
) -> Tensor:
    """The planes that a network sees of a picture, not enlarged: 1×C×h×w, float64 in 0–1.

    HR must have a multiple of the scale in both directions.
    """
    if architecture.channels == "y":
        planes = shrink(luminance(hr).astype(np.float64), scale)[None]
    else:
        planes = as_rgb(lr).transpose(2, 0, 1).astype(np.float64)
    return torch.from_numpy(np.ascontiguousarray(planes))[None] / 255


def levels(sr: Tensor) -> Tensor:
    """A network's answer N×C×H×W in 0–1 as uint8, rounded like `tasks.color.to_8bit`."""
    return (sr.double() * 255).clamp_(0, 255).add_(0.5).to(torch.uint8)


def sr_picture(architecture: Architecture, sr: Tensor) -> NDArray[np.uint8]:
    """A network's answer 1×C×H×W as an 8-bit picture: H×W luminance, or H×W×3 RGB.

    Rounded where the network computes, so that a GPU hands over bytes.
    """
    values: NDArray[np.uint8] = levels(sr[:1])[0].cpu().numpy()
    return values[0] if architecture.channels == "y" else values.transpose(1, 2, 0)


def sr_luminance(
    architecture: Architecture, picture: Picture, answer: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The luminance of an answer (`sr_picture`) that is compared with the HR one, H×W."""
    if architecture.channels == "y":
        return answer
    return grey_of_rgb(answer) if is_grey(picture.hr) else luminance(answer)
