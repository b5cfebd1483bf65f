import itertools

import numpy as np
import pytest
import torch

from tasks.device_patches import cut_squares


@pytest.mark.parametrize("channels", [1, 3])
def test_a_square_is_cut_from_each_turned_patch(channels: int) -> None:
    draw = np.random.default_rng(0)
    turns = np.array(list(itertools.product((0, 1), repeat=3))).T
    patches = draw.integers(0, 256, (8, channels, 9, 9), dtype=np.uint8)
    corners = draw.integers(0, 6, (2, 8))

    squares = cut_squares(
        torch.from_numpy(patches), torch.from_numpy(corners), 4, torch.from_numpy(turns)
    )

    assert squares.shape == (8, channels, 4, 4)
    for patch, square, (top, left), (upside_down, mirrored, transposed) in zip(
        patches, squares.numpy(), corners.T, turns.T, strict=True
    ):
        for plane, cut in zip(patch, square, strict=True):
            turned = np.flipud(plane) if upside_down else plane
            turned = np.fliplr(turned) if mirrored else turned
            turned = turned.T if transposed else turned
            np.testing.assert_array_equal(cut, turned[top : top + 4, left : left + 4])


def test_without_turns_it_is_cut_as_the_patch_lies() -> None:
    patches = torch.arange(2 * 30, dtype=torch.float32).view(2, 1, 5, 6)

    squares = cut_squares(patches, torch.tensor([[0, 3], [4, 1]]), 2)

    # Rows of six: 4 and 5 of the first two, 19 and 20 from row 3 of the second patch on.
    assert squares.tolist() == [[[[4, 5], [10, 11]]], [[[49, 50], [55, 56]]]]
