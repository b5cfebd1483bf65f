"""The steps of the benchmark: plain typed functions. Nothing here knows who schedules them.

For notebooks, two of them by their short names; torch and the rest load at the first call:

>>> import tasks
>>> tasks.upscale("photo.png", model="vdsr-x2").save("photo-x2.png")  # doctest: +SKIP
>>> tasks.results("set5", scale=2)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, Literal

    import pandas as pd
    from numpy.typing import NDArray
    from PIL import Image
    from torch import nn

__all__ = ["results", "upscale"]


def upscale(
    image: Image.Image | Path | str | NDArray[Any],
    model: str | nn.Module | None = None,
    *,
    scale: int | None = None,
    architecture: str | None = None,
    repeat: int = 1,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> Image.Image:
    """Enlarge a picture, in tiles, on the GPU if there is one.

    `image`: a Pillow picture, a file, or an array of uint8, H×W (grey), H×W×3 (RGB) or H×W×4
    (RGBA), or uint16, H×W. `model`: a registered network (`vdsr-x2`, `vdsr-x2/3`), an
    interpolation (`bicubic`), or a network of `models.create`, whose `architecture` and `scale`
    must then be given. Default: the registered champion with the highest PSNR. The answer is a
    Pillow picture of the same kind, `scale` times as large; `repeat` applies the network that
    often.

    Raises:
        ImageError: no picture.
        WeightsError: no such network, or one of another scale.
        ValueError: a network without `architecture` and `scale`, or an array of another kind.
    """
    from tasks.for_notebooks import upscale_any

    return upscale_any(
        image,
        model,
        scale=scale,
        architecture=architecture,
        repeat=repeat,
        precision=precision,
    )


def results(dataset: str | None = None, scale: int | None = None) -> pd.DataFrame:
    """The table of the last run, or its rows of one data set and scale.

    Raises:
        DataError: no run yet, or no such rows; the message says which there are.
    """
    from tasks.last_report import read_summary

    return read_summary(dataset, scale)
