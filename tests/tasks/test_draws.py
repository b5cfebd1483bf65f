from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tasks.draws import Drawn, Draws, _augmentation, _below, _order
from tasks.window import Window


def draws_of(*, enlarged: bool = True, batch_size: int = 4, seed: int = 1) -> Draws:
    return Draws(
        num_patches={2: 10, 3: 7},
        stored_px={2: 36, 3: 36},
        window_px={2: 14, 3: 12},
        enlarged=enlarged,
        batch_size=batch_size,
        seed=seed,
    )


def equal(one: list[Drawn], other: list[Drawn]) -> bool:
    return len(one) == len(other) and all(
        (a.scale, a.lr_window, a.hr_window) == (b.scale, b.lr_window, b.hr_window)
        and np.array_equal(a.indices, b.indices)
        and np.array_equal(a.turns, b.turns)
        for a, b in zip(one, other, strict=True)
    )


def test_a_step_is_drawn_alike_whatever_was_drawn_before() -> None:
    steps = [0, 1, 255, 256, 257, 5000]
    forwards = {step: draws_of().of_step(step) for step in steps}

    _augmentation.cache_clear()
    _order.cache_clear()
    for step in reversed(steps):
        assert equal(draws_of().of_step(step), forwards[step])
        assert not equal(draws_of(seed=2).of_step(step), forwards[step])
    # Numbers drawn at once are another step's each, and another block's are others.
    places = {(each.hr_window, each.turns.tobytes()) for (each, _) in forwards.values()}
    assert len(places) == len(steps)


@pytest.mark.parametrize("num_workers", [2, 3, 5])
def test_workers_draw_what_a_single_one_does(num_workers: int) -> None:
    alone = draws_of(batch_size=7)
    for step in (0, 1, 300):
        whole = {each.scale: each for each in alone.of_step(step)}
        assert {len(each.indices) for each in whole.values()} == {3, 4}
        for rank in range(num_workers):
            for own in replace(alone, rank=rank, num_workers=num_workers).of_step(step):
                part = whole[own.scale]
                assert (own.lr_window, own.hr_window) == (part.lr_window, part.hr_window)
                np.testing.assert_array_equal(own.indices, part.indices[rank::num_workers])
                np.testing.assert_array_equal(own.turns, part.turns[:, rank::num_workers])


def test_a_worker_without_a_pair_of_a_scale_leaves_it_out() -> None:
    # 3 of one scale and 2 of the other: nothing is left for the third of three workers.
    last = replace(draws_of(batch_size=5), rank=2, num_workers=3)

    assert [[each.scale for each in last.of_step(step)] for step in range(4)] == [[2], [3]] * 2


def test_all_turns_and_places_are_equally_likely() -> None:
    turns, tops = Counter[bytes](), Counter[int]()
    for step in range(512):
        first, _ = draws_of().of_step(step)
        turns.update(turn.tobytes() for turn in first.turns.T)
        tops[first.hr_window.top] += 1

    # 1,024 pairs, 8 turns: 128 each with a standard deviation of 10.6.
    assert len(turns) == 8
    assert all(abs(num - 128) < 53 for num in turns.values())
    # 36 − 14 pixels of room, 4 of them kept at either end: 15 places, 34 each, deviation 5.6.
    assert set(tops) == set(range(4, 19))
    assert all(abs(num - 34) < 28 for num in tops.values())


@pytest.mark.parametrize("limit", [1, 3, 15, 1000])
def test_numbers_of_32_bits_become_numbers_below_a_limit(limit: int) -> None:
    assert _below(limit, 0) == 0
    assert _below(limit, 2**32 - 1) == limit - 1
    # A share of the 2³² numbers each: where the last one begins.
    begins = -(-(limit - 1) * 2**32 // limit)
    assert (_below(limit, begins), _below(limit, max(begins - 1, 0))) == (
        limit - 1,
        max(limit - 2, 0),
    )


def test_windows_of_lr_input_are_the_same_pixels() -> None:
    for step in range(20):
        for each in draws_of(enlarged=False).of_step(step):
            lr, hr = each.lr_window, each.hr_window
            assert hr == Window(lr.top * each.scale, lr.left * each.scale, lr.side * each.scale)
            assert hr.top + hr.side <= 36
            assert hr.left + hr.side <= 36
