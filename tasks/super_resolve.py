"""One picture through one network: any size, any kind, in tiles, so memory is bounded.

    upscale(image, network, architecture, scale)     pictures, as Pillow has them
    super_resolve(rgb, network, architecture, scale) tensors

A luminance network restores the luminance and leaves Cb and Cr bicubic; that
is the same as adding its change of Y, stretched by 255/219, to each of the
enlarged R, G and B. A grey picture is its own luminance. Transparency is
enlarged by bicubic.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from models.interpolation import BICUBIC_REACH_LR_PX, enlarge
from models.luminance import luminance
from models.registry import Architecture
from tasks.atomic import replacing_file
from tasks.color import RGB_PER_Y
from tasks.cores import num_usable_cores
from tasks.errors import DeviceError, ImageError
from tasks.images import DECODER_ERRORS, FORMATS
from tasks.precision import exact_fp32
from tasks.reach import reach_lr_px

# SR pixels of a tile's side without its margin; 64 MiB of features for 64 channels.
TILE_SR_PX = 512
# A GPU is fed several tiles at once; a CPU's cores share one tile, which is as fast (see
# benchmarks/inference.py) and needs less memory.
_GPU_BATCH = 8
_MAX_16BIT = 65535

FloatPlanes = NDArray[np.float32]
Precision = Literal["fp32", "bf16"]
# Told the finished share of the work, 0–1.
OnProgress = Callable[[float], None]


class _Tile(NamedTuple):
    """A tile in LR pixels: the part that is answered, and with its margin the part that is read."""

    rows: slice
    columns: slice
    read_rows: slice
    read_columns: slice

    @property
    def read_shape(self) -> tuple[int, int]:
        return (
            self.read_rows.stop - self.read_rows.start,
            self.read_columns.stop - self.read_columns.start,
        )


def upscale(
    image: Image.Image,
    network: nn.Module,
    architecture: Architecture,
    scale: int,
    *,
    repeat: int = 1,
    precision: Precision = "fp32",
    on_progress: OnProgress | None = None,
) -> Image.Image:
    """Enlarge a picture of any of Pillow's kinds; grey stays grey, 16-bit grey 16-bit grey.

    A palette is resolved, CMYK and other colour spaces become RGB, the camera's
    orientation is applied, transparency and an RGB colour profile are kept. With
    `repeat`, the network is applied that many times, each time to its own answer,
    which is not rounded in between: ×2 repeated twice enlarges ×4.

    Raises:
        ImageError: a picture without pixels, or with damaged EXIF data.
        ValueError: `repeat` below 1.
    """
    if repeat < 1:
        raise ValueError(f"repeat {repeat!r} is below 1")
    upright = turned_upright(image)
    planes, alpha, is_16bit = _planes(upright)
    x = torch.from_numpy(planes)[None]
    coverage = None if alpha is None else torch.from_numpy(alpha)[None, None]
    for number in range(repeat):
        said = on_progress and _part_of(on_progress, number, repeat, scale)
        x = super_resolve(
            x, network, architecture, scale, precision=precision, on_progress=said
        ).clamp(0, 1)
        if coverage is not None:
            coverage = enlarge(coverage, scale).clamp(0, 1)
    enlarged = _image(x[0].numpy(), is_16bit)
    if coverage is not None:
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
    *,
    tile_px: int | None = None,
    batch: int | None = None,
    precision: Precision = "fp32",
    on_progress: OnProgress | None = None,
) -> Tensor:
    """Enlarge N×3×h×w (or N×1×h×w grey) in 0–1 to N×3×H×W (N×1×H×W), float32, not clamped.

    In tiles of `tile_px` LR pixels (default: 512 SR pixels) that overlap by the
    network's reach, `batch` tiles of one size at a time, so the result is that of
    the whole picture up to rounding. Computed on the network's device. bf16
    rounds a network's inside to 8 bits of mantissa: quicker where the device has
    such units, and some 0.001 of the value range away; interpolations stay exact.
    Where a GPU's memory does not suffice, fewer tiles go at a time.

    Raises:
        DeviceError: it does not suffice for a single tile.
    """
    device = device_of(network)
    network.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    margin = _margin_px(network, architecture, scale)
    height, width = rgb.shape[-2:]
    sr = torch.empty(*rgb.shape[:2], height * scale, width * scale)
    waiting = list(_tiles(height, width, tile_px or TILE_SR_PX // scale, margin))
    batch = batch or (1 if device.type == "cpu" else _GPU_BATCH)
    num_done = 0
    while waiting:
        tiles = _alike(waiting, batch)
        try:
            with torch.inference_mode(), _precision(precision, device):
                answers = _answers(rgb, tiles, network, architecture, scale)
        except torch.OutOfMemoryError as error:
            if len(tiles) == 1:
                raise DeviceError(_memory_message(device, tiles[0])) from error
            batch = len(tiles) // 2
            continue  # leaving this block frees what the failed call held
        for tile, answer in zip(tiles, answers, strict=True):
            _put(sr, tile, answer, scale)
            waiting.remove(tile)
            num_done += (tile.rows.stop - tile.rows.start) * (
                tile.columns.stop - tile.columns.start
            )
        if on_progress is not None:
            on_progress(num_done / (height * width))
    return sr


def device_of(network: nn.Module) -> torch.device:
    """Where a network computes; one without parameters is at home on the CPU."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def best_device() -> torch.device:
    """The GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def use_all_cores() -> int:
    """Let torch compute on every core this process may use, and say how many.

    OMP_NUM_THREADS, if set, is the person's own choice and stays.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(num_usable_cores())
    return torch.get_num_threads()


def read_picture(path: Path) -> Image.Image:
    """Open a picture, whole.

    Raises:
        ImageError: missing, unreadable, truncated, or larger than Pillow's safety limit.
    """
    if path.exists() and not path.is_file():
        raise ImageError(f"{path} is no file; give a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Nothing that starts another program, as PostScript does.
            with Image.open(path, formats=(*FORMATS, "GIF")) as image:
                image.load()
                image.getexif()  # where a damaged one shows, the file's name is known
                return image
    except FileNotFoundError:
        raise ImageError(f"there is no picture {path}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path} is larger than Pillow's safety limit: {error}") from error
    except DECODER_ERRORS as error:
        raise ImageError(f"{path} is corrupt, truncated or no picture: {error}") from error


def turned_upright(image: Image.Image) -> Image.Image:
    """The picture as its camera's note of the orientation has it.

    Raises:
        ImageError: the note cannot be read.
    """
    try:
        return ImageOps.exif_transpose(image)
    except DECODER_ERRORS as error:
        raise ImageError(
            f"the picture's EXIF data are damaged: {error}; save it without them"
        ) from error


def format_of(path: Path) -> str:
    """Pillow's name of the format that a suffix asks for.

    Raises:
        ImageError: unknown suffix.
    """
    file_format = Image.registered_extensions().get(path.suffix.lower())
    if file_format is None or file_format not in Image.SAVE:
        raise ImageError(f"cannot write {path.name!r}: unknown suffix; use .png")
    return file_format


def write_picture(path: Path, image: Image.Image) -> None:
    """Write a picture in the format of its suffix, whole or not at all.

    Raises:
        ImageError: unknown suffix, or a format that cannot hold the picture.
    """
    file_format = format_of(path)
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
    return sr_y if is_grey else enlarge(x, scale) + RGB_PER_Y * (sr_y - bicubic_y)


def _margin_px(network: nn.Module, architecture: Architecture, scale: int) -> int:
    """LR pixels around a tile that its answer depends on, at most."""
    return reach_lr_px(network, architecture, scale) + BICUBIC_REACH_LR_PX + 1


def _tiles(height: int, width: int, tile_px: int, margin: int) -> Iterator[_Tile]:
    rows, columns = _cuts(height, tile_px, margin), _cuts(width, tile_px, margin)
    for row, read_row in rows:
        for column, read_column in columns:
            yield _Tile(row, column, read_row, read_column)


def _cuts(size: int, tile_px: int, margin: int) -> list[tuple[slice, slice]]:
    """An axis in tiles: the part that is answered, and the part that is read for it."""
    return [
        (
            slice(start, min(start + tile_px, size)),
            slice(max(0, start - margin), min(start + tile_px + margin, size)),
        )
        for start in range(0, size, tile_px)
    ]


def _alike(tiles: list[_Tile], most: int) -> list[_Tile]:
    """The first tile and others of its size, at most `most` together."""
    shape = tiles[0].read_shape
    return list(islice((tile for tile in tiles if tile.read_shape == shape), most))


def _answers(
    rgb: Tensor, tiles: list[_Tile], network: nn.Module, architecture: Architecture, scale: int
) -> Tensor:
    """What the network makes of tiles of one size: tiles×N×C×H×W, in main memory."""
    stacked = torch.cat([rgb[..., each.read_rows, each.read_columns] for each in tiles])
    x = stacked.to(device_of(network), memory_format=torch.channels_last)
    answers = _apply(x, network, architecture, scale).float().cpu()
    return answers.reshape(len(tiles), len(rgb), *answers.shape[1:])


def _memory_message(device: torch.device, tile: _Tile) -> str:
    height, width = tile.read_shape
    return (
        f"{device}: its memory does not suffice for a tile of {width}×{height} pixels; free some,"
        " or set CUDA_VISIBLE_DEVICES= to compute on the CPU"
    )


def _put(sr: Tensor, tile: _Tile, answer: Tensor, scale: int) -> None:
    """Copy a tile's answer, less its margin, to its place."""
    target = sr[..., _times(tile.rows, scale), _times(tile.columns, scale)]
    top = (tile.rows.start - tile.read_rows.start) * scale
    left = (tile.columns.start - tile.read_columns.start) * scale
    target.copy_(answer[..., top : top + target.shape[-2], left : left + target.shape[-1]])


def _times(part: slice, scale: int) -> slice:
    return slice(part.start * scale, part.stop * scale)


def _precision(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """bf16 by autocast, or single precision as it stands."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return exact_fp32()


def _part_of(on_progress: OnProgress, number: int, repeat: int, scale: int) -> OnProgress:
    """One pass's progress as that of the whole: each pass has scale² times the pixels."""
    sizes = [scale ** (2 * each) for each in range(repeat)]
    before, own, total = sum(sizes[:number]), sizes[number], sum(sizes)
    return lambda share: on_progress((before + share * own) / total)


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
