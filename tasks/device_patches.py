"""The patches of one scale on a GPU: cut out, flipped and turned there, for many batches at once.

Launching an operation costs the thread that trains as much as it costs to launch a layer of a small
network, so a burst of batches is made by a few dozen of them, whatever its size. Patches that are
few enough lie in the GPU's memory from the start; of others a thread gathers those that the next
burst needs, and they are sent in one piece. The pixels are the same.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.draws import Drawn
from tasks.shards import Patches, ShardSet

# Of the memory that is free when a training starts, the part that patches may take.
_PART_OF_FREE = 1 / 8
_UPLOAD_BYTES = 2**26
# A batch has room for a multiple of so many pairs and thus begins at a multiple of 32 bytes, which
# is all that cuDNN asks for: which kernels it takes, and how they add up, may depend on that.
PAIRS_ALIGNED = 8


@dataclass(frozen=True)
class Prepared:
    """What a GPU needs for a burst, in memory that it can fetch by itself.

    `table`, 8×N: of each pair its row among the patches, its three turns, and the corners (top,
    left) of the LR and of the HR window. `num_pairs` are those of each step that count; room for
    `num_places` is theirs. `patches` are LR and HR ones, unless all lie on the GPU.
    """

    table: Tensor
    num_pairs: list[int]
    lr_side: int
    hr_side: int
    patches: tuple[Tensor, Tensor] | None

    @property
    def num_places(self) -> list[int]:
        """Of each step: the pairs that count, and as many more as it takes to be aligned."""
        return [num + -num % PAIRS_ALIGNED for num in self.num_pairs]


@dataclass(frozen=True)
class Cut:
    """Turned windows on the GPU, uint8, N×3×P×P; `corners`, 2×N, of HR in enlarged LR ones."""

    lr: Tensor
    hr: Tensor
    corners: Tensor


def fit_in_memory(shard_sets: list[ShardSet], device: torch.device) -> bool:
    """Whether these patches may lie in the GPU's memory."""
    num_bytes = sum(each.lr.nbytes + each.hr.nbytes for one in shard_sets for each in one.shards)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return num_bytes <= _PART_OF_FREE * free_bytes


class DevicePatches:
    """All patch pairs of one scale; `resident` ones lie in the GPU's memory."""

    def __init__(
        self, shards: ShardSet, scale: int, device: torch.device, *, resident: bool
    ) -> None:
        self._shards, self._scale, self._device = shards, scale, device
        self._resident: tuple[Tensor, Tensor] | None = None
        if resident:
            self._resident = (
                _uploaded([each.lr for each in shards.shards], device),
                _uploaded([each.hr for each in shards.shards], device),
            )

    def prepare(self, steps: list[Drawn | None]) -> Prepared | None:
        """What is needed for these steps, some of which may have no pairs; nothing is sent yet."""
        drawn = [_filled(each) for each in steps if each is not None]
        if not drawn:
            return None
        rows = np.concatenate([each.indices for each in drawn])
        patches = None
        if self._resident is None:
            patches, rows = self._gathered(rows), np.arange(len(rows))
        num_pairs = [0 if each is None else len(each.indices) for each in steps]
        return Prepared(
            _pinned(_table(rows, drawn)),
            num_pairs,
            drawn[0].lr_window.side,
            drawn[0].hr_window.side,
            patches,
        )

    def _gathered(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        first = self._shards.shards[0]
        lr, hr = (
            torch.empty((len(rows), *each.shape[1:]), dtype=torch.uint8, pin_memory=True)
            for each in (first.lr, first.hr)
        )
        self._shards.gather_into(rows, lr.numpy(), hr.numpy())
        return lr, hr

    def cut(self, prepared: Prepared) -> Cut:
        """The windows of a burst, turned; the GPU is not waited for."""
        table = prepared.table.to(self._device, non_blocking=True)
        if self._resident is not None:
            lr, hr = (each.index_select(0, table[0]) for each in self._resident)
        else:
            assert prepared.patches is not None
            lr, hr = (each.to(self._device, non_blocking=True) for each in prepared.patches)
        turns, lr_corners, hr_corners = table[1:4], table[4:6], table[6:8]
        return Cut(
            cut_squares(lr, lr_corners, prepared.lr_side, turns),
            cut_squares(hr, hr_corners, prepared.hr_side, turns),
            hr_corners - self._scale * lr_corners,
        )


def cut_squares(patches: Tensor, corners: Tensor, side: int, turns: Tensor | None = None) -> Tensor:
    """A square of each patch, after the patches were turned: N×C×S×S to N×C×`side`×`side`.

    `corners` are 2×N, top and left; `turns` 3×N, each 0 or 1: upside down, mirrored, then
    transposed. All of them int64.
    """
    num, channels, height, width = patches.shape
    along = torch.arange(side, device=patches.device)
    row, column = (each[:, None] + along for each in corners)
    row, column = row[:, :, None], column[:, None, :]
    if turns is not None:
        upside_down, mirrored, transposed = (turns != 0)[:, :, None, None]
        row, column = torch.where(transposed, column, row), torch.where(transposed, row, column)
        row = torch.where(upside_down, height - 1 - row, row)
        column = torch.where(mirrored, width - 1 - column, column)
    places = (row * width + column).view(num, 1, -1).expand(-1, channels, -1)
    return patches.flatten(2).gather(2, places).view(num, channels, side, side)


def _filled(drawn: Drawn) -> Drawn:
    """The same, with the last pair again until there are as many as there is room for."""
    missing = -len(drawn.indices) % PAIRS_ALIGNED
    if not missing:
        return drawn
    again = np.append(np.arange(len(drawn.indices)), np.full(missing, -1))
    return replace(drawn, indices=drawn.indices[again], turns=drawn.turns[:, again])


def _pinned(table: NDArray[np.int64]) -> Tensor:
    pinned = torch.empty(table.shape, dtype=torch.int64, pin_memory=True)
    pinned.numpy()[:] = table
    return pinned


def _table(rows: NDArray[np.int64], drawn: list[Drawn]) -> NDArray[np.int64]:
    """`Prepared.table`."""
    num_pairs = [len(each.indices) for each in drawn]
    corners = [
        (each.lr_window.top, each.lr_window.left, each.hr_window.top, each.hr_window.left)
        for each in drawn
    ]
    turns = np.concatenate([each.turns for each in drawn], axis=1)
    return np.vstack([rows, turns, np.repeat(np.array(corners).T, num_pairs, axis=1)])


def _uploaded(shards: list[Patches], device: torch.device) -> Tensor:
    """The patches of all shards in one piece, sent in pieces: main memory may be smaller."""
    num = sum(map(len, shards))
    whole = torch.empty((num, *shards[0].shape[1:]), dtype=torch.uint8, device=device)
    place = 0
    for each in shards:
        at_once = max(1, _UPLOAD_BYTES // each[0].nbytes)
        for start in range(0, len(each), at_once):
            # A copy: torch wants memory that it may write to.
            piece = torch.from_numpy(each[start : start + at_once].copy())
            whole[place : place + len(piece)].copy_(piece)
            place += len(piece)
    return whole
