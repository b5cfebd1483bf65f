"""Runs, tables and weights in MLflow.

One parent run for a benchmark, a child for every row of its tables (`tasks/run_records.py` says
what they show), one registered model for every row with weights (`srcnn-x2`); imported ones are
versions of the same models. The receipt in `registry/` says as what.

Logging is all or nothing and can be repeated. Runs are found again by the checksum of their
contents; they finish together; a version is made, in one request, of a finished run's model. What
an interruption leaves is ended as KILLED by the next logging, which starts anew from the disk.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict

from tasks.atomic import replacing_folder, write_text
from tasks.config import Params, Settings, load_params
from tasks.errors import WeightsError
from tasks.layout import REGISTRY_FOLDER
from tasks.mlflow_store import (
    MOST_FOUND,
    STORE_FILE,
    Client,
    connected,
    experiment_id,
    mlflow_environment,
    tracking_uri,
)
from tasks.run_groups import CONTENTS, PARENT, children_of, finished, whole
from tasks.run_records import (
    Row,
    benchmark_record,
    benchmark_sha256,
    imported_rows,
    own_rows,
    row_record,
    row_sha256,
)
from tasks.served import ServedNetwork
from tasks.versions import (
    CHAMPION,
    Registered,
    Version,
    attach_model,
    champion_of,
    load_network,
    register,
    versions_of,
)

__all__ = [
    "CHAMPION",
    "Registered",
    "Version",
    "best_registered",
    "load_registered",
    "log_benchmark",
    "mlflow_environment",
    "model_names",
    "register_imported",
    "registered_versions",
    "tracking_uri",
]

_REFERENCE = re.compile(r"[\w.-]+(@[\w.-]+|/\d{1,9})")


def log_benchmark(params: Params, settings: Settings) -> list[Registered]:
    """Log the benchmark that lies on disk and register its weights.

    The same results are logged once: a second call finds the runs of the first.

    Raises:
        StoreError: MLflow's store cannot be used; call again later.
    """
    rows = [*own_rows(params), *imported_rows(params)]
    with connected(settings) as client:
        experiment = experiment_id(client, settings)
        contents = benchmark_sha256(rows)
        parent = finished(client, experiment, contents)
        if parent is None or _lacks_a_run(client, experiment, parent, rows):
            with whole(client, experiment) as begin:
                parent = begin(benchmark_record(params, rows), {CONTENTS: contents})
                for row in rows:
                    run_id = begin(
                        row_record(params, row), {CONTENTS: row_sha256(row), PARENT: parent}
                    )
                    attach_model(client, experiment, run_id, row)
        runs = children_of(client, experiment, parent)
        registered = [
            register(client, experiment, runs[row.run_name], row, params)
            for row in rows
            if row.weights is not None
        ]
        _write_receipt(parent, registered)
        return registered


def _lacks_a_run(client: Client, experiment: str, parent: str, rows: Sequence[Row]) -> bool:
    """Whether somebody has deleted a run from which a network would be registered."""
    runs = children_of(client, experiment, parent)
    return any(row.run_name not in runs for row in rows if row.weights is not None)


def register_imported(params: Params, settings: Settings, architecture: str) -> list[Registered]:
    """Log and register an author's weights, which were imported and measured.

    Raises:
        StoreError: MLflow's store cannot be used; call again later.
    """
    rows = [row for row in imported_rows(params) if row.architecture == architecture]
    registered = []
    with connected(settings) as client:
        experiment = experiment_id(client, settings)
        for row in rows:
            run_id = finished(client, experiment, row_sha256(row))
            if run_id is None:
                with whole(client, experiment) as begin:
                    run_id = begin(row_record(params, row), {CONTENTS: row_sha256(row)})
                    attach_model(client, experiment, run_id, row)
            registered.append(register(client, experiment, run_id, row, params))
    return registered


def registered_versions(settings: Settings) -> list[Version]:
    """Every registered version; none if the workspace has no store yet.

    Raises:
        StoreError: MLflow's store cannot be used.
    """
    if settings.tracking_uri is None and not STORE_FILE.exists():
        return []
    with connected(settings) as client:
        return [version for name in model_names(client) for version in versions_of(client, name)]


def load_registered(reference: str, scale: int, settings: Settings) -> ServedNetwork:
    """A registered network: `vdsr-x2@champion`, `vdsr-x2/3`, or `vdsr-x2` for its champion.

    Raises:
        WeightsError: no such model, alias or version, or one of another scale.
        StoreError: MLflow's store cannot be used.
    """
    if "@" not in reference and "/" not in reference:
        reference = f"{reference}@{CHAMPION}"
    if not _REFERENCE.fullmatch(reference):
        raise WeightsError(
            f"{reference!r} names no network; write vdsr-x2, vdsr-x2@champion or vdsr-x2/3"
        )
    with connected(settings) as client:
        served = load_network(f"models:/{reference}")
        if served is None:
            known = ", ".join(model_names(client)) or "none; run `sisr run` first"
            raise WeightsError(f"no registered model {reference!r}; registered: {known}")
    if served.scale != scale:
        raise WeightsError(f"{reference} enlarges ×{served.scale}, not ×{scale}")
    return served


def best_registered(scale: int, settings: Settings) -> str:
    """The champion of that scale with the highest PSNR on its test data.

    Raises:
        WeightsError: nothing is registered for the scale.
        StoreError: MLflow's store cannot be used.
    """
    with connected(settings) as client:
        champions = [
            (float(version.tags["psnr_db"]), name)
            for name in model_names(client)
            if name.endswith(f"-x{scale}")
            and (version := champion_of(client, name)) is not None
            and "psnr_db" in version.tags  # else not one of ours
        ]
    if not champions:
        raise WeightsError(
            f"no model is registered for ×{scale}; run `sisr run`, or choose --model bicubic"
        )
    return max(champions)[1]


def model_names(client: Client) -> list[str]:
    """The names of all registered models."""
    return sorted(model.name for model in client.search_registered_models(max_results=MOST_FOUND))


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
