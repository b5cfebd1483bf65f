"""Interrupted, unreachable, elsewhere: nothing half-done passes for whole, nothing is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from botocore.exceptions import ClientError

from tasks import mlflow_store, run_groups, tracking
from tasks.config import Params, Settings
from tasks.errors import StoreError
from tasks.tracking import Registered, load_registered, log_benchmark, registered_versions
from tests.conftest import Workspace
from tests.tasks.stand_in import prepare, train_badly

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.timeout(400)]


@pytest.fixture
def params(workspace: Workspace) -> Params:
    params = prepare(workspace)
    train_badly(params, psnr_db=30.0, seed=1)
    return params


def log(params: Params, settings: Settings | None = None) -> Registered:
    (registered,) = log_benchmark(params, settings or Settings())
    return registered


def statuses() -> list[str]:
    import mlflow

    client = mlflow.MlflowClient(tracking.tracking_uri(Settings()))
    return sorted(run.info.status for run in client.search_runs(["1"]))


def break_at(monkeypatch: pytest.MonkeyPatch, method: str, call: int) -> None:
    """Let the n-th call of one of MLflow's client methods be interrupted."""
    import mlflow

    whole, calls = getattr(mlflow.MlflowClient, method), []

    def broken(client: Any, *given: Any, **named: Any) -> Any:
        calls.append(method)
        if len(calls) == call:
            raise KeyboardInterrupt
        return whole(client, *given, **named)

    monkeypatch.setattr(mlflow.MlflowClient, method, broken)


# Each place at which the logging of one parent and one row can end, and what it leaves.
PLACES = [
    ("create_run", 2),
    ("log_artifacts", 2),
    ("log_model_artifacts", 1),
    ("finalize_logged_model", 1),
    ("set_terminated", 1),
    ("set_terminated", 2),
]


@pytest.mark.parametrize(
    ("method", "call", "is_killed"),
    [*((*place, False) for place in PLACES), *((*place, True) for place in PLACES[-3:])],
)
def test_an_interrupted_logging_leaves_nothing_that_looks_whole(
    params: Params, monkeypatch: pytest.MonkeyPatch, method: str, call: int, is_killed: bool
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if is_killed:  # no handler runs
            patched.setattr(run_groups, "_give_up", lambda *_: None)
        break_at(patched, method, call)
        log(params)

    assert registered_versions(Settings()) == []
    if not is_killed:
        assert set(statuses()) == {"FAILED"}
    num_left = len(statuses())

    assert (log(params).version, log(params).is_champion) == ("1", True)
    left = "KILLED" if is_killed else "FAILED"
    assert statuses() == sorted(["FINISHED", "FINISHED"] + [left] * num_left)


@pytest.mark.parametrize("method", ["create_model_version", "set_registered_model_alias"])
def test_an_interrupted_registration_goes_on_with_the_same_runs(
    params: Params, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        break_at(patched, method, 1)
        log(params)
    assert not any(version.is_champion for version in registered_versions(Settings()))

    registered = log(params)

    assert (registered.version, registered.is_champion) == ("1", True)
    assert statuses() == ["FINISHED", "FINISHED"]


def test_a_lost_answer_makes_no_second_version(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import requests

    whole, answers = mlflow.MlflowClient.create_model_version, [True]

    def lossy(client: Any, *given: Any, **named: Any) -> Any:
        made = whole(client, *given, **named)
        if answers.pop() if answers else False:
            raise requests.exceptions.ConnectionError("the answer was lost")
        return made

    monkeypatch.setattr(mlflow.MlflowClient, "create_model_version", lossy)

    assert log(params).version == "1"
    assert len(registered_versions(Settings())) == 1


def test_a_dead_server_is_given_up_in_bounded_time(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_store, "PATIENCE_S", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = Settings(tracking_uri=f"http://127.0.0.1:{free_port()}")
    begin_s = time.monotonic()

    with pytest.raises(StoreError, match=r"(?s)cannot be used: .*`sisr run` logs them later"):
        log(params, settings)

    assert time.monotonic() - begin_s < 60


def test_an_s3_that_is_away_is_waited_for_and_a_refusal_is_not(tmp_path: Path) -> None:
    import boto3
    from botocore.config import Config

    (tmp_path / "a").write_text("a")
    once = Config(retries={"total_max_attempts": 1}, connect_timeout=1)
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "a", "region_name": "us-east-1"}
    with socket.socket() as unheard:  # bound, and nobody listens
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        away = boto3.client("s3", endpoint_url=url, config=once, **keys)
        for request in (
            lambda: away.upload_file(str(tmp_path / "a"), "sisr", "a"),
            lambda: away.list_objects_v2(Bucket="sisr"),
        ):
            with pytest.raises(Exception, match="Could not connect") as error:
                request()
            assert mlflow_store.time_may_mend(error.value)

    refused = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    assert not mlflow_store.time_may_mend(ClientError(refused, "PutObject"))


def test_no_message_holds_a_password(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_store, "PATIENCE_S", 0.0)
    uri = f"postgresql://sisr:secret@127.0.0.1:{free_port()}/mlflow"

    with pytest.raises(StoreError, match=r"postgresql://sisr:\*\*\*@127") as raised:
        log(params, Settings(tracking_uri=uri))

    assert "secret" not in str(raised.value)


def test_other_storage_than_the_store_began_with_is_an_error(params: Params) -> None:
    log(params)

    with pytest.raises(StoreError, match=r"at file:.*mlartifacts, .*ask for s3://b/p/mlflow, and"):
        log(params, Settings(storage="s3://b/p"))


def test_artifacts_go_to_the_shared_storage_and_come_back(params: Params, s3_url: str) -> None:
    import boto3

    settings = Settings(storage="s3://shared/sisr/", s3_endpoint_url=s3_url)

    registered = log(params, settings)

    client = boto3.client("s3", endpoint_url=s3_url)
    listed = client.list_objects_v2(Bucket="shared", Prefix="sisr/mlflow/")["Contents"]
    keys = [each["Key"] for each in listed]
    assert any(key.endswith("network/weights.safetensors") for key in keys)
    assert any(f"/{registered.run_id}/artifacts/tables/images.json" in key for key in keys)
    assert not Path("mlartifacts").exists()
    served = load_registered("cnn_small-x2@champion", 2, settings)
    assert served.predict(np.zeros((1, 3, 4, 5), np.float32)).shape == (1, 3, 8, 10)
    client.close()


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real S3 API on this machine with an empty bucket `shared`."""
    import boto3

    # What the code sets itself is undone with the rest.
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "")
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="shared")
    client.close()
    return s3_server


_OPEN = """
from tasks.config import Settings
from tasks.mlflow_store import connected, experiment_id
import sys
sys.stdin.readline()
with connected(Settings()) as client:
    print(experiment_id(client, Settings()))
"""


@pytest.mark.slow
def test_a_fresh_store_is_made_once_by_many_processes(workspace: Workspace) -> None:
    openers = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", "import mlflow\n" + _OPEN],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]

    answers = [opener.communicate("\n") for opener in openers]

    assert [out.strip() for out, _ in answers] == ["1"] * 4, answers


@pytest.mark.slow
def test_results_that_met_a_killed_server_are_logged_later(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is killed when the parent is logged and its row is not."""
    import mlflow

    monkeypatch.setattr(mlflow_store, "PATIENCE_S", 2.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = Settings(tracking_uri=f"http://127.0.0.1:{(port := free_port())}")
    whole = mlflow.MlflowClient.log_artifacts
    with mlflow_server(tmp_path, port) as server, monkeypatch.context() as patched:

        def kill_then_log(client: Any, *given: Any) -> Any:
            if server.poll() is None:  # a second try finds it gone
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
            return whole(client, *given)

        patched.setattr(mlflow.MlflowClient, "log_artifacts", kill_then_log)
        with pytest.raises(StoreError, match="logs them later"):
            log(params, settings)

    with mlflow_server(tmp_path, port):
        subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tasks.tracking"],
            env=os.environ | {"SISR_TRACKING_URI": str(settings.tracking_uri)},
            check=True,
        )
        client = mlflow.MlflowClient(settings.tracking_uri)
        found = sorted(run.info.status for run in client.search_runs(["1"]))
        assert found == ["FINISHED", "FINISHED", "KILLED"]
        (version,) = registered_versions(settings)
        assert (version.version, version.is_champion) == ("1", True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A real server in a process group of its own."""
    command = ["-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", str(folder / "served")]
    with (folder / "server.log").open("ab") as said:
        server = subprocess.Popen(
            [sys.executable, *command], stdout=said, stderr=said, start_new_session=True
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health")
        yield server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def wait_until_healthy(url: str) -> None:
    for _ in range(240):
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.5)
    raise AssertionError(f"nothing answers at {url}")
