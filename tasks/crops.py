"""What the visual comparison shows: one window of one picture by every network.

Data in: test pictures, weights, the numbers of the whole pictures. The choice follows a rule and
no taste: of each data set and scale the picture with the largest gain over bicubic, and in it the
window where bicubic loses most. A network runs on the window and its reach alone, by the ruler's
own protocol.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

import models
from models.interpolation import enlarge
from tasks.bicubic import crop_to_multiple
from tasks.color import RGB_PER_Y, as_rgb, is_grey, luminance, to_8bit
from tasks.config import Params
from tasks.images import read_image
from tasks.importing import SUFFIX
from tasks.layout import picture_pairs, weights_file
from tasks.precision import exact_fp32
from tasks.protocol import prepare, sr_luminance, sr_picture
from tasks.reach import reach_lr_px
from tasks.row_status import measured_rows
from tasks.super_resolve import best_device
from tasks.weights import load_weights
from tasks.window import Window, choose_window

# A report is made in seconds, so it shows this many pictures at most, the largest scales first.
MAX_COMPARISONS = 6
BASELINE = "bicubic"
# Side of the window in HR pixels; every scale divides it.
_WINDOW_PX = 72
# Beyond a network's own reach: that of the kernel that shrinks and enlarges, with one to spare.
_MARGIN_LR_PX = 5

Image = NDArray[np.uint8]
Numbers = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Crop:
    """A network's answer inside the window, and its figures of the whole picture.

    `picture` is side×side×3, `y` the luminance that the ruler compares, side×side; both 8 bits.
    """

    name: str
    picture: Image
    y: Image
    psnr_db: float | None
    ssim: float | None


@dataclass(frozen=True)
class Comparison:
    """One picture: `hr` H×W×3 (cropped to a multiple of the scale), its window, every crop."""

    dataset: str
    scale: int
    image: str
    hr: Image
    hr_y: Image
    window: Window
    crops: tuple[Crop, ...]


def comparisons(
    params: Params, summary: pd.DataFrame, images: pd.DataFrame
) -> Iterator[Comparison]:
    """At most `MAX_COMPARISONS`, the largest scale first; none without a network."""
    measured = measured_rows(summary)
    networks = measured[(measured["num_parameters"] > 0) & (measured["cell"] != "")]
    places = [
        (dataset, scale)
        for scale in sorted(params.scales, reverse=True)
        for dataset in params.data.test
        if ((networks["dataset"] == dataset) & (networks["scale"] == scale)).any()
    ]
    for dataset, scale in places[:MAX_COMPARISONS]:
        here = networks[(networks["dataset"] == dataset) & (networks["scale"] == scale)]
        cells = dict(zip(here["architecture"], here["cell"], strict=True))
        there = images[(images["dataset"] == dataset) & (images["scale"] == scale)]
        yield compare(dataset, scale, cells, there)


def compare(dataset: str, scale: int, cells: Mapping[str, str], images: pd.DataFrame) -> Comparison:
    """The networks (row name -> cell) on their picture; `images` are this place's rows.

    Raises:
        WeightsError: weights are missing or do not fit.
        ImageError: a test picture that is corrupt.
    """
    chosen = choose_picture(images, list(cells))
    ((hr_file, lr_file),) = (
        pair for pair in picture_pairs("test", dataset, scale) if pair[0].name == chosen
    )
    hr, lr = crop_to_multiple(read_image(hr_file), scale), read_image(lr_file)
    bicubic_y = luminance(_enlarged(lr, scale))
    window = choose_window(luminance(hr), bicubic_y, _WINDOW_PX, scale)
    place = _Place(hr, lr, scale, window)
    rows = images[images["image"] == chosen].set_index("architecture")
    numbers = {str(name): (row["psnr_db"], row["ssim"]) for name, row in rows.iterrows()}
    crops = [_crop(BASELINE, models.create(BASELINE, scale), place, numbers)]
    for name, cell in cells.items():
        network = models.create(name.removesuffix(SUFFIX), scale)
        load_weights(network, weights_file(cell))
        crops.append(_crop(name, network, place, numbers))
    return Comparison(dataset, scale, chosen, as_rgb(hr), luminance(hr), window, tuple(crops))


def choose_picture(images: pd.DataFrame, networks: Sequence[str]) -> str:
    """The picture with the largest gain of a network over bicubic, by PSNR.

    Where bicubic was not measured, the lowest figure of each picture stands for it.
    """
    psnrs = images.pivot(index="image", columns="architecture", values="psnr_db")
    baseline = psnrs[BASELINE] if BASELINE in psnrs else psnrs.min(axis=1)
    gains = psnrs[list(networks)].max(axis=1) - baseline
    return str(gains.fillna(0.0).idxmax())  # ∞ - ∞ where both are perfect


@dataclass(frozen=True)
class _Place:
    """Where the networks are compared: `hr` is cropped to a multiple of the scale."""

    hr: Image
    lr: Image
    scale: int
    window: Window

    def around(self, margin_lr_px: int) -> "_Place":
        """The window with a margin on every side, as far as the picture goes."""
        scale, window = self.scale, self.window
        top, left = (max(0, start // scale - margin_lr_px) for start in (window.top, window.left))
        bottom, right = (
            (start + window.side) // scale + margin_lr_px for start in (window.top, window.left)
        )
        inner = Window(window.top - top * scale, window.left - left * scale, window.side)
        hr = self.hr[top * scale : bottom * scale, left * scale : right * scale]
        return _Place(hr, self.lr[top:bottom, left:right], scale, inner)


def _crop(name: str, network: nn.Module, whole: _Place, numbers: Numbers) -> Crop:
    """Run a network on the window with its reach around it, and cut the window out."""
    about, scale = models.get(name.removesuffix(SUFFIX)), whole.scale
    place = whole.around(reach_lr_px(network, about, scale) + _MARGIN_LR_PX)
    device = best_device()
    picture = prepare(about, name, place.hr, place.lr, scale)
    with torch.inference_mode(), exact_fp32():
        sr = network.to(device).eval()(picture.x.to(device))
    answer = sr_picture(about, sr)
    y = sr_luminance(about, picture, answer)
    shown = answer if about.channels == "rgb" else _coloured(y, place.lr, scale)
    psnr_db, ssim = numbers.get(name, (None, None))
    return Crop(name, place.window.of(shown), place.window.of(y), psnr_db, ssim)


def _coloured(y: Image, lr: Image, scale: int) -> Image:
    """A restored luminance with bicubic colours, H×W×3; of a grey picture itself."""
    if is_grey(lr):
        return as_rgb(y)
    bicubic = _enlarged(lr, scale)
    change = RGB_PER_Y * (y.astype(np.float64) - luminance(bicubic))
    return to_8bit(bicubic + change[:, :, None])


def _enlarged(lr: Image, scale: int) -> Image:
    """Bicubic, of a picture H×W or H×W×3."""
    planes = as_rgb(lr).transpose(2, 0, 1).astype(np.float64)
    enlarged = to_8bit(enlarge(torch.from_numpy(planes)[None], scale)[0].numpy())
    return enlarged[0] if is_grey(lr) else enlarged.transpose(1, 2, 0)
