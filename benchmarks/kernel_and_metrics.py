"""The bicubic kernel and the metrics against what others use.

One core, CPU time. In every round each contender runs once, one after the other, so that a busy
machine slows all of them; a ratio is taken within a round, and its median and quartiles are shown.
"""

import os
from functools import partial

# before numpy and torch load their thread pools
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.nn import functional

from tasks import bicubic
from tasks.bicubic import resize, shrink
from tasks.color import to_8bit
from tasks.metrics import measure

Contenders = dict[str, Callable[[], object]]
KERNEL_SIZE = (1356, 2040, 3)
METRICS_SIZE = (321, 481)


def photo_like(shape: tuple[int, ...]) -> np.ndarray:
    """Smooth structure with noise, uint8."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape[0], : shape[1]]
    smooth = 120 + 70 * np.sin(x / 17) * np.cos(y / 13)
    return to_8bit(
        smooth.reshape(smooth.shape + (1,) * (len(shape) - 2)) + rng.normal(0, 12, shape)
    )


def by_rows(image: np.ndarray, ratio: Fraction) -> np.ndarray:
    """The usual Python port: a loop over new rows, then over new columns, in float64."""
    for _ in range(2):
        size = len(image)
        indices, weights = bicubic._taps(int(size * ratio), ratio)
        indices = np.clip(indices, 0, size - 1)
        rows = [np.tensordot(w, image[i], 1) for w, i in zip(weights, indices, strict=True)]
        image = to_8bit(np.stack(rows)).swapaxes(0, 1)
    return image


def kernels(image: np.ndarray, scale: int) -> Contenders:
    """Shrinking one 8-bit picture; the first three give the same bits."""
    ratio = Fraction(1, scale)
    height, width = image.shape[0] // scale, image.shape[1] // scale
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]  # channels last in memory
    floats = planes.float().contiguous()
    pillow = Image.fromarray(image)

    def torch_resize(x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, (height, width), mode="bicubic", antialias=True)

    return {
        "ours": lambda: shrink(image, scale),
        "sparse float64 (exact)": lambda: bicubic._resize_by_taps(image, ratio, "clamped"),
        "Python loop over rows (exact)": lambda: by_rows(image, ratio),
        "Pillow BICUBIC (inexact)": lambda: pillow.resize(
            (width, height), Image.Resampling.BICUBIC
        ),
        "torch antialias uint8 (inexact)": lambda: torch_resize(planes),
        "torch antialias float32 (no rounding)": lambda: torch_resize(floats),
    }


def differing(image: np.ndarray, scale: int) -> str:
    """How far the 8-bit contenders are from ours."""
    ours = shrink(image, scale).astype(np.int16)
    lines = []
    for name, contender in kernels(image, scale).items():
        answer = contender()
        if isinstance(answer, torch.Tensor):
            answer = answer[0].permute(1, 2, 0).numpy()
        if np.asarray(answer).dtype != np.uint8:
            answer = to_8bit(np.asarray(answer))
        gap = np.abs(np.asarray(answer).astype(np.int16) - ours)
        lines.append(f"  {name:40} {100 * (gap > 0).mean():6.2f} % of values, at most {gap.max()}")
    return "\n".join(lines)


def metrics() -> Contenders:
    """PSNR and SSIM of one picture, cropped by 2."""
    hr = photo_like(METRICS_SIZE)
    sr = to_8bit(hr + np.random.default_rng(1).normal(0, 8, hr.shape))

    def scikit_image() -> tuple[float, float]:
        pair = hr[2:-2, 2:-2].astype(np.float64), sr[2:-2, 2:-2].astype(np.float64)
        rules = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        likeness = structural_similarity(*pair, data_range=255, full=True, **rules)[1]
        return peak_signal_noise_ratio(*pair, data_range=255), likeness[5:-5, 5:-5].mean()

    return {"ours": lambda: measure(sr, hr, 2), "scikit-image": scikit_image}


def compare(title: str, contenders: Contenders, num_rounds: int) -> None:
    """Print each contender's CPU time, and its ratio to the first."""
    times_ms: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(num_rounds + 1):
        for name, contender in contenders.items():
            start = time.process_time()
            contender()
            elapsed_ms = 1000 * (time.process_time() - start)
            if round_ > 0:  # the first warms up
                times_ms[name].append(elapsed_ms)
    print(f"\n{title}\n  {'':40} {'ms':>7}  ratio to ours (quartiles)")
    ours = np.array(next(iter(times_ms.values())))
    for name, values in times_ms.items():
        low, ratio, high = np.percentile(np.array(values) / ours, (25, 50, 75))
        print(f"  {name:40} {np.median(values):7.1f}  {ratio:5.2f} ({low:.2f}–{high:.2f})")


def main() -> None:
    """Print all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    num_rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    image = photo_like(KERNEL_SIZE)
    for scale in (2, 3, 4):
        title = f"{KERNEL_SIZE[1]}×{KERNEL_SIZE[0]} RGB, 8 bits, down by {scale}"
        compare(title, kernels(image, scale), num_rounds)
    for scale in (2, 4):
        small = shrink(image, scale)
        enlarge: dict[str, Callable[[], object]] = {
            "ours": partial(resize, small, scale, border="clamped"),
            "sparse float64 (exact)": partial(
                bicubic._resize_by_taps, small, Fraction(scale), "clamped"
            ),
        }
        compare(f"the same, up by {scale}", enlarge, num_rounds)
    print("\ndifference from ours, down by 2\n" + differing(image, 2))
    title = f"PSNR and SSIM of a {METRICS_SIZE[1]}×{METRICS_SIZE[0]} luminance"
    compare(title, metrics(), 5 * num_rounds)


if __name__ == "__main__":
    main()
