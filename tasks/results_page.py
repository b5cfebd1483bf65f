"""Results to publish: the last report's tables beside the papers', and what each training cost.

    python -m tasks.results_page docs

writes `docs/results.md`, `docs/results/*.csv` and the figures that the page shows. What a person
says about them, `docs/results-notes.md`, stands below the tables.
"""

import argparse
import json
import shutil
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from tasks.atomic import replacing_folder, write_text
from tasks.config import Params, load_params
from tasks.errors import DataError
from tasks.illustrations import FIGURES
from tasks.last_report import read_summary
from tasks.layout import CELL_FOLDER, REPORT_FOLDER
from tasks.origin import git_commit
from tasks.published_tables import published_table
from tasks.report import markdown
from tasks.row_status import measured_rows
from tasks.tables import markdown_table

# The paper's fractions of its 80 epochs.
_RESIDUAL_EPOCHS = (10, 20, 40, 80)
_RESIDUAL = {"residual": "vdsr", "non_residual": "vdsr_plain"}
_TABLES = ("summary.csv", "images.csv", "latency.csv", "training.csv")


def write_results(folder: Path) -> None:
    """Write the page, the tables and the figures of this workspace's last report.

    Raises:
        DataError: there is no report, or one of other test data.
    """
    params, summary = load_params(), read_summary()
    if set(summary["dataset"]) != set(params.data.test):
        raise DataError("the last report is of other test data than params.yaml; run `sisr run`")
    measured = set(measured_rows(summary)["cell"].dropna())
    costs = training_costs(params, measured)
    parts = [
        "# Results",
        f"Written by `python -m tasks.results_page`, code `{git_commit()}`. Trained on"
        f" {' + '.join(params.data.train)}, measured on {' + '.join(params.data.test)} as"
        " [measuring.md](measuring.md) says. A published figure stands beside ours where a paper"
        " has one; the difference is ours minus theirs.",
        markdown(summary).replace("### ", "## "),
        "## What each training cost",
        markdown_table(costs),
    ]
    residual = residual_table(params, measured)
    if residual is not None:
        title = "## VDSR with and without its residual, Set5 ×2"
        parts += [title, markdown_table(residual)]
    with replacing_folder(folder / "results") as results:
        for name in _TABLES:
            shutil.copyfile(REPORT_FOLDER / name, results / name)
        costs.to_csv(results / "costs.csv", index=False)
        figures = _copy_figures(results)
    notes = folder / "results-notes.md"
    if notes.exists():
        parts.append(notes.read_text("utf-8").strip())
    parts += [f"![{name}](results/{name})" for name in figures]
    write_text(folder / "results.md", "\n\n".join(parts).strip() + "\n")


def training_costs(params: Params, measured: Collection[str]) -> pd.DataFrame:
    """A row for each measured cell: steps, minutes (CPU minutes: what it computed), where, how."""
    rows = []
    for cell in params.cells:
        record = CELL_FOLDER / cell.name / "training.json"
        if cell.name not in measured:
            continue
        about = json.loads(record.read_text("utf-8"))
        recipe = params.recipe(cell.architecture)
        rows.append(
            {
                "cell": cell.name,
                "steps": f"{about['num_steps']:,}",
                "epochs": f"{about['num_epochs']:.1f}",
                "batch": recipe.batch_size,
                "window": f"{recipe.window_px(cell.scales[0])} px",
                "minutes": f"{about['seconds'] / 60:.1f}",
                "CPU minutes": f"{about['cpu_seconds'] / 60:.1f}",
                "precision": about["precision"],
                "threads": about["num_threads"],
                "device": about["device"],
                "torch": about["torch"],
            }
        )
    return pd.DataFrame(rows)


def residual_table(params: Params, measured: Collection[str]) -> pd.DataFrame | None:
    """The paper's table at the same fractions of the training, ours beside it.

    None unless both networks were measured, and watched on Set5 at ×2 as the paper does it.
    """
    cells = [params.cell_for(name, 2) for name in _RESIDUAL.values()]
    names = [cell.name for cell in cells if cell is not None and cell.name in measured]
    if len(names) < len(_RESIDUAL) or params.data.validation != ("set5",):
        return None
    theirs = published_table("vdsr_residual_set5_x2_psnr_db")
    theirs = theirs[theirs["initial_lr"] == theirs["initial_lr"].max()]
    rows = []
    for (name, architecture), cell_name in zip(_RESIDUAL.items(), names, strict=True):
        history = pd.read_csv(CELL_FOLDER / cell_name / "history.csv")
        watched = history.dropna(subset="psnr_db_x2").set_index("step")["psnr_db_x2"]
        ours: dict[str, str] = {"network": f"{architecture}, ours"}
        printed = {"network": f"{name}, paper"}
        for epoch in _RESIDUAL_EPOCHS:
            step = round(watched.index.max() * epoch / max(_RESIDUAL_EPOCHS))
            ours[f"{epoch}/80"] = f"{watched[step]:.2f}" if step in watched else ""
            row = theirs[(theirs["method"] == name) & (theirs["epoch"] == epoch)]
            printed[f"{epoch}/80"] = f"{row['psnr_db'].item():.2f}"
        rows += [ours, printed]
    return pd.DataFrame(rows)


def _copy_figures(results: Path) -> list[str]:
    """The curves and the comparisons of the report, by file name."""
    names = []
    for pattern in ("training-x*.png", "comparison-*.png", "tradeoff-*.png"):
        for figure in sorted((REPORT_FOLDER / FIGURES).glob(pattern)):
            shutil.copyfile(figure, results / figure.name)
            names.append(figure.name)
    return names


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where results.md and results/ are written")
    arguments = parser.parse_args()
    write_results(arguments.folder)


if __name__ == "__main__":
    main()
