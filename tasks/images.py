"""Picture files in and out, for data sets: 8 bits, grey or RGB, nothing converted in silence."""

import re
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.atomic import replacing_file
from tasks.errors import ImageError

SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})

Picture = NDArray[np.uint8]


def list_images(folder: Path) -> list[Path]:
    """The picture files of a folder, sorted by name.

    Raises:
        ImageError: there are none.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ImageError(f"no images found in {folder}; known: {', '.join(sorted(SUFFIXES))}")
    return found


def read_image(path: Path) -> Picture:
    """A picture as uint8: H×W for a grey one, H×W×3 for a colour one.

    Transparency is dropped and a palette resolved.

    Raises:
        ImageError: unreadable, truncated, larger than Pillow's safety limit,
            or with more than 8 bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                _refuse_deep(image, path)
                image.load()
                return _as_uint8(image, path)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{path} is corrupt, truncated or no picture: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path} is larger than Pillow's safety limit: {error}") from error


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture as PNG, whole or not at all."""
    with replacing_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=1)


def _refuse_deep(image: Image.Image, path: Path) -> None:
    # Pillow has no colour mode of 16 bits: of RGB;16B and the like it drops the lower 8 in silence.
    is_deep = any(re.search(";16[BLN]", str(tile.args)) for tile in getattr(image, "tile", ()))
    if is_deep or image.mode.startswith(("I", "F")):
        raise ImageError(
            f"{path} has more than the 8 bits a channel that data sets hold (mode {image.mode})"
        )


def _as_uint8(image: Image.Image, path: Path) -> Picture:
    if image.mode in ("L", "LA", "La", "1"):
        return np.asarray(image.convert("L"))
    # By way of RGBA, or Pillow warns of a palette with transparent colours.
    return np.asarray(image.convert("RGBA").convert("RGB"))
