from torch import nn

import models
from models.blocks import num_weights


def test_published_number_of_weights() -> None:
    assert num_weights(models.create("waifu2x", 2)) == 289_891


def test_seven_layers_of_the_published_widths() -> None:
    layers = [m for m in models.create("waifu2x", 2).modules() if isinstance(m, nn.Conv2d)]

    assert [m.in_channels for m in layers] == [1, 32, 32, 64, 64, 128, 128]
    assert [m.out_channels for m in layers] == [32, 32, 64, 64, 128, 128, 3]
    assert {m.kernel_size for m in layers} == {(3, 3)}
