"""Which servers `sisr ui` starts."""

import signal
import subprocess
from typing import Any

import pytest

from flows import pages
from tasks.errors import StoreError


class Started:
    """A server that ends at once."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.command, self.environment = command, env

    def poll(self) -> int:
        return 1

    def terminate(self) -> None:
        pass

    def wait(self) -> None:
        pass


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    servers: list[Started] = []

    def start(command: list[str], **how: Any) -> Started:
        servers.append(Started(command, **how))
        return servers[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(pages, "check_free", lambda port: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return servers


@pytest.mark.parametrize(
    ("uri", "shown", "num_servers"),
    [
        ("postgresql://me:secret@host/mlflow", "http://127.0.0.1:5001", 2),
        ("http://me:secret@host:5000", "http://host:5000", 1),
    ],
)
def test_an_mlflow_that_is_a_server_shows_its_own_pages(
    uri: str,
    shown: str,
    num_servers: int,
    started: list[Started],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SISR_TRACKING_URI", uri)

    with pytest.raises(StoreError, match="ended by itself"):
        pages.serve_pages(5001, 4201)

    assert capsys.readouterr().out == f"MLflow  {shown}\nPrefect http://127.0.0.1:4201\n"
    assert len(started) == num_servers
    assert ["mlflow" in " ".join(each.command) for each in started].count(True) == num_servers - 1
