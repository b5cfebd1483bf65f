import pytest
import torch
from torch import Tensor
from torch.nn import functional

import models
from models.blocks import num_weights
from models.lesrcnn import paper_num_parameters


@pytest.mark.parametrize(("scale", "released"), [(2, 626_328), (3, 810_968), (4, 774_040)])
def test_released_number_of_weights(scale: int, released: int) -> None:
    assert num_weights(models.create("lesrcnn", scale)) == released


@pytest.mark.parametrize("scale", models.SCALES)
@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("lesrcnn", 515_456),  # 516K (Tian et al. 2020)
        ("lesrcnn_s", 515_456),
        ("lesrcnn_hn", 368_000),  # 368K
        ("lesrcnn_sn", 630_144),  # 630K
        ("lesrcnn_enlarged", 707_968),  # 707K
        ("lesrcnn_ieeb", 368_000),
        ("lesrcnn_ieeb_rb", 368_000),
    ],
)
def test_the_papers_count(name: str, scale: int, paper: int) -> None:
    assert paper_num_parameters(models.create(name, scale)) == paper


def test_the_paper_counts_no_other_network() -> None:
    with pytest.raises(TypeError, match="not VDSR"):
        paper_num_parameters(models.create("vdsr_5", 2))


def test_one_network_for_three_scales_holds_three_upsamplers() -> None:
    body = 626_328 - (64 * 256 * 9 + 256)
    upsamplers = (64 * 256 * 9 + 256) * 3 + (64 * 576 * 9 + 576)  # ×2, twice ×2, ×3

    assert num_weights(models.create("lesrcnn_s", 4)) == body + upsamplers


def authors_forward(state: dict[str, Tensor], x: Tensor, num_pairs: int) -> Tensor:
    """The released ×2 network, written from its description with nothing but functions.

    The authors' ReLU works in place: what they add to is the rectified sum.
    """

    def conv(name: str, x: Tensor) -> Tensor:
        weight = state[f"{name}.weight"]
        return functional.conv2d(
            x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2
        )

    mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
    first = total = conv("first", x - mean).relu()
    for i in range(num_pairs):
        total = (total + conv(f"pairs.{i}.narrow", conv(f"pairs.{i}.wide", total).relu())).relu()
    large = [functional.pixel_shuffle(conv("upsamplers.2.0", y), 2) for y in (total, first)]
    out = (large[0] + large[1]).relu()
    for i in range(4):
        out = conv(f"refinements.{i}", out).relu()
    return conv("last", out) + mean


def test_forward_is_the_released_one() -> None:
    network = models.create("lesrcnn", 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.requires_grad:  # random everywhere: no starting weights hide a mistake
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
        x = torch.rand(1, 3, 7, 5, generator=generator)

        torch.testing.assert_close(network(x), authors_forward(network.state_dict(), x, 8))


def test_scales_of_the_joint_network_differ_in_their_upsampler_only() -> None:
    two, three = models.create("lesrcnn_s", 2), models.create("lesrcnn_s", 3)
    single = models.create("lesrcnn", 3)
    three.load_state_dict(two.state_dict())
    wanted = {k: v for k, v in two.state_dict().items() if k in single.state_dict()}
    single.load_state_dict(wanted)
    x = torch.rand(1, 3, 5, 6)

    assert torch.equal(three(x), single(x))


@pytest.mark.parametrize("name", ["lesrcnn", "lesrcnn_hn", "lesrcnn_ieeb", "lesrcnn_sn"])
@pytest.mark.parametrize("scale", models.SCALES)
def test_the_carried_channels_alone_are_bilinear_enlargement(name: str, scale: int) -> None:
    network = models.create(name, scale)
    with torch.no_grad():
        network.get_parameter("last.weight")[:, 6:] = 0
        x = torch.rand(1, 3, 9, 8)
        out = network(x)

    expected = functional.interpolate(x, scale_factor=scale, mode="bilinear")
    if scale == 4:  # twice ×2
        expected = functional.interpolate(x, scale_factor=2, mode="bilinear")
        expected = functional.interpolate(expected, scale_factor=2, mode="bilinear")
    inside = (..., slice(scale + 2, -scale - 2), slice(scale + 2, -scale - 2))  # zero padding
    torch.testing.assert_close(out[inside], expected[inside], atol=1e-5, rtol=0)
