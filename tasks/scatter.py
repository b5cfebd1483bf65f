"""The field's favourite figure: quality against what it costs, one panel for each cost."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import EngFormatter, LogLocator
from matplotlib.transforms import Bbox

from tasks.complexity import OUTPUT_PX
from tasks.figures import GREY, WIDTH_IN, Style, drawing, save

_HEIGHT_IN = 3.9
_COSTS = {
    "num_parameters": "parameters",
    "num_multiply_adds": f"multiply-adds of a {OUTPUT_PX}×{OUTPUT_PX} picture",
    "latency_ms": "time per picture (ms)",
}
# Where a name may stand beside its point (points right and up), the best place first.
_PLACES = (
    (7, -3, "left"),
    (-7, -3, "right"),
    (0, 8, "center"),
    (0, -15, "center"),
    (7, 7, "left"),
    (-7, 7, "right"),
    (7, -13, "left"),
    (-7, -13, "right"),
    (0, 20, "center"),
    (0, -27, "center"),
    (14, 18, "left"),
    (-14, 18, "right"),
    (14, -24, "left"),
    (-14, -24, "right"),
)
_POINT_PX = 9
_FEW_DECADES, _SOME_DECADES = 1.2, 2.5


def plot_tradeoff(rows: pd.DataFrame, looks: dict[str, Style], path: Path) -> None:
    """PSNR against parameters, multiply-adds and time, of one data set at one scale.

    Rows that cost nothing on an axis (interpolations have no parameters) cannot stand on its
    logarithmic scale; the best and the usual one of them, bicubic, are lines across the panel.
    """
    with drawing():
        figure = Figure(figsize=(WIDTH_IN, _HEIGHT_IN), layout="constrained")
        panels = figure.subplots(1, len(_COSTS), sharey=True)
        for axes, (cost, title) in zip(panels, _COSTS.items(), strict=True):
            _draw_panel(axes, rows, cost, looks)
            axes.set_xlabel(title)
        panels[0].set_ylabel("PSNR (dB)")
        # Names are placed by pixels, so the layout must stand first and stay.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes, cost in zip(panels, _COSTS, strict=True):
            _name_points(axes, rows[rows[cost] > 0], cost)
        save(figure, path)


def _draw_panel(axes: Axes, rows: pd.DataFrame, cost: str, looks: dict[str, Style]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter("")
    axes.xaxis.set_major_locator(LogLocator(subs=_ticks(rows.loc[rows[cost] > 0, cost])))
    axes.margins(x=0.18, y=0.14)
    for row in rows[rows[cost] > 0].to_dict("records"):
        look = looks.get(row["architecture"], Style(GREY, "o", "-"))
        axes.plot(row[cost], row["psnr_db"], look.marker, color=look.colour, markersize=8)
    free = rows[rows[cost] == 0]
    lines = free[(free["architecture"] == "bicubic") | (free["psnr_db"] == free["psnr_db"].max())]
    for row in lines.to_dict("records"):
        axes.axhline(row["psnr_db"], color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            row["architecture"],
            (0, row["psnr_db"]),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            color=GREY,
            fontsize=9,
        )


def _ticks(costs: "pd.Series[float]") -> tuple[float, ...]:
    """Which multiples of 10ⁿ are labelled: the fewer decades, the more."""
    num_decades = math.log10(costs.max() / costs.min()) if len(costs) else 0.0
    if num_decades < _FEW_DECADES:
        return (1, 2, 5)
    return (1, 3) if num_decades < _SOME_DECADES else (1,)


def _name_points(axes: Axes, rows: pd.DataFrame, cost: str) -> None:
    """Write each name beside its point, where it covers no other name or point."""
    points = axes.transData.transform(rows[[cost, "psnr_db"]].to_numpy())
    taken = [
        Bbox.from_bounds(x - _POINT_PX / 2, y - _POINT_PX / 2, _POINT_PX, _POINT_PX)
        for x, y in points
    ]
    taken += [text.get_window_extent() for text in axes.texts]
    taken += [_line_box(axes, line) for line in axes.lines if line.get_marker() == "None"]
    for row in rows.to_dict("records"):
        taken.append(_name_point(axes, row["architecture"], (row[cost], row["psnr_db"]), taken))


def _line_box(axes: Axes, line: Line2D) -> Bbox:
    """Where a dashed line runs across the panel."""
    height = float(np.asarray(line.get_ydata())[0])
    (_, y) = axes.transData.transform((1, height))
    return Bbox.from_bounds(axes.bbox.x0, y - 1, axes.bbox.width, 2)


def _name_point(axes: Axes, name: str, point: tuple[float, float], taken: Iterable[Bbox]) -> Bbox:
    """Try each place; the one that covers least stays."""
    tried: list[tuple[float, Annotation]] = []
    for right, up, side in _PLACES:
        text = axes.annotate(
            name, point, (right, up), textcoords="offset points", ha=side, fontsize=9
        )
        tried.append((_covered(text.get_window_extent(), axes.bbox, taken), text))
        if not tried[-1][0]:
            break
    best = min(range(len(tried)), key=lambda place: tried[place][0])
    for place, (_, text) in enumerate(tried):
        if place != best:
            text.remove()
    return tried[best][1].get_window_extent()


def _covered(box: Bbox, axes: Bbox, taken: Iterable[Bbox]) -> float:
    """The area of a name, in pixels, that lies on others or outside of the panel."""
    inside = Bbox.intersection(box, axes)
    outside = box.width * box.height - (inside.width * inside.height if inside else 0.0)
    shared = (Bbox.intersection(box, other) for other in taken)
    return outside + sum(each.width * each.height for each in shared if each is not None)
