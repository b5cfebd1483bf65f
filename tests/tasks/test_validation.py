import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from tasks.color import grey_of_rgb, luminance, to_8bit
from tasks.errors import ImageError
from tasks.metrics import psnr_db
from tasks.protocol import Picture, levels, prepare, sr_luminance, sr_picture
from tasks.validation import ValidationSet, _groups, luminance_levels

CPU = torch.device("cpu")


def pictures(architecture: str, scale: int) -> list[Picture]:
    """Two colour pictures of one size and a grey one."""
    draw = np.random.default_rng(scale)
    about = models.get(architecture)
    shapes: list[tuple[int, ...]] = [(60, 49, 3), (37, 41), (60, 49, 3)]
    made = []
    for number, shape in enumerate(shapes):
        hr = draw.integers(0, 256, shape, dtype=np.uint8)
        lr_shape = (shape[0] // scale, shape[1] // scale, *shape[2:])
        lr = draw.integers(0, 256, lr_shape, dtype=np.uint8)
        made.append(prepare(about, str(number), hr, lr, scale))
    return made


class Wild(nn.Module):
    """Leaves 0–1 at both ends, and gives the size that is asked for."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """N×C×h×w to N×C×H×W."""
        return torch.repeat_interleave(
            torch.repeat_interleave(1.4 * x - 0.2, self.scale, 2), self.scale, 3
        )


@pytest.mark.parametrize("architecture", ["srcnn", "cnn_small", "edsr_baseline", "vdsr"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_figure_is_the_rulers_to_the_last_bit(architecture: str, scale: int) -> None:
    about = models.get(architecture)
    network = Wild(1 if about.enlarged else scale)
    tested = pictures(architecture, scale)

    mean_db, first = ValidationSet(about, tested, scale, CPU).measure(network)

    with torch.inference_mode():
        answers = [network(each.x) for each in tested]
    expected = [
        psnr_db(sr_luminance(about, picture, sr_picture(about, sr)), picture.hr_y, scale)
        for picture, sr in zip(tested, answers, strict=True)
    ]
    assert mean_db == math.fsum(expected) / 3
    planes = first[0] if len(first) == 1 else first.transpose(1, 2, 0)
    np.testing.assert_array_equal(planes, sr_picture(about, answers[0]))
    assert network.training


def test_all_values_and_colours_are_rounded_like_the_rulers() -> None:
    values = torch.linspace(-0.1, 1.1, 3 * 64 * 64).view(1, 3, 64, 64)
    np.testing.assert_array_equal(
        levels(values)[0].numpy(), to_8bit(values[0].double().numpy() * 255)
    )
    # Every 5th level of each channel, and both ends.
    steps = np.unique(np.append(np.arange(0, 256, 5), 255)).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, len(steps), 3)
    planes = torch.from_numpy(cube.transpose(2, 0, 1).copy())[None]
    for grey, expected in ((False, luminance(cube)), (True, grey_of_rgb(cube))):
        np.testing.assert_array_equal(luminance_levels(planes, grey=grey)[0].numpy(), expected)


def test_equal_pictures_are_infinitely_good() -> None:
    about = models.get("srcnn")
    (picture, *_) = pictures("srcnn", 2)
    x = torch.from_numpy(picture.hr_y.astype(np.float32) / 255)[None, None]
    same = Picture("same", x, picture.hr, picture.hr_y)

    assert ValidationSet(about, [same], 2, CPU).measure(nn.Identity())[0] == math.inf


def test_a_picture_without_an_inside_is_refused() -> None:
    about = models.get("srcnn")
    hr = np.zeros((8, 9), np.uint8)
    small = prepare(about, "small", hr, hr[::4, ::4], 4)

    with pytest.raises(ImageError, match="too small"):
        ValidationSet(about, [small], 4, CPU)


@pytest.mark.parametrize(
    ("group_px", "expected"),
    [(1, [1, 1, 1]), (2 * 60 * 48 - 1, [1, 1, 1]), (2 * 60 * 48, [1, 2]), (10**9, [1, 2])],
)
def test_pictures_of_one_size_and_kind_go_together_up_to_a_bound(
    group_px: int, expected: list[int]
) -> None:
    tested = pictures("cnn_small", 2)

    groups = _groups(tested, group_px, CPU, pinned=False)

    assert sorted(number for group in groups for number in group.numbers) == [0, 1, 2]
    assert sorted(len(group.numbers) for group in groups) == expected
    for group in groups:
        for place, number in enumerate(group.numbers):
            assert torch.equal(group.x[place], tested[number].x[0])
            np.testing.assert_array_equal(group.hr_y[place].numpy(), tested[number].hr_y)
            assert group.grey == (tested[number].hr.ndim == 2)
