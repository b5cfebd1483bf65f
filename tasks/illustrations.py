"""Every figure of a report: which there are, what each is called, what a reader must know.

Data in: the tables of `tasks.report`, `cells/`, test pictures. Data out: `figures/*.png`.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tasks.config import Params
from tasks.crops import MAX_COMPARISONS, comparisons
from tasks.figures import Style, plot_training, styles
from tasks.layout import CELL_FOLDER
from tasks.row_status import measured_rows
from tasks.scatter import plot_tradeoff
from tasks.visual import plot_comparison, plot_errors, plot_snapshots, read_snapshots

FIGURES = "figures"
TRADEOFF = "Quality against cost"
VISUAL = "Visual comparison"
ERRORS = "Error maps"
CURVES = "Training, compared"
CELLS = "Training, cell by cell"
STEPS = "The same picture during training"
# Under each heading, what holds for all of its figures.
NOTES = {
    TRADEOFF: "Up and to the left is better. Dashed: what costs nothing on that axis. Time is the"
    " mean over the test pictures, on the machine named under Origin.",
    VISUAL: "Of each data set and scale the picture with the largest gain over bicubic, and in it"
    " the window where bicubic's squared error is largest. PSNR and SSIM are of the whole picture."
    f" At most {MAX_COMPARISONS} pictures, of the largest scales.",
    ERRORS: "The same windows: the absolute error of the luminance. Darker is better; RMSE is of"
    " the window alone.",
    CURVES: "Losses can be compared between trainings with the same loss function only.",
    STEPS: "Where bicubic errs most in the first validation picture. PSNR is of this crop alone.",
    CELLS: "Faint: every recorded loss; strong: its running median.",
}
# What a report without figures under a heading says instead.
MISSING = {
    TRADEOFF: "nothing was measured",
    VISUAL: "no network was measured",
    ERRORS: "no network was measured",
    CURVES: "nothing was trained",
    STEPS: "no training left snapshots",
    CELLS: "nothing was trained",
}


@dataclass(frozen=True)
class Illustration:
    """One figure: the heading it stands under, its file in `figures/`, and what it shows."""

    heading: str
    file_name: str
    caption: str


def illustrate(
    params: Params,
    summary: pd.DataFrame,
    images: pd.DataFrame,
    training: pd.DataFrame,
    folder: Path,
) -> list[Illustration]:
    """Draw everything into `folder`, and say what there is, in the order of the page."""
    folder.mkdir()
    measured = measured_rows(summary)
    networks = measured.loc[measured["num_parameters"] > 0, "architecture"]
    looks = styles([*params.trained, *params.joint, *networks])
    drawn = [
        *_tradeoffs(measured, looks, folder),
        *_visuals(params, summary, images, folder),
        *_curves(params, training, looks, folder),
        *_snapshots(params, training, folder),
    ]
    order = list(NOTES)
    return sorted(drawn, key=lambda each: order.index(each.heading))


def _tradeoffs(
    measured: pd.DataFrame, looks: dict[str, Style], folder: Path
) -> Iterator[Illustration]:
    for dataset, scale in measured[["dataset", "scale"]].drop_duplicates().itertuples(index=False):
        rows = measured[(measured["dataset"] == dataset) & (measured["scale"] == scale)]
        file_name = f"tradeoff-{_safe(dataset)}-x{scale}.png"
        plot_tradeoff(rows, looks, folder / file_name)
        caption = f"{dataset} ×{scale}: PSNR against parameters, multiply-adds and time"
        yield Illustration(TRADEOFF, file_name, caption)


def _visuals(
    params: Params, summary: pd.DataFrame, images: pd.DataFrame, folder: Path
) -> Iterator[Illustration]:
    for each in comparisons(params, summary, images):
        where = f"{_safe(each.dataset)}-x{each.scale}.png"
        what = f"{each.image} of {each.dataset}, ×{each.scale}"
        plot_comparison(each, folder / f"comparison-{where}")
        yield Illustration(VISUAL, f"comparison-{where}", f"{what}: the marked window by each")
        plot_errors(each, folder / f"errors-{where}")
        yield Illustration(ERRORS, f"errors-{where}", f"{what}: where each is wrong")


def _curves(
    params: Params, training: pd.DataFrame, looks: dict[str, Style], folder: Path
) -> Iterator[Illustration]:
    """One figure for each scale, all networks in it, and one for each cell."""
    histories = {str(cell): rows for cell, rows in training.groupby("cell", sort=False)}
    cells = [cell for cell in params.cells if cell.name in histories]
    for scale in params.scales:
        psnr = f"psnr_db_x{scale}"
        compared = {
            cell.architecture: histories[cell.name][["step", "loss", psnr]]
            for cell in cells
            if scale in cell.scales
        }
        if compared:
            plot_training(compared, folder / f"training-x{scale}.png", looks)
            yield Illustration(
                CURVES, f"training-x{scale}.png", f"×{scale}: loss and validation PSNR by step"
            )
    for cell in cells:
        rows = histories[cell.name]
        file_name = f"training-{cell.name}.png"
        plot_training({cell.name: rows}, folder / file_name)
        loss = rows["loss_function"].iloc[0]
        yield Illustration(CELLS, file_name, f"{cell.name}, trained on {loss} loss")


def _snapshots(params: Params, training: pd.DataFrame, folder: Path) -> Iterator[Illustration]:
    # What another training left in a cell that failed or was left out is not shown.
    trained = set(training["cell"])
    for scale in params.scales:
        cells = [each.name for each in params.cells if scale in each.scales]
        cells = [cell for cell in cells if cell in trained]
        read = [read_snapshots(cell, CELL_FOLDER / cell, scale) for cell in cells]
        found = [each for each in read if each is not None]
        if not found:
            continue
        plot_snapshots(found, scale, folder / f"steps-x{scale}.png")
        without = sorted(set(cells) - {each.cell for each in found})
        caption = f"×{scale}, from bicubic to the last step"
        if without:
            caption += f". No snapshots of {', '.join(without)}"
        yield Illustration(STEPS, f"steps-x{scale}.png", caption)


def _safe(name: str) -> str:
    """A data set's name as part of a file name; two names never become the same one."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
