"""Shards -> batches on the device.

A batch is a function of (seed, step) alone, so a resumed training sees what an undisturbed one
sees. A thread reads ahead. On a CPU it makes the batches whole: it copies of each stored patch,
flipped and turned, the window that is wanted, and nothing else; luminance and enlargement are done
for a whole batch at once. For a GPU it says what is to be done for many batches at once (and
gathers the patches, unless all lie there already); everything else is done there.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from models.interpolation import enlarge
from models.luminance import luminance
from models.registry import Architecture
from tasks.device_patches import (
    PAIRS_ALIGNED,
    DevicePatches,
    Prepared,
    cut_squares,
    fit_in_memory,
)
from tasks.draws import Draws, steps_per_epoch
from tasks.shards import ShardSet
from tasks.window import Window

# Batches made at a time, and the most memory for them: a CPU's caches are small.
_MAX_BURST = {"cpu": 64, "cuda": 128}
_BURST_BYTES = {"cpu": 2**25, "cuda": 2**28}

_Work = TypeVar("_Work")


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
class _Burst:
    """What a GPU needs for some steps, by scale; a scale without any pair is left out."""

    num_steps: int
    prepared: dict[int, Prepared]


@dataclass(frozen=True)
class Batches:
    """The endless, seeded, restorable sequence of batches of one training.

    `window_px` is the side of the HR window at each scale, in pixels. Of several workers each
    takes every `num_workers`-th pair of a batch, from its `rank` on.
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

        What a GPU computes stays in the order of the thread that trains.
        """
        if self.device.type == "cpu":
            for made in self._ahead(self._make, first, last):
                yield from made
            return
        self.upload()
        for prepared in self._ahead(self._prepare, first, last):
            yield from self._make_on_gpu(prepared)

    def upload(self) -> None:
        """Send the patches to the GPU, if there is one and they fit; the first step would wait."""
        if self.device.type == "cuda":
            _ = self._device_patches

    def _ahead(self, work: Callable[[range], _Work], first: int, last: int) -> Iterator[_Work]:
        """What is made of burst after burst of steps, the next one in the works."""
        with ThreadPoolExecutor(1, thread_name_prefix="gather") as pool:
            ahead = pool.submit(work, self._burst_from(first, last))
            for start in range(first, last, self._burst):
                done = ahead.result()
                ahead = pool.submit(work, self._burst_from(start + self._burst, last))
                yield done

    def _burst_from(self, start: int, last: int) -> range:
        """The steps of a burst; none from the last step on."""
        return range(start, min(start + self._burst, last))

    @cached_property
    def _burst(self) -> int:
        """How many batches are made at a time.

        On a CPU a small one costs less when its code is still in the caches from the one before.
        """
        most_px = max(self.window_px.values())
        num_pairs = self.batch_size
        pair_bytes = 4 * 2 * self.architecture.num_channels * most_px**2
        if self.device.type == "cuda":
            # Besides: places of pixels, whole patches, and room that is not used.
            num_pairs += PAIRS_ALIGNED * len(self.shards)
            stored_px = max(each.hr_px for each in self.shards.values())
            pair_bytes += 64 * most_px**2 + 3 * 2 * stored_px**2
        fitting = _BURST_BYTES[self.device.type] // (pair_bytes * num_pairs)
        return max(1, min(_MAX_BURST[self.device.type], fitting))

    @cached_property
    def _draws(self) -> Draws:
        return Draws(
            num_patches={scale: len(each) for scale, each in self.shards.items()},
            stored_px={scale: each.hr_px for scale, each in self.shards.items()},
            window_px=self.window_px,
            enlarged=self.architecture.enlarged,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=self.rank,
            num_workers=self.num_workers,
        )

    def _make(self, steps: range) -> list[tuple[Batch, ...]]:
        """A burst's batches; each kind of work for all of them before the next kind."""
        gathered = [self._gather(step) for step in steps]
        floats = [
            [(part, self._channels(part.lr), self._channels(part.hr)) for part in parts]
            for parts in gathered
        ]
        return [tuple(self._batch(*part) for part in parts) for parts in floats]

    def _gather(self, step: int) -> list[_Gathered]:
        gathered = []
        for drawn in self._draws.of_step(step):
            windows = drawn.lr_window, drawn.hr_window
            pixels = self.shards[drawn.scale].gather_windows(drawn.indices, *windows, drawn.turns)
            gathered.append(_Gathered(drawn.scale, *pixels, *windows))
        return gathered

    def _batch(self, part: _Gathered, lr: Tensor, hr: Tensor) -> Batch:
        if self.architecture.enlarged:
            lr_px = self.shards[part.scale].hr_px // part.scale
            lr = enlarge_window(lr, part.lr_window, part.hr_window, part.scale, lr_px)
        return Batch(part.scale, lr, hr)

    def _channels(self, patches: Tensor) -> Tensor:
        """uint8 RGB to float 0–1, RGB or luminance, as the network takes it."""
        rgb = patches / 255
        return luminance(rgb) if self.architecture.channels == "y" else rgb

    @cached_property
    def _device_patches(self) -> dict[int, DevicePatches]:
        resident = fit_in_memory(list(self.shards.values()), self.device)
        return {
            scale: DevicePatches(each, scale, self.device, resident=resident)
            for scale, each in self.shards.items()
        }

    def _prepare(self, steps: range) -> _Burst:
        """What the GPU needs for a burst."""
        drawn = [{each.scale: each for each in self._draws.of_step(step)} for step in steps]
        prepared = {
            scale: patches.prepare([each.get(scale) for each in drawn])
            for scale, patches in self._device_patches.items()
        }
        return _Burst(len(steps), {scale: each for scale, each in prepared.items() if each})

    def _make_on_gpu(self, burst: _Burst) -> Iterator[tuple[Batch, ...]]:
        """A burst's batches; nothing depends on how many are made together."""
        parts = [self._parts_on_gpu(scale, each) for scale, each in burst.prepared.items()]
        for place in range(burst.num_steps):
            yield tuple(part[place] for part in parts if len(part[place].x))

    def _parts_on_gpu(self, scale: int, prepared: Prepared) -> list[Batch]:
        cut = self._device_patches[scale].cut(prepared)
        lr, hr = self._channels(cut.lr), self._channels(cut.hr)
        if self.architecture.enlarged:
            # The window's border is the patch's, or too far away to matter.
            lr = cut_squares(enlarge(lr, scale), cut.corners, prepared.hr_side)
        pieces = (torch.split(each, prepared.num_places) for each in (lr, hr))
        pairs = zip(prepared.num_pairs, *pieces, strict=True)
        return [Batch(scale, x[:num], target[:num]) for num, x, target in pairs]


def enlarge_window(
    lr: Tensor, lr_window: Window, hr_window: Window, scale: int, lr_px: int
) -> Tensor:
    """The HR window of enlarged square patches of `lr_px` pixels, from the LR window in it.

    N×C×n×n to N×C×P×P. Weights as `models.interpolation.enlarge` has them, but as two products of
    matrices: a tenth of the time on a CPU.
    """
    matrix = _enlarging_matrix(lr_px, scale, lr.dtype)
    rows, columns = (
        matrix[hr_at : hr_at + hr_window.side, lr_at : lr_at + lr_window.side]
        for hr_at, lr_at in ((hr_window.top, lr_window.top), (hr_window.left, lr_window.left))
    )
    num, channels, height, width = lr.shape
    wide = lr.view(-1, width) @ columns.T
    planes = wide.view(num * channels, height, hr_window.side)
    both = torch.bmm(rows.expand(len(planes), -1, -1), planes)
    return both.view(num, channels, hr_window.side, hr_window.side)


@lru_cache(maxsize=16)
def _enlarging_matrix(lr_px: int, scale: int, dtype: torch.dtype) -> Tensor:
    """(scale·p)×p: how much each LR pixel of a column adds to each enlarged one."""
    units = torch.eye(lr_px, dtype=torch.float64)[:, None, :, None]
    return enlarge(units, scale)[:, 0, :, 0].T.to(dtype).contiguous()
