"""One training on several workers: who we are among them, and what they add up.

`torch.distributed` is asked and nothing else, so whoever starts the workers (Ray, torchrun, a test)
need not be known. Without it a training is its own only worker, and nothing here costs it anything.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Workers:
    """Worker `rank` of `num`, and the device it computes on."""

    rank: int
    num: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the worker that validates, reports and writes."""
        return self.rank == 0

    def sum_all(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor summed over all workers, in one message of the widest precision among them.

        Every worker must bring tensors of the same shapes and types.
        """
        if self.num == 1:
            return list(tensors)
        flat = torch.cat([each.flatten() for each in tensors])
        distributed.all_reduce(flat)
        parts: tuple[Tensor, ...] = torch.split(flat, [each.numel() for each in tensors])
        return [part.view_as(each) for part, each in zip(parts, tensors, strict=True)]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set at any worker; every worker must ask for it."""
        if self.num == 1:
            return flag
        (votes,) = self.sum_all([torch.tensor(float(flag), device=self.device)])
        return bool(votes.item())

    def agree(self, number: int) -> bool:
        """Whether all workers have this same number; every worker must ask for it."""
        if self.num == 1:
            return True
        ends = torch.tensor([float(number), -float(number)], device=self.device)
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
        return ends[0].item() == -ends[1].item()


def current_workers() -> Workers:
    """This process among the workers of its training, and its device: a GPU where there is one."""
    rank, num = 0, 1
    if distributed.is_available() and distributed.is_initialized():
        rank, num = distributed.get_rank(), distributed.get_world_size()
    return Workers(rank, num, _device(num))


def _device(num_workers: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if num_workers == 1:
        return torch.device("cuda")
    # Workers on one machine share its GPUs in turn; a launcher says which of them we are.
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device
