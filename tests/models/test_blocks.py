import pytest
import torch
from torch import nn
from torch.nn import functional

from models.blocks import (
    DIV2K_MEAN,
    MeanShift,
    carry,
    carry_enlarged,
    conv3x3,
    damp,
    he_init,
    num_weights,
    read_out,
    upsampler,
    with_copied_edges,
)
from models.interpolation import triangle_kernel


def test_mean_shift_adds_div2ks_colour_and_holds_no_weights() -> None:
    black = torch.zeros(1, 3, 1, 2)

    assert DIV2K_MEAN == (0.4488, 0.4371, 0.4040)  # EDSR-PyTorch, rgb_mean
    torch.testing.assert_close(MeanShift(1)(black)[0, :, 0, 1], torch.tensor(DIV2K_MEAN))
    torch.testing.assert_close(MeanShift(-1)(MeanShift(1)(black)), black)
    assert MeanShift(1).state_dict() == {}


@pytest.mark.parametrize(("scale", "expected"), [(2, 147_712), (3, 332_352), (4, 2 * 147_712)])
def test_upsampler_size(scale: int, expected: int) -> None:
    layers = upsampler(scale, 64)

    assert num_weights(layers) == expected
    assert layers(torch.rand(1, 64, 3, 2)).shape == (1, 64, 3 * scale, 2 * scale)


@pytest.mark.parametrize("margin_px", [0, 1, 4])
def test_edges_are_copied_as_torch_does_and_their_gradients_too(margin_px: int) -> None:
    x = torch.rand(2, 3, 4, 1, dtype=torch.float64, requires_grad=True)
    padded = with_copied_edges(x, margin_px)
    expected = functional.pad(x, (margin_px,) * 4, mode="replicate")
    gradient = torch.rand_like(expected)

    assert torch.equal(padded, expected)
    torch.testing.assert_close(
        torch.autograd.grad(padded, x, gradient), torch.autograd.grad(expected, x, gradient)
    )


def test_copied_edges_keep_the_layout_of_tensor_cores() -> None:
    x = torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)

    assert with_copied_edges(x, 2).is_contiguous(memory_format=torch.channels_last)


def test_he_init_leaves_frozen_layers_alone() -> None:
    torch.manual_seed(0)
    trained, frozen = conv3x3(100, 100, bias=True), conv3x3(3, 3, bias=True).requires_grad_(False)
    before = frozen.weight.clone()

    he_init(nn.Sequential(trained, frozen))

    torch.testing.assert_close(trained.weight.var(), torch.tensor(2 / 900), rtol=0.02, atol=0)
    assert trained.bias is not None
    assert not trained.bias.any()
    assert torch.equal(frozen.weight, before)


def test_carry_passes_the_first_channels_through() -> None:
    layer = conv3x3(4, 5, bias=True)
    x = torch.rand(1, 4, 6, 7)
    before = layer(x)

    carry(layer, torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]]))

    out = layer(x)
    torch.testing.assert_close(out[:, :2], x[:, :2])
    torch.testing.assert_close(out[:, 2], 2 * x[:, 0] - x[:, 1])
    assert torch.equal(out[:, 3:], before[:, 3:])


def test_read_out_adds_a_hundredth_of_the_rest() -> None:
    layer, before = conv3x3(4, 2, bias=True), conv3x3(4, 2, bias=False)
    before.load_state_dict({"weight": layer.weight})
    with torch.no_grad():
        before.weight[:, :2] = 0
    x = torch.rand(1, 4, 6, 7)

    read_out(layer, torch.eye(2))

    torch.testing.assert_close(layer(x), x[:, :2] + before(x) / 100)


def test_damp_leaves_a_hundredth() -> None:
    layer = conv3x3(3, 2, bias=True)
    expected = layer.weight.detach() / 100

    damp(layer)

    assert torch.equal(layer.weight, expected)
    assert layer.bias is not None
    assert not layer.bias.any()


@pytest.mark.parametrize("step", [2, 3])
def test_carry_enlarged_is_torchs_bilinear(step: int) -> None:
    layer = conv3x3(5, 5 * step**2, bias=True)
    x = torch.rand(1, 5, 6, 7)

    carry_enlarged(layer, 2, triangle_kernel)

    out = functional.pixel_shuffle(layer(x), step)[:, :2, step:-step, step:-step]
    expected = functional.interpolate(x[:, :2], scale_factor=step, mode="bilinear")
    torch.testing.assert_close(out, expected[..., step:-step, step:-step])
