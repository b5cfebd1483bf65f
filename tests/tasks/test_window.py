import numpy as np
import pytest

from tasks.window import Window, choose_window


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_window_where_most_is_lost(scale: int, shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(scale)
    hr, sr = (draw.integers(0, 256, (120, 156, *shape), dtype=np.uint8) for _ in range(2))
    found = choose_window(hr, sr, 72, scale)
    error = (hr.astype(int) - sr.astype(int)) ** 2
    # every window, one by one
    totals = {
        (top, left): error[top : top + 72, left : left + 72].sum()
        for top in range(0, 120 - 72 + 1, scale)
        for left in range(0, 156 - 72 + 1, scale)
    }
    assert (found.top, found.left, found.side) == (*max(totals, key=lambda at: totals[at]), 72)


@pytest.mark.parametrize(("shape", "side"), [((48, 60), 48), ((62, 50), 48), ((7, 100), 6)])
def test_a_picture_smaller_than_the_window(shape: tuple[int, int], side: int) -> None:
    plain = np.zeros(shape, np.uint8)
    assert choose_window(plain, plain, 72, 3) == Window(0, 0, side)


def test_the_pixels_inside_a_window() -> None:
    picture = np.arange(5 * 6 * 3).reshape(5, 6, 3)
    np.testing.assert_array_equal(Window(1, 2, 3).of(picture), picture[1:4, 2:5])
