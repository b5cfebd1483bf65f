"""What `tasks.upscale` accepts, made into what `tasks.super_resolve` wants."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import models
from tasks.config import Settings
from tasks.network_choice import choose
from tasks.served import ServedNetwork
from tasks.super_resolve import Precision, best_device, read_picture, upscale

Pictured = Image.Image | Path | str | NDArray[Any]


def upscale_any(
    image: Pictured,
    model: str | nn.Module | None,
    *,
    scale: int | None,
    architecture: str | None,
    repeat: int,
    precision: Precision,
) -> Image.Image:
    """As `tasks.upscale`, which describes it."""
    picture = as_picture(image)
    served = _served(model, scale, architecture)
    served.network.to(best_device())
    return upscale(
        picture,
        served.network,
        served.architecture,
        served.scale,
        repeat=repeat,
        precision=precision,
    )


def as_picture(image: Pictured) -> Image.Image:
    """A Pillow picture of a file, an array (H×W, H×W×3, H×W×4; uint8, or uint16 if H×W) or itself.

    Raises:
        ImageError: a file that is no picture.
        ValueError: an array of another shape or type.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, (str, Path)):
        return read_picture(Path(image))
    is_grey, is_coloured = image.ndim == 2, image.ndim == 3 and image.shape[2] in (3, 4)  # noqa: PLR2004
    if not (image.dtype == np.uint8 and (is_grey or is_coloured)) and not (
        image.dtype == np.uint16 and is_grey
    ):
        raise ValueError(
            "an array must be uint8, H×W, H×W×3 or H×W×4, or uint16, H×W,"
            f" not {image.dtype} of shape {image.shape}"
        )
    return Image.fromarray(np.ascontiguousarray(image))


def _served(
    model: str | nn.Module | None, scale: int | None, architecture: str | None
) -> ServedNetwork:
    if not isinstance(model, nn.Module):
        if architecture is not None:
            raise ValueError("`architecture` belongs to a network; a name says it already")
        return choose(model, scale, Settings()).served
    if architecture is None or scale is None:
        raise ValueError("with a network, give its `architecture` and `scale` too")
    return ServedNetwork(models.get(architecture), scale, model)
