"""One row of the tables: quality, time and complexity of one network at one scale.

Data in: test pictures, the cell's weights. Data out:
`results/<architecture>-x<scale>.json`, every picture's numbers in it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import models
from models.registry import Architecture
from tasks.allocator import keep_freed_memory
from tasks.atomic import write_text
from tasks.checksums import folder_sha256
from tasks.color import is_grey, luminance_with_grey_converted
from tasks.complexity import measure_complexity
from tasks.config import Cell, Params, load_params
from tasks.errors import WeightsError
from tasks.layout import HR_FOLDER, picture_pairs, result_file, weights_file
from tasks.metrics import measure
from tasks.precision import exact_fp32
from tasks.protocol import Picture, load_picture, sr_luminance, sr_picture
from tasks.super_resolve import best_device
from tasks.timing import MIN_REPEATS, OUTPUT_SIZES_PX, measure_latency
from tasks.weights import load_weights

# A large network takes minutes for a large picture on a CPU. The least that timing calls it.
MAX_TIMING_S = 60.0
_NUM_TIMED_CALLS = 1 + MIN_REPEATS


@dataclass(frozen=True)
class ImageRow:
    """What one network makes of one picture.

    `psnr_db_grey_as_rgb` differs from `psnr_db` for grey pictures only: the
    convention of papers with RGB networks, to stand beside their columns.
    """

    architecture: str
    dataset: str
    scale: int
    image: str
    psnr_db: float
    ssim: float
    psnr_db_grey_as_rgb: float
    ssim_grey_as_rgb: float
    latency_ms: float


def evaluate(params: Params, architecture: str, scale: int) -> None:
    """Measure one network at one scale on every test set, and write its result file.

    Raises:
        WeightsError: the cell's weights are missing, do not fit, or give no numbers.
        ImageError: a test picture that is corrupt.
    """
    cell = params.cell_for(architecture, scale)
    network = load_network(cell, architecture, scale)
    result = evaluate_network(network, architecture, scale, params.data.test)
    write_text(result_file(architecture, scale), json.dumps(result, indent=1) + "\n")


def evaluate_network(
    network: nn.Module, architecture: str, scale: int, datasets: Sequence[str]
) -> dict[str, Any]:
    """Everything that is measured of one network: quality, time, complexity.

    Raises:
        WeightsError: an answer holds values that are no finite numbers.
        ImageError: a test picture that is corrupt.
    """
    keep_freed_memory()  # else the page faults of large pictures are timed as well
    about = models.get(architecture)
    device = best_device()
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    with exact_fp32():
        rows = [
            row
            for name in datasets
            for row in _evaluate_dataset(network, about, name, scale, device)
        ]
        latency = _latency(network, about, scale, device)
    return {
        "architecture": architecture,
        "scale": scale,
        "test_data_sha256": data_sha256(datasets),
        "images": [asdict(row) for row in rows],
        "latency": latency,
        "complexity": asdict(measure_complexity(architecture, scale)),
    }


def _latency(
    network: nn.Module, architecture: Architecture, scale: int, device: torch.device
) -> list[dict[str, Any]]:
    """Times by output size; a size that would take too long says so instead."""
    rows: list[dict[str, Any]] = []
    for size_px in OUTPUT_SIZES_PX:
        estimate_s = _NUM_TIMED_CALLS * max((_call_s(row, size_px) for row in rows), default=0.0)
        row: dict[str, Any] = {"output_px": size_px}
        if estimate_s > MAX_TIMING_S:
            row["skipped"] = f"would take {estimate_s:.0f} s, more than {MAX_TIMING_S:.0f} s"
            said = f"{architecture.name} ×{scale}: no time for {size_px} px: {row['skipped']}"
            print(said, file=sys.stderr, flush=True)
        else:
            row |= asdict(measure_latency(network, architecture, scale, size_px, device))
        rows.append(row)
    return rows


def _call_s(row: dict[str, Any], size_px: int) -> float:
    """How long one call would take at a size, judged from a measured one by the area."""
    return float(row.get("latency_ms", 0.0) / 1000 * (size_px / row["output_px"]) ** 2)


def data_sha256(datasets: Sequence[str]) -> str:
    """Which pictures the numbers are of."""
    return "+".join(folder_sha256(HR_FOLDER / "test" / name)[:16] for name in sorted(datasets))


def load_network(cell: Cell | None, architecture: str, scale: int) -> nn.Module:
    """The network with its trained weights; an interpolation has none.

    Raises:
        WeightsError: the cell's weights are missing or do not fit.
    """
    network = models.create(architecture, scale)
    if cell is not None:
        load_weights(network, weights_file(cell.name))
    return network


def _evaluate_dataset(
    network: nn.Module,
    architecture: Architecture,
    dataset: str,
    scale: int,
    device: torch.device,
) -> list[ImageRow]:
    """One picture after the other: what else computes meanwhile would be in its time."""
    rows = []
    for hr, lr in picture_pairs("test", dataset, scale):
        picture = load_picture(architecture, hr, lr, scale)
        answer, latency_ms = _answer(network, architecture, picture, device)
        rows.append(_row(architecture, dataset, scale, picture, answer, latency_ms))
    return rows


def _answer(
    network: nn.Module, architecture: Architecture, picture: Picture, device: torch.device
) -> tuple[NDArray[np.uint8], float]:
    """The 8-bit answer to a picture, and the milliseconds it took."""
    with torch.inference_mode():
        x = picture.x.to(device, memory_format=torch.channels_last)
        sr, latency_ms = _timed(network, x)
        if not sr.isfinite().all():
            raise WeightsError(
                f"{architecture.name} answers {picture.name} with values that are no finite"
                " numbers; train it with a lower learning_rate, or import other weights"
            )
        return sr_picture(architecture, sr), latency_ms


def _row(
    architecture: Architecture,
    dataset: str,
    scale: int,
    picture: Picture,
    answer: NDArray[np.uint8],
    latency_ms: float,
) -> ImageRow:
    quality = measure(sr_luminance(architecture, picture, answer), picture.hr_y, scale)
    as_colour = quality
    if is_grey(picture.hr):
        sr_y, hr_y = map(luminance_with_grey_converted, (answer, picture.hr))
        as_colour = measure(sr_y, hr_y, scale)
    return ImageRow(
        architecture=architecture.name,
        dataset=dataset,
        scale=scale,
        image=picture.name,
        psnr_db=quality.psnr_db,
        ssim=quality.ssim,
        psnr_db_grey_as_rgb=as_colour.psnr_db,
        ssim_grey_as_rgb=as_colour.ssim,
        latency_ms=latency_ms,
    )


def _timed(network: nn.Module, x: Tensor) -> tuple[Tensor, float]:
    """The answer, and the median time of three calls after a first one; of a long one its own."""
    answer, first_ms = _call(network, x)
    if _NUM_TIMED_CALLS * first_ms > 1000 * MAX_TIMING_S:
        return answer, first_ms
    calls = [_call(network, x) for _ in range(MIN_REPEATS)]
    return calls[-1][0], median(each_ms for _, each_ms in calls)


def _call(network: nn.Module, x: Tensor) -> tuple[Tensor, float]:
    _wait(x.device)
    start_s = time.perf_counter()
    answer: Tensor = network(x)
    _wait(x.device)
    return answer, 1000 * (time.perf_counter() - start_s)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """The stage's command."""
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", required=True, choices=params.architectures)
    parser.add_argument("--scale", type=int, required=True, choices=params.scales)
    arguments = parser.parse_args()
    evaluate(params, arguments.architecture, arguments.scale)


if __name__ == "__main__":
    main()
