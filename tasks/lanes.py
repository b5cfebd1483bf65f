"""How many trainings run side by side, and which comes first.

A lane is a place where one cell after the other is trained: some CPU cores and,
where there are GPUs, one or a part of one. Large cells fill a GPU; small ones,
which wait for the launch of their kernels and not for arithmetic, share it. The
largest work starts first, so that no long cell is left to run alone at the end.
"""

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from tasks.complexity import measure_complexity
from tasks.config import Cell, Params
from tasks.draws import steps_per_epoch
from tasks.layout import shard_folder
from tasks.shards import count_patches

# Multiply-adds of one step above which a cell has a GPU to itself: a few milliseconds of a large
# one's arithmetic, many times the launches of twenty layers.
LARGE_STEP_MULTIPLY_ADDS = 5e9
SMALL_CELLS_PER_GPU = 4
# How long lanes on parts of GPUs wait for those on whole ones.
WHOLE_GPU_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Work:
    """What a cell costs: multiply-adds of the forward pass of one step, and of all steps."""

    step_multiply_adds: float
    multiply_adds: float

    @property
    def is_large(self) -> bool:
        """Whether a GPU is best left to this cell alone."""
        return self.step_multiply_adds > LARGE_STEP_MULTIPLY_ADDS


@dataclass(frozen=True)
class Lane:
    """A share of the cluster for each of a cell's workers."""

    name: str
    num_cpus: int
    num_gpus: float
    takes_large: bool
    takes_small: bool


def measure_work(params: Params, cell: Cell) -> Work:
    """A cell's work, from its recipe and the number of its patches.

    Raises:
        ShardError: no shards, or a file that is none.
    """
    recipe = params.recipe(cell.architecture)
    step = sum(
        measure_complexity(
            cell.architecture, scale, output_px=recipe.window_px(scale)
        ).num_multiply_adds
        * recipe.batch_size
        / len(cell.scales)
        for scale in cell.scales
    )
    num_patches = [count_patches(shard_folder(scale)) for scale in cell.scales]
    per_epoch = steps_per_epoch(num_patches, recipe.batch_size)
    return Work(step, step * recipe.train_for.num_steps(per_epoch))


def waiting_line(
    lane: Lane,
    num_workers: int,
    free: Mapping[str, float],
    total: Mapping[str, float],
    waited_s: float,
) -> str:
    """What a lane waits for on a cluster, and what of it there is."""
    kinds = {"CPU": lane.num_cpus, "GPU": lane.num_gpus}
    wanted = " and ".join(f"{number:g} {kind}" for kind, number in kinds.items() if number)
    there = ", ".join(
        f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}"
        for kind, number in kinds.items()
        if number
    )
    return (
        f"no worker has started for {waited_s:.0f} s: {num_workers} × ({wanted}) wanted; free on"
        f" the cluster, without what starting workers hold: {there}; still waiting"
    )


def largest_first(work: dict[Cell, Work]) -> list[Cell]:
    """The cells in the order in which they start."""
    return sorted(work, key=lambda cell: (-work[cell].multiply_adds, cell.name))


def plan_lanes(
    work: dict[Cell, Work], *, num_cpus: float, num_gpus: float, num_threads: int, num_workers: int
) -> list[Lane]:
    """The lanes that fit on a cluster, no more than there are cells for.

    On a cluster that grows on demand this is the start: at least one lane is
    planned, whatever there is now.
    """
    by_cpu = max(1, int(num_cpus // (num_threads * num_workers)))
    if not num_gpus:
        num = min(by_cpu, len(work))
        return [Lane(f"cpu-{index}", num_threads, 0.0, True, True) for index in range(num)]
    num_large = sum(each.is_large for each in work.values())
    num_small = len(work) - num_large
    by_gpu = max(1, int(num_gpus // num_workers))
    whole = min(num_large, by_gpu, by_cpu)
    # Parts come after the whole ones (`may_share`) and take the GPUs as those end, which they do
    # with the last large cell: small ones would have a GPU to themselves there.
    # Several workers with parts of GPUs may get the same one, which NCCL refuses.
    per_gpu = SMALL_CELLS_PER_GPU if num_workers == 1 else 1
    parts = min(num_small, per_gpu * by_gpu, by_cpu)
    share = 1 / min(per_gpu, max(1, math.ceil(parts / by_gpu)))
    return [
        *(Lane(f"gpu-{index}", num_threads, 1.0, True, not parts) for index in range(whole)),
        *(Lane(f"gpu-part-{index}", num_threads, share, False, True) for index in range(parts)),
    ]


def may_share(running: Iterable[Lane], placed: Container[str], waited_s: float) -> bool:
    """Whether lanes on parts of GPUs may start: none that needs a whole one still waits for it.

    After `WHOLE_GPU_PATIENCE_S` they may in any case: others may use a part of every GPU for long.
    """
    waiting = [lane.name for lane in running if lane.takes_large and lane.name not in placed]
    return not waiting or waited_s > WHOLE_GPU_PATIENCE_S
