"""Patch shards: a few large files of packed uint8 LR/HR patch pairs, and their reader.

A shard is a safetensors file, so any tool can open it: tensors `lr` N×C×p×p
and `hr` N×C×P×P (uint8, RGB, P = scale·p), and a header with the format
version, the scale, the checksum of each tensor's bytes and, for every source
picture, its number of patches (`sources`, in the patches' order), as JSON under
the key `sisr`.
"""

import argparse
import hashlib
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.atomic import replacing_file, replacing_folder
from tasks.config import Shards, load_params
from tasks.cores import num_usable_cores
from tasks.errors import ShardError
from tasks.images import read_image
from tasks.layout import picture_pairs, shard_folder
from tasks.window import Window

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "sisr-patches-1"
METADATA_KEY = "sisr"
_MAX_HEADER_BYTES = 100 * 2**20
_NUM_CHANNELS = 3
_SAY_EVERY_S = 5.0
# What reading a header gives that is JSON, but not that of a shard.
_GARBLED = (AttributeError, KeyError, TypeError, ValueError, OverflowError, OSError)

# Files that this process has read whole and found undamaged, as they were then.
_VERIFIED: set[tuple[Path, int, int, int]] = set()

Patches = NDArray[np.uint8]


Say = Callable[[str], None]


def shard(names: tuple[str, ...], scale: int, shape: Shards, say: Say | None = None) -> None:
    """Cut the training pictures of one scale into shards under `data/shards/x<scale>`.

    `say` gets a line every few seconds, and one at the end.

    Raises:
        ShardError: a picture that gave no patches or another number than planned.
        ImageError: a picture that is corrupt.
    """
    pairs = [pair for name in names for pair in picture_pairs("train", name, scale)]
    with replacing_folder(shard_folder(scale)) as folder:
        write_shards(pairs, folder, scale, shape, say)


def write_shards(
    pairs: list[tuple[Path, Path]], folder: Path, scale: int, shape: Shards, say: Say | None = None
) -> int:
    """Pack the patches of (HR, LR) picture files; returns the number of patches.

    All cores decode, and the pictures are packed in their order. Memory is bounded by one shard
    and two pictures for each core.

    Raises:
        ShardError: a picture too small for a patch, HR and LR pictures that do not belong
            together, or a picture that is not in the shards as planned.
        ImageError: a picture that is corrupt.
    """
    pair_bytes = _NUM_CHANNELS * (shape.patch_px**2 + (shape.patch_px // scale) ** 2)
    capacity = max(1, shape.shard_mib * 2**20 // pair_bytes)
    writer = _Writer(folder, scale, shape.patch_px, capacity)
    planned: list[tuple[str, int]] = []
    speaker = _Speaker(f"shard ×{scale}", len(pairs), say)
    for pair, (lr, hr) in zip(pairs, _decoded(pairs), strict=True):
        source = _source(pair)
        corners = _corners(lr, hr, scale, shape, source)
        planned.append((source, len(corners)))
        writer.add(source, lr, hr, corners)
        speaker.tell(len(planned), writer.num_patches * pair_bytes)
    writer.close()
    speaker.tell(len(planned), writer.num_patches * pair_bytes, last=True)
    _check_all_there(folder, planned)
    return writer.num_patches


def _source(pair: tuple[Path, Path]) -> str:
    return f"{pair[0].parent.name}/{pair[0].name}"


def _decoded(pairs: list[tuple[Path, Path]]) -> Iterator[tuple[Patches, Patches]]:
    """The LR and HR pictures of each pair as 3×H×W, in order, some of them read ahead."""
    # Threads suffice: decoding and copying release the interpreter's lock.
    num_threads = num_usable_cores()
    waiting: deque[Future[tuple[Patches, Patches]]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        try:
            for pair in pairs:
                waiting.append(pool.submit(_planes_of_pair, pair))
                if len(waiting) == 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _planes_of_pair(pair: tuple[Path, Path]) -> tuple[Patches, Patches]:
    hr_file, lr_file = pair
    return _planes(read_image(lr_file)), _planes(read_image(hr_file))


def _planes(picture: NDArray[np.uint8]) -> Patches:
    """3×H×W, each plane in one piece; a grey picture three times."""
    if picture.ndim == 2:  # noqa: PLR2004
        return np.broadcast_to(picture, (_NUM_CHANNELS, *picture.shape))
    return np.ascontiguousarray(picture.transpose(2, 0, 1))


def _corners(
    lr: Patches, hr: Patches, scale: int, shape: Shards, source: str
) -> list[tuple[int, int]]:
    """Where the patches of one picture lie, in LR pixels.

    They lie `stride_px` apart; the last of a row or column is moved in, so that every pixel of the
    (cropped) picture is in a patch.

    Raises:
        ShardError: the picture is smaller than a patch, or its LR picture is another one's.
    """
    if tuple(size // scale for size in hr.shape[1:]) != lr.shape[1:]:
        raise ShardError(
            f"{source} has {hr.shape[2]}×{hr.shape[1]} pixels and its ×{scale} LR picture"
            f" {lr.shape[2]}×{lr.shape[1]}; run the `degrade` stage again"
        )
    side, stride = shape.patch_px // scale, shape.stride_px // scale
    rows, columns = (_offsets(size, side, stride) for size in lr.shape[1:])
    if not rows or not columns:
        raise ShardError(
            f"{source} gives no patch of {shape.patch_px} pixels; lower shards.patch_px"
        )
    return [(row, column) for row in rows for column in columns]


def _offsets(size: int, side: int, stride: int) -> list[int]:
    if size < side:
        return []
    num_strides = math.ceil((size - side) / stride)
    return [min(k * stride, size - side) for k in range(num_strides + 1)]


def _check_all_there(folder: Path, planned: list[tuple[str, int]]) -> None:
    """Compare what the written headers list with what was planned.

    Raises:
        ShardError: a picture is missing, or has another number of patches.
    """
    written: list[tuple[str, int]] = []
    for each in _open_all(folder):
        for name, num in each.sources:
            if written and written[-1][0] == name:  # a picture that goes on in the next shard
                written[-1] = (name, written[-1][1] + num)
            else:
                written.append((name, num))
    if written != planned:
        different = sorted(dict(set(planned) ^ set(written)))
        raise ShardError(
            f"{len(planned)} pictures were to be in {folder}, and {len(written)} are;"
            f" not as planned: {', '.join(different[:5])}; shard them again"
        )


class _Writer:
    """Copies patches to their place and writes a shard whenever one is full."""

    def __init__(self, folder: Path, scale: int, patch_px: int, capacity: int) -> None:
        self._folder = folder
        self._scale = scale
        self._num_written = 0
        self._num_shards = 0
        self._lr_px, self._hr_px = patch_px // scale, patch_px
        self._lr = np.empty((capacity, _NUM_CHANNELS, self._lr_px, self._lr_px), np.uint8)
        self._hr = np.empty((capacity, _NUM_CHANNELS, patch_px, patch_px), np.uint8)
        self._begin()

    def _begin(self) -> None:
        self._fill = 0
        self._sources: list[tuple[str, int]] = []
        self._digests = {"lr": hashlib.sha256(), "hr": hashlib.sha256()}

    @property
    def num_patches(self) -> int:
        """Patches taken so far."""
        return self._num_written + self._fill

    def add(self, source: str, lr: Patches, hr: Patches, corners: list[tuple[int, int]]) -> None:
        """Take the patches of one picture."""
        waiting = iter(corners)
        while part := tuple(itertools.islice(waiting, len(self._lr) - self._fill)):
            for place, (row, column) in enumerate(part, start=self._fill):
                self._lr[place] = _square(lr, row, column, self._lr_px)
                self._hr[place] = _square(hr, row * self._scale, column * self._scale, self._hr_px)
            self._take(source, len(part))
            if self._fill == len(self._lr):
                self._flush()

    def _take(self, source: str, num: int) -> None:
        """Count patches that are in their place, and add them to the checksums.

        Now and not when the shard is full: the other cores decode meanwhile.
        """
        new = slice(self._fill, self._fill + num)
        self._digests["lr"].update(self._lr[new].data)
        self._digests["hr"].update(self._hr[new].data)
        self._sources.append((source, num))
        self._fill += num

    def close(self) -> None:
        """Write what is left."""
        if self._fill:
            self._flush()

    def _flush(self) -> None:
        from safetensors.numpy import save_file

        tensors = {"lr": self._lr[: self._fill], "hr": self._hr[: self._fill]}
        about = {
            "format": FORMAT,
            "scale": self._scale,
            "sources": self._sources,
            **{f"sha256_{name}": digest.hexdigest() for name, digest in self._digests.items()},
        }
        # One entry: safetensors writes several in an order that differs from run to run.
        header = {METADATA_KEY: json.dumps(about)}
        path = self._folder / f"shard-{self._num_shards:05d}.safetensors"
        with replacing_file(path) as temporary:
            save_file(tensors, temporary, metadata=header)
        self._num_shards += 1
        self._num_written += self._fill
        self._begin()


def _square(planes: Patches, top: int, left: int, side: int) -> Patches:
    return planes[:, top : top + side, left : left + side]


class _Speaker:
    """Says how far the work is, not too often."""

    def __init__(self, what: str, num_pictures: int, say: Say | None) -> None:
        self._what, self._num_pictures, self._say = what, num_pictures, say
        self._start_s = self._said_s = time.monotonic()

    def tell(self, num_done: int, num_bytes: int, *, last: bool = False) -> None:
        now_s = time.monotonic()
        if self._say is None or not (last or now_s - self._said_s > _SAY_EVERY_S):
            return
        self._said_s = now_s
        megabytes = num_bytes / 1e6
        self._say(
            f"{self._what}: {num_done} of {self._num_pictures} pictures, {megabytes:.0f} MB,"
            f" {megabytes / max(now_s - self._start_s, 1e-3):.0f} MB/s"
        )


@dataclass(frozen=True)
class Shard:
    """One memory-mapped shard."""

    path: Path
    scale: int
    sources: tuple[tuple[str, int], ...]
    lr: Patches
    hr: Patches
    sha256: tuple[str, str]

    @classmethod
    def open(cls, path: Path) -> "Shard":
        """Map a shard into memory; nothing is read but its header.

        Raises:
            ShardError: no shard, truncated, or another format version.
        """
        header, data_start = _read_header(path)
        try:
            return cls._from_header(path, header, data_start)
        except _GARBLED as error:
            raise ShardError(f"{path} is no shard: {error!r} in its header") from error

    @classmethod
    def _from_header(cls, path: Path, header: dict[str, Any], data_start: int) -> "Shard":
        about = json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}"))
        if about.get("format") != FORMAT:
            raise ShardError(
                f"{path} has format {about.get('format')!r}, not {FORMAT!r}; shard it again"
            )
        lr, hr = (_map(path, header[name], data_start) for name in ("lr", "hr"))
        sources = tuple((name, num) for name, num in about["sources"])
        if not len(lr) == len(hr) == sum(num for _, num in sources):
            raise ShardError(f"{path}: its patches and its list of sources disagree")
        sums = (about["sha256_lr"], about["sha256_hr"])
        return cls(path, about["scale"], sources, lr, hr, sums)

    def verify(self) -> None:
        """Read everything once and compare checksums.

        Raises:
            ShardError: the bytes are not those that were written.
        """
        for tensor, expected in zip((self.lr, self.hr), self.sha256, strict=True):
            if _sha256(tensor) != expected:
                raise ShardError(f"{self.path} is damaged (checksum); shard it again")


class ShardSet:
    """All shards of one scale, read as one list of patch pairs."""

    def __init__(self, folder: Path) -> None:
        self.shards = _open_all(folder)
        for each in self.shards:
            _verify_once(each)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self._lengths)

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        return np.array([len(each.lr) for each in self.shards])

    @property
    def hr_px(self) -> int:
        """Side of the HR patches."""
        return int(self.shards[0].hr.shape[-1])

    def gather(self, indices: NDArray[np.int64]) -> tuple[Patches, Patches]:
        """The patch pairs of these indices, in their order, as fresh arrays."""
        first = self.shards[0]
        lr, hr = (
            np.empty((len(indices), *each.shape[1:]), np.uint8) for each in (first.lr, first.hr)
        )
        self.gather_into(indices, lr, hr)
        return lr, hr

    def gather_into(self, indices: NDArray[np.int64], lr: Patches, hr: Patches) -> None:
        """The same, into arrays of theirs.

        Raises:
            IndexError: an index below zero, or beyond the last pair.
        """
        if ((indices < 0) | (indices >= len(self))).any():
            raise IndexError(f"pairs are 0 to {len(self) - 1}, not {indices.min()}–{indices.max()}")
        if len(self.shards) == 1:
            only = self.shards[0]
            # Checked above: NumPy's own check copies by way of a buffer, at a quarter of the speed.
            for source, target in ((only.lr, lr), (only.hr, hr)):
                np.take(source, indices, axis=0, out=target, mode="clip")
            return
        for place, (number, row) in enumerate(self._places(indices)):
            each = self.shards[number]
            lr[place], hr[place] = each.lr[row], each.hr[row]

    def gather_windows(
        self,
        indices: NDArray[np.int64],
        lr_window: Window,
        hr_window: Window,
        turns: NDArray[np.bool_],
    ) -> "tuple[Tensor, Tensor]":
        """A window of each patch pair, after the patches were turned; nothing else is read.

        `turns`, 3×N, say of each pair whether it is put upside down, mirrored and then transposed.
        """
        import torch

        shapes = [(len(indices), _NUM_CHANNELS, w.side, w.side) for w in (lr_window, hr_window)]
        lr, hr = (torch.empty(shape, dtype=torch.uint8) for shape in shapes)
        lr_out, hr_out = lr.numpy(), hr.numpy()
        lr_px, hr_px = (int(each.shape[-1]) for each in (self.shards[0].lr, self.shards[0].hr))
        # One of eight pairs of slices for each patch, made once.
        lr_slices, hr_slices = _slices(lr_window, lr_px), _slices(hr_window, hr_px)
        codes = (4 * turns[0] + 2 * turns[1] + turns[2]).tolist()
        for place, ((number, row), code) in enumerate(
            zip(self._places(indices), codes, strict=True)
        ):
            each = self.shards[number]
            lr_patch = each.lr[row][lr_slices[code]]
            hr_patch = each.hr[row][hr_slices[code]]
            transposed = code & 1
            lr_out[place] = lr_patch.swapaxes(1, 2) if transposed else lr_patch
            hr_out[place] = hr_patch.swapaxes(1, 2) if transposed else hr_patch
        return lr, hr

    def _places(self, indices: NDArray[np.int64]) -> list[tuple[int, int]]:
        """For each index the number of its shard and the row in it."""
        if len(self.shards) == 1:
            return [(0, row) for row in indices.tolist()]
        numbers = np.searchsorted(self._ends, indices, side="right")
        rows = indices - (self._ends - self._lengths)[numbers]
        return list(zip(numbers.tolist(), rows.tolist(), strict=True))

    def sources(self) -> Iterator[tuple[str, int]]:
        """Every source picture and its number of patches, in the patches' order."""
        for each in self.shards:
            yield from each.sources


def _verify_once(shard: Shard) -> None:
    """Read a file that is as it was when this process last did so no second time.

    A lane trains many cells on the same data, and they may be larger than memory.
    """
    about = shard.path.stat()
    seen = (shard.path.resolve(), about.st_ino, about.st_size, about.st_mtime_ns)
    if seen not in _VERIFIED:
        shard.verify()
        _VERIFIED.add(seen)


def _slices(window: Window, side: int) -> list[tuple[slice, slice, slice]]:
    """Where the window of a turned patch lies in the patch as it is stored, before transposing.

    One for each code: 4 if it was put upside down, 2 if it was mirrored, 1 if it was transposed.
    """
    down, across = (
        [_along(start, window.side, side, backwards) for backwards in (False, True)]
        for start in (window.top, window.left)
    )
    whole = slice(None)
    places = []
    for upside_down, mirrored in itertools.product((0, 1), repeat=2):
        places.append((whole, down[upside_down], across[mirrored]))
        places.append((whole, across[upside_down], down[mirrored]))
    return places


def _along(start: int, length: int, side: int, backwards: bool) -> slice:
    if not backwards:
        return slice(start, start + length)
    stop = side - 1 - start - length
    return slice(side - 1 - start, stop if stop >= 0 else None, -1)


def count_patches(folder: Path) -> int:
    """The pairs of a scale, from the headers.

    Raises:
        ShardError: no shards, or a file that is none.
    """
    return sum(len(each.lr) for each in _open_all(folder))


def shard_checksums(folder: Path) -> list[str]:
    """The checksums of all patches of a scale, from the headers.

    Raises:
        ShardError: no shards, or a file that is none.
    """
    return [each for one in _open_all(folder) for each in one.sha256]


def _open_all(folder: Path) -> list[Shard]:
    files = sorted(folder.glob("shard-*.safetensors"))
    if not files:
        raise ShardError(f"no shards in {folder}; run the `shard` stage")
    return [Shard.open(path) for path in files]


def _sha256(tensor: Patches) -> str:
    return hashlib.sha256(np.ascontiguousarray(tensor).data).hexdigest()


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file and where its data start (the format's own layout)."""
    try:
        with path.open("rb") as opened:
            num_bytes = int.from_bytes(opened.read(8), "little")
            if num_bytes > _MAX_HEADER_BYTES:
                raise ShardError(f"{path} is no shard: its header claims {num_bytes} bytes")
            header: dict[str, Any] = json.loads(opened.read(num_bytes))
            return header, 8 + num_bytes
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} is no shard: {error}") from error


def _map(path: Path, entry: dict[str, Any], data_start: int) -> Patches:
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if entry["dtype"] != "U8" or end - start != math.prod(shape):
        raise ShardError(f"{path}: {entry} is not a tensor of patches")
    if path.stat().st_size < data_start + end:
        raise ShardError(f"{path} is truncated; shard it again")
    offset = data_start + start
    # A plain array over the mapping: np.memmap itself is slow to index.
    return np.asarray(np.memmap(path, np.uint8, "r", offset=offset, shape=shape))


def main() -> None:
    """The stage's command."""
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, required=True, choices=params.scales)
    scale = parser.parse_args().scale
    shard(params.data.train, scale, params.shards, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
