import pytest
import torch
from torch import nn
from torch.nn import functional

import models
from models.blocks import num_weights


@pytest.mark.parametrize(
    ("name", "published_weights"),
    [("srcnn", 8_032), ("srcnn_955", 57_184)],  # Dong et al. 2016, section 4.3: without biases
)
def test_published_number_of_weights(name: str, published_weights: int) -> None:
    biases = 64 + 32 + 1

    assert num_weights(models.create(name, 2)) == published_weights + biases


@pytest.mark.parametrize(("name", "kernels"), [("srcnn", (9, 1, 5)), ("srcnn_955", (9, 5, 5))])
def test_is_three_convolutions_on_replicated_borders(
    name: str, kernels: tuple[int, int, int]
) -> None:
    network = models.create(name, 2)
    state = list(network.state_dict().values())
    x = torch.rand(1, 1, 8, 9)

    out = x
    for i, size in enumerate(kernels):
        weight, bias = state[2 * i], state[2 * i + 1]
        assert weight.shape[-2:] == (size, size)
        padded = functional.pad(out, (size // 2,) * 4, mode="replicate")
        out = functional.conv2d(padded, weight, bias)
        out = out.relu() if i < 2 else out
    torch.testing.assert_close(network(x), out)


def test_the_carried_channel_alone_is_the_input() -> None:
    network = models.create("srcnn", 2)
    reconstruction = network.get_submodule("reconstruction")
    assert isinstance(reconstruction, nn.Conv2d)
    with torch.no_grad():
        reconstruction.weight[:, 1:] = 0
        x = torch.rand(1, 1, 6, 7)
        assert torch.equal(network(x), x)
