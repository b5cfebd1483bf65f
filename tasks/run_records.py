"""What the tracking store is told: one run for the benchmark, one for every row of its tables.

Read from disk (`report/`, `results/`, `cells/`), so results that could not be logged are logged
later. Names are stable: the metric `psnr_db/set5-x2` is the same quantity in every run, so that
runs of different architectures, scales and days stand side by side.
"""

import getpass
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.checksums import folder_sha256
from tasks.config import CATALOGUE_FILE, PARAMS_FILE, ROLES, Cell, Params
from tasks.illustrations import FIGURES
from tasks.importing import IMPORT_FILE, published_results, row_name
from tasks.layout import CELL_FOLDER, REPORT_FOLDER, result_file, weights_file
from tasks.model_card import benchmark_note, row_note
from tasks.origin import git_commit, picture_digests
from tasks.report import read_history
from tasks.row_status import measured_rows

# Raise it when the same results would be logged differently.
_FORMAT = 1
# MLflow's page of system metrics shows what starts with `system/`.
_SYSTEM_COLUMNS = ("cpu_percent", "memory_mib")
_TABLES = ("summary", "images", "latency")
_QUANTITIES = ["psnr_db", "ssim", "latency_ms"]


@dataclass(frozen=True)
class Point:
    """One measurement of a training's course."""

    name: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True)
class Dataset:
    """A set of pictures, and which pictures exactly."""

    name: str
    role: str
    digest: str


@dataclass(frozen=True)
class RunRecord:
    """Everything that one run shows; `files` maps a folder of its artifacts to what lies there."""

    name: str
    note: str
    tags: Mapping[str, str]
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    tables: Mapping[str, pd.DataFrame]
    files: Mapping[str, tuple[Path, ...]]
    datasets: tuple[Dataset, ...] = ()
    curves: tuple[Point, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of the tables; an interpolation has no weights, imported ones no cell."""

    result: dict[str, Any]
    name: str
    source: str
    weights: Path | None
    cell: Cell | None

    @property
    def architecture(self) -> str:
        """The network's name, also of imported weights."""
        return str(self.result["architecture"])

    @property
    def scale(self) -> int:
        """What the row enlarges by."""
        return int(self.result["scale"])

    @property
    def run_name(self) -> str:
        """`srcnn-x2`, or `vdsr-published-x2` for imported weights."""
        return f"{self.name}-x{self.scale}"

    @property
    def model_name(self) -> str:
        """The registered model that our weights and imported ones are versions of."""
        return f"{self.architecture}-x{self.scale}"

    @property
    def psnr_db(self) -> float:
        """The mean over all test pictures."""
        return float(self.images["psnr_db"].mean())

    @property
    def images(self) -> pd.DataFrame:
        """Every picture's numbers."""
        return pd.DataFrame(self.result["images"])

    @property
    def means(self) -> pd.DataFrame:
        """PSNR, SSIM and latency by data set."""
        return self.images.groupby("dataset", sort=False)[_QUANTITIES].mean()

    def quantities(self) -> dict[str, float]:
        """The means under stable names: `psnr_db/set5-x2`."""
        return {
            f"{name}/{dataset}-x{self.scale}": float(value)
            for dataset, row in self.means.iterrows()
            for name, value in row.items()
        }

    def weights_sha256(self) -> str:
        """The checksum of the weights' file."""
        assert self.weights is not None
        return hashlib.sha256(self.weights.read_bytes()).hexdigest()

    def evaluation(self) -> dict[str, str]:
        """The row as a registered version's tags."""
        about = {"source": self.source, "test_data_sha256": self.result["test_data_sha256"]}
        numbers = {"psnr_db": self.psnr_db, **self.quantities()}
        return about | {name: repr(value) for name, value in numbers.items()}


def own_rows(params: Params) -> Iterator[Row]:
    """The rows that params.yaml asks for and that the tables have numbers of."""
    shown = measured_rows(pd.read_parquet(REPORT_FOLDER / "summary.parquet"))
    measured = set(zip(shown["architecture"], shown["scale"], strict=True))
    for scale in params.scales:
        for architecture in params.architectures:
            cell = params.cell_for(architecture, scale)
            if (architecture, scale) in measured:
                result = json.loads(result_file(architecture, scale).read_text("utf-8"))
                weights = weights_file(cell.name) if cell else None
                source = "trained" if cell else "interpolation"
                yield Row(result, architecture, source, weights, cell)


def imported_rows(params: Params) -> Iterator[Row]:
    """The rows of authors' weights."""
    for result in published_results(params)[0]:
        name, weights = row_name(result["architecture"]), weights_file(result["cell"])
        yield Row(result, name, "published", weights, None)


def benchmark_sha256(rows: list[Row]) -> str:
    """One checksum of all that would be logged: the same results are logged once."""
    contents = {
        "format": _FORMAT,
        "report": folder_sha256(REPORT_FOLDER),
        "params": hashlib.sha256(PARAMS_FILE.read_bytes()).hexdigest(),
        "rows": [row_sha256(row) for row in rows],
    }
    return _sha256(contents)


def row_sha256(row: Row) -> str:
    """One checksum of all that would be logged of a row."""
    weights = row.weights_sha256() if row.weights else None
    return _sha256({"format": _FORMAT, "result": row.result, "weights": weights})


def benchmark_record(params: Params, rows: list[Row]) -> RunRecord:
    """The run that the rows' runs hang under: all tables, all figures, the settings."""
    tables = {name: pd.read_parquet(REPORT_FOLDER / f"{name}.parquet") for name in _TABLES}
    settings = (PARAMS_FILE, CATALOGUE_FILE, Path("dvc.yaml"), Path("dvc.lock"))
    return RunRecord(
        name=time.strftime("benchmark %Y-%m-%d %H:%M:%S"),
        note=benchmark_note(tables["summary"], git_commit()),
        tags={"kind": "benchmark", **_origin(params)},
        params=_benchmark_params(params),
        # The rows' runs have them; here they would be a chart for each architecture.
        metrics={},
        tables=tables,
        files={
            **_folder_files(REPORT_FOLDER),
            "settings": tuple(file for file in settings if file.exists()),
        },
        datasets=_test_datasets(rows[0]) if rows else (),
    )


def row_record(params: Params, row: Row) -> RunRecord:
    """One row of the tables, and the training behind it."""
    result = row.result
    tags = {
        "kind": "row",
        "architecture": row.architecture,
        "scale": str(row.scale),
        "source": row.source,
        "test_data_sha256": result["test_data_sha256"],
        **_origin(params),
    }
    record = None if row.cell is None else _training_record(row.cell)
    if row.cell is not None and record is not None:
        tags |= {"cell": row.cell.name, "train_device": record["device"]}
    files = {"figures": _figures(row)}
    if row.source == "published":
        files["import"] = (CELL_FOLDER / result["cell"] / IMPORT_FILE,)
    if row.cell is not None:
        folder = CELL_FOLDER / row.cell.name
        files["training"] = (folder / "history.csv", folder / "training.json")
    return RunRecord(
        name=row.run_name,
        note=row_note(row, git_commit()),
        tags=tags,
        params=_row_params(params, row, record),
        metrics=_row_metrics(row, record),
        tables={"images": row.images, "latency": pd.DataFrame(result["latency"])},
        files=files,
        datasets=_test_datasets(row),
        curves=tuple(_curves(record, read_history(row.cell))) if row.cell and record else (),
    )


def write_artifacts(record: RunRecord, folder: Path) -> None:
    """Lay out a run's artifacts as they are to be seen: tables, figures, files."""
    for name, table in record.tables.items():
        target = folder / table_path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        table.to_json(target, orient="split", index=False, date_format="iso")
    for place, files in record.files.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        for file in files:
            (folder / place / file.name).write_bytes(file.read_bytes())


def table_path(name: str) -> str:
    """Where a table lies among a run's artifacts."""
    return f"tables/{name}.json"


def _training_record(cell: Cell) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        (CELL_FOLDER / cell.name / "training.json").read_text("utf-8")
    )
    return record


def _origin(params: Params) -> dict[str, str]:
    from tasks.super_resolve import best_device
    from tasks.timing import device_name

    commit = git_commit()
    return {
        "code_commit": commit,
        "seed": str(params.seed),
        "hardware": f"{device_name(best_device())}, {os.cpu_count()} CPU cores",
        # What MLflow's list of runs has columns for.
        "mlflow.source.name": "sisr run",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": _user(),
        **({} if commit.startswith("unknown") else {"mlflow.source.git.commit": commit}),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _benchmark_params(params: Params) -> dict[str, object]:
    return {
        "scales": list(params.scales),
        "seed": params.seed,
        **{f"data.{role}": list(params.data.of(role)) for role in ROLES},
        **{f"shards.{key}": value for key, value in params.shards.model_dump().items()},
    }


def _row_params(params: Params, row: Row, record: dict[str, Any] | None) -> dict[str, object]:
    values: dict[str, object] = {
        "architecture": row.architecture,
        "scale": row.scale,
        "source": row.source,
    }
    if row.cell is not None and record is not None:
        recipe = params.recipe(row.cell.architecture).model_dump(mode="json")
        values |= {**recipe, "cell": row.cell.name, "num_steps": record["num_steps"]}
    return values


def _row_metrics(row: Row, record: dict[str, Any] | None) -> dict[str, float]:
    complexity = row.result["complexity"]
    metrics: dict[str, float] = {
        "psnr_db": row.psnr_db,
        "num_parameters": complexity["num_parameters"],
        "num_multiply_adds": complexity["num_multiply_adds"],
        **row.quantities(),
    }
    for timed in row.result["latency"]:
        if "skipped" not in timed:
            metrics[f"latency_ms/{timed['output_px']}px"] = timed["latency_ms"]
    if record is not None:
        metrics["train_s"] = record["seconds"]
        # Earlier records lack them, and no machine's rate is known where there was no memory.
        rates = {name: record.get(name) for name in ("gflops", "matrix_gflops")}
        metrics |= {name: rate for name, rate in rates.items() if rate is not None}
    return metrics


def _curves(record: dict[str, Any], history: pd.DataFrame) -> Iterator[Point]:
    """A training's course, its times counted back from now."""
    now_ms = int(time.time() * 1000)
    for row in history.to_dict("records"):
        when_ms = now_ms - int(1000 * (record["seconds"] - row["seconds"]))
        for name, value in row.items():
            if name not in ("step", "seconds") and not pd.isna(value):
                place = "system" if name in _SYSTEM_COLUMNS else "train"
                yield Point(f"{place}/{name}", float(value), when_ms, int(row["step"]))


def _figures(row: Row) -> tuple[Path, ...]:
    """Of the report's figures, the row's own training and the comparisons of its scale."""
    folder = REPORT_FOLDER / FIGURES
    own = [folder / f"training-{row.cell.name}.png"] if row.cell is not None else []
    shared = sorted(
        path
        for kind in ("comparison", "errors", "tradeoff")
        for path in folder.glob(f"{kind}-*-x{row.scale}.png")
    )
    return tuple(path for path in (*own, *shared) if path.exists())


def _test_datasets(row: Row) -> tuple[Dataset, ...]:
    digests = picture_digests(row.result["test_data_sha256"], map(str, row.means.index))
    return tuple(Dataset(name, "test", digest) for name, digest in digests.items())


def _folder_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    """All files under a folder, by the folder that they lie in."""
    homes = sorted({path.parent for path in folder.rglob("*") if path.is_file()})
    return {
        home.as_posix(): tuple(sorted(path for path in home.iterdir() if path.is_file()))
        for home in homes
    }


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
