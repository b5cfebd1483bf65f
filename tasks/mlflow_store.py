"""The connection to MLflow, and what needs MLflow's own types; the only file that imports it.

Every request is patient: tried again while time can mend its failure. Other failures of the store
become `StoreError`, wherever they happen.
"""

import hashlib
import json
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from tasks.config import Settings
from tasks.errors import StoreError
from tasks.patience import patiently
from tasks.run_records import Row, RunRecord, table_path, write_artifacts
from tasks.served import save
from tasks.shipped_code import copy_code
from tasks.storage import s3_may_mend

EXPERIMENT = "sisr"
MOST_FOUND = 1000  # of one search
# How long a store that is out of reach is waited for; the results stay on disk.
PATIENCE_S = 60.0
# Where MLflow puts the folder `network` inside a model.
_NETWORK_IN_MODEL = Path("data/network")
STORE_FILE = Path("mlflow.db")
_MOST_METRICS, _MOST_PARAMS = 800, 100  # of one request
# A small grey ramp; what the signature's free sizes stand for.
_EXAMPLE = np.broadcast_to(np.linspace(0, 1, 24, dtype=np.float32), (1, 3, 16, 24)).copy()
# MLflow's own patience with one request: a dead server costs seconds, not its default's minutes.
_MLFLOW_ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_UV_AUTO_DETECT": "false",
}
# The pages for trainings, not those for chats.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# MLflow folds rows into their benchmark, unless they are sorted by something else than the date.
_ROWS = "searchFilter=tags.kind%20%3D%20'row'&orderByKey=metrics.%60psnr_db%60&orderByAsc=false"
_NOTE = (
    "[All rows, best first](#/experiments/{id}/runs?{rows}), [as charts]"
    "(#/experiments/{id}/runs?compareRunsMode=CHART&{rows}). Search for `tags.architecture ="
    " 'srcnn'`, `tags.scale = '2'`, `tags.source = 'published'`, `tags.test_data_sha256 = '…'`."
)
# MLflow's ways to say that there is no such model, alias or version.
_MISSING = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
# Whose errors mean that the store cannot be used.
_ENGINES = ("mlflow", "sqlalchemy", "requests", "urllib3", "botocore", "boto3", "psycopg2")
# What a database says of itself that waiting will not change.
_LASTING = (
    "unable to open",
    "not a database",
    "readonly",
    "authentication failed",
    "no password",
    "does not exist",
)


def tracking_uri(settings: Settings) -> str:
    """The store of the settings, or the workspace's own SQLite file."""
    return settings.tracking_uri or f"sqlite:///{STORE_FILE.absolute()}"


def mlflow_environment(settings: Settings) -> dict[str, str]:
    """What MLflow must find in its environment, as a client or as a server of the store's pages."""
    environment = {**_MLFLOW_ENVIRONMENT, "MLFLOW_DISABLE_TELEMETRY": "true"}
    if settings.s3_endpoint_url is not None:
        environment["MLFLOW_S3_ENDPOINT_URL"] = settings.s3_endpoint_url
    return environment | {key: os.environ[key] for key in _MLFLOW_ENVIRONMENT if key in os.environ}


class Client:
    """MLflow's client; every request is tried again while time can mend its failure.

    `impatient` is the same client, each request tried once.
    """

    def __init__(self, client: Any) -> None:
        self.impatient = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.impatient, name)
        if not callable(found):
            return found
        return lambda *given, **named: retried(lambda: found(*given, **named))


def retried(action: Callable[[], Any]) -> Any:
    """The action's answer, after as many tries as patience allows."""
    return patiently(action, time_may_mend, PATIENCE_S, "MLflow")


def if_any(request: Callable[[], Any]) -> Any | None:
    """The request's answer; none if the store says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        return request()
    except MlflowException as error:
        if error.error_code in _MISSING:
            return None
        raise


@contextmanager
def connected(settings: Settings) -> Iterator[Client]:
    """MLflow's client on the store of the settings, quiet, with nothing sent anywhere.

    Raises:
        StoreError: whatever of MLflow fails within the block.
    """
    os.environ |= mlflow_environment(settings)
    import mlflow

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    uri = tracking_uri(settings)
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        retried(lambda: _open(uri))
        yield Client(mlflow.MlflowClient())
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _ENGINES:
            raise
        advice = " Results stay on disk; `sisr run` logs them later." * time_may_mend(error)
        reason = str(error).partition("\n(Background")[0].strip().rstrip(".")
        raise StoreError(
            f"MLflow at {_without_password(uri)} cannot be used: {reason}.{advice}"
        ) from error


def experiment_id(client: Client, settings: Settings) -> str:
    """The experiment of all runs, made if there is none.

    Raises:
        StoreError: there is one whose artifacts lie elsewhere than the settings ask.
    """
    wanted = _artifact_location(settings)

    def find_or_make() -> Any:
        found = client.impatient.get_experiment_by_name(EXPERIMENT)
        if found is None:
            made = client.impatient.create_experiment(EXPERIMENT, wanted, _EXPERIMENT_TAGS)
            found = client.impatient.get_experiment(made)
        return found

    found = retried(find_or_make)
    _check_place(found.artifact_location, settings)
    return _described(client, str(found.experiment_id), found.tags)


def check_artifacts_stay(settings: Settings) -> None:
    """Find out before the work what `experiment_id` would refuse after it.

    Asked of the workspace's own file, because MLflow takes seconds to import; where another store
    keeps its artifacts, only that one knows.

    Raises:
        StoreError: the workspace's artifacts lie elsewhere than the settings ask.
    """
    if settings.tracking_uri is not None or not STORE_FILE.is_file():
        return
    question = "SELECT artifact_location FROM experiments WHERE name = ?"
    try:
        with closing(sqlite3.connect(f"{STORE_FILE.absolute().as_uri()}?mode=ro", uri=True)) as own:
            found = own.execute(question, (EXPERIMENT,)).fetchone()
    except sqlite3.Error:
        return  # what is wrong with it MLflow itself will tell, or mend: a table not made yet
    if found is not None:
        _check_place(found[0], settings)


def _check_place(found: str, settings: Settings) -> None:
    wanted = _artifact_location(settings)
    asked = settings.storage is not None or settings.tracking_uri is None
    if wanted is not None and asked and found != wanted:
        uri = _without_password(tracking_uri(settings))
        raise StoreError(
            f"MLflow at {uri} keeps the files of {EXPERIMENT!r} at {found}, the"
            f" settings ask for {wanted}, and MLflow cannot move them. Set SISR_STORAGE as it was,"
            " or begin a new store: name one in SISR_TRACKING_URI, or move mlflow.db away; then"
            " `python -m tasks.tracking` logs what lies on disk there"
        )


def fill_run(client: Client, run_id: str, record: RunRecord) -> None:
    """A run's numbers in few requests, its files in one."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
    from mlflow.utils.time import get_current_time_millis

    now_ms = get_current_time_millis()
    metrics = [Metric(key, float(value), now_ms, 0) for key, value in record.metrics.items()]
    metrics += [Metric(each.name, each.value, each.time_ms, each.step) for each in record.curves]
    params = [Param(key, str(value)) for key, value in record.params.items()]
    assert len(params) <= _MOST_PARAMS
    shown = [{"path": table_path(name), "type": "table"} for name in record.tables]
    tags = [RunTag("mlflow.loggedArtifacts", json.dumps(shown))]
    client.log_batch(run_id, metrics[:_MOST_METRICS], params, tags)
    for start in range(_MOST_METRICS, len(metrics), _MOST_METRICS):
        client.log_batch(run_id, metrics[start : start + _MOST_METRICS])
    inputs = [
        DatasetInput(
            Dataset(each.name, each.digest, "local", json.dumps({"uri": each.name})),
            [InputTag("mlflow.data.context", each.role)],
        )
        for each in record.datasets
    ]
    if inputs:
        client.log_inputs(run_id, inputs)
    with tempfile.TemporaryDirectory(prefix="sisr-") as folder:
        write_artifacts(record, Path(folder))
        client.log_artifacts(run_id, folder)


def log_model(client: Client, experiment: str, run_id: str, row: Row) -> str:
    """Weights, description and source files as a model of the run; returns its id."""
    from mlflow.entities import LoggedModelOutput

    model = client.create_logged_model(
        experiment,
        name=row.model_name,
        source_run_id=run_id,
        tags=row.evaluation(),
        params={"architecture": row.architecture, "scale": str(row.scale)},
        model_type="super-resolution",
    )
    with tempfile.TemporaryDirectory(prefix="sisr-") as folder:
        saved = _save_model(Path(folder), row, model.model_id, run_id)
        client.log_model_artifacts(model.model_id, str(saved))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return str(model.model_id)


def logged_models(client: Client, experiment: str, run_id: str) -> list[Any]:
    """The networks that were logged to a run, whole or not."""
    return list(client.search_logged_models([experiment], f"source_run_id = '{run_id}'"))


def download_network(uri: str, folder: Path) -> Path | None:
    """The network's folder of a registered model, copied; none if there is no such model."""
    from mlflow.artifacts import download_artifacts

    path = if_any(lambda: retried(lambda: download_artifacts(uri, dst_path=str(folder))))
    return None if path is None else Path(path) / _NETWORK_IN_MODEL


def _described(client: Client, experiment: str, tags: Mapping[str, str]) -> str:
    """The experiment, its page saying how to see the rows at once."""
    note = _NOTE.format(id=experiment, rows=_ROWS)
    if tags.get("mlflow.note.content") != note:
        client.set_experiment_tag(experiment, "mlflow.note.content", note)
    return experiment


def _open(uri: str) -> None:
    """Reach the store, and make its tables if it is new: once, whoever else is at it."""
    import mlflow
    from sqlalchemy import create_engine

    if not _is_database(uri):
        return
    if not uri.startswith("sqlite"):  # MLflow itself would retry a wrong password for minutes
        engine = create_engine(uri)
        engine.connect().close()
        engine.dispose()
    name = f"sisr-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    with FileLock(Path(tempfile.gettempdir()) / name):
        mlflow.MlflowClient().search_registered_models(max_results=1)


def time_may_mend(error: Exception) -> bool:
    """Whether it is a broken connection, a server's own failure (5xx), or a locked database.

    What someone else has made in the meantime is found when it is looked for again.
    """
    from mlflow.exceptions import MlflowException, RestException
    from requests import exceptions as http
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException) and error.error_code == "RESOURCE_ALREADY_EXISTS":
        return True
    if isinstance(error, RestException):
        return int(error.get_http_status_code()) >= 500  # noqa: PLR2004
    link: BaseException | None = error
    while link is not None:
        is_away = isinstance(link, http.ConnectionError | http.Timeout | http.RetryError)
        if is_away or s3_may_mend(link):  # S3: where the artifacts lie
            return True
        if isinstance(link, OperationalError):
            return not any(reason in str(link) for reason in _LASTING)
        if "already exists" in str(link) and type(link).__module__.startswith("sqlalchemy"):
            return True  # another machine is making the tables
        link = link.__cause__ or link.__context__
    return False


def _is_database(uri: str) -> bool:
    return not uri.startswith(("http://", "https://"))


def _without_password(uri: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(uri).render_as_string(hide_password=True)
    except ArgumentError:
        return uri


def _save_model(folder: Path, row: Row, model_id: str, run_id: str) -> Path:
    """MLflow's folder of a model: it runs where there is no sisr."""
    import mlflow
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    assert row.weights is not None
    save(folder / "network", row.architecture, row.scale, row.weights)
    anywhere = Schema([TensorSpec(np.dtype(np.float32), (-1, 3, -1, -1))])
    mlflow.pyfunc.save_model(
        path=folder / "model",
        mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
        loader_module="tasks.served",
        data_path=str(folder / "network"),
        code_paths=[str(path) for path in copy_code(row.architecture, folder / "code")],
        signature=ModelSignature(inputs=anywhere, outputs=anywhere),
        input_example=_EXAMPLE,
        pip_requirements=_requirements(),
    )
    return folder / "model"


def _requirements() -> list[str]:
    from importlib.metadata import version

    names = ("mlflow", "numpy", "pillow", "safetensors", "torch")
    return [f"{name}=={version(name).split('+')[0]}" for name in names]


def _artifact_location(settings: Settings) -> str | None:
    """Where a new experiment's artifacts go; a server decides that for itself."""
    if not _is_database(tracking_uri(settings)):
        return None
    if settings.storage is not None:
        return f"{settings.storage.rstrip('/')}/mlflow"
    return Path("mlartifacts").absolute().as_uri()
