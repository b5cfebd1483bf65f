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

_POLL_S = 1.0


def serve_pages(mlflow_port: int, prefect_port: int) -> None:
    """Serve both until Ctrl-C or SIGTERM, or until one of them ends.

    Raises:
        StoreError: a port is taken, or a server ended by itself.
    """
    for port in (mlflow_port, prefect_port):
        check_free(port)
    settings = Settings()
    # Not on the command line, where others read it: a database's URL may hold its password.
    store = {"MLFLOW_BACKEND_STORE_URI": tracking_uri(settings)}
    environment = os.environ | mlflow_environment(settings) | store | pages_address(prefect_port)
    commands = (
        [sys.executable, "-m", "mlflow", "server", *address(mlflow_port)],
        server_command(prefect_port),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            servers.append(subprocess.Popen(command, env=environment))
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
