"""Cutting HR and LR pictures into packed shards against cutting them into PNG files.

Two other ways, both with a PNG file for each crop (compression 3, by OpenCV where it is installed,
else by Pillow) and as many processes as there are cores:

- as BasicSR's `extract_subimages.py` is set: HR crops of 480 pixels every 240, LR crops of half
  that;
- the very patches that go into the shards, so that no more is written than there.

All cut the same pictures, each pixel at least once; megabytes are those of the pictures' raw
pixels, HR and LR. A round runs every way, one after the other, on all cores; "per core" is by
processor time, which other jobs of the machine disturb less.
"""

import os

# before numpy and torch load their thread pools
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import importlib.util
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

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
SIZE = (1020, 1356, 3)


class Crops(NamedTuple):
    """How HR pictures are cut; of LR pictures a `SCALE`-th of it."""

    side_px: int
    step_px: int


BASICSR = Crops(480, 240)
PATCHES = Crops(SHAPE.patch_px, SHAPE.stride_px)


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


def ours(pairs: list[tuple[Path, Path]], folder: Path) -> None:
    """Put the pictures into shards."""
    target = folder / "shards"
    target.mkdir()
    write_shards(pairs, target, SCALE, SHAPE)
    shutil.rmtree(target)


def processor_s() -> float:
    """Processor time of this process and of those it started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def timed(work: Callable[[], None], megabytes: float, per_core: list[float]) -> Callable[[], float]:
    """Megabytes a second by the clock; those a second of processor time go into `per_core`."""

    def run() -> float:
        start_s, start_processor_s = time.perf_counter(), processor_s()
        work()
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


def sub_pictures(job: tuple[Path, Path, Crops]) -> None:
    """Cut one picture into PNG files."""
    path, target, crops = job
    picture, write = reader_and_writer(path)
    rows, columns = (_offsets(size, crops.side_px, crops.step_px) for size in picture.shape[:2])
    for row in rows:
        for column in columns:
            crop = picture[row : row + crops.side_px, column : column + crops.side_px]
            write(target / f"{path.stem}_{row:05d}_{column:05d}.png", crop)


def png_files(pairs: list[tuple[Path, Path]], folder: Path, crops: Crops) -> None:
    """Cut all pictures into PNG files."""
    target = folder / "files"
    target.mkdir()
    small = Crops(crops.side_px // SCALE, crops.step_px // SCALE)
    jobs = [(hr, target, crops) for hr, _ in pairs] + [(lr, target, small) for _, lr in pairs]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(sub_pictures, jobs))
    shutil.rmtree(target)


def decoding(pairs: list[tuple[Path, Path]]) -> None:
    """Decode, which bounds us: nothing else is done."""
    for pair in pairs:
        for path in pair:
            read_image(path)


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--folder", type=Path, help="where to write; default: the system's own")
    arguments = parser.parse_args()
    megabytes = arguments.pictures * math.prod(SIZE) * (1 + 1 / SCALE**2) / 1e6
    if has_opencv():
        import cv2  # noqa: F401  once, before the processes fork
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        folder = Path(temporary)
        pairs = make_pictures(folder, arguments.pictures)
        work: dict[str, Callable[[], None]] = {
            "shards": lambda: ours(pairs, folder),
            "as BasicSR's script is set": lambda: png_files(pairs, folder, BASICSR),
            "our patches as PNG files": lambda: png_files(pairs, folder, PATCHES),
            "decoding alone": lambda: decoding(pairs),
        }
        per_core: dict[str, list[float]] = {name: [] for name in work}
        contenders = {name: timed(each, megabytes, per_core[name]) for name, each in work.items()}
        found = rates({**contenders, "memcpy": memcpy_mb_per_s}, arguments.rounds)
    cpu = {name: np.array(values[1:]) for name, values in per_core.items()}
    print(machine())
    print(f"PNG files by {'OpenCV' if has_opencv() else 'Pillow'}")
    print(
        f"{arguments.pictures} RGB pictures of {SIZE[1]}×{SIZE[0]} and their ×2 LR pictures,"
        f" {megabytes:.0f} MB"
    )
    for title, speeds in (("all cores, by the clock", found), ("per core", cpu)):
        print(f"\n{title}")
        print(f"  {'shards':28} {spread(speeds['shards'])} MB/s")
        for other in ("as BasicSR's script is set", "our patches as PNG files"):
            times = spread(speeds["shards"] / speeds[other], 1)
            print(f"  {other:28} {spread(speeds[other], 1)} MB/s; shards {times} times as fast")
    of_decoding = spread(100 * cpu["shards"] / cpu["decoding alone"])
    print(f"  {'decoding alone':28} {spread(cpu['decoding alone'])} MB/s")
    print(f"  {'shards, of decoding alone':28} {of_decoding} %")
    print(f"  {'memcpy':28} {spread(found['memcpy'])} MB/s")


if __name__ == "__main__":
    main()
