"""Steps a second with real batches over steps a second with one synthetic batch, used again.

The recipes are those of sets/291-x2-cpu.yaml, one thread. Both take turns of some hundred steps in
one process, and the ratio is taken within a round: by wall time, and by processor time, which other
jobs of the machine disturb less and in which what the reading thread does counts as well. Steadier
than both, and without what it does to the step's caches, is the processor time of making batches,
counted by the threads that make them, as a part of all the processor time of the same steps. Pin
the process to one core and to two and compare:

    taskset -c 0 python -m benchmarks.real_vs_synthetic
    taskset -c 0,1 python -m benchmarks.real_vs_synthetic
"""

import os

# before numpy and torch load their thread pools
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

import models
from benchmarks.measuring import machine, matrix_gflops, memcpy_mb_per_s, rates, spread
from benchmarks.sharding import SCALE, SHAPE, make_pictures
from tasks import timing
from tasks.allocator import keep_freed_memory
from tasks.batches import Batch, Batches, _Burst
from tasks.complexity import measure_step_flops
from tasks.config import load_params
from tasks.device_patches import Prepared
from tasks.shards import ShardSet, write_shards
from tasks.training_step import Learner
from tasks.workers import current_workers

# Several times what is made ahead at once.
NUM_STEPS = 120


class ClockedBatches(Batches):
    """Batches that count what they cost.

    `made` holds seconds of processor time and how many batches they began: none, where they went
    into what a GPU was told to do for them.
    """

    made: ClassVar[list[tuple[float, int]]] = []

    def _make(self, steps: range) -> list[tuple[Batch, ...]]:
        start_s = time.thread_time()
        batches = super()._make(steps)
        self.made.append((time.thread_time() - start_s, len(steps)))
        return batches

    def _prepare(self, steps: range) -> _Burst:
        start_s = time.thread_time()
        prepared = super()._prepare(steps)
        self.made.append((time.thread_time() - start_s, len(steps)))
        return prepared

    def _parts_on_gpu(self, scale: int, prepared: Prepared) -> list[Batch]:
        start_s = time.thread_time()
        parts = super()._parts_on_gpu(scale, prepared)
        self.made.append((time.thread_time() - start_s, 0))
        return parts

    def taken(self) -> tuple[float, int]:
        """Seconds and batches since the last time this was asked; another thread may be at it."""
        taken = [self.made.pop() for _ in range(len(self.made))]
        return sum(seconds for seconds, _ in taken), sum(num for _, num in taken)


def steps(learner: Learner, batches: Iterator[tuple[Batch, ...]]) -> Callable[[], float]:
    """Seconds of wall time for some steps."""

    def run() -> float:
        start_s = time.perf_counter()
        for _ in range(NUM_STEPS):
            learner.step(next(batches), 1.0)
        if learner.workers.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start_s

    return run


def machines_gflops(device: torch.device) -> float:
    """The matrix rate of what trains: of a core by its processor time, of a GPU by the clock."""
    if device.type == "cpu":
        return matrix_gflops()
    return timing.matrix_gflops(device, "fp32") or float("nan")


def by_processor(run: Callable[[], float], into: list[float]) -> Callable[[], float]:
    """The same, with its processor time put aside."""

    def wrapped() -> float:
        start_s = time.process_time()
        wall_s = run()
        into.append(time.process_time() - start_s)
        return wall_s

    return wrapped


def with_batches(
    batches: ClockedBatches, run: Callable[[], float], into: list[tuple[float, int]]
) -> Callable[[], float]:
    """The same, with the processor time of the batches that were made meanwhile put aside."""

    def wrapped() -> float:
        wall_s = run()
        into.append(batches.taken())
        return wall_s

    return wrapped


def compare(name: str, shards: ShardSet, num_rounds: int) -> None:
    """Print one architecture's ratio."""
    params = load_params(Path("sets/291-x2-cpu.yaml"))
    cell, recipe = params.cell(f"{name}-x{SCALE}"), params.recipe(name)
    workers = current_workers()
    learner = Learner(cell, recipe, 1, workers, compiled=False)
    window = {SCALE: recipe.window_px(SCALE)}
    batches = ClockedBatches(
        {SCALE: shards}, models.get(name), recipe.batch_size, window, 1, workers.device
    )
    real = batches.from_step(0, 10**9)
    kept = next(batches.from_step(0, 1))
    cpu_s: dict[str, list[float]] = {"real": [], "synthetic": []}
    made: list[tuple[float, int]] = []
    found = rates(
        {
            "real": with_batches(batches, by_processor(steps(learner, real), cpu_s["real"]), made),
            "synthetic": by_processor(steps(learner, repeat(kept)), cpu_s["synthetic"]),
            "mm": partial(machines_gflops, workers.device),
        },
        num_rounds,
    )
    by_cpu = np.array(cpu_s["synthetic"][1:]) / np.array(cpu_s["real"][1:])
    # Batches are made many at a time, so a turn makes some more or fewer than it uses.
    made_s, num_made = np.array(made[1:]).T
    batch_s, rest_s = made_s / num_made, (np.array(cpu_s["real"][1:]) - made_s) / NUM_STEPS
    flops = recipe.batch_size * measure_step_flops(name, SCALE, window[SCALE])
    on_cpu = workers.device.type == "cpu"
    step_s = np.array(cpu_s["synthetic"][1:]) if on_cpu else found["synthetic"]
    gflops = flops * NUM_STEPS / step_s / 1e9
    print(f"\n{name}: {spread(NUM_STEPS / found['real'], 1)} steps/s with real batches")
    print(f"  real ÷ synthetic, wall time:       {spread(found['synthetic'] / found['real'], 3)}")
    print(f"  real ÷ synthetic, processor time:  {spread(by_cpu, 3)}")
    print(f"  making a batch:                    {spread(1e6 * batch_s)} µs")
    print(f"  steps without ÷ with making them:  {spread(rest_s / (rest_s + batch_s), 3)}")
    print(f"  arithmetic of a step:              {spread(gflops, 1)} GFLOP/s")
    print(f"  of torch.mm there:                 {spread(100 * gflops / found['mm'], 1)} %")


def main() -> None:
    """Print the networks' ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument(
        "--network", action="append", help="default: cnn_small, srcnn and cnn_medium"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    print(machine())
    print(f"memcpy: {memcpy_mb_per_s():,.0f} MB/s, torch.mm: {matrix_gflops():.0f} GFLOP/s")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "shards").mkdir()
        write_shards(make_pictures(folder, 4), folder / "shards", SCALE, SHAPE)
        shards = ShardSet(folder / "shards")
        for name in arguments.network or ("cnn_small", "srcnn", "cnn_medium"):
            compare(name, shards, arguments.rounds)


if __name__ == "__main__":
    main()
