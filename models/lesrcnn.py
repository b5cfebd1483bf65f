"""Cheap 3×3/1×1 pairs that keep adding to what the first layer saw, refined after upsampling.

Tian et al., Lightweight image super-resolution with enhanced CNN, Knowledge-Based Systems 2020
(arXiv:2007.04344): an information extraction and enhancement block (IEEB: the pairs and their
running sum), a reconstruction block (RB: the same upsampler on the first and the last features)
and an information refinement block (IRB: 3×3 layers on the large picture).

As released, except that the upsampler is not chosen at each call: a network serves the scale it
was built for, and LESRCNN-S holds the upsamplers of all three. And except for the starting
weights: He's variance, the pairs' sums damped, and six channels (each colour's positive and
negative part, since every step ends in a ReLU) that carry the picture through, so training starts
near the bilinear picture. After 100 steps of Adam that is 9 dB ahead of torch's own starting
weights, and 10 to 12 dB for the variants without sums.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.blocks import (
    DIV2K_MEAN,
    carry,
    carry_enlarged,
    conv3x3,
    convolutions,
    he_init,
    read_out,
    upsampler,
)
from models.interpolation import triangle_kernel
from models.registry import SCALES, register

CHANNELS = 64


class Pair(nn.Module):
    """3×3, ReLU, then `second_kernel` × `second_kernel`. N×64×h×w in, the same out."""

    def __init__(self, second_kernel: int) -> None:
        super().__init__()
        self.wide = conv3x3(CHANNELS, CHANNELS, bias=False)
        self.narrow = nn.Conv2d(
            CHANNELS, CHANNELS, second_kernel, padding=second_kernel // 2, bias=False
        )

    @torch.no_grad()
    def start(self, carried: int, enhancement: bool) -> None:
        """Set the starting weights that leave the first `carried` channels as they are."""
        if enhancement:  # the sum already holds them; damp the rest, or the sum doubles each time
            self.narrow.weight.mul_(0.1)
            carry(self.narrow, torch.zeros(carried, carried))
        else:
            carry(self.wide, torch.eye(carried))
            carry(self.narrow, torch.eye(carried))

    def forward(self, x: Tensor) -> Tensor:
        """N×64×h×w to the same shape."""
        out: Tensor = self.narrow(functional.relu(self.wide(x)))
        return out


class LESRCNN(nn.Module):
    """N×3×h×w to N×3×(scale·h)×(scale·w), RGB.

    `held_scales` are the scales that have an upsampler in the weights, `scale` the one that is
    used. `second_kernel` is the size of each pair's second layer. With `enhancement`, a pair's
    output is added to the sum of all before it; with `reconstruction`, the upsampled first
    features are added to the upsampled last ones. `num_refinements` counts the 3×3 layers between
    upsampling and the last layer.
    """

    def __init__(
        self,
        *,
        scale: int,
        held_scales: tuple[int, ...],
        num_pairs: int,
        second_kernel: int,
        enhancement: bool,
        reconstruction: bool,
        num_refinements: int,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.enhancement = enhancement
        self.reconstruction = reconstruction
        self.sub_mean = _colour_shift(-1)
        self.first = conv3x3(3, CHANNELS, bias=False)
        self.pairs = nn.ModuleList(Pair(second_kernel) for _ in range(num_pairs))
        self.upsamplers = nn.ModuleDict({str(s): upsampler(s, CHANNELS) for s in held_scales})
        self.refinements = nn.ModuleList(
            conv3x3(CHANNELS, CHANNELS, bias=False) for _ in range(num_refinements)
        )
        self.last = conv3x3(CHANNELS, 3, bias=False)
        self.add_mean = _colour_shift(1)
        self._start_at_bilinear()

    def _start_at_bilinear(self) -> None:
        he_init(self)
        halves = torch.eye(3).kron(torch.tensor([[1.0], [-1.0]]))  # 6×3: each colour, negated too
        carry(self.first, halves)
        for pair in self.modules():
            if isinstance(pair, Pair):
                pair.start(carried=6, enhancement=self.enhancement)
        for layer in convolutions(self.upsamplers):
            carry_enlarged(layer, 6, triangle_kernel)
        for layer in convolutions(self.refinements):
            carry(layer, torch.eye(6))
        times_upsampled = 2 if self.reconstruction else 1
        read_out(self.last, halves.T / times_upsampled)

    def forward(self, x: Tensor) -> Tensor:
        """N×3×h×w to N×3×(scale·h)×(scale·w)."""
        upsample = self.upsamplers[str(self.scale)]
        first = functional.relu(self.first(self.sub_mean(x)))  # N×64×h×w
        large = upsample(self._features(first))  # N×64×H×W
        if self.reconstruction:
            large = large + upsample(first)
        large = functional.relu(large)
        for layer in self.refinements:
            large = functional.relu(layer(large))
        out: Tensor = self.add_mean(self.last(large))
        return out

    def _features(self, total: Tensor) -> Tensor:
        """The pairs, each added to what came before it. N×64×h×w to the same shape.

        The sum itself goes through the ReLU: the authors' ReLU works in place, so their weights
        are made for it.
        """
        for pair in self.pairs:
            out = pair(total)
            total = functional.relu(total + out if self.enhancement else out)
        return total


def paper_num_parameters(network: nn.Module) -> int:
    """The parameters of a LESRCNN as its paper counts them: 515,456 for LESRCNN ("516K").

    The paper takes the upsampler as one 64→64 3×3 layer without bias, whatever the scale, and
    leaves the colour shifts out (Tian et al. 2020, complexity: LESRCNN 516K, HN 368K, SN 630K).

    Raises:
        TypeError: `network` is of another family.
    """
    if not isinstance(network, LESRCNN):
        raise TypeError(f"the paper counts LESRCNNs, not {type(network).__name__}")
    counted = sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and not name.startswith("upsamplers.")
    )
    return counted + CHANNELS * CHANNELS * 3 * 3


def _colour_shift(sign: int) -> nn.Conv2d:
    """Add `sign` times the mean colour, as a frozen 1×1 convolution.

    Only as the released weights hold it, whose 626,328 parameters count these 12 twice.
    """
    shift = nn.Conv2d(3, 3, kernel_size=1)
    mean = sign * torch.tensor(DIV2K_MEAN)
    shift.weight = nn.Parameter(torch.eye(3).view(3, 3, 1, 1), requires_grad=False)
    shift.bias = nn.Parameter(mean, requires_grad=False)
    return shift


@register(channels="rgb", enlarged=False)
def lesrcnn(scale: int) -> nn.Module:
    """As released: 626,328, 810,968 and 774,040 parameters at ×2, ×3 and ×4."""
    return LESRCNN(
        scale=scale,
        held_scales=(scale,),
        num_pairs=8,
        second_kernel=1,
        enhancement=True,
        reconstruction=True,
        num_refinements=4,
    )


@register(channels="rgb", enlarged=False, multi_scale=True)
def lesrcnn_s(scale: int) -> nn.Module:
    """LESRCNN-S: one network for three scales; only the upsamplers differ."""
    return LESRCNN(
        scale=scale,
        held_scales=SCALES,
        num_pairs=8,
        second_kernel=1,
        enhancement=True,
        reconstruction=True,
        num_refinements=4,
    )


@register(channels="rgb", enlarged=False)
def lesrcnn_ieeb_rb(scale: int) -> nn.Module:
    """IEEB+RB of the paper's ablation: no refinement layers."""
    return LESRCNN(
        scale=scale,
        held_scales=(scale,),
        num_pairs=8,
        second_kernel=1,
        enhancement=True,
        reconstruction=True,
        num_refinements=0,
    )


@register(channels="rgb", enlarged=False)
def lesrcnn_ieeb(scale: int) -> nn.Module:
    """IEEB of the ablation: only the last features are upsampled, and nothing refines them."""
    return LESRCNN(
        scale=scale,
        held_scales=(scale,),
        num_pairs=8,
        second_kernel=1,
        enhancement=True,
        reconstruction=False,
        num_refinements=0,
    )


@register(channels="rgb", enlarged=False)
def lesrcnn_hn(scale: int) -> nn.Module:
    """HN of the ablation: the pairs one after the other, without sums (paper: 368,000)."""
    return LESRCNN(
        scale=scale,
        held_scales=(scale,),
        num_pairs=8,
        second_kernel=1,
        enhancement=False,
        reconstruction=False,
        num_refinements=0,
    )


@register(channels="rgb", enlarged=False)
def lesrcnn_sn(scale: int) -> nn.Module:
    """SN of the ablation: HN with sixteen 3×3 layers for the pairs (paper: 630,144)."""
    return LESRCNN(
        scale=scale,
        held_scales=(scale,),
        num_pairs=8,
        second_kernel=3,
        enhancement=False,
        reconstruction=False,
        num_refinements=0,
    )


@register(channels="rgb", enlarged=False)
def lesrcnn_enlarged(scale: int) -> nn.Module:
    """The enlarged variant of "707K" parameters, of which only the figure is published.

    Ten pairs and seven refinement layers are our reading: 707,968 by the paper's count.
    """
    return LESRCNN(
        scale=scale,
        held_scales=(scale,),
        num_pairs=10,
        second_kernel=1,
        enhancement=True,
        reconstruction=True,
        num_refinements=7,
    )
