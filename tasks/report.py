"""Result files -> tables, figures and one page; pandas does the tables, nothing is computed twice.

Data in: `results/*.json`, imported weights' too, `cells/*/`, test pictures. Data out, in `report/`:
`report.html`, everything in one file; `summary` (one row for every architecture, scale and data
set), `images` (one for every picture), `latency` and `training` (every history), as CSV and
Parquet; `summary.md`; `tables.md` and `tables/`, in the papers' layouts; `figures/`; and
`metrics.json` for `dvc metrics`.
"""

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tasks.atomic import replacing_folder, write_text
from tasks.config import Cell, Params, load_params
from tasks.crops import BASELINE
from tasks.errors import ShardError
from tasks.headline import headlines
from tasks.html_page import html_page
from tasks.illustrations import FIGURES, illustrate
from tasks.importing import published_results, row_name
from tasks.layout import CELL_FOLDER, METRICS_FILE, REPORT_FOLDER, result_file, result_name
from tasks.origin import git_commit
from tasks.published_tables import published
from tasks.row_status import FAILED, LEFT_OUT, MEASURED, measured_rows, without_numbers
from tasks.tables import (
    PaperTable,
    as_count,
    as_text,
    beside_published,
    markdown_table,
    markdown_text,
    marked,
    paper_tables,
)
from tasks.train import is_finished

Format = Literal["md", "csv", "latex", "json"]
# What stands first in every table, for those who read the file itself.
_FIRST = [
    "architecture",
    "dataset",
    "scale",
    "psnr_db",
    "ssim",
    "latency_ms",
    "num_parameters",
    "num_multiply_adds",
]
_KEYS = ["dataset", "scale", "architecture"]
_MEASURES = ["psnr_db", "ssim", "psnr_db_grey_as_rgb", "ssim_grey_as_rgb", "latency_ms"]
_COSTS = [
    "architecture",
    "scale",
    "source",
    "num_parameters",
    "num_multiply_adds",
    "test_data_sha256",
    "timed_device",
    "timed_num_threads",
    "timed_precision",
    "cell",
    "num_steps",
    "train_s",
    "device",
    "precision",
]
_LATEX_DIGITS = {"psnr_db": "{:.2f}".format, "ssim": "{:.4f}".format, "latency_ms": "{:.1f}".format}


@dataclass(frozen=True)
class Report:
    """The tables of one benchmark."""

    summary: pd.DataFrame
    images: pd.DataFrame
    latency: pd.DataFrame
    training: pd.DataFrame


def write_report(
    params: Params, failures: Mapping[str, str], left_out: Collection[str] = ()
) -> Report:
    """Write the tables, the figures and the page.

    `failures` (name -> reason) and `left_out`, what the run was not asked to make, name rows
    (`bicubic-x2`) or trainings, with which all their rows fail or are left out.

    Raises:
        FileNotFoundError: a row is missing though it neither failed nor was left out.
    """
    report = build_report(params, failures, left_out)
    in_papers_layouts = paper_tables(report.summary, report.latency, report.training)
    commit = git_commit()
    with replacing_folder(REPORT_FOLDER) as folder:
        for name, table in vars(report).items():
            table.to_csv(folder / f"{name}.csv", index=False)
            table.to_parquet(folder / f"{name}.parquet", index=False)
        write_text(folder / "summary.md", _summary_page(report.summary, commit))
        _write_paper_tables(in_papers_layouts, folder)
        drawn = illustrate(params, report.summary, report.images, report.training, folder / FIGURES)
        page = html_page(params, report.summary, in_papers_layouts, drawn, folder / FIGURES, commit)
        write_text(folder / "report.html", page)
    write_text(METRICS_FILE, json.dumps(_metrics(report.summary), indent=1) + "\n")
    return report


def build_report(
    params: Params, failures: Mapping[str, str], left_out: Collection[str] = ()
) -> Report:
    """The tables, from the result files; arguments as in `write_report`."""
    results: list[dict[str, Any]] = []
    unmeasured: list[dict[str, Any]] = []
    for architecture, scale, cell in _rows(params):
        names = [result_name(architecture, scale), *([] if cell is None else [cell.name])]
        why = _why_unmeasured(names, failures, left_out)
        if why is None:
            results.append(json.loads(result_file(architecture, scale).read_text("utf-8")))
        else:
            unmeasured += _unmeasured_rows(params, architecture, scale, why)
    results += _imported(params)
    images = pd.DataFrame(
        [row for result in results for row in result["images"]],
        columns=["architecture", "dataset", "scale", "image", *_MEASURES],
    )
    summary = _summary(params, results, images)
    if unmeasured:
        summary = pd.concat([summary, pd.DataFrame(unmeasured)], ignore_index=True)
    summary = beside_published(_with_gain(summary), published())
    summary = summary[[*_FIRST, *summary.columns.difference(_FIRST, sort=False)]]
    # A training that ended well and whose measuring failed has a curve, which may say why.
    untrained = {
        cell.name for cell in params.cells if cell.name in failures and not _is_there(params, cell)
    }
    training = _training(params, without={*untrained, *left_out})
    return Report(summary, images, _latency(results), training)


def _is_there(params: Params, cell: Cell) -> bool:
    """Whether just this training's result is there."""
    try:
        return is_finished(params, cell, CELL_FOLDER / cell.name)
    except ShardError:  # nor is what it would have been trained on
        return False


def read_history(cell: Cell) -> pd.DataFrame:
    """Loss and validation PSNR by step of one training."""
    return pd.read_csv(CELL_FOLDER / cell.name / "history.csv")


def markdown(summary: pd.DataFrame) -> str:
    """A table for each data set and scale: best bold, second best underlined."""
    groups = summary.groupby(["dataset", "scale"], sort=False)
    tables = [
        f"### {dataset} ×{scale}\n\n{markdown_table(_cells(rows))}"
        for (dataset, scale), rows in groups
    ]
    return "\n\n".join(tables) + "\n"


def formatted(summary: pd.DataFrame, form: Format) -> str:
    """The summary as text: everything for programs, what a page has room for in LaTeX."""
    if form == "md":
        return markdown(summary)
    if form == "latex":
        rows = measured_rows(summary)[_FIRST]
        return str(rows.to_latex(index=False, escape=True, formatters=_LATEX_DIGITS))
    if form == "csv":
        return str(summary.to_csv(index=False))
    return str(summary.to_json(orient="records", indent=1)) + "\n"


def _cells(rows: pd.DataFrame) -> pd.DataFrame:
    """The text of one table of `markdown`."""
    text = {
        "architecture": rows["architecture"],
        "PSNR (dB)": marked(rows["psnr_db"], 2),
        "SSIM": marked(rows["ssim"], 4),
        "latency (ms)": as_text(rows["latency_ms"], "{:.1f}"),
        "parameters": as_text(rows["num_parameters"], "{:,.0f}"),
        "multiply-adds": as_count(rows["num_multiply_adds"]),
        "published PSNR": as_text(rows["published_psnr_db"], "{:.2f}"),
        "difference": as_text(rows["difference_psnr_db"], "{:+z.2f}"),
    }
    if (rows["psnr_db"] - rows["psnr_db_grey_as_rgb"]).any():
        # Papers with RGB networks measure grey pictures this way.
        text["PSNR, grey as RGB"] = marked(rows["psnr_db_grey_as_rgb"], 2)
    text["PSNR (dB)"] += without_numbers(rows)
    return pd.DataFrame(text)


def _summary_page(summary: pd.DataFrame, commit: str) -> str:
    """For a pull request: what is best, the tables, where they come from."""
    lines = [each.markdown() for each in headlines(summary)]
    failed = summary[summary["status"] == FAILED]
    for row in failed.to_dict("records"):
        place = f"{row['dataset']} ×{row['scale']}"
        lines.append(f"- {place}: **{row['architecture']} failed**: {markdown_text(row['error'])}")
    return "\n".join(lines) + f"\n\n{markdown(summary)}\nCode: `{commit}`\n"


def _write_paper_tables(tables: list[PaperTable], folder: Path) -> None:
    write_text(folder / "tables.md", "\n\n".join(table.markdown() for table in tables) + "\n")
    (folder / "tables").mkdir()
    for table in tables:
        table.numbers.to_csv(folder / "tables" / f"{table.name}.csv", index=False)


def _rows(params: Params) -> Iterator[tuple[str, int, Cell | None]]:
    for scale in params.scales:
        for architecture in params.architectures:
            yield architecture, scale, params.cell_for(architecture, scale)


def _imported(params: Params) -> list[dict[str, Any]]:
    """The results of authors' weights, named `vdsr-published` beside our `vdsr`."""
    results, reasons = published_results(params)
    for reason in reasons:
        print(reason, file=sys.stderr)
    return [_renamed(result, row_name(result["architecture"])) for result in results]


def _renamed(result: dict[str, Any], name: str) -> dict[str, Any]:
    images = [image | {"architecture": name} for image in result["images"]]
    return result | {"architecture": name, "images": images}


def _summary(params: Params, results: list[dict[str, Any]], images: pd.DataFrame) -> pd.DataFrame:
    """Means over the pictures of each data set, and what the network costs."""
    grouped = images.astype(dict.fromkeys(_MEASURES, float)).groupby(_KEYS, sort=False)
    summary = grouped[_MEASURES].mean().assign(num_images=grouped.size()).reset_index()
    costs = pd.DataFrame([_costs(params, result) for result in results], columns=_COSTS)
    summary = summary.merge(costs, on=["architecture", "scale"], how="left")
    return summary.assign(status=MEASURED, error="")


def _costs(params: Params, result: dict[str, Any]) -> dict[str, Any]:
    """What all rows of one network at one scale share."""
    return {
        "architecture": result["architecture"],
        "scale": result["scale"],
        "source": _source(params, result),
        "num_parameters": result["complexity"]["num_parameters"],
        "num_multiply_adds": result["complexity"]["num_multiply_adds"],
        "test_data_sha256": result["test_data_sha256"],
        **_timing_record(result["latency"][0]),
        **_training_record(params, result),
    }


def _why_unmeasured(
    names: list[str], failures: Mapping[str, str], left_out: Collection[str]
) -> dict[str, str] | None:
    """Status and error of a row that goes by one of these names; none if it was measured."""
    for name in names:
        if name in failures:
            lines = failures[name].strip().splitlines() or ["no reason given"]
            return {"status": FAILED, "error": lines[-1]}
    return {"status": LEFT_OUT, "error": ""} if set(names) & set(left_out) else None


def _unmeasured_rows(
    params: Params, architecture: str, scale: int, why: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """One for each data set."""
    cell = params.cell_for(architecture, scale)
    for dataset in params.data.test:
        yield {
            "dataset": dataset,
            "scale": scale,
            "architecture": architecture,
            "source": "interpolation" if cell is None else "trained",
            **why,
        }


def _with_gain(summary: pd.DataFrame) -> pd.DataFrame:
    """Add `psnr_gain_db`, the difference to bicubic on the same pictures, if it was measured."""
    bicubic = summary["psnr_db"].where(summary["architecture"] == BASELINE)
    places = [summary["dataset"], summary["scale"]]
    gain = summary["psnr_db"] - bicubic.groupby(places).transform("max")
    return summary.assign(psnr_gain_db=gain.astype(float))


def _source(params: Params, result: dict[str, Any]) -> str:
    """Whose the row's weights are: `trained` here, `published` by an author, or none."""
    cell = params.cell_for(result["architecture"], result["scale"])
    return str(result.get("source", "interpolation" if cell is None else "trained"))


def _timing_record(latency: dict[str, Any]) -> dict[str, Any]:
    """What the row's times were taken on."""
    return {f"timed_{name}": latency[name] for name in ("device", "num_threads", "precision")}


def _training_record(params: Params, result: dict[str, Any]) -> dict[str, Any]:
    """How the weights were made; of an author's weights only where they lie is known."""
    cell = params.cell_for(result["architecture"], result["scale"])
    if cell is None:
        lies_in = result.get("cell", "")
        return {"cell": lies_in, "num_steps": 0, "train_s": 0.0, "device": "", "precision": ""}
    record = json.loads((CELL_FOLDER / cell.name / "training.json").read_text("utf-8"))
    return {
        "cell": cell.name,
        "num_steps": record["num_steps"],
        "train_s": record["seconds"],
        "device": record["device"],
        "precision": record["precision"],
    }


def _training(params: Params, without: Collection[str]) -> pd.DataFrame:
    """Every training's history, one under the other, but for those named."""
    histories = [
        read_history(cell).assign(cell=cell.name, loss_function=_loss_function(params, cell))
        for cell in params.cells
        if cell.name not in without
    ]
    first = ["cell", "loss_function", "step", "loss", "psnr_db"]
    if not histories:
        return pd.DataFrame(columns=first)
    rows = pd.concat(histories, ignore_index=True)
    # one curve for each training: the mean over its scales
    rows["psnr_db"] = rows.filter(like="psnr_db_x").mean(axis=1)
    return rows[[*first, *rows.columns.difference(first, sort=False)]]


def _loss_function(params: Params, cell: Cell) -> str:
    recipe = params.recipe(cell.architecture)
    return f"{recipe.loss_reduction} {recipe.loss}"


def _latency(results: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"architecture": result["architecture"], "scale": result["scale"], **row}
            for result in results
            for row in result["latency"]
            if "skipped" not in row
        ]
    )


def _metrics(summary: pd.DataFrame) -> dict[str, Any]:
    """data set -> scale -> architecture -> numbers, as `dvc metrics` likes them."""
    nested: dict[str, Any] = {}
    for row in measured_rows(summary).to_dict("records"):
        scales = nested.setdefault(row["dataset"], {}).setdefault(f"x{row['scale']}", {})
        scales[row["architecture"]] = {
            "psnr_db": round(row["psnr_db"], 4),
            "ssim": round(row["ssim"], 5),
        }
    return nested


def main() -> None:
    """The stage's command."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    report = write_report(load_params(), failures={})
    print(report.summary.to_string())


if __name__ == "__main__":
    main()
