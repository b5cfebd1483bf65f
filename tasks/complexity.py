"""What a network costs on paper: parameters, and the multiply-adds of one picture.

Counted by torch's own counter on tensors without memory, so the largest network and picture cost
nothing. Some papers print multiply-adds under the name FLOPs (the LESRCNN paper does: its 10.90G
for VDSR are the multiply-adds of a 128×128 picture); here each has its name.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.registry import Architecture, create, get

# The size at which the complexity table of the LESRCNN paper (Tian et al. 2020) comes out.
OUTPUT_PX = 128


@dataclass(frozen=True)
class Complexity:
    """Cost of one network for one square picture.

    `num_parameters` counts every parameter, the frozen ones too. `num_flops` is twice
    `num_multiply_adds`, those of convolutions and matrix products; biases, activations, sums and
    interpolation are not counted, as in the papers. `input_px` and `output_px` are the sides of
    the network's input and output.
    """

    num_parameters: int
    num_multiply_adds: int
    num_flops: int
    input_px: int
    output_px: int


def input_shape(architecture: Architecture, scale: int, output_px: int) -> tuple[int, ...]:
    """The smallest square input 1×C×h×h whose output is at least `output_px` pixels wide.

    At ×3 an LR image of 86 pixels gives 258 for 256; a network on enlarged input takes 256.

    Raises:
        ValueError: `output_px` or `scale` below 1.
    """
    if output_px < 1 or scale < 1:
        raise ValueError(f"output_px {output_px!r} and scale {scale!r} must be at least 1")
    side_px = output_px if architecture.enlarged else -(-output_px // scale)
    return (1, architecture.num_channels, side_px, side_px)


def measure_complexity(name: str, scale: int, output_px: int = OUTPUT_PX) -> Complexity:
    """Parameters and multiply-adds of the architecture of that name.

    Raises:
        ValueError: unknown name, a scale other than 2, 3 or 4, or `output_px` below 1.
    """
    shape = input_shape(get(name), scale, output_px)
    # no_grad and not inference_mode: weight normalisation fails there under a dispatch mode
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = create(name, scale).eval()
        output: Tensor = network(torch.empty(shape))
    num_flops = counter.get_total_flops()
    return Complexity(
        num_parameters=sum(parameter.numel() for parameter in network.parameters()),
        num_multiply_adds=num_flops // 2,
        num_flops=num_flops,
        input_px=shape[-1],
        output_px=output.shape[-1],
    )


def measure_step_flops(name: str, scale: int, output_px: int) -> int:
    """Floating-point operations of training on one square pair: forward and backward.

    Counted as `num_flops` is. Less than three times as many: the first layer's input needs no
    gradient, nor do frozen parameters.

    Raises:
        ValueError: unknown name, a scale other than 2, 3 or 4, or `output_px` below 1.
    """
    shape = input_shape(get(name), scale, output_px)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = create(name, scale)
        output: Tensor = network(torch.empty(shape))
        output.sum().backward()  # type: ignore[no-untyped-call]
    return int(counter.get_total_flops())
