"""How long a network takes for one picture, and how much memory.

Batch 1, the input already on the device: no file is read and nothing is copied to a GPU inside
the measured time. Warm-up first, the device synchronised around every repeat, the median of the
repeats with their quartiles. What a number depends on stands beside it: device, threads,
precision.
"""

import platform
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.registry import Architecture
from tasks.complexity import input_shape
from tasks.precision import used_precision

# Sides of the square outputs in the running-time table of Tian et al. 2020 (LESRCNN).
OUTPUT_SIZES_PX = (256, 512, 1024)

# A quick network is repeated until the median stands still, a slow one three times.
BUDGET_S = 2.0
MIN_REPEATS, MAX_REPEATS = 3, 100
MAX_WARM_UPS = 5

_MIB = 1024.0 * 1024.0


@dataclass(frozen=True)
class Latency:
    """Time and memory of one network for one picture.

    `latency_ms` is the median of `num_repeats` repeats, `latency_p25_ms` and `latency_p75_ms` its
    quartiles, all in milliseconds. `num_threads` are torch's on the CPU. `precision` is fp32, or
    tf32 where a GPU may round the inputs of convolutions.

    `peak_memory_mib` is the most memory that was in use at once, weights and input included. On a
    GPU all that torch had allocated there; on the CPU the network's tensors, without the scratch
    memory inside an operation.
    """

    latency_ms: float
    latency_p25_ms: float
    latency_p75_ms: float
    num_repeats: int
    peak_memory_mib: float
    input_px: int
    device: str
    num_threads: int
    precision: str


def measure_latency(
    network: nn.Module,
    architecture: Architecture,
    scale: int,
    output_px: int,
    device: torch.device,
    *,
    budget_s: float = BUDGET_S,
) -> Latency:
    """Time a network on one square picture of `output_px` (the next multiple of the scale).

    The picture is noise in 0–1 in single precision; a network on enlarged input is timed without
    the enlargement. The network is moved to the device and set to evaluation, and stays so. Ends
    about `budget_s` seconds after it began, or after four calls if those take longer.

    Raises:
        ValueError: `output_px` or `scale` below 1.
    """
    noise = torch.rand(
        input_shape(architecture, scale, output_px), generator=torch.Generator().manual_seed(0)
    )
    x, network = noise.to(device), network.to(device).eval()
    start_s = time.perf_counter()
    peak_memory_mib = _peak_memory_mib(network, x)
    with torch.inference_mode():
        _times_ms(network, x, 0, MAX_WARM_UPS, start_s + budget_s / 5)
        times_ms = _times_ms(network, x, MIN_REPEATS, MAX_REPEATS, start_s + budget_s)
    low, median, high = np.percentile(times_ms, (25, 50, 75)).tolist()
    return Latency(
        latency_ms=median,
        latency_p25_ms=low,
        latency_p75_ms=high,
        num_repeats=len(times_ms),
        peak_memory_mib=peak_memory_mib,
        input_px=x.shape[-1],
        device=device_name(device),
        num_threads=torch.get_num_threads(),
        precision=_precision(device),
    )


def device_name(device: torch.device) -> str:
    """What a person calls the device: the GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # platform.processor() is empty or just "x86_64" on most Linux machines
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@lru_cache(maxsize=8)
def matrix_gflops(device: torch.device, precision: str) -> float | None:
    """The machine's matrix rate in GFLOP/s, what arithmetic is held against: the best of some.

    Of square matrices large enough to fill the device, in fp32, tf32 or bf16, with torch's present
    number of threads, beside whatever else computes there. Measured once in a process. None where
    others leave no memory for it.
    """
    try:
        return _matrix_gflops(device, precision)
    except torch.OutOfMemoryError:
        return None
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()  # neighbours can use what the matrices took


def _matrix_gflops(device: torch.device, precision: str) -> float:
    side = 1024 if device.type == "cpu" else 4096
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        with torch.inference_mode():
            a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
            torch.mm(a, b)
            times_s = []
            for _ in range(5):
                _synchronise(device)
                start_s = time.perf_counter()
                torch.mm(a, b)
                _synchronise(device)
                times_s.append(time.perf_counter() - start_s)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * side**3 / min(times_s) / 1e9


def _precision(device: torch.device) -> str:
    return used_precision("tf32" if torch.backends.cudnn.allow_tf32 else "fp32", device)


def _times_ms(network: nn.Module, x: Tensor, least: int, most: int, end_s: float) -> list[float]:
    """Times of at least `least` calls and at most `most`, none begun after `end_s`."""
    times: list[float] = []
    while len(times) < least or (len(times) < most and time.perf_counter() < end_s):
        _synchronise(x.device)
        start = time.perf_counter()
        network(x)
        _synchronise(x.device)
        times.append(1000 * (time.perf_counter() - start))
    return times


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory_mib(network: nn.Module, x: Tensor) -> float:
    """Peak memory of one call, which warms the network up as well."""
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(x.device)
        with torch.inference_mode():
            network(x)
        return torch.cuda.max_memory_allocated(x.device) / _MIB
    # no_grad and not inference_mode: weight normalisation fails there under a dispatch mode
    live = _LiveTensors([x, *network.parameters(), *network.buffers()])
    with torch.no_grad(), live:
        network(x)
    return live.peak_num_bytes / _MIB


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the memory of the tensors that exist at the same time.

    Each operation's outputs are counted until Python lets go of them; views and in-place results
    share memory that is counted already.
    """

    def __init__(self, existing: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, int] = {}
        self.peak_num_bytes = 0
        self._count(existing)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count what it returns."""
        output = func(*args, **(kwargs or {}))
        self._count(leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        return output

    def _count(self, tensors: Iterable[Tensor]) -> None:
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if id(storage) not in self.alive:
                self.alive[id(storage)] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, id(storage))
        self.peak_num_bytes = max(self.peak_num_bytes, sum(self.alive.values()))
