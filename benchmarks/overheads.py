"""What a run costs besides downloading, training and measuring.

- `sisr --help`, and `sisr run` with nothing to do: by the clock and by processor time.
- From nothing to the first step of a training.
- The flow's own time for each cell once Ray is up: a run of trainings of two steps, from the first
  progress to the report, less what the cells' measuring takes by itself.

    python -m benchmarks.overheads
"""

import argparse
import contextlib
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring import machine, spread
from tasks.config import load_params
from tasks.evaluate import evaluate
from tests.cluster.workspaces import environment, make_workspace, python

NETWORKS = ("cnn_small", "srcnn", "srcnn_955")


def timed(workspace: Path, *arguments: str) -> tuple[float, float]:
    """Seconds by the clock and of processor time that a `sisr` command takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start_s = time.perf_counter()
    subprocess.run(
        [*python("flows.cli"), *arguments],
        cwd=workspace,
        env=environment({}),
        check=True,
        capture_output=True,
    )
    wall_s = time.perf_counter() - start_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def several(workspace: Path, num_rounds: int, *arguments: str) -> str:
    """The spread of a command's times; the first call warms up."""
    pairs = [timed(workspace, *arguments) for _ in range(num_rounds + 1)][1:]
    wall_s, cpu_s = (np.array(values) for values in zip(*pairs, strict=True))
    return f"{spread(wall_s, 2)} s, of processor time {spread(cpu_s, 2)} s"


def whole_run(workspace: Path) -> list[tuple[float, str]]:
    """A run from nothing: its lines, and the seconds from the command to each."""
    command = [*python("flows.cli"), "run"]
    lines = []
    start_s = time.perf_counter()
    with subprocess.Popen(
        command,
        cwd=workspace,
        env=environment({}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            lines.append((time.perf_counter() - start_s, line))
    assert run.returncode == 0, "".join(line for _, line in lines)
    return lines


def at_s(lines: list[tuple[float, str]], text: str) -> float:
    """When the first line with such a text was written."""
    found = [seconds for seconds, line in lines if text in line]
    assert found, f"no line with {text!r} in:\n{''.join(line for _, line in lines)}"
    return found[0]


def measuring_s() -> float:
    """How long measuring every row takes in one process that has started up."""
    params = load_params()
    rows = [(name, 2) for name in (*params.interpolations, *params.trained)]
    evaluate(params, *rows[0])
    start_s = time.perf_counter()
    for architecture, scale in rows:
        evaluate(params, architecture, scale)
    return time.perf_counter() - start_s


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        workspace = make_workspace(
            Path(temporary) / "workspace",
            trained=dict.fromkeys(NETWORKS, "2 steps"),
            scales=[2],
            validate_every="2 steps",
        )
        lines = whole_run(workspace)
        begin_s, ray_s, ready_s, report_s = (
            at_s(lines, text) for text in ("code …", "starting Ray", "step 1/2 ", "report …")
        )
        print(f"from nothing to the first stage  {begin_s:.1f} s: Prefect makes its database")
        print(f"the stages of the data           {ray_s - begin_s:.1f} s")
        print(f"from there to the first step     {ready_s - ray_s:.1f} s: Ray")
        print(f"from nothing to the first step   {ready_s:.1f} s")
        print(f"run with nothing to do           {several(workspace, arguments.rounds, 'run')}")
        print(f"--help                           {several(workspace, arguments.rounds, '--help')}")
        with contextlib.chdir(workspace):
            torch.set_num_threads(1)
            bare_s = measuring_s()
        own_s = (report_s - ready_s - bare_s) / len(NETWORKS)
        print(
            f"{len(NETWORKS)} cells from the first step to the report: {report_s - ready_s:.1f} s"
        )
        print(f"measuring alone, trainings of two steps aside: {bare_s:.1f} s")
        print(f"the flow's own time for each cell: {own_s:.1f} s")


if __name__ == "__main__":
    main()
