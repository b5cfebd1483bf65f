"""Try again what time can mend, for a bounded time."""

import sys
import time
from collections.abc import Callable
from typing import TypeVar

_Answer = TypeVar("_Answer")

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 10.0
# A hiccup needs no word; before this wait, the third, a person is told.
_TOLD_WAIT_S = 4 * FIRST_WAIT_S


def patiently(
    action: Callable[[], _Answer],
    time_may_mend: Callable[[Exception], bool],
    patience_s: float,
    whom: str,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> _Answer:
    """The answer of `action`, called again with growing waits while its failure may pass.

    No new call begins later than `patience_s` after the first. Whoever waits longer than a moment
    reads on stderr that it is for `whom`.

    Raises:
        Exception: the action's own last one.
    """
    end_s, wait_s = clock() + patience_s, FIRST_WAIT_S
    while True:
        try:
            return action()
        except Exception as error:
            if not time_may_mend(error) or clock() + wait_s > end_s:
                raise
        if wait_s == _TOLD_WAIT_S:
            told = f"{whom} is out of reach or busy; trying again for up to {patience_s:.0f} s"
            print(told, file=sys.stderr, flush=True)
        sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
