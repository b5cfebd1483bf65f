"""The server that a run starts for itself."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY

# A run that imports Prefect while its server starts, and ends as a command does.
RUN = """
import os, sys
from flows.environment import make_prefect_home, prepare
prepare()
make_prefect_home()
from flows.prefect_server import begin_own_server
wait = begin_own_server()
from prefect import flow, get_run_logger, task

@task
def work(): get_run_logger().info("the last word")

@flow
def whole(): work()

wait()
print(os.environ["PREFECT_API_URL"], flush=True)
whole()
print("prefect.server.api.server" in sys.modules)
"""


def run(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    return subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def servers() -> list[list[str]]:
    lines = [each.info["cmdline"] or [] for each in psutil.process_iter(["cmdline"])]
    return [line for line in lines if "flows.prefect_server" in line]


@pytest.mark.slow
def test_a_run_and_its_log_are_in_the_workspaces_database_and_no_server_is_left(
    tmp_path: Path,
) -> None:
    done = run(tmp_path)

    assert done.returncode == 0, done.stderr
    url, has_imported_server = done.stdout.split()
    assert url.startswith("http://127.0.0.1:")
    assert has_imported_server == "False"
    with closing(sqlite3.connect(tmp_path / ".sisr/prefect/prefect.db")) as database:
        for table in ("flow_run", "task_run"):
            states = database.execute(f"SELECT state_type FROM {table}").fetchall()
            assert states == [("COMPLETED",)]
        (logged,) = database.execute("SELECT count(*) FROM log WHERE message = 'the last word'")
    assert logged == (1,)
    assert servers() == []


@pytest.mark.slow
def test_a_server_that_cannot_start_is_told(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        PREFECT_SERVER_DATABASE_CONNECTION_URL=f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db",
    )

    assert done.returncode == 1
    assert "StoreError: Prefect's server ended by itself" in done.stderr
    assert servers() == []


def test_a_server_that_there_is_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import prefect_server

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    monkeypatch.setattr(
        prefect_server.subprocess, "Popen", lambda *_, **__: pytest.fail("started one")
    )

    prefect_server.begin_own_server()()

    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
