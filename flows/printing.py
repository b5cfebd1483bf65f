"""Tables for people and JSON for programs, on stdout."""

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.data_list import ListedDataset
    from tasks.importing import Result
    from tasks.model_list import ListedModel

# What a pipe or a file gets: wide enough that no cell is broken.
_FILE_COLUMNS = 160


def print_json(value: Any) -> None:
    """A value as indented JSON; null for what JSON has no number for (no PSNR, an infinite one)."""
    typer.echo(json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(table: "Table") -> None:
    """A rich table, as wide as the terminal, or as a file can have it."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS).print(table)


def print_tables(dataset: str | None = None, scale: int | None = None) -> None:
    """The tables of the last run, one for each data set and scale."""
    from rich.markup import escape
    from rich.table import Table

    from tasks.last_report import read_summary
    from tasks.row_status import without_numbers

    summary = read_summary(dataset, scale)
    summary = summary.assign(instead=without_numbers(summary))
    for (name, factor), rows in summary.groupby(["dataset", "scale"], sort=False):
        printed = Table(title=f"{name} ×{factor}", title_justify="left")
        printed.add_column("architecture")
        for column in ("PSNR (dB)", "SSIM", "latency (ms)", "parameters", "trained (s)"):
            printed.add_column(column, justify="right")
        for row in rows.to_dict("records"):
            if row["instead"]:
                printed.add_row(row["architecture"], escape(row["instead"]))
                continue
            printed.add_row(
                row["architecture"],
                f"{row['psnr_db']:.2f}",
                f"{row['ssim']:.4f}",
                f"{row['latency_ms']:.1f}",
                f"{row['num_parameters']:,.0f}",
                f"{row['train_s']:.0f}" if row["train_s"] else "",
            )
        print_table(printed)


def print_results(results: "list[Result]") -> None:
    """What imported weights reach, a line for each data set and scale."""
    import pandas as pd

    from tasks.importing import row_name

    images = pd.DataFrame([row for result in results for row in result["images"]])
    means = images.groupby(["architecture", "dataset", "scale"], sort=False)[["psnr_db", "ssim"]]
    for row in means.mean().reset_index().to_dict("records"):
        where = f"{row_name(row['architecture'])}  {row['dataset']} ×{row['scale']}"
        typer.echo(f"{where}  {row['psnr_db']:.3f} dB  {row['ssim']:.4f}")


def print_models(listed: "list[ListedModel]") -> None:
    """The architectures with their counts and registered versions."""
    from rich.table import Table

    printed = Table("architecture", "takes", title="parameters", title_justify="left")
    for column in ("×2", "×3", "×4", "paper's way"):
        printed.add_column(column, justify="right")
    for column in ("published", "registered"):
        printed.add_column(column)
    for each in listed:
        counts = [f"{count:,}" for count in each.num_parameters.values()]
        way = "" if each.paper_num_parameters is None else f"{each.paper_num_parameters:,}"
        versions = "\n".join(map(str, each.registered))
        published = "\n".join(map(str, each.published))
        printed.add_row(each.name, each.takes, *counts, way, published, versions)
    print_table(printed)


def print_datasets(listed: "list[ListedDataset]") -> None:
    """The catalogue, a row for each data set; what params.yaml uses is bold."""
    from rich.markup import escape
    from rich.table import Table

    printed = Table("data set", "role")
    for column in ("on disk", "pictures", "pixels", "MiB"):
        printed.add_column(column, justify="right")
    printed.add_column("sha256")
    printed.add_column("source", overflow="fold")
    for each in listed:
        pixels = ""
        if each.smallest_px and each.largest_px:
            small, large = ("×".join(map(str, px)) for px in (each.smallest_px, each.largest_px))
            pixels = small if small == large else f"{small} – {large}"
        printed.add_row(
            each.name,
            ", ".join(each.roles),
            "yes" if each.is_on_disk else "no",
            "" if each.num_images is None else str(each.num_images),
            pixels,
            "" if each.size_mib is None else f"{each.size_mib:.1f}",
            "pinned" if each.is_pinned else "not pinned",
            escape(each.source) or "a mirror: set SISR_MIRROR",
            style="bold" if each.roles else None,
        )
    print_table(printed)
