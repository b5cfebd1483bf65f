"""Prefect's server: one for the time of a run, one for a schedule, or the one that there is.

A run's own is Prefect's ephemeral app. Prefect would start it too, but only when the flow is
called; here it starts while the run imports what it needs, which saves each run some eight seconds.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import StoreError

HOST = "127.0.0.1"
_POLL_S = 0.1
_END_TIMEOUT_S = 5.0


def begin_own_server() -> Callable[[], None]:
    """Start this process's own server, and return what waits until it answers.

    It ends when the process does. Where a person may have named a server to Prefect, the choice is
    left to Prefect. Call this before Prefect is imported.

    Raises (the wait):
        StoreError: the server ended or did not answer.
    """
    assert "prefect" not in sys.modules, "Prefect reads its settings when it is imported"
    if _may_be_named():
        return lambda: None
    # Handed over open, so that nobody else takes the port.
    with socket.create_server((HOST, 0)) as listening:
        port, descriptor = listening.getsockname()[1], listening.fileno()
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server", str(descriptor)],
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,  # Ctrl-C stops the run, which then tells how it ended
        )
    # Prefect sends the rest of its log before; what is registered first is called last.
    atexit.register(_end, server)
    url = f"http://{HOST}:{port}/api"
    os.environ["PREFECT_API_URL"] = url
    return lambda: _wait_until_healthy(server, f"{url}/health")


@contextmanager
def scheduling_server(port: int) -> Iterator[None]:
    """A server for the time of the block: without one nothing is ever scheduled.

    A server that PREFECT_API_URL names already is used as it is. Call this
    before Prefect is imported.

    Raises:
        StoreError: the port is taken, or the server ended or did not answer.
    """
    if "PREFECT_API_URL" in os.environ:
        yield
        return
    check_free(port)
    server = subprocess.Popen(
        server_command(port), stdout=subprocess.DEVNULL, env=os.environ | pages_address(port)
    )
    try:
        url = f"http://{HOST}:{port}/api"
        _wait_until_healthy(server, f"{url}/health")
        os.environ["PREFECT_API_URL"] = url
        yield
    finally:
        server.terminate()
        server.wait()


def server_command(port: int) -> list[str]:
    """The server with its pages and its scheduler."""
    return [sys.executable, "-m", "prefect", "server", "start", *address(port)]


def pages_address(port: int) -> dict[str, str]:
    """Prefect's pages ask port 4200 unless they are told."""
    return {"PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api"}


def address(port: int) -> list[str]:
    """The options that say where a server listens."""
    return ["--host", HOST, "--port", str(port)]


def check_free(port: int) -> None:
    """Raise StoreError if the port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise StoreError(f"port {port} is not free ({error}); choose another one") from error


def _may_be_named() -> bool:
    """Whether one of the places where Prefect looks for its server's address may hold one."""
    if {"PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"} & set(os.environ):
        return True
    if Path("prefect.toml").exists() or Path(os.environ["PREFECT_HOME"], "profiles.toml").exists():
        return True
    return _mentions(Path(".env"), "prefect_") or _mentions(Path("pyproject.toml"), "[tool.prefect")


def _mentions(file: Path, text: str) -> bool:
    return file.exists() and text in file.read_text("utf-8", errors="replace").lower()


def _wait_until_healthy(server: "subprocess.Popen[bytes]", url: str) -> None:
    import httpx

    patience_s = float(os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"])
    end_s = time.monotonic() + patience_s
    while time.monotonic() < end_s:
        if server.poll() is not None:
            raise StoreError("Prefect's server ended by itself; its message is above")
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass  # not listening, or not answering yet
        time.sleep(_POLL_S)
    raise StoreError(f"Prefect's server did not answer at {url} within {patience_s:.0f} s")


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def main() -> None:
    """A run's own server, on the socket that it was given."""
    import uvicorn
    from prefect.server.api.server import create_app

    app = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(app, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
