"""One picture through a network: time by size, what the machine could do, what helps.

Freed memory is kept, as `sisr upscale` and evaluation keep it. Random weights: time does not
depend on them. Each row is the median with its quartiles. A ratio is taken within a round, in which
each contender runs once, one after the other, so that a busy machine slows all of them. On a CPU,
rates and ratios count CPU seconds of all threads, which other programs hardly change; the seconds
are the clock's. Beside them stands the table of Tian et al. 2020 (LESRCNN), taken on one GPU:
compare within a column only.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import models
from tasks.allocator import keep_freed_memory
from tasks.complexity import input_shape, measure_complexity
from tasks.precision import exact_fp32
from tasks.published_tables import published_table
from tasks.super_resolve import best_device, super_resolve, use_all_cores
from tasks.timing import device_name

NETWORKS = ("lesrcnn", "vdsr")
SIZES_PX = (256, 512, 1024)
SCALE = 2
Contenders = dict[str, Callable[[], object]]


def network(name: str, device: torch.device, memory_format: torch.memory_format) -> nn.Module:
    """An untrained network, in evaluation."""
    torch.manual_seed(0)
    return models.create(name, SCALE).to(device, memory_format=memory_format).eval()  # type: ignore[call-overload]


@dataclass(frozen=True)
class Taken:
    """Seconds of one call: by the clock, and of all threads (of the device, if it is a GPU)."""

    clock_s: float
    work_s: float


def taken(call: Callable[[], object], device: torch.device) -> Taken:
    """One call, until the device has finished."""
    clock_s, cpu_s = time.perf_counter(), time.process_time()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock_s, cpu_s = time.perf_counter() - clock_s, time.process_time() - cpu_s
    return Taken(clock_s, clock_s if device.type == "cuda" else cpu_s)


def rounds(contenders: Contenders, device: torch.device, budget_s: float) -> dict[str, list[Taken]]:
    """Each contender's calls, round by round, after a first round; three rounds at least."""
    calls: dict[str, list[Taken]] = {name: [] for name in contenders}
    start, number = time.perf_counter(), 0
    while number < 4 or (time.perf_counter() - start < budget_s and number < 60):
        for name, call in contenders.items():
            took = taken(call, device)
            if number:
                calls[name].append(took)
        number += 1
    return calls


def quartiles(values: np.ndarray, digits: int) -> str:
    """`median (25 %–75 %)`."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def matrix_gflops(device: torch.device) -> float:
    """What torch reaches in a large product of float32 matrices, the best of ten."""
    side = 2048 if device.type == "cpu" else 8192
    a, b = torch.rand(side, side, device=device), torch.rand(side, side, device=device)
    best_s = min(taken(lambda: torch.mm(a, b), device).work_s for _ in range(10))
    return 2 * side**3 / best_s / 1e9


def noise(name: str, size_px: int, device: torch.device) -> Tensor:
    """What the network is given for an output of that size."""
    shape = input_shape(models.get(name), SCALE, size_px)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return x.to(device, memory_format=torch.channels_last)


def by_size(names: Sequence[str], device: torch.device, budget_s: float, most_s: float) -> None:
    """Seconds and rate of the network alone, and the paper's seconds."""
    table = published_table("lesrcnn_running_time_s").set_index(["architecture", "size_px"])
    paper = table["time_s"].to_dict()
    peak = matrix_gflops(device)
    of = "GFLOP/s" if device.type == "cuda" else "GFLOP per CPU second"
    print(f"\ntorch.mm, float32: {peak:.1f} {of}\n")
    print(f"| network | output px | s, median (quartiles) | {of} | of torch.mm | paper's GPU, s |")
    print("|---|---|---|---|---|---|")
    for name in names:
        built = network(name, device, torch.channels_last)
        gflop_per_s = 0.0
        for size_px in SIZES_PX:
            x = noise(name, size_px, device)
            gflop = measure_complexity(name, SCALE, size_px).num_flops / 1e9
            printed = paper.get((name, size_px), "–")
            if gflop_per_s and 4 * gflop / gflop_per_s > most_s:
                about = f"not run: about {gflop / gflop_per_s:.0f} a call"
                print(f"| {name} | {size_px} | {about} | | | {printed} |", flush=True)
                continue
            calls = rounds({name: partial(built, x)}, device, budget_s)[name]
            clock_s = np.array([call.clock_s for call in calls])
            rate = gflop / float(np.median([call.work_s for call in calls]))
            gflop_per_s = gflop / float(np.median(clock_s))
            print(
                f"| {name} | {size_px} | {quartiles(clock_s, 4)} | {rate:.1f}"
                f" | {100 * rate / peak:.0f} % | {printed} |",
                flush=True,
            )


def ratios(names: Sequence[str], device: torch.device, budget_s: float, size_px: int) -> None:
    """What a way of computing costs, as the ratio to another one."""
    print("\n| network | compared | ratio, median (quartiles) |\n|---|---|---|")
    for name in names:
        for title, contenders in comparisons(name, device, size_px).items():
            calls = rounds(contenders, device, budget_s)
            one, other = (np.array([call.work_s for call in each]) for each in calls.values())
            print(f"| {name} | {title} | {quartiles(one / other, 2)} |", flush=True)


def comparisons(name: str, device: torch.device, size_px: int) -> dict[str, Contenders]:
    """Pairs of ways to compute the same, for an output of `size_px`."""
    about = models.get(name)
    last = network(name, device, torch.channels_last)
    first = network(name, device, torch.contiguous_format)
    x = noise(name, size_px, device)
    contiguous = x.contiguous(memory_format=torch.contiguous_format)
    lr_px = size_px // SCALE
    rgb = torch.rand(1, 3, lr_px, lr_px, generator=torch.Generator().manual_seed(1))

    def tiled(tile_px: int, batch: int) -> Tensor:
        return super_resolve(rgb, last, about, SCALE, tile_px=tile_px, batch=batch)

    return {
        f"channels-last / contiguous, {size_px} px": {
            "channels-last": lambda: last(x),
            "contiguous": lambda: first(contiguous),
        },
        f"four tiles / whole picture, {size_px} px": {
            "tiled": lambda: tiled(lr_px // 2, 1),
            "whole": lambda: tiled(lr_px, 1),
        },
        f"sixteen tiles, four at once / one by one, {size_px} px": {
            "at once": lambda: tiled(lr_px // 4, 4),
            "one by one": lambda: tiled(lr_px // 4, 1),
        },
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=6.0, help="seconds for each row, about")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; default: all cores")
    parser.add_argument("--most", type=float, default=40.0, help="leave out what takes longer, s")
    parser.add_argument("--size", type=int, default=256, help="of the compared pictures, SR pixels")
    parser.add_argument(
        "--network", action="append", choices=models.names(), help="default: lesrcnn and vdsr"
    )
    parser.add_argument(
        "--hand-back", action="store_true", help="freed memory goes back to the system, as usual"
    )
    arguments = parser.parse_args()
    names = arguments.network or NETWORKS
    num_threads = use_all_cores()
    if not arguments.hand_back:
        keep_freed_memory()
    if arguments.threads:
        torch.set_num_threads(num_threads := arguments.threads)
    device = best_device()
    where = f", {num_threads} threads" if device.type == "cpu" else ""
    print(f"device: {device_name(device)}{where}; torch {torch.__version__}; ×{SCALE}; batch 1")
    with torch.inference_mode(), exact_fp32():
        by_size(names, device, arguments.budget, arguments.most)
        ratios(names, device, arguments.budget, arguments.size)


if __name__ == "__main__":
    main()
