"""On a clock of our own: what is tried again, how often, and when it ends."""

import pytest

from tasks.patience import patiently


class Clock:
    """Time passes only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits_s: list[float] = []

    def sleep(self, wait_s: float) -> None:
        self.waits_s.append(wait_s)
        self.now_s += wait_s


class Flaky:
    """Fails some times, then answers."""

    def __init__(self, num_failures: int, error: Exception) -> None:
        self.left, self.error, self.num_calls = num_failures, error, 0

    def __call__(self) -> str:
        self.num_calls += 1
        if self.num_calls <= self.left:
            raise self.error
        return "answer"


def is_passing(error: Exception) -> bool:
    return isinstance(error, ConnectionError)


def call(action: Flaky, clock: Clock) -> str:
    return patiently(action, is_passing, 60.0, "the store", clock.sleep, lambda: clock.now_s)


def test_what_may_pass_is_tried_again_with_growing_waits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock, action = Clock(), Flaky(4, ConnectionError("down"))

    assert call(action, clock) == "answer"

    assert clock.waits_s == [0.5, 1.0, 2.0, 4.0]
    told = "the store is out of reach or busy; trying again for up to 60 s\n"
    assert capsys.readouterr().err == told


def test_nobody_is_told_of_a_hiccup(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(Flaky(2, ConnectionError("down")), Clock()) == "answer"

    assert capsys.readouterr().err == ""


def test_what_time_cannot_mend_is_tried_once() -> None:
    clock, action = Clock(), Flaky(1, ValueError("wrong"))

    with pytest.raises(ValueError, match="wrong"):
        call(action, clock)

    assert (action.num_calls, clock.waits_s) == (1, [])


def test_patience_ends() -> None:
    clock, action = Clock(), Flaky(1000, ConnectionError("down"))

    with pytest.raises(ConnectionError, match="down"):
        call(action, clock)

    assert clock.waits_s == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 10.0]
    assert clock.now_s <= 60.0
