"""Where each number comes from: code, data, settings, machine, and how to repeat it."""

import json
import subprocess
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tasks.config import PARAMS_FILE, Params
from tasks.importing import read_origin
from tasks.layout import CELL_FOLDER, METRICS_FILE
from tasks.row_status import measured_rows

_NO_CODE = tuple(f":(exclude){name}" for name in (PARAMS_FILE, "dvc.lock", METRICS_FILE))
Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RowOrigin:
    """Where the row of one network at one scale comes from; `command` makes it again."""

    anchor: str
    title: str
    facts: Facts
    recipe: Facts
    training: Facts
    command: str


def git_commit() -> str:
    """The commit that the code is of, with `-dirty` if files differ from it.

    But for parameters and what a run writes, which are told apart from the code.
    """
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":(top)", *_NO_CODE)
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def run_origin(params: Params, summary: pd.DataFrame, commit: str) -> Facts:
    """What all rows share."""
    measured = measured_rows(summary)
    cells = measured[measured["source"] == "trained"].drop_duplicates("cell")
    facts = {
        "code": commit.removesuffix("-dirty"),
        "test data": "; ".join(_test_data(params, measured)),
        "training data": ", ".join(params.data.train),
        "validation data": ", ".join(params.data.validation),
        "seed": str(params.seed),
        "training patches": f"{params.shards.patch_px} px, every {params.shards.stride_px} px",
        "trained on": _distinct(cells["device"]),
        "training took": f"{cells['train_s'].sum():,.0f} s in {len(cells)} trainings",
        "timed on": _distinct(_timed_on(measured)),
    }
    if commit.endswith("-dirty"):
        facts["code"] += ", with changes that are not committed"
    return tuple((name, value) for name, value in facts.items() if value)


def row_origins(params: Params, summary: pd.DataFrame) -> Iterator[RowOrigin]:
    """One for each measured network and scale, in the table's order."""
    measured = measured_rows(summary)
    each = measured.drop_duplicates(["architecture", "scale"])
    for place, row in enumerate(each.to_dict("records")):
        only = each.iloc[[place]]
        about = {
            "weights": row["source"] if row["num_parameters"] else "none: an interpolation",
            "test data": "; ".join(_test_data(params, only)),
            "timed on": _distinct(_timed_on(only)),
        }
        yield RowOrigin(
            anchor=anchor(row["architecture"], row["scale"]),
            title=f"{row['architecture']} ×{row['scale']}",
            **_making(params, row, about),
        )


def anchor(architecture: str, scale: int) -> str:
    """What a row's origin is called inside the page."""
    return f"origin-{architecture}-x{scale}"


def _making(params: Params, row: Mapping[Hashable, Any], about: dict[str, str]) -> dict[str, Any]:
    """How a row was made: trained here, imported, or an interpolation."""
    architecture, scale = row["architecture"], row["scale"]
    if row["source"] == "published":
        origin = read_origin(row["cell"])
        about |= {"from": origin.source, "sha256": origin.sha256, "imported": origin.imported_at}
        return {"facts": _facts(about), "recipe": (), "training": (), "command": origin.command}
    cell = params.cell_for(architecture, scale)
    if cell is None:
        stage = f"evaluate_interpolation@{architecture}-{scale}"
        return {"facts": _facts(about), "recipe": (), "training": (), "command": _repro(stage)}
    record = json.loads((CELL_FOLDER / cell.name / "training.json").read_text("utf-8"))
    recipe = params.recipe(architecture).model_dump(mode="json", exclude_none=True)
    stage = f"evaluate{'_joint' if cell.joint else ''}@{architecture}-{scale}"
    return {
        "facts": _facts(about),
        "recipe": _facts(recipe),
        "training": _facts(record),
        "command": _repro(stage),
    }


def _repro(stage: str) -> str:
    return f"dvc repro {stage}"


def picture_digests(joined: str, datasets: Iterable[str]) -> dict[str, str]:
    """The start of the checksum of each data set's pictures, in the given order.

    `joined` is what `tasks.evaluate.data_sha256` made of them, in the order of their names; of
    other data sets nothing can be said.
    """
    names, digests = list(datasets), joined.split("+")
    if len(digests) != len(names):
        return {}
    by_name = dict(zip(sorted(names), digests, strict=True))
    return {name: by_name[name] for name in names}


def _test_data(params: Params, rows: pd.DataFrame) -> Iterator[str]:
    """`set5 (sha256 9ebe51db6c9c3b49…)`: names with the start of the checksum of their pictures."""
    for joined in map(str, rows["test_data_sha256"].unique()):
        digests = picture_digests(joined, params.data.test)
        yield ", ".join(f"{name} (sha256 {digest}…)" for name, digest in digests.items()) or joined


def _timed_on(rows: pd.DataFrame) -> "pd.Series[str]":
    threads = rows["timed_num_threads"].astype("Int64").astype("str") + " threads"
    return rows["timed_device"] + ", " + threads + ", " + rows["timed_precision"]


def _distinct(values: "pd.Series[str]") -> str:
    return "; ".join(str(value) for value in values.unique() if value)


def _facts(values: Mapping[str, Any]) -> Facts:
    return tuple((name.replace("_", " "), _text(value)) for name, value in values.items())


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)
