"""vgg-7, the network of waifu2x: seven 3×3 layers, no pooling.

nagadomi, waifu2x (https://github.com/nagadomi/waifu2x), after SRCNN and VGG.

Ours differs: the published table gives one channel in and three out (289,891 parameters), so the
input is the luminance and the outputs are RGB detail, as in `models/cnn.py`; ReLU instead of
leaky ReLU, zero padding instead of a shrinking output.
"""

from torch import nn

from models.cnn import DetailCNN
from models.registry import register


@register(channels="rgb", enlarged=True)
def waifu2x(scale: int) -> nn.Module:
    """1-32-32-64-64-128-128-3: 289,891 parameters."""
    return DetailCNN(channels=(1, 32, 32, 64, 64, 128, 128, 3))
