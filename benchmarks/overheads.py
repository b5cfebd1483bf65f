"""What a run costs besides downloading, training and measuring.

- `sisr --help`, and `sisr run` with nothing to do: by the clock and by processor time.
- A cell's share of the flow: runs of trainings of two steps with few and with many networks in a
  fresh workspace; what each further cell adds, from its place in the queue to its row in the tables
  and its registered version, its training and its measuring within it.

    python -m benchmarks.overheads
"""

import argparse
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measuring import machine, spread
from tests.cluster.workspaces import environment, make_workspace, python

FEW = ("cnn_small",)
MANY = (*FEW, "srcnn", "cnn_medium", "waifu2x", "vdsr_5", "srcnn_955")


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


def whole_run(folder: Path, networks: tuple[str, ...]) -> tuple[Path, float]:
    """A run from nothing; its workspace and its seconds."""
    workspace = make_workspace(
        folder / f"of-{len(networks)}",
        trained=dict.fromkeys(networks, "2 steps"),
        scales=[2],
        validate_every="2 steps",
    )
    return workspace, timed(workspace, "run")[0]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=2, help="whole runs of each size")
    arguments = parser.parse_args()
    print(machine())
    each_s, few_s = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(arguments.runs):
            folder = Path(temporary) / str(number)
            workspace, few = whole_run(folder, FEW)
            _, many = whole_run(folder, MANY)
            few_s.append(few)
            each_s.append((many - few) / (len(MANY) - len(FEW)))
        print(f"a run of {len(FEW)} cell, from nothing  {spread(np.array(few_s), 1)} s")
        print(f"each further cell adds       {spread(np.array(each_s), 1)} s")
        print(f"run with nothing to do       {several(workspace, arguments.rounds, 'run')}")
        print(f"--help                       {several(workspace, arguments.rounds, '--help')}")


if __name__ == "__main__":
    main()
