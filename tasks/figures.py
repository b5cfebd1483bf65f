"""Figures, in one style: legible at README width, colours that the colour-blind can tell apart."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.atomic import replacing_file

# Okabe and Ito's palette.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_WIDTH_IN, _HEIGHT_IN, _DPI = 10.0, 3.8, 110


def plot_training(histories: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Loss and validation PSNR by step, one line for each training."""
    figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
    losses, psnrs = figure.subplots(1, 2)
    for number, (name, history) in enumerate(histories.items()):
        colour = COLOURS[number % len(COLOURS)]
        losses.plot(history["step"], history["loss"], color=colour, label=name, linewidth=1.4)
        for column in history.columns[history.columns.str.startswith("psnr_db_x")]:
            points = history.dropna(subset=[column])
            label = name if name.endswith(column[-2:]) else f"{name} ×{column[-1]}"
            psnrs.plot(points["step"], points[column], "o-", color=colour, label=label, ms=3)
    losses.set_yscale("log")
    _label(losses, "training loss", "loss")
    _label(psnrs, "validation PSNR", "PSNR (dB)")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def _label(axes: Axes, title: str, quantity: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel(quantity)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
