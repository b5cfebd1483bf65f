"""Few channels between blocks, many inside them, before each ReLU.

Yu et al., Wide activation for efficient and accurate image super-resolution, 2018
(arXiv:1808.08718), WDSR-A.

Ours differs: pictures are in 0–1, so the authors' (x - 255·mean)/127.5 is (x - mean)/0.5. The 5×5
layer starts as bicubic enlargement and the deep branch at 1/100 of torch's own starting weights,
so training starts at the bicubic picture.
"""

from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from models.blocks import MeanShift, carry_enlarged, damp
from models.interpolation import cubic_kernel
from models.registry import register


class WideBlock(nn.Module):
    """x + conv(ReLU(conv(x))) with `wide` channels inside. N×`narrow`×h×w in, the same out."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _normed(_conv(narrow, wide, 3)), nn.ReLU(inplace=True), _normed(_conv(wide, narrow, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        """N×`narrow`×h×w to the same shape."""
        residual: Tensor = self.layers(x)
        return x + residual


class WDSR(nn.Module):
    """N×3×h×w to N×3×(scale·h)×(scale·w), RGB: a deep branch and one 5×5 layer, added."""

    def __init__(self, scale: int, narrow: int, wide: int, num_blocks: int) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1)
        self.head = _normed(_conv(3, narrow, 3))
        self.body = nn.Sequential(*(WideBlock(narrow, wide) for _ in range(num_blocks)))
        tail, skip = _conv(narrow, 3 * scale**2, 3), _conv(3, 3 * scale**2, 5)
        carry_enlarged(skip, 3, cubic_kernel)
        damp(tail)
        self.tail, self.skip = _normed(tail), _normed(skip)
        self.shuffle = nn.PixelShuffle(scale)
        self.add_mean = MeanShift(1)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×h×w to N×3×(scale·h)×(scale·w)."""
        centred = self.sub_mean(x) / 0.5
        deep = self.tail(self.body(self.head(centred)))  # N×3·s²×h×w
        large = self.shuffle(deep + self.skip(centred))  # N×3×H×W
        out: Tensor = self.add_mean(large * 0.5)
        return out


def _conv(in_channels: int, out_channels: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, padding=size // 2)


def _normed(conv: nn.Conv2d) -> nn.Module:
    """The convolution with each filter as a length times a direction, both trained."""
    normed: nn.Module = weight_norm(conv)
    return normed


@register(channels="rgb", enlarged=False)
def wdsr_a(scale: int) -> nn.Module:
    """16 blocks 32→192→32 (WDSR-A of Yu et al. 2018, widened sixfold)."""
    return WDSR(scale=scale, narrow=32, wide=192, num_blocks=16)
