"""Patch shards: a few large files of packed uint8 LR/HR patch pairs, and their reader.

A shard is a safetensors file, so any tool can open it: tensors `lr` N×C×p×p
and `hr` N×C×P×P (uint8, RGB, P = scale·p), and a header with the format
version, the scale, the checksum of each tensor's bytes and, for every source
picture, its number of patches (`sources`, in the patches' order), as JSON under
the key `sisr`.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.atomic import replacing_file, replacing_folder
from tasks.config import Shards, load_params
from tasks.errors import ShardError
from tasks.images import read_image
from tasks.layout import picture_pairs, shard_folder

FORMAT = "sisr-patches-1"
METADATA_KEY = "sisr"
_MAX_HEADER_BYTES = 100 * 2**20
_NUM_CHANNELS = 3
# What reading a header gives that is JSON, but not that of a shard.
_GARBLED = (AttributeError, KeyError, TypeError, ValueError, OverflowError, OSError)

Patches = NDArray[np.uint8]


def shard(names: tuple[str, ...], scale: int, shape: Shards) -> None:
    """Cut the training pictures of one scale into shards under `data/shards/x<scale>`.

    Raises:
        ShardError: a picture that gave no patches or another number than planned.
        ImageError: a picture that is corrupt.
    """
    pairs = [pair for name in names for pair in picture_pairs("train", name, scale)]
    with replacing_folder(shard_folder(scale)) as folder:
        write_shards(pairs, folder, scale, shape)


def write_shards(pairs: list[tuple[Path, Path]], folder: Path, scale: int, shape: Shards) -> int:
    """Pack the patches of (HR, LR) picture files; returns the number of patches.

    Memory is bounded by one shard and one picture.

    Raises:
        ShardError: a picture too small for a patch.
        ImageError: a picture that is corrupt.
    """
    pair_bytes = _NUM_CHANNELS * (shape.patch_px**2 + (shape.patch_px // scale) ** 2)
    from rich.progress import track

    capacity = max(1, shape.shard_mib * 2**20 // pair_bytes)
    writer = _Writer(folder, scale, shape.patch_px, capacity)
    for hr_file, lr_file in track(
        pairs, f"shard ×{scale}", transient=True, disable=not sys.stderr.isatty()
    ):
        source = f"{hr_file.parent.name}/{hr_file.name}"
        writer.add(source, *cut(read_image(lr_file), read_image(hr_file), scale, shape, source))
    return writer.close()


def cut(
    lr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int, shape: Shards, source: str
) -> tuple[Patches, Patches]:
    """The aligned patches of one picture, as N×3×p×p and N×3×P×P.

    Patches lie `stride_px` apart; the last of a row or column is moved in, so
    that every pixel of the (cropped) picture is in a patch. A grey picture
    gives three equal channels.

    Raises:
        ShardError: the picture is smaller than a patch.
    """
    side, stride = shape.patch_px // scale, shape.stride_px // scale
    rows = _offsets(lr.shape[0], side, stride)
    columns = _offsets(lr.shape[1], side, stride)
    if not rows or not columns:
        raise ShardError(
            f"{source} gives no patch of {shape.patch_px} pixels; lower shards.patch_px"
        )
    corners = [(row, column) for row in rows for column in columns]
    return (
        _patches(lr, corners, side),
        _patches(hr, [(row * scale, column * scale) for row, column in corners], side * scale),
    )


def _offsets(size: int, side: int, stride: int) -> list[int]:
    if size < side:
        return []
    num_strides = math.ceil((size - side) / stride)
    return [min(k * stride, size - side) for k in range(num_strides + 1)]


def _patches(picture: NDArray[np.uint8], corners: list[tuple[int, int]], side: int) -> Patches:
    planes = picture[..., None] if picture.ndim == 2 else picture  # noqa: PLR2004
    planes = np.broadcast_to(planes, (*planes.shape[:2], _NUM_CHANNELS)).transpose(2, 0, 1)
    return np.stack([planes[:, y : y + side, x : x + side] for y, x in corners])


class _Writer:
    """Collects patches and writes a shard whenever one is full."""

    def __init__(self, folder: Path, scale: int, patch_px: int, capacity: int) -> None:
        self._folder = folder
        self._scale = scale
        self._num_written = 0
        self._num_shards = 0
        self._fill = 0
        self._sources: list[tuple[str, int]] = []
        side = patch_px // scale
        self._lr = np.empty((capacity, _NUM_CHANNELS, side, side), np.uint8)
        self._hr = np.empty((capacity, _NUM_CHANNELS, patch_px, patch_px), np.uint8)

    def add(self, source: str, lr: Patches, hr: Patches) -> None:
        start = 0
        while start < len(lr):
            num = min(len(lr) - start, len(self._lr) - self._fill)
            into = slice(self._fill, self._fill + num)
            self._lr[into] = lr[start : start + num]
            self._hr[into] = hr[start : start + num]
            self._sources.append((source, num))
            self._fill += num
            start += num
            if self._fill == len(self._lr):
                self._flush()

    def close(self) -> int:
        if self._fill:
            self._flush()
        return self._num_written

    def _flush(self) -> None:
        from safetensors.numpy import save_file

        tensors = {"lr": self._lr[: self._fill], "hr": self._hr[: self._fill]}
        about = {
            "format": FORMAT,
            "scale": self._scale,
            "sources": self._sources,
            **{f"sha256_{name}": _sha256(tensor) for name, tensor in tensors.items()},
        }
        # One entry: safetensors writes several in an order that differs from run to run.
        header = {METADATA_KEY: json.dumps(about)}
        path = self._folder / f"shard-{self._num_shards:05d}.safetensors"
        with replacing_file(path) as temporary:
            save_file(tensors, temporary, metadata=header)
        self._num_shards += 1
        self._num_written += self._fill
        self._fill = 0
        self._sources = []


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
            each.verify()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([len(each.lr) for each in self.shards])

    def gather(self, indices: NDArray[np.int64]) -> tuple[Patches, Patches]:
        """The patch pairs of these indices, in their order, as fresh arrays."""
        if len(self.shards) == 1:
            only = self.shards[0]
            return only.lr[indices], only.hr[indices]
        lr = np.empty((len(indices), *self.shards[0].lr.shape[1:]), np.uint8)
        hr = np.empty((len(indices), *self.shards[0].hr.shape[1:]), np.uint8)
        which = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(which):
            rows = np.flatnonzero(which == number)
            each = self.shards[number]
            local = indices[rows] - (self._ends[number] - len(each.lr))
            lr[rows], hr[rows] = each.lr[local], each.hr[local]
        return lr, hr

    def sources(self) -> Iterator[tuple[str, int]]:
        """Every source picture and its number of patches, in the patches' order."""
        for each in self.shards:
            yield from each.sources


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
    return np.memmap(path, np.uint8, "r", offset=offset, shape=shape)


def main() -> None:
    """The stage's command."""
    params = load_params()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, required=True, choices=params.scales)
    shard(params.data.train, parser.parse_args().scale, params.shards)


if __name__ == "__main__":
    main()
