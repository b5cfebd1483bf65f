"""One sheet: every network's answer to one picture, the same detail of each, side by side.

The whole picture with the box marked, then the detail of HR (where there is one), of bicubic and
of each network, enlarged by repeating pixels. With HR, PSNR and SSIM of the whole picture by the
ruler stand under each detail.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tasks.bicubic import crop_to_multiple, shrink
from tasks.color import is_grey, luminance
from tasks.errors import ImageError, ParamsError
from tasks.metrics import SSIM_WINDOW_PX, Quality, measure
from tasks.network_choice import Choice
from tasks.protocol import Picture, planes_of, sr_luminance, sr_picture
from tasks.super_resolve import best_device, super_resolve, turned_upright, upscale

Pixels = NDArray[np.uint8]

# Of the sheet, in pixels.
CELL_PX, GAP_PX, TEXT_PX = 224, 14, 15
_LINE_PX = TEXT_PX + 6
_LEAST_CELL_PX = 176  # room for a name
_MOST_COLUMNS = 5
_BACKGROUND, _INK, _FAINT, _MARK = "white", "#1a1a1a", "#5a5a5a", "#D55E00"
# Of the SR picture: the side of the box that is chosen where none is given.
_LEAST_BOX_PX, _MOST_BOX_PX, _BOX_PART = 32, 128, 5


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, its upper left corner at x, y."""

    x: int
    y: int
    width: int
    height: int

    def times(self, scale: int) -> "Box":
        """The same rectangle of a picture `scale` times as large."""
        return Box(*(scale * value for value in (self.x, self.y, self.width, self.height)))

    def crop(self, image: Image.Image) -> Image.Image:
        """That part of a picture."""
        return image.crop((self.x, self.y, self.x + self.width, self.y + self.height))

    def __str__(self) -> str:
        return f"{self.x},{self.y},{self.width},{self.height}"


@dataclass(frozen=True)
class Entry:
    """One detail of the sheet: whose it is, the whole SR picture, and what it is worth."""

    name: str
    sr: Image.Image
    quality: Quality | None


@dataclass(frozen=True)
class Sheet:
    """The sheet, what stands on it, and the box, in pixels of the SR picture."""

    image: Image.Image
    entries: tuple[Entry, ...]
    box: Box


def parse_box(text: str) -> Box:
    """`x,y,width,height` in pixels.

    Raises:
        ParamsError: not four whole numbers, or no pixels.
    """
    try:
        box = Box(*(int(part) for part in text.split(",")))
    except (TypeError, ValueError):
        raise ParamsError(f"--box {text!r} is not x,y,width,height in pixels") from None
    if min(box.x, box.y) < 0 or min(box.width, box.height) < 1:
        raise ParamsError(f"--box {text!r} must not be negative, nor without pixels")
    return box


def compare(
    picture: Image.Image,
    choices: Sequence[Choice],
    scale: int,
    *,
    box: Box | None = None,
    reference: Image.Image | None = None,
    degrade: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Sheet:
    """Enlarge `picture` by every network of `choices`, and lay the answers side by side.

    With `reference`, its HR picture, the answers are measured against it as they are. With
    `degrade`, `picture` is itself the HR picture: it is cropped and shrunk as the benchmark does,
    and the figures are those of the tables.
    `box` is in pixels of `picture`; without one, the detail with the most structure is taken.

    Raises:
        ParamsError: both `reference` and `degrade`, or a box outside the picture.
        ImageError: a reference of the wrong size, a picture too small to be degraded.
    """
    if reference is not None and degrade:
        raise ParamsError("--degrade makes the picture its own reference; leave --reference out")
    shown = _plain(picture)
    if box is not None:
        _check_inside(box, shown)
    hr, lr = _pair(shown, None if reference is None else _plain(reference), scale, degrade)
    entries = [] if hr is None else [Entry("HR", hr, None)]
    for choice in choices:
        say(choice.name)
        served = choice.served
        served.network.to(best_device())
        sr = upscale(lr, served.network, served.architecture, scale)
        if hr is None:
            quality = None
        elif degrade:
            quality = _as_in_the_tables(choice, sr, hr, lr, scale)
        else:
            quality = _as_it_is(sr, hr, scale)
        entries.append(Entry(choice.name, sr, quality))
    whole = hr or entries[0].sr
    if box is None:
        box = most_detailed(luminance(np.asarray(whole)))
    elif not degrade:
        box = box.times(scale)
    _check_inside(box, whole)
    footer = _footer(hr, scale, degrade)
    return Sheet(_draw(whole, entries, box, footer), tuple(entries), box)


def most_detailed(y: Pixels) -> Box:
    """The square of an H×W luminance whose neighbours differ most, the first of several."""
    height, width = y.shape
    side = min(max(min(height, width) // _BOX_PART, _LEAST_BOX_PX), _MOST_BOX_PX, height, width)
    levels = y.astype(np.int64)
    change = np.zeros((height + 1, width + 1), np.int64)
    change[1:, 2:] += np.abs(np.diff(levels, axis=1))
    change[2:, 1:] += np.abs(np.diff(levels, axis=0))
    total = change.cumsum(axis=0).cumsum(axis=1)  # whole numbers, so ties are real ones
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return Box(int(left), int(top), side, side)


def _check_inside(box: Box, picture: Image.Image) -> None:
    if box.x + box.width > picture.width or box.y + box.height > picture.height:
        size = f"{picture.width}×{picture.height}"
        raise ParamsError(f"the box {box} does not lie inside the picture of {size} pixels")


def _plain(image: Image.Image) -> Image.Image:
    """Upright, 8 bits, grey or RGB."""
    upright = turned_upright(image)
    if upright.mode == "F":
        raise ImageError("a picture of floating-point values has no known range; convert it first")
    if upright.mode.startswith("I"):
        levels = np.asarray(upright).astype(np.float64).clip(0, 65535)
        return Image.fromarray((levels / 257 + 0.5).astype(np.uint8))
    is_grey = upright.mode in ("L", "LA", "La", "1")
    return upright.convert("L") if is_grey else upright.convert("RGBA").convert("RGB")


def _pair(
    picture: Image.Image, reference: Image.Image | None, scale: int, degrade: bool
) -> tuple[Image.Image | None, Image.Image]:
    """The HR picture, if there is one, and the LR picture."""
    if degrade:
        least = SSIM_WINDOW_PX + 3 * scale
        if min(picture.size) < least:
            raise ImageError(f"--degrade needs {least} pixels a side, not {min(picture.size)}")
        hr = crop_to_multiple(np.asarray(picture), scale)
        return Image.fromarray(hr), Image.fromarray(shrink(hr, scale))
    if reference is None:
        return None, picture
    expected = (picture.width * scale, picture.height * scale)
    if reference.width < expected[0] or reference.height < expected[1]:
        raise ImageError(
            f"the reference is {reference.width}×{reference.height}; ×{scale} of this picture is"
            f" {expected[0]}×{expected[1]}; with the HR picture alone, use --degrade"
        )
    # As the ruler does: HR is cropped to a multiple of the scale, its upper left corner kept.
    if reference.width - expected[0] >= scale or reference.height - expected[1] >= scale:
        raise ImageError(
            f"the reference is {reference.width}×{reference.height}, too large for ×{scale} of"
            f" {picture.width}×{picture.height}"
        )
    return reference.crop((0, 0, *expected)), picture


def _as_it_is(sr: Image.Image, hr: Image.Image, scale: int) -> Quality:
    return measure(luminance(np.asarray(_like(sr, hr))), luminance(np.asarray(hr)), scale)


def _as_in_the_tables(
    choice: Choice, sr: Image.Image, hr: Image.Image, lr: Image.Image, scale: int
) -> Quality:
    """By the tables' protocol, whose answer may be another than the shown `sr`.

    A luminance network gets the luminance unrounded; of an RGB network's answer to a grey picture
    all three channels are rounded and count.
    """
    about, network, pixels = choice.served.architecture, choice.served.network, np.asarray(hr)
    if about.channels == "rgb" and not is_grey(pixels):
        return _as_it_is(sr, hr, scale)
    x = planes_of(about, pixels, np.asarray(lr), scale)
    x = x.float() if about.trainable else x
    picture = Picture(choice.name, x, pixels, luminance(pixels))
    answer = sr_picture(about, super_resolve(x, network, about, scale))
    return measure(sr_luminance(about, picture, answer), picture.hr_y, scale)


def _like(sr: Image.Image, hr: Image.Image) -> Image.Image:
    return sr if sr.mode == hr.mode else sr.convert(hr.mode)


def _footer(hr: Image.Image | None, scale: int, degrade: bool) -> str:
    if hr is None:
        return f"×{scale}"
    way = "shrunk and measured as the tables' pictures" if degrade else "against the reference"
    return f"×{scale}; PSNR and SSIM of the whole picture's luminance, {way}; best in bold"


def _draw(whole: Image.Image, entries: Sequence[Entry], box: Box, footer: str) -> Image.Image:
    """Lay out the whole picture on the left and the details in rows on the right."""
    zoom = max(1, min(CELL_PX // box.width, CELL_PX // box.height))
    cell_px = max(_LEAST_CELL_PX, box.width * zoom)
    columns = min(_MOST_COLUMNS, math.ceil(math.sqrt(1.5 * len(entries))))
    rows = math.ceil(len(entries) / columns)
    row_px = box.height * zoom + 2 * _LINE_PX + GAP_PX
    height = max(rows * row_px, 2 * CELL_PX)
    left = _fitted(whole, 3 * CELL_PX, height - _LINE_PX)
    width = left.width + columns * (cell_px + GAP_PX) + 2 * GAP_PX
    sheet = Image.new("RGB", (width, height + _LINE_PX + 2 * GAP_PX), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    sheet.paste(left, (GAP_PX, GAP_PX))
    _mark(draw, box, left.width / whole.width)
    best = max((each.quality.psnr_db for each in entries if each.quality), default=math.nan)
    for number, entry in enumerate(entries):
        x = left.width + 2 * GAP_PX + number % columns * (cell_px + GAP_PX)
        y = GAP_PX + number // columns * row_px
        detail = box.crop(entry.sr.convert("RGB"))
        detail = detail.resize((box.width * zoom, box.height * zoom), Image.Resampling.NEAREST)
        sheet.paste(detail, (x, y))
        _label(draw, entry, best, x, y + detail.height + 3, cell_px)
    draw.text((GAP_PX, height + GAP_PX), footer, _FAINT, _font("DejaVuSans.ttf", TEXT_PX - 2))
    return sheet


def _fitted(whole: Image.Image, width: int, height: int) -> Image.Image:
    """The whole picture in the place there is, at most twice as large."""
    factor = min(width / whole.width, height / whole.height, 2.0)
    size = (max(1, round(whole.width * factor)), max(1, round(whole.height * factor)))
    return whole.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _mark(draw: ImageDraw.ImageDraw, box: Box, factor: float) -> None:
    left, top = GAP_PX + box.x * factor, GAP_PX + box.y * factor
    right, bottom = left + box.width * factor, top + box.height * factor
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="white", width=4)
    draw.rectangle((left, top, right, bottom), outline=_MARK, width=2)


def _label(
    draw: ImageDraw.ImageDraw, entry: Entry, best: float, x: int, y: int, width: int
) -> None:
    is_best = entry.quality is not None and entry.quality.psnr_db == best
    face = "DejaVuSans-Bold.ttf" if is_best else "DejaVuSans.ttf"
    size = TEXT_PX
    while size > 9 and draw.textlength(entry.name, _font(face, size)) > width:  # noqa: PLR2004
        size -= 1
    draw.text((x, y), entry.name, _INK, _font(face, size))
    if entry.quality is not None:
        text = f"{entry.quality.psnr_db:.2f} dB  {entry.quality.ssim:.4f}"
        draw.text((x, y + _LINE_PX), text, _INK if is_best else _FAINT, _font(face, TEXT_PX - 1))


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)
