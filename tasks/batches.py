"""Shards -> batches on the device.

A batch is a function of (seed, step) alone: every random draw comes from a
generator made of both, so a resumed training sees what an undisturbed one sees.
Patches stay uint8 until they are on the device; window, flips, rotation,
luminance and enlargement are done there, for the whole batch at once.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.interpolation import enlarge
from models.luminance import luminance
from models.registry import Architecture
from tasks.shards import Patches, ShardSet

# Bicubic enlargement looks two LR pixels away.
_REACH_LR_PX = 2
# What a generator is for; part of its seed, so that no two uses share a stream.
_ORDER, _AUGMENT = 1, 2


@dataclass(frozen=True)
class Batch:
    """The part of a batch that has one scale: network input and target, in 0–1."""

    scale: int
    x: Tensor
    target: Tensor


@dataclass(frozen=True)
class Batches:
    """The endless, seeded, restorable sequence of batches of one training.

    `window_px` is the side of the HR window at each scale, in pixels.
    """

    shards: dict[int, ShardSet]
    architecture: Architecture
    batch_size: int
    window_px: dict[int, int]
    seed: int
    device: torch.device

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which as many patches were drawn as there are."""
        num_patches = sum(len(shard_set) for shard_set in self.shards.values())
        return max(1, num_patches // self.batch_size)

    def from_step(self, first: int, last: int) -> Iterator[tuple[Batch, ...]]:
        """The batches of steps first … last-1; the next one is gathered meanwhile."""
        with ThreadPoolExecutor(1, thread_name_prefix="gather") as pool:
            ahead = pool.submit(self._gather, first) if first < last else None
            for step in range(first, last):
                assert ahead is not None
                gathered = ahead.result()
                if step + 1 < last:
                    ahead = pool.submit(self._gather, step + 1)
                yield self._on_device(step, gathered)

    def _gather(self, step: int) -> list[tuple[int, Patches, Patches]]:
        shares = self._shares(step)
        return [
            (scale, *shard_set.gather(self._indices(scale, len(shard_set), *share)))
            for (scale, shard_set), share in zip(self.shards.items(), shares, strict=True)
        ]

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
        epochs, places = np.divmod(np.arange(before, before + num), num_patches)
        return np.concatenate(
            [
                _order(self.seed, scale, int(epoch), num_patches)[places[epochs == epoch]]
                for epoch in np.unique(epochs)
            ]
            or [np.empty(0, np.int64)]
        )

    def _on_device(
        self, step: int, gathered: list[tuple[int, Patches, Patches]]
    ) -> tuple[Batch, ...]:
        draw = np.random.default_rng([self.seed, _AUGMENT, step])
        return tuple(
            self._batch(scale, self._move(lr), self._move(hr), draw)
            for scale, lr, hr in gathered
            if len(lr)
        )

    def _move(self, patches: Patches) -> Tensor:
        tensor = torch.from_numpy(patches)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def _batch(self, scale: int, lr: Tensor, hr: Tensor, draw: np.random.Generator) -> Batch:
        if self.architecture.enlarged:
            x, target = self._enlarged_window(scale, lr, hr, draw)
        else:
            x, target = self._window(scale, lr, hr, draw)
        turns = draw.integers(0, 2, (3, len(x))).astype(bool)
        flips = torch.from_numpy(turns).to(self.device)
        return Batch(scale, dihedral(x, flips), dihedral(target, flips))

    def _window(
        self, scale: int, lr: Tensor, hr: Tensor, draw: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The LR window and its HR window; the same place for the whole batch."""
        side = self.window_px[scale] // scale
        y, x = draw.integers(0, lr.shape[-1] - side + 1, 2)
        lr = lr[..., y : y + side, x : x + side]
        hr = hr[..., y * scale : (y + side) * scale, x * scale : (x + side) * scale]
        return self._channels(lr), self._channels(hr)

    def _enlarged_window(
        self, scale: int, lr: Tensor, hr: Tensor, draw: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The HR window and the same window of the enlarged LR patch.

        Where there is room, the window keeps away from the patch's border, so
        that it is enlarged just as it would be in the whole picture.
        """
        side = self.window_px[scale]
        (y, x) = (self._corner(hr.shape[-1], scale, draw) for _ in range(2))
        (top, bottom), (left, right) = (
            (
                max(0, corner // scale - _REACH_LR_PX),
                -(-(corner + side) // scale) + _REACH_LR_PX,
            )
            for corner in (y, x)
        )
        enlarged = enlarge(self._channels(lr[..., top:bottom, left:right]), scale)
        inner_y, inner_x = y - top * scale, x - left * scale
        return (
            enlarged[..., inner_y : inner_y + side, inner_x : inner_x + side].contiguous(),
            self._channels(hr[..., y : y + side, x : x + side]),
        )

    def _corner(self, stored_px: int, scale: int, draw: np.random.Generator) -> int:
        room = stored_px - self.window_px[scale]
        margin = min(_REACH_LR_PX * scale, room // 2)
        return int(draw.integers(margin, room - margin + 1))

    def _channels(self, patches: Tensor) -> Tensor:
        """uint8 RGB to float 0–1, RGB or luminance, as the network takes it."""
        rgb = patches.float() / 255
        return luminance(rgb) if self.architecture.channels == "y" else rgb


def dihedral(x: Tensor, flips: Tensor) -> Tensor:
    """Flip and turn each square picture of N×C×P×P by its own three booleans (3×N)."""
    vertical, horizontal, transposed = flips[:, :, None, None, None]
    x = torch.where(vertical, x.flip(2), x)
    x = torch.where(horizontal, x.flip(3), x)
    return torch.where(transposed, x.transpose(2, 3), x)


@lru_cache(maxsize=16)
def _order(seed: int, scale: int, epoch: int, num_patches: int) -> NDArray[np.int64]:
    """The order of all patches of a scale in one epoch."""
    return np.random.default_rng([seed, _ORDER, scale, epoch]).permutation(num_patches)
