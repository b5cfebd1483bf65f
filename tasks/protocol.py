"""How a test picture meets a network, and how its answer becomes luminance.

Luminance networks: the 8-bit luminance goes double -> down -> up or network ->
8 bits. RGB networks: the 8-bit LR picture goes in, the answer is rounded to
8 bits and its luminance is measured. Both are the protocols of the published
tables; nothing here is an option. One path for interpolations and networks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.interpolation import enlarge
from models.registry import Architecture
from tasks.bicubic import crop_to_multiple, shrink
from tasks.color import as_rgb, grey_of_rgb, is_grey, luminance, to_8bit
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
        prepare(architecture, hr.name, read_image(hr), read_image(lr), scale)
        for hr, lr in picture_pairs(role, dataset, scale)
    ]


def prepare(
    architecture: Architecture,
    name: str,
    hr: NDArray[np.uint8],
    lr: NDArray[np.uint8],
    scale: int,
) -> Picture:
    """Prepare one picture: HR cropped to a multiple of the scale, and the network's input."""
    hr = crop_to_multiple(hr, scale)
    if architecture.channels == "y":
        planes = shrink(luminance(hr).astype(np.float64), scale)[None]
    else:
        planes = as_rgb(lr).transpose(2, 0, 1).astype(np.float64)
    x = torch.from_numpy(np.ascontiguousarray(planes))[None] / 255
    if architecture.enlarged:
        x = enlarge(x, scale)
    # Networks compute in single precision; interpolations stay exact.
    return Picture(name, x.float() if architecture.trainable else x, hr, luminance(hr))


def sr_picture(architecture: Architecture, sr: Tensor) -> NDArray[np.uint8]:
    """A network's answer N×C×H×W as an 8-bit picture: H×W luminance, or H×W×3 RGB."""
    values = to_8bit(sr[0].double().cpu().numpy() * 255)
    return values[0] if architecture.channels == "y" else values.transpose(1, 2, 0)


def sr_luminance(architecture: Architecture, picture: Picture, sr: Tensor) -> NDArray[np.uint8]:
    """A network's answer as the 8-bit luminance that is compared with the HR one."""
    answer = sr_picture(architecture, sr)
    if architecture.channels == "y":
        return answer
    return grey_of_rgb(answer) if is_grey(picture.hr) else luminance(answer)
