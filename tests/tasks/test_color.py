from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import color as skimage_color

from tasks.color import (
    as_rgb,
    grey_of_rgb,
    is_grey,
    luminance,
    luminance_f64,
    luminance_with_grey_converted,
    rgb_to_ycbcr_f64,
    to_8bit,
    ycbcr_to_rgb_f64,
)
from tasks.errors import ImageError

LEVELS = np.arange(256, dtype=np.uint8)


def colours(num: int = 4096) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num // 64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        # black, white and the full colours of ITU-R BT.601 in 8 bits
        ((0, 0, 0), (16, 128, 128)),
        ((255, 255, 255), (235, 128, 128)),
        ((255, 0, 0), (81.481, 90.203, 240)),
        ((0, 255, 0), (144.553, 53.797, 34.214)),
        ((0, 0, 255), (40.966, 240, 109.786)),
    ],
)
def test_known_colours(rgb: tuple[int, ...], ycbcr: tuple[float, ...]) -> None:
    image = np.array(rgb, np.uint8).reshape(1, 1, 3)
    np.testing.assert_allclose(rgb_to_ycbcr_f64(image)[0, 0], ycbcr, rtol=0, atol=1e-12)
    assert luminance(image).item() == int(ycbcr[0] + 0.5)
    np.testing.assert_allclose(luminance_f64(image).item(), ycbcr[0], rtol=0, atol=1e-12)


def test_ycbcr_is_scikit_images() -> None:
    image = colours()
    expected = skimage_color.rgb2ycbcr(image)
    np.testing.assert_allclose(rgb_to_ycbcr_f64(image), expected, rtol=0, atol=1e-12)


def test_luminance_is_rounded_half_up_exactly() -> None:
    # 45·65481 + 98·128553 + 155·24966 and its like are half-way cases: found by search
    image = colours()
    for red, green, blue in [*image.reshape(-1, 3).tolist(), *HALF_WAY]:
        y = 16 + Fraction(65481 * red + 128553 * green + 24966 * blue, 255_000)
        pixel = np.array([[[red, green, blue]]], np.uint8)
        assert luminance(pixel).item() == int(y + Fraction(1, 2))


def half_way_colours() -> list[list[int]]:
    red, green = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    found = []
    for blue in range(256):
        sums = 65481 * red + 128553 * green + 24966 * blue
        found += [[r, g, blue] for r, g in np.argwhere(sums % 255_000 == 127_500).tolist()]
    return found


HALF_WAY = half_way_colours()


def test_there_are_half_way_colours() -> None:
    assert len(HALF_WAY) == 194


def test_grey_is_its_own_luminance() -> None:
    grey = LEVELS.reshape(16, 16)
    np.testing.assert_array_equal(luminance(grey), grey)
    np.testing.assert_array_equal(luminance_f64(grey), grey)
    assert luminance_f64(grey).dtype == np.float64


def test_an_rgb_answer_comes_back_to_the_grey_scale() -> None:
    grey = LEVELS.reshape(16, 16)
    np.testing.assert_array_equal(grey_of_rgb(as_rgb(grey)), grey)
    red = np.array([[[255, 0, 0]]], np.uint8)
    assert grey_of_rgb(red).item() == int(255 * 65.481 / 219 + 0.5)


def test_the_other_convention_squeezes_grey_pictures() -> None:
    grey = LEVELS.reshape(16, 16)
    expected = np.floor(16 + 219 / 255 * grey + 0.5)
    np.testing.assert_array_equal(luminance_with_grey_converted(grey), expected)
    image = colours()
    np.testing.assert_array_equal(luminance_with_grey_converted(image), luminance(image))


def test_as_rgb() -> None:
    grey, image = LEVELS.reshape(16, 16), colours()
    assert as_rgb(image) is image
    assert as_rgb(grey).shape == (16, 16, 3)
    assert (as_rgb(grey) == grey[:, :, None]).all()
    assert is_grey(grey)
    assert not is_grey(image)


@settings(deadline=None)
@given(st.lists(st.floats(0, 255), min_size=3, max_size=3))
def test_there_and_back(values: list[float]) -> None:
    rgb = np.array(values).reshape(1, 1, 3)
    np.testing.assert_allclose(ycbcr_to_rgb_f64(rgb_to_ycbcr_f64(rgb)), rgb, rtol=0, atol=1e-9)


def test_to_8bit_rounds_half_up_and_clips() -> None:
    values = np.array([-np.inf, -3, -0.5, 0.49, 0.5, 1.5, 2.5, 254.5, 255.4, 300, np.inf])
    expected = [0, 0, 0, 0, 1, 2, 3, 255, 255, 255, 255]
    for dtype in (np.float32, np.float64):
        rounded = to_8bit(values.astype(dtype))
        assert rounded.dtype == np.uint8
        assert rounded.tolist() == expected


def test_wrong_pictures() -> None:
    grey, rgba = np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    function: Callable[[np.ndarray], np.ndarray]
    for function in (luminance, luminance_f64, as_rgb, grey_of_rgb, rgb_to_ycbcr_f64):
        with pytest.raises(ImageError, match=r"\(4, 4, 4\)"):
            function(rgba)
    for function in (grey_of_rgb, rgb_to_ycbcr_f64, ycbcr_to_rgb_f64):
        with pytest.raises(ImageError, match=r"\(4, 4\)"):
            function(grey)
    for function in (luminance, grey_of_rgb, luminance_with_grey_converted):
        with pytest.raises(TypeError, match="float64"):
            function(np.zeros((4, 4, 3)))  # type: ignore[arg-type]
