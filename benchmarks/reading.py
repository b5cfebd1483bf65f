"""Patch pairs a second and core: memory-mapped shards, plain NumPy files, PNG files.

Shuffled and seeded; every contender reads the same pairs (48 and 96 pixels, RGB, 34,560 bytes) in
the same order into arrays of its own. One core, processor time, warm file cache. The shards' order
is a function of seed and epoch, so a reader can start anywhere; the check at the end does.
"""

import os

# before numpy and torch load their thread pools
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import models
from benchmarks.measuring import machine, memcpy_mb_per_s, rates, spread
from tasks.batches import Batches
from tasks.config import Shards
from tasks.images import write_png
from tasks.shards import ShardSet, write_shards
from tasks.window import Window

NUM_PAIRS = 4096
BATCH = 64
PAIR_BYTES = 3 * (96 * 96 + 48 * 48)
SHAPE = Shards(patch_px=96, stride_px=96, shard_mib=64)


def make_data(folder: Path) -> ShardSet:
    """Noise over shading: 4,096 pairs in shards, as .npy files and as PNG files."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:768, :768]
    pairs = []
    for number in range(NUM_PAIRS // 64):
        shade = 120 + 70 * np.sin(x / draw.uniform(20, 90)) * np.cos(y / draw.uniform(20, 90))
        hr = np.clip(shade[..., None] + draw.normal(0, 2, (768, 768, 3)), 0, 255).astype(np.uint8)
        files = (folder / f"hr{number}.png", folder / f"lr{number}.png")
        write_png(files[0], hr)
        write_png(files[1], hr[::2, ::2].copy())
        pairs.append(files)
    (folder / "shards").mkdir()
    write_shards(pairs, folder / "shards", 2, SHAPE)
    shards = ShardSet(folder / "shards")
    lr, hr_patches = shards.gather(np.arange(NUM_PAIRS))
    (folder / "files").mkdir()
    for kind, patches in (("lr", lr), ("hr", hr_patches)):
        for number, patch in enumerate(patches):
            np.save(folder / "files" / f"{kind}{number}.npy", patch)
            picture = Image.fromarray(patch.transpose(1, 2, 0))
            picture.save(folder / "files" / f"{kind}{number}.png", compress_level=3)
    return shards


def timed(read: Callable[[np.ndarray], object], num_batches: int) -> Callable[[], float]:
    """Pairs a second of processor time, over shuffled batches that go on round by round."""
    batches = iter(
        np.random.default_rng([1, epoch]).permutation(NUM_PAIRS)[start : start + BATCH]
        for epoch in range(10**6)
        for start in range(0, NUM_PAIRS, BATCH)
    )

    def run() -> float:
        start_s = time.process_time()
        for _ in range(num_batches):
            read(next(batches))
        return num_batches * BATCH / (time.process_time() - start_s)

    return run


def contenders(folder: Path, shards: ShardSet) -> dict[str, Callable[[], float]]:
    """Each reads a batch of pairs into LR and HR arrays."""
    files = folder / "files"
    lr, hr = np.empty((BATCH, 3, 48, 48), np.uint8), np.empty((BATCH, 3, 96, 96), np.uint8)
    whole = (Window(0, 0, 48), Window(0, 0, 96))
    draw = np.random.default_rng(2)

    def npy(indices: np.ndarray) -> None:
        for place, number in enumerate(indices):
            lr[place] = np.load(files / f"lr{number}.npy")
            hr[place] = np.load(files / f"hr{number}.npy")

    def png(indices: np.ndarray) -> None:
        for place, number in enumerate(indices):
            lr[place] = np.asarray(Image.open(files / f"lr{number}.png")).transpose(2, 0, 1)
            hr[place] = np.asarray(Image.open(files / f"hr{number}.png")).transpose(2, 0, 1)

    def turned(indices: np.ndarray) -> None:
        shards.gather_windows(indices, *whole, draw.integers(0, 2, (3, BATCH)).astype(bool))

    return {
        "shards": timed(shards.gather, 64),
        "shards, flipped and turned": timed(turned, 16),
        ".npy files": timed(npy, 4),
        "PNG files": timed(png, 1),
        "memcpy": lambda: memcpy_mb_per_s() * 1e6 / PAIR_BYTES,
    }


def check_restoring(shards: ShardSet) -> None:
    """Batches from step 100 are those that an uninterrupted reader sees there."""
    batches = Batches({2: shards}, models.get("edsr"), 16, {2: 96}, 1, torch.device("cpu"))
    undisturbed = list(batches.from_step(0, 103))[100:]
    for one, other in zip(undisturbed, batches.from_step(100, 103), strict=True):
        assert torch.equal(one[0].x, other[0].x)
        assert torch.equal(one[0].target, other[0].target)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's own")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        shards = make_data(Path(temporary))
        found = rates(contenders(Path(temporary), shards), arguments.rounds)
        check_restoring(shards)
    print(machine())
    print("pairs of 34,560 bytes a second and core, and how many times as fast the shards are")
    for name, values in found.items():
        print(f"{name:30} {spread(values):>28}   {spread(found['shards'] / values, 2)}")
    print(f"shards: {spread(found['shards'] * PAIR_BYTES / 1e6)} MB/s")


if __name__ == "__main__":
    main()
