"""Small 3×3 stacks that add RGB detail to the bicubic picture, judged from its luminance.

CNN_SMALL, CNN_MEDIUM and CNN_DEEP are the three networks that the published four-network tables
set beside waifu2x. The tables give one channel in and three out. Luminance alone cannot restore
colour, so we read the three outputs as the RGB detail to be added to the enlarged picture.

Zero padding, as in VDSR: training and use see the same borders whatever the picture's size, and
the ruler's crop hides most of the effect. The last layer starts near zero, so training starts at
the bicubic picture.
"""

import itertools

from torch import Tensor, nn

from models.blocks import conv3x3, damp, he_init
from models.luminance import luminance
from models.registry import register


class DetailCNN(nn.Module):
    """3×3 layers with `channels` (the first 1, the last 3), ReLU between them."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(channels[:-1]):
            layers += [conv3x3(before, after, bias=True), nn.ReLU(inplace=True)]
        last = conv3x3(channels[-2], channels[-1], bias=True)
        self.layers = nn.Sequential(*layers, last)
        he_init(self)
        damp(last)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×H×W to the same shape."""
        detail: Tensor = self.layers(luminance(x))
        return x + detail


@register(channels="rgb", enlarged=True)
def cnn_small(scale: int) -> nn.Module:
    """1-8-16-3: 1,683 parameters."""
    return DetailCNN(channels=(1, 8, 16, 3))


@register(channels="rgb", enlarged=True)
def cnn_medium(scale: int) -> nn.Module:
    """1-16-32-64-32-3: 42,627 parameters."""
    return DetailCNN(channels=(1, 16, 32, 64, 32, 3))


@register(channels="rgb", enlarged=True)
def cnn_deep(scale: int) -> nn.Module:
    """1-32-64-128-128-64-32-3: 333,379 parameters."""
    return DetailCNN(channels=(1, 32, 64, 128, 128, 64, 32, 3))
