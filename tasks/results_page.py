"""Results to publish: the last report's tables beside the papers', and what each training cost.

    python -m tasks.results_page docs

writes `docs/results.md`, `docs/results/*.csv` and the figures that the page shows.
"""

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd

from tasks.atomic import replacing_folder, write_text
from tasks.config import Params, load_params
from tasks.errors import DataError
from tasks.layout import CELL_FOLDER, REPORT_FOLDER
from tasks.origin import git_commit
from tasks.published_tables import published_table
from tasks.report import markdown, read_summary
from tasks.tables import markdown_table

# The paper's fractions of its 80 epochs.
_RESIDUAL_EPOCHS = (10, 20, 40, 80)
_RESIDUAL = {"residual": "vdsr", "non_residual": "vdsr_plain"}
_TABLES = ("summary.csv", "images.csv", "latency.csv", "training.csv")


def write_results(folder: Path) -> None:
    """Write the page, the tables and the figures of this workspace's last report.

    Raises:
        DataError: there is no report.
    """
    params, summary = load_params(), read_summary()
    parts = [
        "# Results",
        f"Written by `python -m tasks.results_page`, code `{git_commit()}`. Trained on"
        f" {' + '.join(params.data.train)}, measured on {' + '.join(params.data.test)} as"
        " [measuring.md](measuring.md) says. A published figure stands beside ours where a paper"
        " has one; the difference is ours minus theirs.",
        markdown(summary).replace("### ", "## "),
        "## What each training cost",
        markdown_table(_costs(params)),
    ]
    residual = _residual(params)
    if residual is not None:
        parts += ["## VDSR with and without its residual, Set5 ×2", residual]
    with replacing_folder(folder / "results") as results:
        for name in _TABLES:
            shutil.copyfile(REPORT_FOLDER / name, results / name)
        _costs(params).to_csv(results / "costs.csv", index=False)
        figures = _copy_figures(results)
    parts += [f"![{name}](results/{name})" for name in figures]
    write_text(folder / "results.md", "\n\n".join(parts).strip() + "\n")


def _costs(params: Params) -> pd.DataFrame:
    """A row for each training: minutes, steps, where and how."""
    rows = []
    for cell in params.cells:
        record = CELL_FOLDER / cell.name / "training.json"
        if not record.exists():
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
                "CPU minutes": _cpu_minutes(about),
                "precision": about["precision"],
                "threads": about["num_threads"],
                "device": about["device"],
                "torch": about["torch"],
            }
        )
    return pd.DataFrame(rows)


def _cpu_minutes(about: dict[str, object]) -> str:
    """What the training computed, which on a shared machine is less than it lasted."""
    if "cpu_seconds" in about:
        return f"{float(str(about['cpu_seconds'])) / 60:.1f}"
    history = pd.read_csv(CELL_FOLDER / str(about["cell"]) / "history.csv")
    lasted_s = history["seconds"].diff().fillna(history["seconds"])
    return f"{(lasted_s * history['cpu_percent'] / 100).sum() / 60:.1f}"


def _residual(params: Params) -> str | None:
    """The paper's table at the same fractions of the training, ours beside it."""
    if not set(_RESIDUAL.values()) <= set(params.trained) | set(params.joint):
        return None
    theirs = published_table("vdsr_residual_set5_x2_psnr_db")
    theirs = theirs[theirs["initial_lr"] == theirs["initial_lr"].max()]
    rows = []
    for name, architecture in _RESIDUAL.items():
        cell = params.cell_for(architecture, 2)
        if cell is None or params.data.validation != ("set5",):
            return None
        history = pd.read_csv(CELL_FOLDER / cell.name / "history.csv")
        measured = history.dropna(subset="psnr_db_x2").set_index("step")["psnr_db_x2"]
        ours: dict[str, str] = {"network": f"{architecture}, ours"}
        printed = {"network": f"{name}, paper"}
        for epoch in _RESIDUAL_EPOCHS:
            step = round(measured.index.max() * epoch / max(_RESIDUAL_EPOCHS))
            ours[f"{epoch}/80"] = f"{measured[step]:.2f}" if step in measured else ""
            row = theirs[(theirs["method"] == name) & (theirs["epoch"] == epoch)]
            printed[f"{epoch}/80"] = f"{row['psnr_db'].item():.2f}"
        rows += [ours, printed]
    return markdown_table(pd.DataFrame(rows))


def _copy_figures(results: Path) -> list[str]:
    """The curves and the comparisons of the report, by file name."""
    names = []
    for pattern in ("training-x*.png", "comparison-*.png", "tradeoff-*.png"):
        for figure in sorted((REPORT_FOLDER / "figures").glob(pattern)):
            shutil.copyfile(figure, results / figure.name)
            names.append(figure.name)
    return names


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where results.md and results/ are written")
    arguments = parser.parse_args()
    if not REPORT_FOLDER.exists():
        raise DataError("there is no report yet; run `sisr run` first")
    write_results(arguments.folder)


if __name__ == "__main__":
    main()
