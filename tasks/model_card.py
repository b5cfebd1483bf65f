"""What a person reads about a run or a registered network, in Markdown."""

import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

import models
from tasks.config import Params
from tasks.importing import read_origin
from tasks.row_status import without_numbers
from tasks.tables import as_text, markdown_table, marked

if TYPE_CHECKING:
    from tasks.run_records import Row

_GAP = "&emsp;"


def benchmark_note(summary: pd.DataFrame, commit: str) -> str:
    """A table for each data set and scale, and how to make the numbers again."""
    groups = summary.groupby(["dataset", "scale"], sort=False)
    tables = [
        f"#### {dataset} ×{scale}\n\n{_quality_table(rows)}" for (dataset, scale), rows in groups
    ]
    files = (
        "Under *Artifacts*: `report/report.html` and `report/tables.md` (everything measured, in"
        " the papers' layouts), `tables/` (as tables one can sort), `settings/` (what made it)."
    )
    return "\n\n".join([*tables, files, _again(commit)]) + "\n"


def row_note(row: "Row", commit: str) -> str:
    """One row: what it is, its numbers, where its weights are, how to make it again."""
    parts = [f"**{row.architecture} ×{row.scale}**, {_whose(row)}.", _means_table(row)]
    if row.weights is not None:
        parts.append(f"Weights: registered model [{row.model_name}](#/models/{row.model_name}).")
    parts.append(_again(commit) if row.source != "published" else _imported_by(row))
    return "\n\n".join(parts) + "\n"


def model_description(architecture: str, scale: int) -> str:
    """What all versions of a registered model share: the network, its paper, how to load it."""
    about = models.get(architecture)
    name = f"{architecture}-x{scale}"
    return "\n\n".join(
        [
            f"**{architecture}**, enlarges pictures ×{scale}. {_docstring(about.build)}",
            _paper(architecture),
            "Input: LR pictures, N×3×h×w, RGB in 0–1, float32, any height and width. Output:"
            f" N×3×{scale}h×{scale}w, the same kind.",
            "```python\n"
            f'network = mlflow.pyfunc.load_model("models:/{name}@champion")\n'
            "sr = network.predict(lr)  # numpy arrays\n"
            "```",
            "```sh\n"
            f"sisr upscale photo.jpg -o photo-x{scale}.png --scale {scale}"
            f" --model {name}@champion\n"
            f"mlflow models serve -m models:/{name}@champion --env-manager local\n"
            "```",
            "`champion` is the version with the highest PSNR on the same test pictures.",
        ]
    )


def version_description(row: "Row", params: Params) -> str:
    """Whose weights, of which data, and what they score."""
    trained_on = ", ".join(params.data.train)
    what = f"{_whose(row)}, on {trained_on}" if row.cell is not None else _whose(row)
    tail = [] if row.cell is not None else [_imported_by(row)]
    return "\n\n".join([f"{what[0].upper()}{what[1:]}.", _means_table(row), *tail])


def _whose(row: "Row") -> str:
    if row.source == "interpolation":
        return "an interpolation, nothing is trained"
    if row.cell is None:
        return f"the authors' weights, from {read_origin(row.result['cell']).source}"
    served = ", ".join(f"×{scale}" for scale in row.cell.scales)
    return f"trained here for {served}" if row.cell.joint else "trained here"


def _imported_by(row: "Row") -> str:
    return f"Import again: `{read_origin(row.result['cell']).command}`"


def _again(commit: str) -> str:
    return (
        f"Make it again: code at commit `{commit}`, `settings/params.yaml` of the benchmark's run"
        " as params.yaml, then `sisr run`."
    )


def _quality_table(rows: pd.DataFrame) -> str:
    text = {
        "architecture": rows["architecture"],
        "PSNR (dB)": marked(rows["psnr_db"], 2),
        "SSIM": marked(rows["ssim"], 4),
        "latency (ms)": as_text(rows["latency_ms"], "{:.1f}"),
    }
    text["PSNR (dB)"] += without_numbers(rows)
    return _spaced(pd.DataFrame(text))


def _means_table(row: "Row") -> str:
    means = row.means
    cells = pd.DataFrame(
        {
            "data set": [f"{dataset} ×{row.scale}" for dataset in means.index],
            "PSNR (dB)": [f"{value:.3f}" for value in means["psnr_db"]],
            "SSIM": [f"{value:.4f}" for value in means["ssim"]],
            "latency (ms)": [f"{value:.1f}" for value in means["latency_ms"]],
        }
    )
    return _spaced(cells)


def _spaced(cells: pd.DataFrame) -> str:
    """A Markdown table whose columns stand apart on MLflow's pages, which pad nothing."""
    title, rule, *rows = markdown_table(cells).splitlines()
    return "\n".join([_apart(title), rule, *map(_apart, rows)])


def _apart(line: str) -> str:
    return line.replace(" |", f"{_GAP} |")


def _paper(architecture: str) -> str:
    """The paragraphs of the network's file that say what it is and whose."""
    module = inspect.getmodule(models.get(architecture).build)
    paragraphs: Sequence[str] = re.split(r"\n\s*\n", inspect.getdoc(module) or "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs[:2])


def _docstring(thing: object) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())
