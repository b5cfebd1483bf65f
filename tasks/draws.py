"""What each step of a training sees: which pairs, where in them, and how they are turned.

All of it is a function of (seed, step) alone: every random draw comes from a generator made of the
seed and of what it is for, so a resumed training sees what an undisturbed one sees.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.interpolation import BICUBIC_REACH_LR_PX
from tasks.window import Window

# What a generator is for; part of its seed, so that no two uses share a stream.
_ORDER, _AUGMENT = 1, 2
# Steps whose windows and turns come from one generator, which costs as much as many draws.
_STEPS_AT_ONCE = 256


def steps_per_epoch(num_patches: Iterable[int], batch_size: int) -> int:
    """Steps after which as many patches were drawn as there are, of all scales together."""
    return max(1, sum(num_patches) // batch_size)


@dataclass(frozen=True)
class Drawn:
    """The pairs of one scale in one batch.

    `turns`, 3×N, say of each pair whether it is put upside down, mirrored and then transposed; the
    windows are those of the turned patches.
    """

    scale: int
    indices: NDArray[np.int64]
    lr_window: Window
    hr_window: Window
    turns: NDArray[np.bool_]


@dataclass(frozen=True)
class Draws:
    """The pairs of every step, for one of several workers.

    By scale: `num_patches` that there are, the side `stored_px` of the HR patches and `window_px`
    of what the network sees of them. Each worker takes every `num_workers`-th pair of a batch, from
    its `rank` on; all of them draw for the whole batch, so that together they see the batch of a
    single one. `enlarged` is whether the network's input is.
    """

    num_patches: dict[int, int]
    stored_px: dict[int, int]
    window_px: dict[int, int]
    enlarged: bool
    batch_size: int
    seed: int
    rank: int = 0
    num_workers: int = 1

    def of_step(self, step: int) -> list[Drawn]:
        """This worker's pairs of a step, scale by scale; a scale without any is left out."""
        block, place = divmod(step, _STEPS_AT_ONCE)
        corners, turns = _augmentation(self.seed, block, len(self.num_patches), self.batch_size)
        drawn, first = [], 0
        for number, (scale, (before, num)) in enumerate(self._shares(step)):
            mine = slice(first + self.rank, first + num, self.num_workers)
            indices = self._indices(scale, before, num)[self.rank :: self.num_workers]
            if len(indices):
                windows = self._windows(scale, corners[place, number].tolist())
                drawn.append(Drawn(scale, indices, *windows, turns[place, :, mine]))
            first += num
        return drawn

    def _shares(self, step: int) -> list[tuple[int, tuple[int, int]]]:
        """For each scale: how many of its patches went before, and how many are in this batch.

        The batch is split evenly; what does not divide goes round.
        """
        num_scales = len(self.num_patches)
        even, rest = divmod(self.batch_size, num_scales)
        rounds, turn = divmod(step, num_scales)
        shares = []
        for place, scale in enumerate(self.num_patches):
            extras = [(turns + place) % num_scales < rest for turns in range(num_scales)]
            before = step * even + rounds * rest + sum(extras[:turn])
            shares.append((scale, (before, even + extras[turn])))
        return shares

    def _indices(self, scale: int, before: int, num: int) -> NDArray[np.int64]:
        """The next `num` patches after the first `before`; a batch may span several epochs."""
        num_patches = self.num_patches[scale]
        epoch, place = divmod(before, num_patches)
        parts = [np.empty(0, np.int64)]
        while num:
            parts.append(_order(self.seed, scale, epoch, num_patches)[place : place + num])
            num -= len(parts[-1])
            epoch, place = epoch + 1, 0
        return np.concatenate(parts)

    def _windows(self, scale: int, corner: list[int]) -> tuple[Window, Window]:
        """The LR and the HR window of a part; the same place for the whole of it.

        Of a network on LR input the same pixels. One on enlarged input needs the LR pixels that
        bicubic looks at; where there is room, its window keeps so far away from the patch's border
        that it is enlarged just as it would be in the whole picture.
        """
        side, stored_px = self.window_px[scale], self.stored_px[scale]
        if not self.enlarged:
            y, x = (_below((stored_px - side) // scale + 1, drawn) for drawn in corner)
            return Window(y, x, side // scale), Window(y * scale, x * scale, side)
        y, x = (_corner(stored_px, side, scale, drawn) for drawn in corner)
        lr_px = stored_px // scale
        reached = min(lr_px, -(-side // scale) + 1 + 2 * BICUBIC_REACH_LR_PX)
        top, left = (
            min(max(0, at // scale - BICUBIC_REACH_LR_PX), lr_px - reached) for at in (y, x)
        )
        return Window(top, left, reached), Window(y, x, side)


def _corner(stored_px: int, side: int, scale: int, drawn: int) -> int:
    room = stored_px - side
    margin = min(BICUBIC_REACH_LR_PX * scale, room // 2)
    return margin + _below(room - 2 * margin + 1, drawn)


def _below(limit: int, drawn: int) -> int:
    """A whole number from 0 to `limit` - 1, all but equally likely, from one of 32 bits."""
    return drawn * limit >> 32


@lru_cache(maxsize=4)
def _augmentation(
    seed: int, block: int, num_scales: int, batch_size: int
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Of some steps: two numbers of 32 bits for each scale, three bits for each pair."""
    draw = np.random.default_rng([seed, _AUGMENT, block])
    corners = draw.integers(0, 2**32, (_STEPS_AT_ONCE, num_scales, 2), dtype=np.uint32)
    turns = draw.integers(0, 2, (_STEPS_AT_ONCE, 3, batch_size), dtype=np.bool_)
    return corners, turns


@lru_cache(maxsize=16)
def _order(seed: int, scale: int, epoch: int, num_patches: int) -> NDArray[np.int64]:
    """The order of all patches of a scale in one epoch."""
    return np.random.default_rng([seed, _ORDER, scale, epoch]).permutation(num_patches)
