"""Result files -> tables and figures; pandas does the tables, nothing is computed twice.

Data in: `results/*.json`, `cells/*/`. Data out, in `report/`: `summary` (one
row for every architecture, scale and data set), `images` (one for every
picture) and `latency`, as CSV and Parquet; `summary.md`; figures; and
`metrics.json` for `dvc metrics`.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.atomic import replacing_folder, write_text
from tasks.config import Cell, Params, load_params
from tasks.figures import plot_training
from tasks.layout import CELL_FOLDER, METRICS_FILE, REPORT_FOLDER, result_file
from tasks.published_tables import published

_KEYS = ["dataset", "scale", "architecture"]


@dataclass(frozen=True)
class Report:
    """The tables of one benchmark."""

    summary: pd.DataFrame
    images: pd.DataFrame
    latency: pd.DataFrame


def write_report(params: Params, failures: Mapping[str, str]) -> Report:
    """Write the tables and figures; a failed cell (name -> reason) is a failed row.

    Raises:
        FileNotFoundError: a row is missing though its cell did not fail.
    """
    report = build_report(params, failures)
    with replacing_folder(REPORT_FOLDER) as folder:
        for name, table in vars(report).items():
            table.to_csv(folder / f"{name}.csv", index=False)
            table.to_parquet(folder / f"{name}.parquet", index=False)
        write_text(folder / "summary.md", markdown(report.summary))
        histories = {cell.name: read_history(cell) for cell in _trained(params, failures)}
        if histories:
            plot_training(histories, folder / "training.png")
    write_text(METRICS_FILE, json.dumps(_metrics(report.summary), indent=1) + "\n")
    return report


def build_report(params: Params, failures: Mapping[str, str]) -> Report:
    """The tables, from the result files."""
    results, failed = [], []
    for architecture, scale, cell in _rows(params):
        if cell is not None and cell.name in failures:
            failed.append((architecture, scale, failures[cell.name]))
        else:
            results.append(json.loads(result_file(architecture, scale).read_text("utf-8")))
    images = pd.DataFrame([row for result in results for row in result["images"]])
    summary = _summary(params, results, images)
    for architecture, scale, reason in failed:
        for dataset in params.data.test:
            row = {"dataset": dataset, "scale": scale, "architecture": architecture}
            row |= {"status": "failed", "error": reason.strip().splitlines()[-1]}
            summary = pd.concat([summary, pd.DataFrame([row])], ignore_index=True)
    return Report(_beside_published(summary), images, _latency(results))


def read_history(cell: Cell) -> pd.DataFrame:
    """Loss and validation PSNR by step of one training."""
    return pd.read_csv(CELL_FOLDER / cell.name / "history.csv")


def markdown(summary: pd.DataFrame) -> str:
    """The tables in the papers' layout: best bold, second best underlined."""
    parts = []
    for (dataset, scale), rows in summary.groupby(["dataset", "scale"], sort=False):
        lines = [
            f"### {dataset} ×{scale}",
            "",
            "| architecture | PSNR (dB) | SSIM | latency (ms) | parameters | published PSNR |",
            "|---|---|---|---|---|---|",
        ]
        psnr, ssim = _marks(rows["psnr_db"], 2), _marks(rows["ssim"], 4)
        for index, row in rows.iterrows():
            if row["status"] == "failed":
                lines.append(f"| {row['architecture']} | failed: {row['error']} | | | | |")
                continue
            theirs = row["published_psnr_db"]
            lines.append(
                f"| {row['architecture']} | {psnr[index]} | {ssim[index]}"
                f" | {row['latency_ms']:.1f} | {row['num_parameters']:,.0f}"
                f" | {'' if pd.isna(theirs) else f'{theirs:.2f}'} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _rows(params: Params) -> Iterator[tuple[str, int, Cell | None]]:
    for scale in params.scales:
        for architecture in params.architectures:
            yield architecture, scale, params.cell_for(architecture, scale)


def _trained(params: Params, failures: Mapping[str, str]) -> list[Cell]:
    return [cell for cell in params.cells if cell.name not in failures]


def _summary(params: Params, results: list[dict[str, Any]], images: pd.DataFrame) -> pd.DataFrame:
    """Means over the pictures of each data set, and what the network costs."""
    measures = ["psnr_db", "ssim", "psnr_db_grey_as_rgb", "ssim_grey_as_rgb", "latency_ms"]
    grouped = images.groupby(_KEYS, sort=False)
    summary = grouped[measures].mean().assign(num_images=grouped.size()).reset_index()
    costs = pd.DataFrame(
        [
            {
                "architecture": result["architecture"],
                "scale": result["scale"],
                "num_parameters": result["complexity"]["num_parameters"],
                "num_multiply_adds": result["complexity"]["num_multiply_adds"],
                "test_data_sha256": result["test_data_sha256"],
                **_training_record(params, result["architecture"], result["scale"]),
            }
            for result in results
        ]
    )
    summary = summary.merge(costs, on=["architecture", "scale"], how="left")
    return summary.assign(status="ok", error="")


def _training_record(params: Params, architecture: str, scale: int) -> dict[str, Any]:
    cell = params.cell_for(architecture, scale)
    if cell is None:
        return {"cell": "", "num_steps": 0, "train_s": 0.0, "device": "", "precision": ""}
    record = json.loads((CELL_FOLDER / cell.name / "training.json").read_text("utf-8"))
    return {
        "cell": cell.name,
        "num_steps": record["num_steps"],
        "train_s": record["seconds"],
        "device": record["device"],
        "precision": record["precision"],
    }


def _beside_published(summary: pd.DataFrame) -> pd.DataFrame:
    """The papers' figures beside ours, and the difference."""
    theirs = published().dropna(subset=["psnr_db"]).drop_duplicates(_KEYS)
    theirs = theirs.assign(dataset=theirs["dataset"].str.lower())
    theirs = theirs.rename(columns={"psnr_db": "published_psnr_db", "ssim": "published_ssim"})
    beside = summary.merge(
        theirs[[*_KEYS, "published_psnr_db", "published_ssim", "source"]], on=_KEYS, how="left"
    )
    return beside.assign(
        difference_psnr_db=beside["psnr_db"] - beside["published_psnr_db"],
        difference_ssim=beside["ssim"] - beside["published_ssim"],
    )


def _latency(results: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"architecture": result["architecture"], "scale": result["scale"], **row}
            for result in results
            for row in result["latency"]
        ]
    )


def _marks(values: "pd.Series[float]", num_digits: int) -> dict[Any, str]:
    """Each value as text, the best bold and the second best underlined."""
    rounded = values.round(num_digits)
    order = sorted(rounded.dropna().unique(), reverse=True)
    texts = {}
    for index, value in rounded.items():
        text = f"{value:.{num_digits}f}"
        if order and value == order[0]:
            text = f"**{text}**"
        elif len(order) > 1 and value == order[1]:
            text = f"<u>{text}</u>"
        texts[index] = text
    return texts


def _metrics(summary: pd.DataFrame) -> dict[str, Any]:
    """data set -> scale -> architecture -> numbers, as `dvc metrics` likes them."""
    nested: dict[str, Any] = {}
    for row in summary[summary["status"] == "ok"].to_dict("records"):
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
