"""MLflow's and Prefect's own pages, for this workspace."""

import os
import signal
import subprocess
import sys
import time

from flows.prefect_server import HOST, address, check_free, pages_address, server_command
from tasks.config import Settings
from tasks.errors import StoreError
from tasks.tracking import mlflow_environment, tracking_uri
from tasks.urls import masked

_POLL_S = 1.0


def serve_pages(mlflow_port: int, prefect_port: int) -> None:
    """Serve both until Ctrl-C or SIGTERM, or until one of them ends.

    Of an MLflow that is a server itself, the address is said: it has its own pages.

    Raises:
        StoreError: a port is taken, or a server ended by itself.
    """
    settings = Settings()
    uri = tracking_uri(settings)
    commands = [(prefect_port, server_command(prefect_port))]
    mlflow_pages = masked(uri)
    if not uri.startswith(("http://", "https://")):
        mlflow_command = [sys.executable, "-m", "mlflow", "server", *address(mlflow_port)]
        commands.append((mlflow_port, mlflow_command))
        mlflow_pages = f"http://{HOST}:{mlflow_port}"
    for port, _ in commands:
        check_free(port)
    # Not on the command line, where others read it: a database's URL may hold its password.
    store = {"MLFLOW_BACKEND_STORE_URI": uri}
    environment = os.environ | mlflow_environment(settings) | store | pages_address(prefect_port)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for _, command in commands:
            servers.append(subprocess.Popen(command, env=environment))
        print(f"MLflow  {mlflow_pages}\nPrefect http://{HOST}:{prefect_port}", flush=True)
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
