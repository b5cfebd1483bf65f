"""Twelve small cells side by side, as a run trains them, against one after the other.

The same twelve trainings on the sample photographs, by the clock, from nothing to the last weights:

- packed: on Ray, a lane for each core, largest first; Ray's own start is within the time;
- one lane: on Ray as well, one after the other, every core given to each training;
- without Ray, one thread: `python -m tasks.train --all`, one after the other;
- without Ray, all threads: the same with every core given to each training.

A round runs all four. The bound is the trainings' own processor time spread evenly over the cores.
Ray's start is the same however long the cells are; `--times 3` makes them three times as long.

    python -m benchmarks.packing
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.measuring import machine, spread
from tasks.config import Settings, load_params
from tasks.cores import num_usable_cores
from tasks.dispatch import cluster
from tasks.train import Progress
from tests.cluster.workspaces import change, environment, make_workspace, python

SCALES = [2, 3]
# Steps that take three to twenty-five seconds on one core.
CELLS = {
    "cnn_small": 400,
    "srcnn": 200,
    "srcnn_955": 100,
    "cnn_medium": 60,
    "waifu2x": 40,
    "vdsr_5": 30,
}


def prepared(folder: Path, times: int) -> Path:
    """A workspace with pictures and shards, and nothing trained."""
    trained = {name: f"{times * num_steps} steps" for name, num_steps in CELLS.items()}
    # Each cell is validated at its end alone.
    workspace = make_workspace(
        folder / "workspace", trained=trained, scales=SCALES, validate_every=f"{400 * times} steps"
    )
    stages = [["tasks.download"]]
    stages += [
        [f"tasks.{stage}", "--scale", str(scale)]
        for stage in ("degrade", "shards")
        for scale in SCALES
    ]
    for module, *arguments in stages:
        command = [*python(module), *arguments]
        subprocess.run(command, cwd=workspace, env=environment({}), check=True, capture_output=True)
    return workspace


def forget_trainings() -> None:
    """Start anew: no results, no checkpoints."""
    shutil.rmtree("cells", ignore_errors=True)
    shutil.rmtree(".sisr", ignore_errors=True)


def one_by_one(workspace: Path, num_threads: int) -> Callable[[], float]:
    """Seconds for all cells in one process, one after the other."""

    def run() -> float:
        forget_trainings()
        change(workspace, {"training": {"num_threads": num_threads}})
        command = [*python("tasks.train"), "--all"]
        start_s = time.perf_counter()
        subprocess.run(command, env=environment({}), check=True, capture_output=True)
        return time.perf_counter() - start_s

    return run


def on_ray(
    workspace: Path, num_threads: int, starts_s: list[float], bounds_s: list[float]
) -> Callable[[], float]:
    """Seconds for all cells on Ray, as many at once as the cores suffice for.

    Those to the first progress and the bound are put aside.
    """

    def run() -> float:
        forget_trainings()
        change(workspace, {"training": {"num_threads": num_threads}})
        params = load_params()
        firsts: list[float] = []

        def on_progress(_progress: Progress) -> None:
            firsts.append(time.perf_counter())

        start_s = time.perf_counter()
        with (
            cluster(params, Settings(), params.cells, lambda line: None) as ray,
            ThreadPoolExecutor(len(params.cells)) as pool,
        ):
            waiting = [pool.submit(ray.train, cell, on_progress) for cell in params.cells]
            for each in waiting:
                each.result()
            end_s = time.perf_counter()
        starts_s.append(min(firsts) - start_s)
        records = [json.loads(path.read_text()) for path in Path("cells").glob("*/training.json")]
        assert len(records) == len(params.cells)
        bounds_s.append(sum(record["cpu_seconds"] for record in records) / num_usable_cores())
        return end_s - start_s

    return run


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=1, help="cells so many times as long")
    arguments = parser.parse_args()
    home = Path.cwd()
    num_cores = num_usable_cores()
    starts_s: list[float] = []
    bounds_s: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        workspace = prepared(Path(temporary), arguments.times)
        os.chdir(workspace)
        contenders = {
            "packed": on_ray(workspace, 1, starts_s, bounds_s),
            "one lane": on_ray(workspace, num_cores, [], []),
            "without Ray, one thread": one_by_one(workspace, 1),
            "without Ray, all threads": one_by_one(workspace, num_cores),
        }
        # No round to warm up: each contender starts its processes anew.
        took: list[dict[str, float]] = []
        for number in range(arguments.rounds):
            took.append({})
            for name, run in contenders.items():
                took[-1][name] = run()
                print(f"round {number + 1}, {name}: {took[-1][name]:.1f} s", flush=True)
        os.chdir(home)
    found = {name: np.array([each[name] for each in took]) for name in contenders}
    bound_s = np.array(bounds_s)
    print(machine())
    num_cells = len(CELLS) * len(SCALES)
    print(f"{num_cells} cells, {arguments.times} times as long, {arguments.rounds} rounds")
    print(f"{'packed':26} {spread(found['packed'], 1)} s")
    print(f"{'  to the first progress':26} {spread(np.array(starts_s), 1)} s")
    print(f"{'  processor time ÷ cores':26} {spread(bound_s, 1)} s")
    print(f"{'  of that bound':26} {spread(100 * bound_s / found['packed'])} %")
    for name in [name for name in contenders if name != "packed"]:
        times = spread(found[name] / found["packed"], 2)
        print(f"{name:26} {spread(found[name], 1)} s; packed {times} times as fast")


if __name__ == "__main__":
    main()
