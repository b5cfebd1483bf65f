import pytest
import torch
from torch import Tensor
from torch.nn import functional

import models
from models.blocks import num_weights
from models.interpolation import enlarge


def conv_size(in_channels: int, out_channels: int, size: int) -> int:
    """Weights, biases, and one length per filter for the weight normalisation."""
    return in_channels * out_channels * size**2 + 2 * out_channels


@pytest.mark.parametrize("scale", models.SCALES)
def test_number_of_weights(scale: int) -> None:
    blocks = 16 * (conv_size(32, 192, 3) + conv_size(192, 32, 3))
    ends = conv_size(3, 32, 3) + conv_size(32, 3 * scale**2, 3) + conv_size(3, 3 * scale**2, 5)

    assert num_weights(models.create("wdsr_a", scale)) == blocks + ends


def test_forward_is_the_published_one() -> None:
    network = models.create("wdsr_a", 3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator).abs() * 0.3 - 0.1)
        state = network.state_dict()

        def conv(name: str, x: Tensor) -> Tensor:
            length = state[f"{name}.parametrizations.weight.original0"]
            direction = state[f"{name}.parametrizations.weight.original1"]
            norm = direction.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
            size = direction.shape[-1]
            return functional.conv2d(
                x, length * direction / norm, state[f"{name}.bias"], padding=size // 2
            )

        # Yu et al. 2018, released code: (x - 255·mean)/127.5 in, ·127.5 + 255·mean out
        x = 255 * torch.rand(1, 3, 5, 4, generator=generator)
        mean = 255 * torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        centred = (x - mean) / 127.5
        out = conv("head", centred)
        for i in range(16):
            out = out + conv(f"body.{i}.layers.2", conv(f"body.{i}.layers.0", out).relu())
        shuffled = [
            functional.pixel_shuffle(y, 3) for y in (conv("tail", out), conv("skip", centred))
        ]
        expected = (shuffled[0] + shuffled[1]) * 127.5 + mean
        torch.testing.assert_close(network(x / 255) * 255, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("scale", models.SCALES)
def test_skip_starts_as_bicubic_enlargement(scale: int) -> None:
    network = models.create("wdsr_a", scale)
    with torch.no_grad():
        network.get_parameter("tail.parametrizations.weight.original0").zero_()
        x = torch.rand(1, 3, 8, 7)
        out = network(x)

    inside = (..., slice(2 * scale, -2 * scale), slice(2 * scale, -2 * scale))
    torch.testing.assert_close(out[inside], enlarge(x, scale)[inside], atol=1e-6, rtol=0)
