"""Picture files in and out, for data sets: 8 bits, grey or RGB, nothing converted in silence."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tasks.atomic import replacing_file
from tasks.errors import ImageError

SUFFIXES = frozenset({".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp"})
# Whatever a file is called, nothing but these decoders sees it: Pillow hands PostScript to
# Ghostscript, an interpreter.
FORMATS = ("PNG", "BMP", "JPEG", "TIFF", "WEBP")
_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"})

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

    Transparency is dropped and a palette resolved; a camera's note of its orientation is not
    followed.

    Raises:
        ImageError: unreadable, truncated, larger than Pillow's safety limit, with more than 8
            bits a channel, in another colour space than grey or RGB, or several in one file.
    """
    if path.exists() and not path.is_file():  # a named pipe would keep us waiting
        raise ImageError(f"{path} is no file; leave it out")
    try:
        with Image.open(path, formats=FORMATS) as image:
            _refuse(image, path)
            image.load()
            return _as_uint8(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_too_large(path)) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path} is corrupt, truncated or no picture: it is none of {', '.join(FORMATS)};"
            " mend it or leave it out"
        ) from error
    except DECODER_ERRORS as error:
        raise ImageError(
            f"{path} is corrupt, truncated or no picture: {error}; mend it or leave it out"
        ) from error


# What Pillow's decoders raise on hostile bytes.
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture as PNG, whole or not at all."""
    with replacing_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", compress_level=1)


def _refuse(image: Image.Image, path: Path) -> None:
    """Refuse what would be converted or cut in silence, before a pixel is decoded."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageError(_too_large(path))
    if not (image.width and image.height):
        raise ImageError(f"{path} has no pixels; leave it out")
    # Pillow has no colour mode of 16 bits: of RGB;16B and the like it drops the lower 8 in silence.
    is_deep = any(re.search(";16[BLN]", str(tile.args)) for tile in getattr(image, "tile", ()))
    if is_deep or image.mode.startswith(("I", "F")):
        raise ImageError(
            f"{path} has more than the 8 bits a channel that data sets hold (mode {image.mode});"
            " convert it or leave it out"
        )
    if image.mode not in _MODES:
        raise ImageError(f"{path} is {image.mode}; convert it to grey or RGB, or leave it out")
    num_frames = getattr(image, "n_frames", 1)
    # MPO is the JPEG of cameras that put a preview behind the picture.
    if num_frames > 1 and image.format != "MPO":
        raise ImageError(f"{path} holds {num_frames} pictures; keep one of them or leave it out")


def _too_large(path: Path) -> str:
    return (
        f"{path} is larger than Pillow's safety limit, {Image.MAX_IMAGE_PIXELS} pixels; cut it into"
        " smaller ones or leave it out"
    )


def _as_uint8(image: Image.Image) -> Picture:
    if image.mode in ("L", "LA", "La", "1"):
        return np.asarray(image.convert("L"))
    if image.mode == "RGB":
        return np.asarray(image)
    # By way of RGBA, or Pillow warns of a palette with transparent colours.
    return np.asarray(image.convert("RGBA").convert("RGB"))
