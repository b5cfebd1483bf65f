"""Shards -> batches on the device.

A batch is a function of (seed, step) alone: every random draw comes from a
generator made of both, so a resumed training sees what an undisturbed one sees.
A thread reads ahead: it copies of each stored patch, flipped and turned, the
window that is wanted, and nothing else. Pixels stay uint8 until they are on the
device; luminance and enlargement are done there, for the whole batch at once,
on a CPU by that thread as well.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.interpolation import BICUBIC_REACH_LR_PX, enlarge
from models.luminance import luminance
from models.registry import Architecture
from tasks.shards import ShardSet
from tasks.window import Window

# What a generator is for; part of its seed, so that no two uses share a stream.
_ORDER, _AUGMENT = 1, 2
# Batches made at a time, and the most memory for them.
_MAX_BURST, _BURST_BYTES = 64, 2**25

_Work = TypeVar("_Work")


def steps_per_epoch(num_patches: Iterable[int], batch_size: int) -> int:
    """Steps after which as many patches were drawn as there are, of all scales together."""
    return max(1, sum(num_patches) // batch_size)


@dataclass(frozen=True)
class Batch:
    """The part of a batch that has one scale: network input and target, in 0–1."""

    scale: int
    x: Tensor
    target: Tensor


@dataclass(frozen=True)
class _Gathered:
    """The windows of one scale, uint8 in main memory, and where they lay in the turned patches."""

    scale: int
    lr: Tensor
    hr: Tensor
    lr_window: Window
    hr_window: Window


@dataclass(frozen=True)
class Batches:
    """The endless, seeded, restorable sequence of batches of one training.

    `window_px` is the side of the HR window at each scale, in pixels. Of several workers each
    takes every `num_workers`-th pair of a batch, from its `rank` on; all of them draw for the
    whole batch, so that together they see the batch of a single one.
    """

    shards: dict[int, ShardSet]
    architecture: Architecture
    batch_size: int
    window_px: dict[int, int]
    seed: int
    device: torch.device
    rank: int = 0
    num_workers: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which as many patches were drawn as there are."""
        return steps_per_epoch(map(len, self.shards.values()), self.batch_size)

    def from_step(self, first: int, last: int) -> Iterator[tuple[Batch, ...]]:
        """The batches of steps first … last-1; the next ones are made meanwhile.

        On a CPU whole; for a GPU the reading thread only gathers pixels, and what the GPU computes
        stays in the order of the thread that trains.
        """
        if self.device.type == "cpu":
            for made in self._ahead(self._make, first, last):
                yield from made
            return
        for gathered in self._ahead(self._gather_burst, first, last):
            yield from self._on_device(gathered)

    def _ahead(
        self, work: Callable[[int, int], list[_Work]], first: int, last: int
    ) -> Iterator[list[_Work]]:
        """Burst after burst, the next one in the works."""
        with ThreadPoolExecutor(1, thread_name_prefix="gather") as pool:
            ahead = pool.submit(work, first, last)
            for start in range(first, last, self._burst):
                done = ahead.result()
                ahead = pool.submit(work, start + self._burst, last)
                yield done

    @property
    def _burst(self) -> int:
        """How many batches are made at a time.

        A small one costs less when its code and data are still in the caches from the one before.
        """
        pair_bytes = 4 * 2 * self.architecture.num_channels * max(self.window_px.values()) ** 2
        return max(1, min(_MAX_BURST, _BURST_BYTES // (pair_bytes * self.batch_size)))

    def _make(self, start: int, last: int) -> list[tuple[Batch, ...]]:
        return self._on_device(self._gather_burst(start, last))

    def _gather_burst(self, start: int, last: int) -> list[list[_Gathered]]:
        """The next burst; none from the last step on."""
        return [self._gather(step) for step in range(start, min(start + self._burst, last))]

    def _gather(self, step: int) -> list[_Gathered]:
        draw = np.random.default_rng([self.seed, _AUGMENT, step])
        mine = slice(self.rank, None, self.num_workers)
        parts = []
        for (scale, shard_set), share in zip(self.shards.items(), self._shares(step), strict=True):
            indices = self._indices(scale, len(shard_set), *share)
            if len(indices):
                windows = self._windows(scale, shard_set.hr_px, draw)
                turns = draw.integers(0, 2, (3, len(indices))).astype(bool)
                pixels = shard_set.gather_windows(
                    indices[mine], *windows, turns[:, mine], pinned=self.device.type == "cuda"
                )
                parts.append(_Gathered(scale, *pixels, *windows))
        return parts

    def _shares(self, step: int) -> list[tuple[int, int]]:
        """For each scale: how many of its patches went before, and how many are in this batch.

        The batch is split evenly; what does not divide goes round.
        """
        num_scales = len(self.shards)
        even, rest = divmod(self.batch_size, num_scales)
        rounds, turn = divmod(step, num_scales)
        shares = []
        for place in range(num_scales):
            extras = [(turns + place) % num_scales < rest for turns in range(num_scales)]
            before = step * even + rounds * rest + sum(extras[:turn])
            shares.append((before, even + extras[turn]))
        return shares

    def _indices(self, scale: int, num_patches: int, before: int, num: int) -> NDArray[np.int64]:
        """The next `num` patches after the first `before`; a batch may span several epochs."""
        epoch, place = divmod(before, num_patches)
        parts = [np.empty(0, np.int64)]
        while num:
            parts.append(_order(self.seed, scale, epoch, num_patches)[place : place + num])
            num -= len(parts[-1])
            epoch, place = epoch + 1, 0
        return np.concatenate(parts)

    def _windows(
        self, scale: int, stored_px: int, draw: np.random.Generator
    ) -> tuple[Window, Window]:
        """The LR and the HR window of a part; the same place for the whole of it.

        Of a network on LR input the same pixels. One on enlarged input needs the LR pixels that
        bicubic looks at; where there is room, its window keeps so far away from the patch's border
        that it is enlarged just as it would be in the whole picture.
        """
        side = self.window_px[scale]
        if not self.architecture.enlarged:
            y, x = (int(at) for at in draw.integers(0, (stored_px - side) // scale + 1, 2))
            return (
                Window(y, x, side // scale),
                Window(y * scale, x * scale, side),
            )
        y, x = (self._corner(stored_px, scale, draw) for _ in range(2))
        lr_px = stored_px // scale
        reached = min(lr_px, -(-side // scale) + 1 + 2 * BICUBIC_REACH_LR_PX)
        top, left = (
            min(max(0, at // scale - BICUBIC_REACH_LR_PX), lr_px - reached) for at in (y, x)
        )
        return Window(top, left, reached), Window(y, x, side)

    def _corner(self, stored_px: int, scale: int, draw: np.random.Generator) -> int:
        room = stored_px - self.window_px[scale]
        margin = min(BICUBIC_REACH_LR_PX * scale, room // 2)
        return int(draw.integers(margin, room - margin + 1))

    def _on_device(self, gathered: list[list[_Gathered]]) -> list[tuple[Batch, ...]]:
        """A burst's batches, made one straight after the other."""
        return [tuple(self._batch(part) for part in parts if len(part.lr)) for parts in gathered]

    def _batch(self, part: _Gathered) -> Batch:
        lr, hr = (
            self._channels(each.to(self.device, non_blocking=True)) for each in (part.lr, part.hr)
        )
        if self.architecture.enlarged:
            lr_px = self.shards[part.scale].hr_px // part.scale
            lr = enlarge_window(lr, part.lr_window, part.hr_window, part.scale, lr_px)
        return Batch(part.scale, lr, hr)

    def _channels(self, patches: Tensor) -> Tensor:
        """uint8 RGB to float 0–1, RGB or luminance, as the network takes it."""
        rgb = patches / 255
        return luminance(rgb) if self.architecture.channels == "y" else rgb


def enlarge_window(
    lr: Tensor, lr_window: Window, hr_window: Window, scale: int, lr_px: int
) -> Tensor:
    """The HR window of enlarged square patches of `lr_px` pixels, from the LR window in it.

    N×C×n×n to N×C×P×P. Weights as `models.interpolation.enlarge` has them, but as two products of
    matrices: a tenth of the time. On a GPU in double precision, because single may be TF32 there.
    """
    dtype = torch.float64 if lr.device.type == "cuda" else lr.dtype
    matrix = _enlarging_matrix(lr_px, scale, dtype, lr.device)
    rows, columns = (
        matrix[hr_at : hr_at + hr_window.side, lr_at : lr_at + lr_window.side]
        for hr_at, lr_at in ((hr_window.top, lr_window.top), (hr_window.left, lr_window.left))
    )
    num, channels, height, width = lr.shape
    wide = lr.to(dtype).view(-1, width) @ columns.T
    planes = wide.view(num * channels, height, hr_window.side)
    both = torch.bmm(rows.expand(len(planes), -1, -1), planes)
    return both.view(num, channels, hr_window.side, hr_window.side).to(lr.dtype)


@lru_cache(maxsize=16)
def _enlarging_matrix(lr_px: int, scale: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(scale·p)×p: how much each LR pixel of a column adds to each enlarged one."""
    units = torch.eye(lr_px, dtype=torch.float64)[:, None, :, None]
    return enlarge(units, scale)[:, 0, :, 0].T.to(device, dtype).contiguous()


@lru_cache(maxsize=16)
def _order(seed: int, scale: int, epoch: int, num_patches: int) -> NDArray[np.int64]:
    """The order of all patches of a scale in one epoch."""
    return np.random.default_rng([seed, _ORDER, scale, epoch]).permutation(num_patches)
