import pytest
import torch
from torch.nn import functional

import models
from models.blocks import num_weights


@pytest.mark.parametrize(
    ("name", "published"),
    [("cnn_small", 1_683), ("cnn_medium", 42_627), ("cnn_deep", 333_379)],
)
def test_published_number_of_weights(name: str, published: int) -> None:
    assert num_weights(models.create(name, 2)) == published


def test_is_a_stack_on_the_luminance_added_to_the_picture() -> None:
    network = models.create("cnn_small", 2)
    x = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    network.double()
    weights = list(network.parameters())

    y = (
        torch.from_numpy(
            65.481 * x[0, 0].numpy() + 128.553 * x[0, 1].numpy() + 24.966 * x[0, 2].numpy() + 16
        )[None, None]
        / 255
    )
    for i in range(3):
        y = functional.conv2d(
            y if i == 0 else y.relu(), weights[2 * i], weights[2 * i + 1], padding=1
        )
    torch.testing.assert_close(network(x), x + y)


def test_starts_close_to_the_enlarged_picture() -> None:
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    for name in ("cnn_small", "cnn_medium", "cnn_deep", "waifu2x"):
        torch.manual_seed(0)
        assert (models.create(name, 2)(x) - x).abs().mean() < 0.02
