"""How far a picture is: a bar in a terminal, now and then a plain line elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A short wait is not worth a line.
_LINE_EVERY_S = 15.0


@contextmanager
def progress_of(name: str) -> Iterator[Callable[[float], None]]:
    """Give the block a function that is told the finished share, 0–1; all on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr, highlight=False)
    if not console.is_terminal:
        yield _lines(name)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(escape(name), total=1.0)
        yield lambda share: bars.update(task, completed=share)


def _lines(name: str) -> Callable[[float], None]:
    last_s = time.monotonic()

    def say(share: float) -> None:
        nonlocal last_s
        if share < 1 and time.monotonic() - last_s > _LINE_EVERY_S:
            last_s = time.monotonic()
            print(f"{name}: {100 * share:.0f} %", file=sys.stderr, flush=True)

    return say
