"""Runs, tables and weights in MLflow; the only file that imports mlflow.

Everything is read from disk (`report/`, `results/`, `cells/`), so results that
could not be logged are logged later by the same command. One parent run for a
benchmark, a child for every row of its tables, one registered model for every
row with weights (`srcnn-x2`); imported ones are versions of the same models. The
receipt in `registry/` says as what.
"""

import argparse
import hashlib
import json
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tasks.atomic import replacing_folder, write_text
from tasks.config import CATALOGUE_FILE, PARAMS_FILE, Cell, Params, Settings, load_params
from tasks.errors import StoreError, WeightsError
from tasks.evaluate import evaluate_network
from tasks.figures import plot_training
from tasks.importing import IMPORT_FILE, published_results, row_name
from tasks.layout import CELL_FOLDER, REGISTRY_FOLDER, REPORT_FOLDER, result_file, weights_file
from tasks.report import read_history
from tasks.served import ServedNetwork, load, save

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "sisr"
CHAMPION = "champion"
# Where MLflow puts the folder `network` inside a model.
_NETWORK_IN_MODEL = Path("data/network")
_STORE = Path("mlflow.db")
_BATCH = 1000
# A small grey ramp; what the signature's free sizes stand for.
_EXAMPLE = np.broadcast_to(np.linspace(0, 1, 24, dtype=np.float32), (1, 3, 16, 24)).copy()
# MLflow's page of system metrics shows what starts with `system/`.
_SYSTEM_COLUMNS = ("cpu_percent", "memory_mib")


@dataclass(frozen=True)
class Registered:
    """One registered version and whether it reigns."""

    model: str
    version: str
    run_id: str
    psnr_db: float
    is_champion: bool


@dataclass(frozen=True)
class Version:
    """A registered version as the store has it; `source` says whose its weights are."""

    model: str
    version: str
    source: str
    psnr_db: float
    is_champion: bool

    def __str__(self) -> str:
        crown = ", champion" if self.is_champion else ""
        return f"{self.model}/{self.version}: {self.source}, {self.psnr_db:.2f} dB{crown}"


@dataclass(frozen=True)
class _Row:
    """A row of the tables; an interpolation has no weights, imported ones no cell."""

    result: dict[str, Any]
    name: str
    source: str
    weights: Path | None
    cell: Cell | None


def log_benchmark(params: Params, settings: Settings) -> list[Registered]:
    """Log the benchmark that lies on disk and register its weights.

    Raises:
        StoreError: MLflow's store cannot be used.
    """
    with _client(settings) as client:
        parent = _start(client, _benchmark_name(), {})
        _log_parent(client, parent, params)
        rows = (*_own_rows(params), *_imported_rows(params))
        registered = _log_rows(client, params, rows, {"mlflow.parentRunId": parent})
        client.set_terminated(parent)
        _write_receipt(parent, registered)
        return registered


def register_imported(params: Params, settings: Settings, architecture: str) -> list[Registered]:
    """Log and register an author's weights, which were imported and measured.

    Raises:
        StoreError: MLflow's store cannot be used.
    """
    rows = [row for row in _imported_rows(params) if row.result["architecture"] == architecture]
    with _client(settings) as client:
        return _log_rows(client, params, rows, {})


def registered_versions(settings: Settings) -> list[Version]:
    """Every registered version; none if the workspace has no store yet.

    Raises:
        StoreError: MLflow's store cannot be used.
    """
    if settings.tracking_uri is None and not _STORE.exists():
        return []
    with _client(settings) as client:
        return [version for name in model_names(client) for version in _versions(client, name)]


def load_registered(reference: str, scale: int, settings: Settings) -> ServedNetwork:
    """A registered network: `vdsr-x2@champion`, `vdsr-x2/3`, or `vdsr-x2` for its champion.

    Raises:
        WeightsError: no such model, alias or version, or one of another scale.
        StoreError: MLflow's store cannot be used.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    if "@" not in reference and "/" not in reference:
        reference = f"{reference}@{CHAMPION}"
    with _client(settings) as client, tempfile.TemporaryDirectory(prefix="sisr-") as folder:
        try:
            path = download_artifacts(f"models:/{reference}", dst_path=folder)
        except MlflowException as error:
            known = ", ".join(model_names(client)) or "none; run `sisr run` first"
            raise WeightsError(f"no registered model {reference!r}; registered: {known}") from error
        served = load(Path(path) / _NETWORK_IN_MODEL)
    if served.scale != scale:
        raise WeightsError(f"{reference} enlarges ×{served.scale}, not ×{scale}")
    return served


def best_registered(scale: int, settings: Settings) -> str:
    """The champion of that scale with the highest PSNR on its test data.

    Raises:
        WeightsError: nothing is registered for the scale.
        StoreError: MLflow's store cannot be used.
    """
    with _client(settings) as client:
        champions = [
            (float(version.tags["psnr_db"]), name)
            for name in model_names(client)
            if name.endswith(f"-x{scale}") and (version := _champion(client, name)) is not None
        ]
    if not champions:
        raise WeightsError(
            f"no model is registered for ×{scale}; run `sisr run`, or choose --model bicubic"
        )
    return max(champions)[1]


def model_names(client: "MlflowClient") -> list[str]:
    """The names of all registered models."""
    return sorted(model.name for model in client.search_registered_models(max_results=_BATCH))


def git_commit() -> str:
    """The commit that the code is of, with `-dirty` if files differ from it."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"


@contextmanager
def _client(settings: Settings) -> Iterator["MlflowClient"]:
    """MLflow's client on the store of the settings, quiet, with nothing sent anywhere."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    uri = tracking_uri(settings)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield mlflow.MlflowClient()
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise StoreError(f"MLflow at {uri} cannot be used: {error}") from error


def tracking_uri(settings: Settings) -> str:
    """The store of the settings, or the workspace's own SQLite file."""
    return settings.tracking_uri or f"sqlite:///{_STORE.absolute()}"


def _experiment(client: "MlflowClient") -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    local = client.tracking_uri.startswith("sqlite:")
    # A server decides for itself where artifacts go.
    location = Path("mlartifacts").absolute().as_uri() if local else None
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))


def _start(client: "MlflowClient", name: str, tags: dict[str, str]) -> str:
    run = client.create_run(_experiment(client), run_name=name, tags=tags)
    return str(run.info.run_id)


def _benchmark_name() -> str:
    return time.strftime("benchmark %Y-%m-%d %H:%M:%S")


def _log_parent(client: "MlflowClient", run_id: str, params: Params) -> None:
    summary = pd.read_parquet(REPORT_FOLDER / "summary.parquet")
    flat = {
        "scales": list(params.scales),
        "seed": params.seed,
        **{f"data.{role}": list(params.data.of(role)) for role in ("train", "validation", "test")},
        **{f"shards.{key}": value for key, value in params.shards.model_dump().items()},
    }
    _log(client, run_id, params=flat, tags=_origin(params))
    for name in ("summary", "images", "latency"):
        table = pd.read_parquet(REPORT_FOLDER / f"{name}.parquet")
        client.log_table(run_id, table, f"tables/{name}.json")
    metrics = {
        f"psnr_db/{row['dataset']}-x{row['scale']}/{row['architecture']}": row["psnr_db"]
        for row in summary[summary["status"] == "ok"].to_dict("records")
    }
    _log(client, run_id, metrics=metrics)
    client.log_artifacts(run_id, str(REPORT_FOLDER), "report")
    for file in (PARAMS_FILE, CATALOGUE_FILE, Path("dvc.yaml"), Path("dvc.lock")):
        if file.exists():
            client.log_artifact(run_id, str(file), "settings")


def _origin(params: Params) -> dict[str, str]:
    import torch

    from tasks.timing import device_name

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "code_commit": git_commit(),
        "seed": str(params.seed),
        "hardware": f"{device_name(device)}, {os.cpu_count()} CPU cores",
    }


def _own_rows(params: Params) -> Iterator[_Row]:
    for scale in params.scales:
        for architecture in params.architectures:
            cell = params.cell_for(architecture, scale)
            weights = weights_file(cell.name) if cell else None
            path = result_file(architecture, scale)
            if path.exists():
                source = "trained" if cell else "interpolation"
                yield _Row(json.loads(path.read_text("utf-8")), architecture, source, weights, cell)


def _imported_rows(params: Params) -> Iterator[_Row]:
    for result in published_results(params)[0]:
        name, weights = row_name(result["architecture"]), weights_file(result["cell"])
        yield _Row(result, name, "published", weights, None)


def _log_rows(
    client: "MlflowClient", params: Params, rows: Iterable[_Row], tags: dict[str, str]
) -> list[Registered]:
    """Each row as a run, its weights as a version."""
    registered = []
    for row in rows:
        run_id = _log_row(client, params, row, tags)
        if row.weights is not None:
            registered.append(_register(client, run_id, row, row.weights))
        client.set_terminated(run_id)
    return registered


def _log_row(client: "MlflowClient", params: Params, row: _Row, tags: dict[str, str]) -> str:
    """One row of the tables as a run; returns its id, still running."""
    result = row.result
    tags = tags | {
        "architecture": result["architecture"],
        "scale": str(result["scale"]),
        "source": row.source,
        "test_data_sha256": result["test_data_sha256"],
    }
    run_id = _start(client, f"{row.name}-x{result['scale']}", tags)
    _log(client, run_id, metrics=_row_metrics(result), tags=_origin(params))
    client.log_table(run_id, pd.DataFrame(result["images"]), "tables/images.json")
    client.log_table(run_id, pd.DataFrame(result["latency"]), "tables/latency.json")
    if row.cell is not None:
        _log_training(client, run_id, params, row.cell)
    if row.source == "published":
        client.log_artifact(run_id, str(CELL_FOLDER / result["cell"] / IMPORT_FILE), "import")
    return run_id


def _row_metrics(result: dict[str, Any]) -> dict[str, float]:
    """Means per data set under stable names (`psnr_db/set5-x2`), and the costs."""
    metrics: dict[str, float] = {
        "num_parameters": result["complexity"]["num_parameters"],
        "num_multiply_adds": result["complexity"]["num_multiply_adds"],
    }
    images = pd.DataFrame(result["images"])
    means = images.groupby("dataset")[["psnr_db", "ssim", "latency_ms"]].mean()
    for dataset, row in means.iterrows():
        for name, value in row.items():
            metrics[f"{name}/{dataset}-x{result['scale']}"] = float(value)
    for row in result["latency"]:
        if "skipped" not in row:
            metrics[f"latency_ms/{row['output_px']}px"] = row["latency_ms"]
    return metrics


def _log_training(client: "MlflowClient", run_id: str, params: Params, cell: Cell) -> None:
    from mlflow.entities import Metric

    recipe = params.recipe(cell.architecture).model_dump(mode="json")
    record = json.loads((CELL_FOLDER / cell.name / "training.json").read_text("utf-8"))
    _log(
        client,
        run_id,
        params={**recipe, "cell": cell.name, "num_steps": record["num_steps"]},
        metrics={"train_s": record["seconds"]},
        tags={"cell": cell.name, "train_device": record["device"]},
    )
    history = read_history(cell)
    now_ms = int(time.time() * 1000)
    metrics = []
    for row in history.to_dict("records"):
        when = now_ms - int(1000 * (record["seconds"] - row["seconds"]))
        for name, value in row.items():
            if name not in ("step", "seconds") and not pd.isna(value):
                key = f"system/{name}" if name in _SYSTEM_COLUMNS else f"train/{name}"
                metrics.append(Metric(key, float(value), when, int(row["step"])))
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
    client.log_artifact(run_id, str(CELL_FOLDER / cell.name / "history.csv"), "training")
    client.log_artifact(run_id, str(CELL_FOLDER / cell.name / "training.json"), "training")
    with tempfile.TemporaryDirectory(prefix="sisr-") as folder:
        figure = Path(folder) / "training.png"
        plot_training({cell.name: history}, figure)
        client.log_artifact(run_id, str(figure), "training")


def _register(client: "MlflowClient", run_id: str, row: _Row, weights: Path) -> Registered:
    """Register a row's weights, unless they are registered already, and let them challenge."""
    result = row.result
    architecture, scale = result["architecture"], result["scale"]
    name = f"{architecture}-x{scale}"
    psnr_db = float(pd.DataFrame(result["images"])["psnr_db"].mean())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    tags = {
        "weights_sha256": digest,
        "source": row.source,
        "test_data_sha256": result["test_data_sha256"],
        "psnr_db": repr(psnr_db),
    }
    version = _version_with(client, name, digest)
    if version is None:
        version = _log_model(client, run_id, name, architecture, scale, weights)
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    is_champion = _challenge(client, name, version, tags, result)
    return Registered(name, version, run_id, psnr_db, is_champion)


def _log_model(
    client: "MlflowClient", run_id: str, name: str, architecture: str, scale: int, weights: Path
) -> str:
    import mlflow
    import torch
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    anywhere = Schema([TensorSpec(np.dtype(np.float32), (-1, 3, -1, -1))])
    with tempfile.TemporaryDirectory(prefix="sisr-") as folder:
        save(Path(folder) / "network", architecture, scale, weights)
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name="model",
                loader_module="tasks.served",
                data_path=str(Path(folder) / "network"),
                signature=ModelSignature(inputs=anywhere, outputs=anywhere),
                input_example=_EXAMPLE,
                pip_requirements=[f"torch=={torch.__version__.split('+')[0]}", "safetensors"],
                registered_model_name=name,
            )
    return str(logged.registered_model_version)


def _versions(client: "MlflowClient", name: str) -> Iterator[Version]:
    champion = _champion(client, name)
    for found in client.search_model_versions(f"name = '{name}'"):
        yield Version(
            model=name,
            version=str(found.version),
            source=found.tags.get("source", ""),
            psnr_db=float(found.tags.get("psnr_db", "nan")),
            is_champion=champion is not None and str(champion.version) == str(found.version),
        )


def _version_with(client: "MlflowClient", name: str, digest: str) -> str | None:
    found = client.search_model_versions(f"name = '{name}'")
    for version in found:
        if version.tags.get("weights_sha256") == digest:
            return str(version.version)
    return None


def _challenge(
    client: "MlflowClient", name: str, version: str, tags: dict[str, str], result: dict[str, Any]
) -> bool:
    """Make a version the champion if it beats the reigning one on the same test data."""
    reigning = _champion(client, name)
    if reigning is not None and str(reigning.version) != version:
        bar = float(reigning.tags["psnr_db"])
        if reigning.tags["test_data_sha256"] != tags["test_data_sha256"]:
            bar = _measure_again(client, reigning, tags, result)
        if float(tags["psnr_db"]) <= bar:
            return False
    client.set_registered_model_alias(name, CHAMPION, version)
    return True


def _measure_again(
    client: "MlflowClient", reigning: Any, tags: dict[str, str], result: dict[str, Any]
) -> float:
    """The reigning champion's PSNR on the challenger's test data."""
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(prefix="sisr-") as folder:
        path = download_artifacts(f"models:/{reigning.name}/{reigning.version}", dst_path=folder)
        served = load(Path(path) / _NETWORK_IN_MODEL)
    datasets = list(dict.fromkeys(row["dataset"] for row in result["images"]))
    again = evaluate_network(served.network, result["architecture"], served.scale, datasets)
    psnr_db = float(pd.DataFrame(again["images"])["psnr_db"].mean())
    for key, value in (
        ("psnr_db", repr(psnr_db)),
        ("test_data_sha256", tags["test_data_sha256"]),
    ):
        client.set_model_version_tag(reigning.name, reigning.version, key, value)
    return psnr_db


def _champion(client: "MlflowClient", name: str) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None  # MLflow's way to say that there is no such model or alias
        raise


def _log(
    client: "MlflowClient",
    run_id: str,
    *,
    params: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Parameters, final metrics and tags in one request."""
    from mlflow.entities import Metric, Param, RunTag

    now_ms = int(time.time() * 1000)
    client.log_batch(
        run_id,
        params=[Param(key, str(value)) for key, value in (params or {}).items()],
        metrics=[Metric(key, value, now_ms, 0) for key, value in (metrics or {}).items()],
        tags=[RunTag(key, value) for key, value in (tags or {}).items()],
    )


def _write_receipt(parent: str, registered: list[Registered]) -> None:
    receipt = {"run_id": parent, "models": [asdict(each) for each in registered]}
    with replacing_folder(REGISTRY_FOLDER) as folder:
        write_text(folder / "receipt.json", json.dumps(receipt, indent=1) + "\n")


def main() -> None:
    """The stage's command."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for each in log_benchmark(load_params(), Settings()):
        crown = "champion" if each.is_champion else "not champion"
        print(f"{each.model} version {each.version}: {each.psnr_db:.3f} dB, {crown}")


if __name__ == "__main__":
    main()
