"""How far a network looks: a window with its reach around it gives what the whole picture gives."""

from torch import nn

from models.registry import Architecture


def reach_lr_px(network: nn.Module, architecture: Architecture, scale: int) -> int:
    """LR pixels around a pixel that a network's answer there depends on, at most.

    The sum over all convolutions, as if each followed the others. Without the enlargement of the
    input; an interpolation has no layers, so 0.
    """
    reach = sum(
        (layer.kernel_size[0] // 2) * layer.dilation[0]
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    )
    return -(-reach // scale) if architecture.enlarged else reach
