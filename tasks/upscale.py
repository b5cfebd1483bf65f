"""One picture through one network: any size, any kind, in tiles, so memory is bounded.

    upscale(image, network, architecture, scale)     pictures, as Pillow has them
    super_resolve(rgb, network, architecture, scale) tensors

A luminance network restores the luminance and leaves Cb and Cr bicubic; that
is the same as adding its change of Y, stretched by 255/219, to each of the
enlarged R, G and B. A grey picture is its own luminance. Transparency is
enlarged by bicubic.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from models.interpolation import enlarge
from models.luminance import luminance
from models.registry import Architecture
from tasks.atomic import replacing_file
from tasks.errors import ImageError

# LR pixels of a tile's side without its margin; 64 MiB of features for 64 channels at ×4.
TILE_LR_PX = 128
# Y spans 219 of 255 levels, so a change of Y changes R, G and B by this much.
_RGB_PER_Y = 255 / 219
_BICUBIC_REACH_PX = 2
_MAX_16BIT = 65535

FloatPlanes = NDArray[np.float32]


def upscale(
    image: Image.Image, network: nn.Module, architecture: Architecture, scale: int
) -> Image.Image:
    """Enlarge a picture of any of Pillow's kinds; grey stays grey, 16 bits stay 16 bits.

    A palette is resolved, CMYK and other colour spaces become RGB, the camera's
    orientation is applied, transparency and an RGB colour profile are kept.

    Raises:
        ImageError: a picture without pixels.
    """
    upright = ImageOps.exif_transpose(image)
    planes, alpha, is_16bit = _planes(upright)
    sr = super_resolve(torch.from_numpy(planes)[None], network, architecture, scale)
    values = sr[0].clamp(0, 1).numpy()
    enlarged = _image(values, is_16bit)
    if alpha is not None:
        coverage = enlarge(torch.from_numpy(alpha)[None, None], scale).clamp(0, 1)
        enlarged.putalpha(_image(coverage[0].numpy(), is_16bit=False))
    profile = upright.info.get("icc_profile")
    if profile and upright.mode in ("RGB", "RGBA", "L"):
        enlarged.info["icc_profile"] = profile
    return enlarged


def super_resolve(
    rgb: Tensor,
    network: nn.Module,
    architecture: Architecture,
    scale: int,
    tile_px: int = TILE_LR_PX,
) -> Tensor:
    """Enlarge N×3×h×w (or N×1×h×w grey) in 0–1 to N×3×H×W (N×1×H×W), not clamped.

    In tiles of `tile_px` LR pixels that overlap by the network's reach, so the
    result is that of the whole picture up to rounding.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    margin = _margin_px(network, architecture, scale)
    height, width = rgb.shape[-2:]
    sr = torch.empty(*rgb.shape[:2], height * scale, width * scale)
    network.eval()
    with torch.inference_mode():
        for y, x in _corners(height, width, tile_px):
            top, left = max(0, y - margin), max(0, x - margin)
            tile = rgb[..., top : y + tile_px + margin, left : x + tile_px + margin].to(device)
            answer = _apply(tile, network, architecture, scale).cpu()
            inner_y, inner_x = (y - top) * scale, (x - left) * scale
            target = sr[..., y * scale : (y + tile_px) * scale, x * scale : (x + tile_px) * scale]
            target.copy_(
                answer[
                    ...,
                    inner_y : inner_y + target.shape[-2],
                    inner_x : inner_x + target.shape[-1],
                ]
            )
    return sr.clone()


def read_picture(path: Path) -> Image.Image:
    """Open a picture, whole.

    Raises:
        ImageError: unreadable, truncated, or larger than Pillow's safety limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path} is larger than Pillow's safety limit: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{path} is corrupt, truncated or no picture: {error}") from error


def write_picture(path: Path, image: Image.Image) -> None:
    """Write a picture in the format of its suffix, whole or not at all.

    Raises:
        ImageError: unknown suffix, or a format that cannot hold the picture.
    """
    file_format = Image.registered_extensions().get(path.suffix.lower())
    if file_format is None or file_format not in Image.SAVE:
        raise ImageError(f"cannot write {path.name!r}: unknown suffix; use .png")
    try:
        with replacing_file(path) as temporary:
            profile = image.info.get("icc_profile")
            image.save(temporary, format=file_format, icc_profile=profile)
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(f"cannot write {path} as {file_format}: {error}; use .png") from error


def _apply(x: Tensor, network: nn.Module, architecture: Architecture, scale: int) -> Tensor:
    """One tile, N×3 or N×1 channels in 0–1."""
    if not architecture.trainable:
        interpolated: Tensor = network(x)  # any number of channels, each by itself
        return interpolated
    is_grey = x.shape[1] == 1
    if architecture.channels == "rgb":
        rgb = x.expand(-1, 3, -1, -1)
        sr: Tensor = network(enlarge(rgb, scale) if architecture.enlarged else rgb)
        # Where R = G = B the mean is each of them; a network's answer is nearly so.
        return sr.mean(dim=1, keepdim=True) if is_grey else sr
    y = x if is_grey else luminance(x)
    bicubic_y = enlarge(y, scale)
    sr_y: Tensor = network(bicubic_y if architecture.enlarged else y)
    return sr_y if is_grey else enlarge(x, scale) + _RGB_PER_Y * (sr_y - bicubic_y)


def _margin_px(network: nn.Module, architecture: Architecture, scale: int) -> int:
    """LR pixels around a tile that its answer depends on, at most."""
    reach = sum(
        (layer.kernel_size[0] // 2) * layer.dilation[0]
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    )
    lr_reach = math.ceil(reach / scale) if architecture.enlarged else reach
    # Interpolations have no layers; Lanczos-3 looks three pixels away.
    return lr_reach + _BICUBIC_REACH_PX + 1


def _corners(height: int, width: int, tile_px: int) -> Iterator[tuple[int, int]]:
    for y in range(0, height, tile_px):
        for x in range(0, width, tile_px):
            yield y, x


def _planes(image: Image.Image) -> tuple[FloatPlanes, FloatPlanes | None, bool]:
    """The picture as C×H×W in 0–1 (C is 1 or 3), its alpha as H×W, and whether it has 16 bits."""
    if not image.width or not image.height:
        raise ImageError("the picture has no pixels")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.float32) / _MAX_16BIT
        return levels.clip(0, 1)[None], None, True
    if image.mode == "F":
        raise ImageError("a picture of floating-point values has no known range; convert it first")
    alpha = None
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = _unit(rgba.getchannel("A"))
        image = rgba.convert("L" if image.mode in ("LA", "La", "L", "1") else "RGB")
    if image.mode in ("1", "L"):
        return _unit(image.convert("L"))[None], alpha, False
    return np.ascontiguousarray(_unit(image.convert("RGB")).transpose(2, 0, 1)), alpha, False


def _unit(image: Image.Image) -> FloatPlanes:
    return np.asarray(image).astype(np.float32) / np.float32(255)


def _image(planes: FloatPlanes, is_16bit: bool) -> Image.Image:
    """C×H×W in 0–1 as a picture, rounded."""
    if is_16bit:
        return Image.fromarray((planes[0] * _MAX_16BIT + 0.5).astype(np.uint16))
    levels = (planes * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
