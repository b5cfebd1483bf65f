"""The style of all figures, and the curves of training.

Legible at README width: 10 inches at 110 dots, text of 9 to 11 points. Okabe and Ito's colours,
which the colour-blind can tell apart, and besides the colour a marker or dash of its own for each
line, so that no figure depends on colour alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator

from tasks.atomic import replacing_file

# Okabe and Ito's palette, without its yellow, which is too pale for lines on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#6b7280"
WIDTH_IN, _DPI = 10.0, 110
_CURVE_HEIGHT_IN = 3.9
_LEGEND_COLUMNS, _LEGEND_ROW_IN = 5, 0.22
_LOSS = "loss"
_PSNR = "psnr_db_x"
_STYLE: dict[str, Any] = {
    "font.size": 10,
    "text.parse_math": False,  # names of pictures are anybody's
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Style:
    """How one network looks in every figure."""

    colour: str
    marker: str
    dash: str


@contextmanager
def drawing() -> Iterator[None]:
    """The common style, for the time of the block."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A look for each name, by its place in the sequence; no two of the first 28 are alike."""
    num = len(COLOURS)
    return {
        name: Style(
            COLOURS[place % num],
            _MARKERS[(place + place // num) % len(_MARKERS)],
            _DASHES[place // num % len(_DASHES)],
        )
        for place, name in enumerate(dict.fromkeys(names))
    }


def plot_training(
    histories: Mapping[str, pd.DataFrame], path: Path, looks: Mapping[str, Style] | None = None
) -> None:
    """Loss and validation PSNR by step, one line for each training (and scale).

    A history has the columns `step`, `loss` and, for each scale, `psnr_db_x<scale>`. `looks` are
    the same names' in other figures.
    """
    lines = [(name, column) for name, rows in histories.items() for column in _scales(rows)]
    rows_of_legend = -(-max(len(lines), len(histories)) // _LEGEND_COLUMNS)
    looks = looks or styles(list(histories))
    with drawing():
        height_in = _CURVE_HEIGHT_IN + rows_of_legend * _LEGEND_ROW_IN
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        losses, psnrs = figure.subplots(1, 2, sharex=True)
        for name, history in histories.items():
            _draw_loss(losses, history, looks[name], name)
        for name, column in lines:
            scale = column.removeprefix(_PSNR)
            several = sum(line[0] == name for line in lines) > 1
            label = f"{name} ×{scale}" if several else name
            dash = _DASHES[int(scale) % len(_DASHES)] if several else looks[name].dash
            _draw_psnr(psnrs, histories[name], column, looks[name], dash, label)
        _label(losses, "Training loss", "loss (log)")
        _label(psnrs, "Validation PSNR", "PSNR (dB)")
        _legend(figure, psnrs if lines else losses)
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def _scales(history: pd.DataFrame) -> list[str]:
    return [
        column
        for column in history.columns[history.columns.str.startswith(_PSNR)]
        if history[column].notna().any()
    ]


def _draw_loss(axes: Axes, history: pd.DataFrame, look: Style, label: str) -> None:
    """Every point faintly, and their running median: a few batches' loss says little."""
    window = max(1, len(history) // 12)
    median = history[_LOSS].rolling(window, center=True, min_periods=1).median()
    axes.plot(history["step"], history[_LOSS], color=look.colour, alpha=0.25, linewidth=0.8)
    axes.plot(
        history["step"], median, color=look.colour, linestyle=look.dash, linewidth=1.8, label=label
    )


def _draw_psnr(
    axes: Axes, history: pd.DataFrame, column: str, look: Style, dash: str, label: str
) -> None:
    points = history.dropna(subset=[column])
    axes.plot(
        points["step"],
        points[column],
        color=look.colour,
        marker=look.marker,
        linestyle=dash,
        markersize=4,
        linewidth=1.6,
        label=label,
    )


def _label(axes: Axes, title: str, quantity: str) -> None:
    if quantity.startswith(_LOSS):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set_title(title, loc="left")
    axes.set_xlabel("step")
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(_LEGEND_COLUMNS, len(labels))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
