"""The server that a run starts for itself."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from flows import prefect_server
from tests.conftest import REPOSITORY

# A run that imports Prefect while its server starts, and ends as a command does.
RUN = """
import os, sys
from flows.environment import make_prefect_home, prepare
prepare()
make_prefect_home()
from flows.prefect_server import begin_own_server
from flows.reaper import guard
guard()
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


def servers(folder: Path) -> list[psutil.Process]:
    return [
        each
        for each in psutil.process_iter(["cmdline", "cwd"])
        if each.info["cwd"] == str(folder) and "flows.prefect_server" in each.info["cmdline"]
    ]


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
    assert servers(tmp_path) == []


@pytest.mark.slow
def test_a_server_that_cannot_start_is_told(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        PREFECT_SERVER_DATABASE_CONNECTION_URL=f"sqlite+aiosqlite:///{tmp_path}/no/such/folder.db",
    )

    assert done.returncode == 1
    assert "StoreError: Prefect's server ended by itself" in done.stderr
    assert servers(tmp_path) == []


@pytest.mark.parametrize(
    ("variable", "file", "text"),
    [
        ("PREFECT_API_URL", "", ""),
        ("PREFECT_PROFILE", "", ""),
        ("", ".env", "PREFECT_API_URL=http://prefect:4200/api"),
        ("", "prefect.toml", "[api]"),
        ("", "prefect-home/profiles.toml", 'active = "local"'),
        ("", "pyproject.toml", "[tool.prefect.api]"),
    ],
)
def test_where_a_server_may_be_named_none_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, file: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect-home"))
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    Path("prefect-home").mkdir()
    Path(".env").write_text("SISR_STORAGE=somewhere\n")
    Path("pyproject.toml").write_text("[tool.ruff]\n")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        with pytest.raises(AssertionError, match="started one"):
            prefect_server.begin_own_server()
        if variable:
            patch.setenv(variable, "local")
        else:
            Path(file).write_text(text)
        prefect_server.begin_own_server()()


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("started one")
