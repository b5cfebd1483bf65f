import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from models.blocks import num_weights


@pytest.mark.parametrize(
    ("scale", "published"),
    # The released baselines (1.37M, 1.55M, 1.52M) without their 24 frozen mean-shift numbers
    [(2, 1_369_859), (3, 1_554_499), (4, 1_517_571)],
)
def test_baseline_has_the_published_number_of_weights(scale: int, published: int) -> None:
    assert num_weights(models.create("edsr_baseline", scale)) == published


def test_full_network_has_the_published_number_of_weights() -> None:
    with torch.device("meta"):
        assert num_weights(models.create("edsr", 2)) == 40_729_603  # 40.7M


@pytest.mark.parametrize(("name", "factor"), [("edsr_baseline", 1.0), ("edsr", 0.1)])
def test_blocks_scale_their_residual(name: str, factor: float) -> None:
    block = models.create(name, 2).get_submodule("body.0")
    layers = block.get_submodule("layers")
    x = torch.randn(1, next(block.parameters()).shape[1], 4, 5)

    torch.testing.assert_close(block(x), x + factor * layers(x))


def test_forward_is_the_published_one() -> None:
    network = models.create("edsr_baseline", 4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.04)
        state = network.state_dict()

        def conv(name: str, x: Tensor) -> Tensor:
            return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

        x = torch.rand(1, 3, 5, 6, generator=generator)
        mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        head = out = conv("head", x - mean)
        for i in range(16):
            out = out + conv(f"body.{i}.layers.2", conv(f"body.{i}.layers.0", out).relu())
        out = head + conv("body.16", out)
        for i in (0, 2):  # ×4 is twice ×2
            out = functional.pixel_shuffle(conv(f"upsampler.{i}", out), 2)
        torch.testing.assert_close(network(x), conv("tail", out) + mean)


@pytest.mark.parametrize("scale", [2, 3])
def test_the_carried_channels_alone_are_bilinear_enlargement(scale: int) -> None:
    network = models.create("edsr_baseline", scale)
    tail = network.get_submodule("tail")
    assert isinstance(tail, nn.Conv2d)
    with torch.no_grad():
        tail.weight[:, 3:] = 0
        x = torch.rand(1, 3, 6, 7)
        out = network(x)

    expected = functional.interpolate(x, scale_factor=scale, mode="bilinear")
    inside = (..., slice(scale, -scale), slice(scale, -scale))  # the border sees zero padding
    torch.testing.assert_close(out[inside], expected[inside], atol=1e-6, rtol=0)
