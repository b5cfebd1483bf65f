import math
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import bicubic
from tasks.bicubic import crop_to_multiple, resize, shrink
from tasks.errors import ImageError

GOLDEN = Path(__file__).parents[1] / "golden"
BORDERS = ("clamped", "symmetric")
WHOLE = [Fraction(1, 2), Fraction(1, 3), Fraction(1, 4), Fraction(2), Fraction(3), Fraction(4)]
ODD = [Fraction(*pair) for pair in ((3, 2), (2, 3), (5, 7), (1, 8), (7, 1), (37, 100), (1, 1))]
HALF = Fraction(1, 2)


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def keys(x: Fraction) -> Fraction:
    """Keys 1981, eq. 15, a = -1/2, in fractions."""
    d = abs(x)
    if d <= 1:
        return Fraction(3, 2) * d**3 - Fraction(5, 2) * d**2 + 1
    return -HALF * d**3 + Fraction(5, 2) * d**2 - 4 * d + 2 if d <= 2 else Fraction(0)


def taps(new: int, size: int, ratio: Fraction, border: str) -> list[tuple[int, Fraction]]:
    """Old pixels and exact weights of one new pixel: the definition, pixel centres at n + 1/2."""
    centre = (new + HALF) / ratio - HALF
    stretch = min(ratio, Fraction(1))
    reach = 2 / stretch
    near = range(math.ceil(centre - reach), math.floor(centre + reach) + 1)
    weights = [keys((centre - old) * stretch) for old in near]
    return [
        (inside(old, size, border), weight / sum(weights))
        for old, weight in zip(near, weights, strict=True)
    ]


def inside(old: int, size: int, border: str) -> int:
    if border == "clamped":
        return min(max(old, 0), size - 1)
    old %= 2 * size
    return old if old < size else 2 * size - 1 - old


def exact_axis(columns: list[list[Fraction]], ratio: Fraction, border: str) -> list[list[Fraction]]:
    size = len(columns[0])
    plan = [taps(new, size, ratio, border) for new in range(math.ceil(size * ratio))]
    return [
        [sum((w * line[old] for old, w in tap), Fraction(0)) for tap in plan] for line in columns
    ]


def eight_bit(lines: list[list[Fraction]]) -> list[list[Fraction]]:
    return [[Fraction(min(max(math.floor(v + HALF), 0), 255)) for v in line] for line in lines]


def exact_resize(image: np.ndarray, ratio: Fraction, border: str, rounded: bool) -> np.ndarray:
    """A grey picture in fractions, one pixel at a time; columns' lines first (vertical pass)."""
    lines = [[Fraction(v) for v in line] for line in image.T.tolist()]
    for _ in range(2):
        lines = exact_axis(lines, ratio, border)
        lines = eight_bit(lines) if rounded else lines
        lines = [list(line) for line in zip(*lines, strict=True)]
    return np.array(lines, dtype=np.float64).T


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_double_path_is_matlabs(scale: int) -> None:
    golden = np.load(GOLDEN / f"matlab_bicubic_butterfly_x{scale}.npz")
    lr = shrink(golden["hr_y"] / 255, scale)
    enlarged = resize(lr, scale, border="symmetric") * 255
    assert enlarged.dtype == np.float64
    np.testing.assert_allclose(enlarged, golden["bicubic_y"], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("ratio", "numerators", "denominator"),
    [
        # Keys's polynomial at ±1/4, ±3/4, ±5/4, ±7/4 and at 0, ±1/3, …, ±5/3, by hand
        (Fraction(1, 2), [-3, -9, 29, 111, 111, 29, -9, -3], 256),
        (Fraction(1, 3), [-1, -2, 0, 9, 21, 27, 21, 9, 0, -2, -1], 81),
    ],
)
def test_an_impulse_shows_the_weights(
    ratio: Fraction, numerators: list[int], denominator: int
) -> None:
    # a new pixel of a picture that is 1 in one column only is the weight of that column
    pictures = (np.tile(column, (3, 1)) for column in np.eye(24))
    weights = np.array([resize(picture, ratio, border="clamped")[0, 3] for picture in pictures])
    used = np.flatnonzero(weights)
    weights = weights[used[0] : used[-1] + 1]
    np.testing.assert_allclose(weights, np.array(numerators) / denominator, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("ratio", "border"), list(product(WHOLE, BORDERS)))
def test_8bit_path_is_the_exact_one(ratio: Fraction, border: bicubic.Border) -> None:
    for shape in ((17, 14), (9, 21), (4, 3), (1, 2)):
        image = pixels(*shape)
        exact = exact_resize(image, ratio, border, rounded=True)
        np.testing.assert_array_equal(resize(image, ratio, border=border), exact)


@pytest.mark.parametrize(("ratio", "border"), list(product(WHOLE + ODD, BORDERS)))
def test_double_path_is_the_exact_one(ratio: Fraction, border: bicubic.Border) -> None:
    image = pixels(13, 10).astype(np.float64)
    exact = exact_resize(image, ratio, border, rounded=False)
    np.testing.assert_allclose(resize(image, ratio, border=border), exact, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("ratio", "border"), list(product(ODD, BORDERS)))
def test_8bit_path_at_other_ratios_is_the_exact_one(
    ratio: Fraction, border: bicubic.Border
) -> None:
    image = pixels(13, 10)
    exact = exact_resize(image, ratio, border, rounded=True)
    wrong = resize(image, ratio, border=border).astype(int) - exact
    # what lies half-way between two levels may fall either way in double precision
    assert np.abs(wrong).max() <= 1
    assert (wrong != 0).mean() < 0.02


@pytest.mark.parametrize("ratio", [ratio for ratio in ODD if ratio != 1])
def test_8bit_path_at_other_ratios_rounds_the_double_one(ratio: Fraction) -> None:
    image = pixels(60, 50)
    exact = resize(image.astype(np.float64), ratio, border="clamped")
    difference = resize(image, ratio, border="clamped") - np.clip(exact, 0, 255)
    # half a level from each of two roundings, the first one weighted by at most 1.27 in sum,
    # and clipping between the passes
    assert np.median(np.abs(difference)) < 0.6
    assert bicubic._block(ratio) is None


@pytest.mark.parametrize(("ratio", "border"), list(product(WHOLE, BORDERS)))
def test_float32_blocks_equal_float64_taps_bit_for_bit(
    ratio: Fraction, border: bicubic.Border
) -> None:
    assert bicubic._block(ratio) is not None
    for shape in ((211, 187, 3), (64, 97, 1), (40, 33, 4), (9, 700, 3)):
        image = pixels(*shape)
        # only the extremes: the largest sums, and the most clipping
        for picture in (image, np.where(image < 128, 0, 255).astype(np.uint8)):
            by_taps = bicubic._resize_by_taps(picture, ratio, border)
            np.testing.assert_array_equal(resize(picture, ratio, border=border), by_taps)


@pytest.mark.parametrize("ratio", WHOLE)
def test_every_sum_of_a_block_is_exact_in_float32(ratio: Fraction) -> None:
    block = bicubic._block(ratio)
    assert block is not None
    np.testing.assert_array_equal(block.weights, np.rint(block.weights))
    np.testing.assert_array_equal(block.weights.sum(axis=1), block.denominator)
    assert np.abs(block.weights).sum(axis=1).max() * 255 < 2**24
    # no rounding is left to chance: float64 is exact too, or no sum lies half-way
    assert block.denominator % 2 == 1 or math.log2(block.denominator).is_integer()


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    ratio=st.fractions(Fraction(1, 8), Fraction(8), max_denominator=8),
    border=st.sampled_from(BORDERS),
    level=st.integers(0, 255),
)
def test_constant_stays_constant(
    size: tuple[int, int], ratio: Fraction, border: bicubic.Border, level: int
) -> None:
    image = np.full(size, level, np.uint8)
    resized = resize(image, ratio, border=border)
    assert resized.shape == (math.ceil(size[0] * ratio), math.ceil(size[1] * ratio))
    assert (resized == level).all()
    doubles = resize(image.astype(np.float64), ratio, border=border)
    np.testing.assert_allclose(doubles, level, rtol=0, atol=1e-11)


@settings(deadline=None)
@given(
    size=st.integers(1, 60),
    ratio=st.fractions(Fraction(1, 9), Fraction(9), max_denominator=9),
    border=st.sampled_from(BORDERS),
)
def test_weights_are_a_partition_of_unity(
    size: int, ratio: Fraction, border: bicubic.Border
) -> None:
    weights = bicubic._axis_matrix(size, ratio, border).toarray()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=0, atol=1e-14)
    # mirroring the axis mirrors the answer where new pixels lie symmetrically
    if (size * ratio).denominator == 1:
        np.testing.assert_allclose(weights, weights[::-1, ::-1], rtol=0, atol=1e-12)


@settings(deadline=None)
@given(
    scale=st.integers(2, 4),
    height=st.integers(2, 50),
    width=st.integers(2, 50),
    channels=st.sampled_from([(), (1,), (3,), (4,)]),
    double=st.booleans(),
)
def test_down_and_up_of_any_size(
    scale: int, height: int, width: int, channels: tuple[int, ...], double: bool
) -> None:
    height, width = max(height, scale), max(width, scale)
    image = pixels(height, width, *channels)
    image = image.astype(np.float64) if double else image
    lr = shrink(image, scale)
    assert lr.shape == (height // scale, width // scale, *channels)
    sr = resize(lr, scale, border="symmetric")
    assert sr.shape == crop_to_multiple(image, scale).shape
    assert sr.dtype == image.dtype


@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(3), Fraction(5, 2)])
def test_enlarging_reproduces_a_parabola(ratio: Fraction) -> None:
    # cubic convolution with a = -1/2 is exact for second degree (Keys 1981, section IV)
    def height(x: np.ndarray) -> np.ndarray:
        return 0.3 * x**2 - 2 * x + 1

    new = (np.arange(math.ceil(20 * ratio)) + 0.5) / float(ratio) - 0.5
    inner = slice(math.ceil(3 * ratio), -math.ceil(3 * ratio))
    enlarged = resize(np.tile(height(np.arange(20.0)), (20, 1)), ratio, border="clamped")
    np.testing.assert_allclose(enlarged[20][inner], height(new)[inner], rtol=0, atol=1e-11)


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_all_kinds_of_arrays(channels: tuple[int, ...], dtype: type) -> None:
    image = pixels(31, 26, *channels).astype(dtype)
    expected = resize(image, HALF, border="clamped")
    assert expected.dtype == (np.uint8 if dtype == np.uint8 else np.float64)
    assert expected.flags.c_contiguous
    planes = image.reshape(31, 26, -1)
    for channel in range(planes.shape[2]):
        alone = resize(planes[..., channel], HALF, border="clamped")
        np.testing.assert_array_equal(alone, expected.reshape(16, 13, -1)[..., channel])
    readonly = image.copy()
    readonly.flags.writeable = False
    for same in (np.asfortranarray(image), np.repeat(image, 2, 1)[:, ::2], readonly):
        np.testing.assert_array_equal(resize(same, HALF, border="clamped"), expected)
    turned = resize(image[::-1, ::-1], HALF, border="clamped")
    upside_down = np.ascontiguousarray(image[::-1, ::-1])
    np.testing.assert_array_equal(turned, resize(upside_down, HALF, border="clamped"))


def test_rows_come_first() -> None:
    # a picture whose two orders differ after rounding: transposing does not commute
    image = pixels(40, 40)
    turned = resize(image.T, Fraction(1, 3), border="clamped").T
    third = resize(image, Fraction(1, 3), border="clamped")
    assert (turned != third).any()
    exact = exact_resize(image, Fraction(1, 3), "clamped", rounded=True)
    np.testing.assert_array_equal(third, exact)


def test_shrink_crops_to_the_top_left_and_clamps_8bit_borders() -> None:
    image = pixels(14, 11, 3)
    expected = resize(image[:12, :9], Fraction(1, 3), border="clamped")
    np.testing.assert_array_equal(shrink(image, 3), expected)
    doubles = image / 255
    expected = resize(doubles[:12, :9], Fraction(1, 3), border="symmetric")
    np.testing.assert_array_equal(shrink(doubles, 3), expected)


def test_a_float_scale_means_the_simple_fraction() -> None:
    image = pixels(49, 30)
    for scale, ratio in ((1 / 3, Fraction(1, 3)), (0.5, HALF), (1 / 49, Fraction(1, 49))):
        expected = resize(image, ratio, border="clamped")
        np.testing.assert_array_equal(resize(image, scale, border="clamped"), expected)
    assert resize(image, math.pi, border="clamped").shape == (154, 95)


def test_the_input_is_left_alone() -> None:
    image = pixels(20, 20, 3)
    before = image.copy()
    for scale in (2, 3, 4):
        shrink(image, scale)
        resize(image, scale, border="symmetric")
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "scale", "border", "error"),
    [
        (pixels(4, 4), 0, "clamped", ValueError),
        (pixels(4, 4), -1, "clamped", ValueError),
        (pixels(4, 4), math.nan, "clamped", ValueError),
        (pixels(4, 4), math.inf, "clamped", ValueError),
        (pixels(4, 4), 2, "reflect", ValueError),
        (pixels(4), 2, "clamped", ValueError),
        (pixels(1, 4, 4, 3), 2, "clamped", ValueError),
        (pixels(0, 4), 2, "clamped", ImageError),
        (pixels(4, 4, 0), 2, "clamped", ImageError),
        (pixels(4, 4).astype(np.int64), 2, "clamped", TypeError),
        (pixels(4, 4) > 9, 2, "clamped", TypeError),
    ],
)
def test_wrong_arguments(
    image: np.ndarray, scale: float, border: bicubic.Border, error: type[Exception]
) -> None:
    with pytest.raises(error):
        resize(image, scale, border=border)


def test_too_small_for_the_scale() -> None:
    with pytest.raises(ImageError, match="5×2 pixels is too small for scale 3"):
        shrink(pixels(2, 5), 3)
    with pytest.raises(ValueError, match="below 1"):
        crop_to_multiple(pixels(4, 4), 0)
