"""Pictures beside each other: the papers' comparison, error maps, and how a training went on.

Pixels are drawn as they are, never smoothed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tasks.color import luminance
from tasks.crops import Comparison, Crop, Image
from tasks.figures import GREY, WIDTH_IN, drawing, save
from tasks.images import read_image
from tasks.metrics import psnr_db
from tasks.snapshots import FOLDER

_GAP_IN, _LABEL_IN, _TITLE_IN = 0.08, 0.42, 0.34
# How much of the width the picture may take, beside few crops and beside many; a crop's side.
_MAX_LEFT = (0.62, 0.4)
_GOOD_PANEL_IN, _MAX_PANEL_IN = 1.1, 2.4
_MAX_ROWS = 6
_MAP_COLUMNS = 6
_BOX = "#ffe600"


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """HR with the window marked; beside it the window by HR, bicubic and each network.

    Under each crop PSNR (dB) and SSIM of the whole picture, the best bold.
    """
    panels: list[tuple[str, str, Image]] = [("HR", "PSNR / SSIM", _hr_crop(comparison))]
    panels += [(crop.name, _figures(crop), crop.picture) for crop in comparison.crops]
    best = _best(comparison.crops)
    height, width = comparison.hr.shape[:2]
    grid = _grid(len(panels), width / height)
    with drawing():
        figure = Figure(figsize=(grid.width_in, grid.height_in))
        axes = _axes(figure, 0, _TITLE_IN, grid.left_in, grid.left_in * height / width)
        _draw(axes, comparison.hr)
        _mark(axes, comparison)
        _title(figure, f"{comparison.image}, {comparison.dataset} ×{comparison.scale}")
        for place, (name, numbers, picture) in enumerate(panels):
            row, column = divmod(place, grid.num_columns)
            left = grid.left_in + _GAP_IN + column * (grid.panel_in + _GAP_IN)
            top = _TITLE_IN + row * (grid.panel_in + _LABEL_IN)
            axes = _axes(figure, left, top, grid.panel_in, grid.panel_in)
            _draw(axes, picture)
            _caption(axes, name, numbers, bold=name == best)
        save(figure, path)


def plot_errors(comparison: Comparison, path: Path) -> None:
    """|SR - HR| of the luminance inside the window, on one scale for bicubic and all networks."""
    truth = comparison.window.of(comparison.hr_y)
    errors = {crop.name: _error(crop.y, truth) for crop in comparison.crops}
    highest = max(1.0, float(np.percentile(np.stack(list(errors.values())), 99.5)))
    num_columns = min(_MAP_COLUMNS, len(errors) + 1)
    num_rows = -(-(len(errors) + 1) // num_columns)
    panel_in = min(_MAX_PANEL_IN, (WIDTH_IN - 0.9) / num_columns - _GAP_IN)
    height_in = _TITLE_IN + num_rows * (panel_in + _LABEL_IN)
    with drawing():
        figure = Figure(figsize=(WIDTH_IN, height_in))
        _title(figure, f"{comparison.image}, {comparison.dataset} ×{comparison.scale}: |SR − HR|")
        for place, name in enumerate(["HR", *errors]):
            row, column = divmod(place, num_columns)
            left, top = column * (panel_in + _GAP_IN), _TITLE_IN + row * (panel_in + _LABEL_IN)
            axes = _axes(figure, left, top, panel_in, panel_in)
            if name == "HR":
                _draw(axes, truth)
                _caption(axes, name, "luminance")
            else:
                drawn = axes.imshow(errors[name], cmap="magma", vmin=0, vmax=highest)
                _bare(axes)
                rmse = float(np.sqrt(np.mean(errors[name] ** 2)))
                _caption(axes, name, f"RMSE {rmse:.1f}")
        left = num_columns * (panel_in + _GAP_IN) + 0.06
        bar = _axes(figure, left, _TITLE_IN, 0.14, panel_in)
        figure.colorbar(drawn, cax=bar, extend="max").set_label("grey levels", fontsize=9)
        save(figure, path)


@dataclass(frozen=True)
class Progression:
    """The same crop at several steps of one training; pictures are 8 bits."""

    cell: str
    hr: Image
    bicubic: Image
    by_step: Mapping[int, Image]


def read_snapshots(cell: str, folder: Path, scale: int) -> Progression | None:
    """What a training left of its snapshots at a scale; nothing if it left none."""
    found = {
        int(match[1]): path
        for path in sorted((folder / FOLDER).glob(f"step-*-x{scale}.png"))
        if (match := re.fullmatch(rf"step-(\d+)-x{scale}\.png", path.name))
    }
    if not found:
        return None
    hr, bicubic = (
        read_image(folder / FOLDER / f"{name}-x{scale}.png") for name in ("hr", "bicubic")
    )
    by_step = {step: read_image(path) for step, path in found.items()}
    return Progression(cell, hr, bicubic, by_step)


def plot_snapshots(trainings: Sequence[Progression], scale: int, path: Path) -> None:
    """A row for each training: bicubic, the network after so many steps, HR.

    Under each crop its own PSNR (dB), by the ruler but of this crop alone.
    """
    num_columns = max(len(each.by_step) for each in trainings) + 2
    panel_in = min(_MAX_PANEL_IN, WIDTH_IN / num_columns - _GAP_IN)
    row_in = panel_in + _LABEL_IN + _TITLE_IN
    with drawing():
        figure = Figure(figsize=(WIDTH_IN, len(trainings) * row_in))
        for row, each in enumerate(trainings):
            _title(figure, each.cell, row * row_in)
            shown = [("bicubic", each.bicubic)]
            shown += [(f"step {step:,}", picture) for step, picture in each.by_step.items()]
            for column, (name, picture) in enumerate([*shown, ("HR", each.hr)]):
                left, top = column * (panel_in + _GAP_IN), _TITLE_IN + row * row_in
                axes = _axes(figure, left, top, panel_in, panel_in)
                _draw(axes, picture)
                psnr = psnr_db(luminance(picture), luminance(each.hr), scale)
                _caption(axes, name, "" if name == "HR" else f"{psnr:.2f} dB")
        save(figure, path)


@dataclass(frozen=True)
class _Grid:
    """How the crops stand beside the picture, in inches."""

    num_columns: int
    panel_in: float
    left_in: float
    width_in: float
    height_in: float
    is_level: bool


def _grid(num_panels: int, aspect: float) -> _Grid:
    """As few rows of crops as give them a good size with the picture as high as the rows.

    Where none does, the picture is made smaller.
    """
    rows = range(min(2, num_panels), _MAX_ROWS + 1)
    grids = [
        _grid_of(num_rows, num_panels, aspect, most) for most in _MAX_LEFT for num_rows in rows
    ]
    good = (each for each in grids if each.panel_in >= _GOOD_PANEL_IN and each.is_level)
    small = (each for each in grids[len(rows) :] if each.panel_in >= _GOOD_PANEL_IN)
    return next(good, None) or next(small, None) or grids[-1]


def _grid_of(num_rows: int, num_panels: int, aspect: float, max_left: float) -> _Grid:
    num_columns = -(-num_panels // num_rows)
    labels_in = (num_rows - 1) * _LABEL_IN
    room_in = WIDTH_IN - _GAP_IN * num_columns
    panel_in = (room_in - aspect * labels_in) / (aspect * num_rows + num_columns)
    panel_in = min(panel_in, _MAX_PANEL_IN)
    left_in = aspect * (num_rows * panel_in + labels_in)
    is_level = left_in <= max_left * WIDTH_IN
    if not is_level:
        left_in = max_left * WIDTH_IN
        panel_in = min((room_in - left_in) / num_columns, _MAX_PANEL_IN)
    rows_in = num_rows * (panel_in + _LABEL_IN)
    return _Grid(
        num_columns=num_columns,
        panel_in=panel_in,
        left_in=left_in,
        width_in=left_in + num_columns * (panel_in + _GAP_IN),
        height_in=_TITLE_IN + max(rows_in, left_in / aspect),
        is_level=is_level,
    )


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the upper left corner."""
    whole_width, whole_height = figure.get_size_inches()
    bottom = whole_height - top - height
    return figure.add_axes(
        (left / whole_width, bottom / whole_height, width / whole_width, height / whole_height)
    )


def _draw(axes: Axes, picture: Image) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _mark(axes: Axes, comparison: Comparison) -> None:
    window = comparison.window
    corner, side = (window.left - 0.5, window.top - 0.5), window.side
    for colour, width in (("black", 4), (_BOX, 2)):
        axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=width))


def _title(figure: Figure, text: str, top: float = 0.0) -> None:
    height = figure.get_size_inches()[1]
    figure.text(0, 1 - (top + 0.06) / height, text, fontsize=11, va="top")


def _caption(axes: Axes, name: str, numbers: str, *, bold: bool = False) -> None:
    for text, below, colour in ((name, 12, "black"), (numbers, 24, GREY)):
        axes.annotate(
            text,
            (0.5, 0),
            xycoords="axes fraction",
            xytext=(0, -below),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            fontweight="bold" if bold else "normal",
            color=colour,
        )


def _figures(crop: Crop) -> str:
    if crop.psnr_db is None or crop.ssim is None:
        return "not measured"
    return f"{crop.psnr_db:.2f} / {crop.ssim:.4f}"


def _best(crops: Sequence[Crop]) -> str | None:
    measured = {crop.name: crop.psnr_db for crop in crops if crop.psnr_db is not None}
    return max(measured, key=lambda name: measured[name]) if measured else None


def _hr_crop(comparison: Comparison) -> Image:
    crop: Image = comparison.window.of(comparison.hr)
    return crop


def _error(sr_y: Image, hr_y: Image) -> NDArray[np.float64]:
    error: NDArray[np.float64] = np.abs(sr_y.astype(np.float64) - hr_y)
    return error
