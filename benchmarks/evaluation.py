"""Where the time of a row of the tables goes: reading pictures, the network, the ruler.

Pictures of BSD100's size at ×2, in milliseconds for each; the network answers a picture four times,
three of which are timed. Beside them the seconds of the table of running times, once for a row.
With all cores, as evaluation has them.

    python -m benchmarks.evaluation
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

import models
from benchmarks.measuring import machine, spread
from benchmarks.sharding import SCALE, make_pictures
from tasks.allocator import keep_freed_memory
from tasks.bicubic import shrink
from tasks.evaluate import _answer, _latency, _row
from tasks.images import read_image, write_png
from tasks.precision import exact_fp32
from tasks.protocol import load_picture
from tasks.super_resolve import best_device
from tasks.timing import device_name

SIZE = (320, 480)
_Result = TypeVar("_Result")


def small_pictures(folder: Path, num: int) -> list[tuple[Path, Path]]:
    """HR and LR pictures of BSD100's size."""
    height, width = SIZE
    pairs = make_pictures(folder, num)
    for hr_file, lr_file in pairs:
        hr = read_image(hr_file)[:height, :width]
        write_png(hr_file, hr)
        write_png(lr_file, shrink(hr, SCALE))
    return pairs


def clocked(into: list[float], work: Callable[[], _Result]) -> _Result:
    """What `work` gives; its milliseconds go into `into`."""
    start_s = time.perf_counter()
    result = work()
    into.append(1000 * (time.perf_counter() - start_s))
    return result


def row(name: str, pairs: list[tuple[Path, Path]]) -> None:
    """Print one network's times."""
    about, device = models.get(name), best_device()
    torch.manual_seed(0)
    network = models.create(name, SCALE).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    read_ms: list[float] = []
    network_ms: list[float] = []
    ruler_ms: list[float] = []
    with exact_fp32():
        for hr, lr in pairs[:1] + pairs:  # the first one warms up
            picture = clocked(read_ms, partial(load_picture, about, hr, lr, SCALE))
            answer = clocked(network_ms, partial(_answer, network, about, picture, device))
            clocked(ruler_ms, partial(_row, about, "", SCALE, picture, *answer))
        start_s = time.perf_counter()
        _latency(network, about, SCALE, device)
        latency_s = time.perf_counter() - start_s
    parts = {"reading": read_ms, "network": network_ms, "ruler": ruler_ms}
    total = sum(np.median(each[1:]) for each in parts.values())
    print(f"\n{name}: {total:.1f} ms a picture; table of running times: {latency_s:.1f} s")
    for what, values in parts.items():
        part = np.array(values[1:])
        print(f"  {what:8} {spread(part, 1)} ms, {100 * np.median(part) / total:.0f} %")


def main() -> None:
    """Print the networks' times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument(
        "--network", action="append", help="default: bicubic, cnn_small, srcnn and edsr_baseline"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    # `benchmarks.sharding` asks for one.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(f"{machine()}, {torch.get_num_threads()} threads; on {device_name(best_device())}")
    with tempfile.TemporaryDirectory() as temporary:
        pairs = small_pictures(Path(temporary), arguments.pictures)
        for name in arguments.network or ("bicubic", "cnn_small", "srcnn", "edsr_baseline"):
            row(name, pairs)


if __name__ == "__main__":
    main()
