"""Layers and starting weights that two or more families share.

`carry` and `carry_enlarged` let a network that has no bicubic picture to add to start at an
enlarged picture all the same: a few of its channels begin as a path along which the input travels
unchanged. Only the starting weights differ; all of them train.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean R, G, B of DIV2K's training pictures in 0–1 (Lim et al. 2017, their released code)."""


class MeanShift(nn.Module):
    """Add `sign` times DIV2K's mean colour. N×3×h×w in, the same out; no parameters.

    The authors write it as a frozen 1×1 convolution; an addition is the same and rounds once.
    """

    mean: Tensor

    def __init__(self, sign: int) -> None:
        super().__init__()
        mean = sign * torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)  # a constant, no part of the weights

    def forward(self, x: Tensor) -> Tensor:
        """N×3×h×w to the same shape."""
        return x + self.mean


def conv3x3(in_channels: int, out_channels: int, bias: bool) -> nn.Conv2d:
    """A 3×3 convolution with zero padding: N×in×h×w to N×out×h×w."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)


def upsampler(scale: int, num_channels: int) -> nn.Sequential:
    """Sub-pixel upsampling, N×C×h×w to N×C×(scale·h)×(scale·w); ×4 is twice ×2.

    Source: Shi et al., Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network, 2016, as EDSR and LESRCNN use it: no activation.
    """
    layers: list[nn.Module] = []
    for step in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
        layers += [conv3x3(num_channels, num_channels * step**2, bias=True), nn.PixelShuffle(step)]
    return nn.Sequential(*layers)


def with_copied_edges(x: Tensor, margin_px: int) -> Tensor:
    """N×C×H×W with its edge pixels copied `margin_px` times outwards, on all four sides.

    What `functional.pad` does with mode "replicate", but of parts whose gradients are added up in
    one order on every device. In memory the channels come last.
    """
    rows = x.permute(0, 2, 3, 1)
    for axis in (1, 2):
        first, last = rows.narrow(axis, 0, 1), rows.narrow(axis, rows.shape[axis] - 1, 1)
        copies = list(rows.shape)
        copies[axis] = margin_px
        rows = torch.cat([first.expand(copies), rows, last.expand(copies)], axis)
    return rows.permute(0, 3, 1, 2)


def convolutions(network: nn.Module) -> Iterator[nn.Conv2d]:
    """All convolutions inside `network`, in the order of its modules."""
    return (layer for layer in network.modules() if isinstance(layer, nn.Conv2d))


def he_init(network: nn.Module) -> None:
    """Draw every trainable convolution's weights from N(0, 2/fan_in), biases 0, in place.

    Source: He et al., Delving deep into rectifiers, 2015, eq. 10.
    """
    for layer in convolutions(network):
        if layer.weight.requires_grad:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def carry(layer: nn.Conv2d, matrix: Tensor) -> None:
    """Make a convolution's first outputs `matrix` (outputs × inputs) times its first inputs.

    In place: pixel by pixel, whatever the kernel's size, and with no part of the other inputs.
    """
    outputs, inputs = matrix.shape
    centre = layer.kernel_size[0] // 2
    layer.weight[:outputs] = 0
    layer.weight[:outputs, :inputs, centre, centre] = matrix
    if layer.bias is not None:
        layer.bias[:outputs] = 0


@torch.no_grad()
def damp(layer: nn.Conv2d) -> None:
    """Divide the weights by 100 and clear the biases, in place.

    For a last layer whose output is added to a picture: training then starts at that picture.
    """
    layer.weight.div_(100)
    if layer.bias is not None:
        layer.bias.zero_()


@torch.no_grad()
def read_out(layer: nn.Conv2d, matrix: Tensor) -> None:
    """Make a last convolution `matrix` (all its outputs × inputs) times its first inputs.

    In place: pixel by pixel, plus the other inputs with damped weights.
    """
    damp(layer)
    inputs = matrix.shape[1]
    centre = layer.kernel_size[0] // 2
    layer.weight[:, :inputs] = 0
    layer.weight[:, :inputs, centre, centre] = matrix


@torch.no_grad()
def carry_enlarged(layer: nn.Conv2d, count: int, kernel: Callable[[Tensor], Tensor]) -> None:
    """Make the first `count` channels behind a pixel shuffle the first `count` inputs, enlarged.

    `layer` is the convolution before the shuffle, from C to C·s² channels; `kernel` an
    interpolation kernel that its size can hold (bilinear 3×3, bicubic 5×5). In place.
    """
    step = math.isqrt(layer.out_channels // layer.in_channels)
    reach = layer.kernel_size[0] // 2
    position = (torch.arange(step) + 0.5) / step - 0.5
    along = kernel(position[:, None] - torch.arange(-reach, reach + 1))  # step × taps
    filters = torch.einsum("ai,bj->abij", along, along).flatten(0, 1)  # step² × taps × taps
    layer.weight[: count * step**2] = 0
    for channel in range(count):
        layer.weight[channel * step**2 : (channel + 1) * step**2, channel] = filters
    if layer.bias is not None:
        layer.bias[: count * step**2] = 0


def num_weights(network: nn.Module) -> int:
    """The number of parameters, biases and frozen ones included."""
    return sum(parameter.numel() for parameter in network.parameters())
