"""MLflow's and Prefect's own pages, for this workspace."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tasks.config import Settings
from tasks.errors import StoreError
from tasks.tracking import mlflow_environment, tracking_uri

HOST = "127.0.0.1"
_POLL_S = 1.0
_START_TIMEOUT_S = 120.0


def serve_pages(mlflow_port: int, prefect_port: int) -> None:
    """Serve both until Ctrl-C or SIGTERM, or until one of them ends.

    Raises:
        StoreError: a port is taken, or a server ended by itself.
    """
    for port in (mlflow_port, prefect_port):
        _check_free(port)
    settings = Settings()
    # Not on the command line, where others read it: a database's URL may hold its password.
    store = {"MLFLOW_BACKEND_STORE_URI": tracking_uri(settings)}
    environment = os.environ | mlflow_environment(settings) | store | _ui(prefect_port)
    commands = (
        ["mlflow", "server", *_address(mlflow_port)],
        ["prefect", "server", "start", *_address(prefect_port)],
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            servers.append(subprocess.Popen([sys.executable, "-m", *command], env=environment))
        addresses = f"MLflow  http://{HOST}:{mlflow_port}\nPrefect http://{HOST}:{prefect_port}"
        print(addresses, flush=True)
        while all(server.poll() is None for server in servers):
            time.sleep(_POLL_S)
        raise StoreError("a server ended by itself; its message is above")
    except KeyboardInterrupt:
        pass
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


@contextmanager
def prefect_server(port: int) -> Iterator[None]:
    """A Prefect server for the time of the block: without one nothing is ever scheduled.

    A server that PREFECT_API_URL names already is used as it is. Call this
    before Prefect is imported.

    Raises:
        StoreError: the port is taken, or the server ended or did not answer.
    """
    if "PREFECT_API_URL" in os.environ:
        yield
        return
    _check_free(port)
    command = [sys.executable, "-m", "prefect", "server", "start", *_address(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | _ui(port))
    try:
        url = f"http://{HOST}:{port}/api"
        _wait_until_healthy(server, f"{url}/health")
        os.environ["PREFECT_API_URL"] = url
        yield
    finally:
        server.terminate()
        server.wait()


def _wait_until_healthy(server: "subprocess.Popen[bytes]", url: str) -> None:
    import httpx

    end_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < end_s:
        if server.poll() is not None:
            raise StoreError("Prefect's server ended by itself; its message is above")
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(_POLL_S)
    raise StoreError(f"Prefect's server did not answer at {url} within {_START_TIMEOUT_S:.0f} s")


def _ui(port: int) -> dict[str, str]:
    """Prefect's pages ask port 4200 unless they are told."""
    return {"PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api"}


def _address(port: int) -> list[str]:
    return ["--host", HOST, "--port", str(port)]


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StoreError(f"port {port} is not free ({error}); choose another one") from error
