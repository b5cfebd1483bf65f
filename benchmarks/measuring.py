"""What the benchmarks share: rounds in turns, their spread, and what the machine can do."""

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch

from tasks.timing import device_name

Contenders = Mapping[str, Callable[[], float]]


def rates(contenders: Contenders, num_rounds: int) -> dict[str, np.ndarray]:
    """What each contender returns, round by round; the first round warms up.

    In a round each runs once, one after the other, so that a busy machine slows all of them; every
    other round in reverse order, so that none gains by its place.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(num_rounds + 1):
        for name in list(contenders)[:: (-1) ** round_]:
            rate = contenders[name]()
            if round_ > 0:
                found[name].append(rate)
    return {name: np.array(values) for name, values in found.items()}


def spread(values: np.ndarray, digits: int = 0) -> str:
    """Median (lower quartile–upper quartile)."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return f"{median:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def machine() -> str:
    """One line about the machine, for beside the numbers."""
    import os

    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return (
        f"{device_name(torch.device('cpu'))}, {cores} of {os.cpu_count()} cores,"
        f" load average {load:.1f}, torch {torch.__version__}, NumPy {np.__version__}"
    )


def memcpy_mb_per_s(num_bytes: int = 2**28) -> float:
    """How fast this core copies memory beyond its caches, by processor time."""
    source = np.ones(num_bytes, np.uint8)
    target = np.zeros_like(source)
    start_s = time.process_time()
    np.copyto(target, source)
    return num_bytes / (time.process_time() - start_s) / 1e6


def matrix_gflops(side: int = 1024, num_repeats: int = 4) -> float:
    """How fast this core multiplies single-precision matrices, by processor time."""
    a = torch.rand(side, side)
    torch.mm(a, a)
    start_s = time.process_time()
    for _ in range(num_repeats):
        torch.mm(a, a)
    return 2 * side**3 * num_repeats / (time.process_time() - start_s) / 1e9
