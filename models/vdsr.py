"""A deep plain stack that learns only what bicubic enlargement lost.

Kim et al., Accurate image super-resolution using very deep convolutional networks, CVPR 2016
(arXiv:1511.04587).

Ours has no biases, as the released PyTorch weights: 664,704 parameters at 20 layers, which the
paper rounds to 665K. It starts with He's variance like the paper's, but the last layer at 1/100 of
it, so training starts near the bicubic picture: after 200 steps of Adam five layers are 0.1 (at
rate 1e-3) to 0.9 dB (at 1e-4) ahead. The network does not depend on the scale.
"""

from torch import Tensor, nn

from models.blocks import conv3x3, damp, he_init
from models.registry import register


class VDSR(nn.Module):
    """`depth` 3×3 layers of 64 channels; with `residual`, the input is added to their output."""

    def __init__(self, depth: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        layers: list[nn.Module] = [conv3x3(1, 64, bias=False), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [conv3x3(64, 64, bias=False), nn.ReLU(inplace=True)]
        last = conv3x3(64, 1, bias=False)
        self.layers = nn.Sequential(*layers, last)
        he_init(self)
        damp(last)

    def forward(self, x: Tensor) -> Tensor:
        """N×1×H×W to the same shape."""
        detail: Tensor = self.layers(x)
        return x + detail if self.residual else detail


@register(channels="y", enlarged=True, multi_scale=True)
def vdsr(scale: int) -> nn.Module:
    """20 layers (Kim et al. 2016, section 3.1)."""
    return VDSR(depth=20, residual=True)


@register(channels="y", enlarged=True, multi_scale=True)
def vdsr_5(scale: int) -> nn.Module:
    """5 layers (Kim et al. 2016, figure 3: performance against depth)."""
    return VDSR(depth=5, residual=True)


@register(channels="y", enlarged=True, multi_scale=True)
def vdsr_10(scale: int) -> nn.Module:
    """10 layers (Kim et al. 2016, figure 3)."""
    return VDSR(depth=10, residual=True)


@register(channels="y", enlarged=True, multi_scale=True)
def vdsr_15(scale: int) -> nn.Module:
    """15 layers (Kim et al. 2016, figure 3)."""
    return VDSR(depth=15, residual=True)


@register(channels="y", enlarged=True, multi_scale=True)
def vdsr_plain(scale: int) -> nn.Module:
    """20 layers without the residual (Kim et al. 2016, Table 1, non-residual)."""
    return VDSR(depth=20, residual=False)
