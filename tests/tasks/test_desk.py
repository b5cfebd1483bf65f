"""Who trains what when workers come, go and die."""

from collections.abc import Callable

import pytest

from tasks.desk import MAX_ATTEMPTS, Desk, Done, Warned
from tasks.exchange import Job
from tasks.train import Progress


def job(cell: str, *, is_large: bool = False) -> Job:
    return Job(name=f"{cell}-0123", cell=cell, params="{}", inputs={}, is_large=is_large)


def cells(
    desk: Desk, lane: str, num: int, *, takes_large: bool = True, takes_small: bool = True
) -> list[str | None]:
    """What a lane trains that ends each cell well."""
    got: list[str | None] = []
    for _ in range(num):
        given = desk.next(lane, takes_large, takes_small)
        got.append(given.cell if given else None)
        if given:
            desk.end(lane, given.cell, None)
    return got


def test_jobs_are_handed_out_in_order_and_once() -> None:
    desk = Desk([job("a"), job("b"), job("c")])
    assert desk.next("one", True, True) == job("a")
    assert desk.next("two", True, True) == job("b")
    desk.end("one", "a", None)
    assert cells(desk, "one", 2) == ["c", None]
    assert desk.events() == [Done("a"), Done("c")]
    assert desk.events() == []


def test_a_lane_for_small_cells_leaves_the_large_ones() -> None:
    desk = Desk([job("large", is_large=True), job("small")])
    assert cells(desk, "part", 2, takes_large=False) == ["small", None]
    assert cells(desk, "whole", 2) == ["large", None]


def test_a_lane_for_large_cells_leaves_the_small_ones_to_those_that_share() -> None:
    desk = Desk([job("large", is_large=True), job("small"), job("larger", is_large=True)])
    assert cells(desk, "whole", 3, takes_small=False) == ["large", "larger", None]
    assert cells(desk, "part", 2, takes_large=False) == ["small", None]


def test_a_lane_that_asks_again_gets_its_cell_again_and_that_is_told() -> None:
    desk = Desk([job("a"), job("b")])
    desk.next("one", True, True)
    assert desk.next("one", True, True) == job("a")
    assert desk.events() == [Warned("a", "a: its worker died; attempt 2")]


def test_a_cell_whose_worker_always_dies_fails_and_the_next_one_comes() -> None:
    desk = Desk([job("a"), job("b")])
    asked = [desk.next("one", True, True) for _ in range(MAX_ATTEMPTS + 1)]
    assert asked == [job("a")] * MAX_ATTEMPTS + [job("b")]
    (done,) = (event for event in desk.events() if isinstance(event, Done))
    assert done.cell == "a"
    assert done.reason == f"a: its worker died {MAX_ATTEMPTS} times; out of memory?"


def test_what_a_lost_lane_held_goes_to_another_one_first() -> None:
    desk = Desk([job("a"), job("b")])
    desk.next("one", True, True)
    desk.lose("one")
    assert cells(desk, "two", 3) == ["a", "b", None]
    desk.lose("two")  # holds nothing: nothing happens
    assert [type(event) for event in desk.events()] == [Warned, Done, Done]


def test_of_several_workers_that_fail_the_first_reason_counts() -> None:
    desk = Desk([job("a")])
    desk.next("one", True, True)
    desk.end("one", "a", "out of memory")
    desk.end("one", "a", "gradients did not come")
    assert desk.events() == [Done("a", "out of memory")]


def test_progress_is_passed_on() -> None:
    progress = Progress("a", 1, 2, 0.5, {2: 30.0}, 10.0)
    desk = Desk([])
    desk.report(progress)
    assert desk.events() == [progress]


@pytest.mark.parametrize("end", [lambda desk: desk.end("one", "b", None)])
def test_a_late_word_about_another_cell_changes_nothing(end: Callable[[Desk], None]) -> None:
    desk = Desk([job("a")])
    desk.next("one", True, True)
    end(desk)
    assert desk.events() == []
    assert desk.next("one", True, True) == job("a")
