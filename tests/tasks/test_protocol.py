"""What a network is shown and how its answer is judged, by whole numbers and by hand."""

import math

import numpy as np
import pytest
import torch

import models
from tasks import evaluate
from tasks.protocol import prepare, sr_luminance, sr_picture


def rgb2ycbcr_y(picture: np.ndarray) -> np.ndarray:
    """MATLAB's 8-bit luminance, in whole numbers; of a grey picture itself."""
    if picture.ndim == 2:
        return picture
    weighted = picture.astype(np.int64) @ np.array([65481, 128553, 24966])
    return (weighted + 127500) // 255000 + 16


@pytest.mark.parametrize("is_grey", [False, True])
def test_the_picture_and_the_answer_of_an_rgb_network(is_grey: bool) -> None:
    about, draw = models.get("edsr_baseline"), np.random.default_rng(0)
    shape = () if is_grey else (3,)
    hr = draw.integers(0, 256, (25, 19, *shape), dtype=np.uint8)
    lr = draw.integers(0, 256, (12, 9, *shape), dtype=np.uint8)

    picture = prepare(about, "a", hr, lr, 2)

    rgb = np.stack([lr] * 3, -1) if is_grey else lr
    np.testing.assert_allclose(picture.x[0].numpy(), rgb.transpose(2, 0, 1) / 255, atol=1e-7)
    sr = picture.x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    large = lr.repeat(2, axis=0).repeat(2, axis=1)
    answer = sr_picture(about, sr)
    np.testing.assert_array_equal(answer, np.stack([large] * 3, -1) if is_grey else large)
    np.testing.assert_array_equal(sr_luminance(about, picture, answer), rgb2ycbcr_y(large))
    np.testing.assert_array_equal(picture.hr_y, rgb2ycbcr_y(hr[:24, :18]))


@pytest.mark.parametrize("name", ["bicubic", "edsr_baseline"])
def test_a_grey_picture_by_both_conventions(name: str) -> None:
    about, hr = models.get(name), np.full((20, 20), 100, np.uint8)
    picture = prepare(about, "a", hr, hr[::2, ::2], 2)
    sr = torch.full((1, about.num_channels, 20, 20), 110 / 255, dtype=torch.float64)

    row = evaluate._row(about, "d", 2, picture, sr_picture(about, sr), 1.0)

    assert row.psnr_db == pytest.approx(20 * math.log10(255 / 10))
    # As colour their luminances are 16 + 219/255·(100, 110), rounded: 102 and 110.
    assert row.psnr_db_grey_as_rgb == pytest.approx(20 * math.log10(255 / 8))
