"""How exactly a device multiplies: single precision as it stands, or rounded for tensor cores.

A GPU may round the factors of a convolution to TF32 (10 bits of mantissa), and torch lets it
unless it is told not to. What is measured, compared or shown is computed without.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Tensor cores know TF32 from NVIDIA's Ampere on.
_FIRST_WITH_TF32 = (8, 0)


def allow_tf32(allowed: bool) -> None:
    """Let convolutions and matrix products on a GPU round their factors to TF32, or not."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Compute in single precision as it stands; what was allowed before is allowed again after."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    allow_tf32(False)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def used_precision(asked: str, device: torch.device) -> str:
    """What a device makes of fp32, tf32 or bf16: one that does not know TF32 computes in fp32."""
    if asked != "tf32":
        return asked
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _FIRST_WITH_TF32:
        return "fp32"
    return asked
