"""Cutting HR and LR pictures into packed shards against cutting them into PNG sub-pictures.

The other way is what BasicSR's `extract_subimages` does: each patch becomes a PNG file (compression
3, by OpenCV where it is installed, as there; else by Pillow), in as many processes as there are
cores. Same pictures, same patches; megabytes are those of the
raw HR and LR pixels that end up on disk. A round runs both, one after the other, on all cores;
"per core" is by processor time, which other jobs of the machine disturb less.
"""

import os

# before numpy and torch load their thread pools
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import importlib.util
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import machine, memcpy_mb_per_s, rates, spread
from tasks.bicubic import shrink
from tasks.color import to_8bit
from tasks.config import Shards
from tasks.images import read_image, write_png
from tasks.shards import _offsets, write_shards

SCALE = 2
SHAPE = Shards(patch_px=96, stride_px=96, shard_mib=64)
PAIR_BYTES = 3 * (96 * 96 + 48 * 48)
SIZE = (1020, 1356, 3)


def make_pictures(folder: Path, num: int) -> list[tuple[Path, Path]]:
    """Pictures with smooth shading, edges and a little noise, and their LR pictures."""
    pairs = []
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    for number in range(num):
        draw = np.random.default_rng(number)
        shade = 120 + 70 * np.sin(x / draw.uniform(20, 90)) * np.cos(y / draw.uniform(20, 90))
        edges = 40 * ((x // 97 + y // 61) % 2)
        hr = to_8bit((shade + edges)[..., None] + draw.normal(0, 2, SIZE))
        pair = (folder / f"hr{number}.png", folder / f"lr{number}.png")
        write_png(pair[0], hr)
        write_png(pair[1], shrink(hr, SCALE))
        pairs.append(pair)
    return pairs


def ours(pairs: list[tuple[Path, Path]], folder: Path) -> float:
    """Raw megabytes put into shards."""
    target = folder / "shards"
    target.mkdir()
    num = write_shards(pairs, target, SCALE, SHAPE)
    shutil.rmtree(target)
    return num * PAIR_BYTES / 1e6


def processor_s() -> float:
    """Processor time of this process and of those it started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def timed(work: Callable[[], float], per_core: list[float]) -> Callable[[], float]:
    """Megabytes a second by the clock; those a second of processor time go into `per_core`."""

    def run() -> float:
        start_s, start_processor_s = time.perf_counter(), processor_s()
        megabytes = work()
        per_core.append(megabytes / (processor_s() - start_processor_s))
        return megabytes / (time.perf_counter() - start_s)

    return run


def has_opencv() -> bool:
    """Whether the other way can be BasicSR's own."""
    return importlib.util.find_spec("cv2") is not None


def reader_and_writer(path: Path) -> tuple[np.ndarray, Callable[[Path, np.ndarray], None]]:
    """A picture, and what writes its patches as PNG files."""
    if not has_opencv():

        def save(file: Path, patch: np.ndarray) -> None:
            Image.fromarray(patch).save(file, compress_level=3)

        return np.asarray(Image.open(path).convert("RGB")), save
    import cv2

    cv2.setNumThreads(1)

    def write(file: Path, patch: np.ndarray) -> None:
        cv2.imwrite(str(file), patch, [cv2.IMWRITE_PNG_COMPRESSION, 3])

    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED), write


def sub_pictures(job: tuple[Path, Path, int]) -> int:
    """Cut one picture into PNG files; their raw bytes."""
    path, target, side = job
    picture, write = reader_and_writer(path)
    num_bytes = 0
    rows, columns = (_offsets(size, side, side) for size in picture.shape[:2])
    for row in rows:
        for column in columns:
            patch = picture[row : row + side, column : column + side]
            name = f"{path.stem}_{row:05d}_{column:05d}.png"
            write(target / name, patch)
            num_bytes += patch.nbytes
    return num_bytes


def png_files(pairs: list[tuple[Path, Path]], folder: Path) -> float:
    """Raw megabytes put into PNG files."""
    target = folder / "files"
    target.mkdir()
    jobs = [(hr, target, 96) for hr, _ in pairs] + [(lr, target, 48) for _, lr in pairs]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        num_bytes = sum(pool.map(sub_pictures, jobs))
    shutil.rmtree(target)
    return num_bytes / 1e6


def decoding(pairs: list[tuple[Path, Path]]) -> float:
    """Raw megabytes decoded, which bounds us: nothing else is done."""
    return sum(read_image(path).nbytes for pair in pairs for path in pair) / 1e6


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's own")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        pairs = make_pictures(folder, arguments.pictures)
        work: dict[str, Callable[[], float]] = {
            "shards": lambda: ours(pairs, folder),
            "PNG sub-pictures": lambda: png_files(pairs, folder),
            "decoding alone": lambda: decoding(pairs),
        }
        per_core: dict[str, list[float]] = {name: [] for name in work}
        contenders = {name: timed(each, per_core[name]) for name, each in work.items()}
        found = rates({**contenders, "memcpy": memcpy_mb_per_s}, arguments.rounds)
    cpu = {name: np.array(values[1:]) for name, values in per_core.items()}
    print(machine())
    print(f"PNG files by {'OpenCV' if has_opencv() else 'Pillow'}")
    print(f"{arguments.pictures} RGB pictures of {SIZE[1]}×{SIZE[0]} and their ×2 LR pictures")
    for what, said in (
        ("shards, all cores", spread(found["shards"]) + " MB/s"),
        ("PNG sub-pictures, all cores", spread(found["PNG sub-pictures"], 1) + " MB/s"),
        ("times as fast", spread(found["shards"] / found["PNG sub-pictures"], 1)),
        ("shards, per core", spread(cpu["shards"]) + " MB/s"),
        ("PNG sub-pictures, per core", spread(cpu["PNG sub-pictures"], 1) + " MB/s"),
        ("times as fast per core", spread(cpu["shards"] / cpu["PNG sub-pictures"], 1)),
        ("decoding alone, per core", spread(cpu["decoding alone"]) + " MB/s"),
        ("of decoding alone", spread(100 * cpu["shards"] / cpu["decoding alone"]) + " %"),
        ("memcpy, per core", spread(found["memcpy"]) + " MB/s"),
    ):
        print(f"{what:30} {said}")


if __name__ == "__main__":
    main()
