"""What a run shows while it works: bars in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tasks.train import Progress as TrainingProgress

# Plain lines of one cell come no faster than this, but for those with a validation.
_LINE_EVERY_S = 15.0


class Board:
    """One line for each training, and whatever else the run says above them."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """`log` gets every line too."""
        self._log = log
        self._console = Console(file=sys.stderr, highlight=False)
        self._start = time.monotonic()
        self._last_line: dict[str, float] = {}
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.fields[cell]:<20}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[text]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """One line, with the time since the run began."""
        self._log(text)
        self._console.print(
            f"[{time.monotonic() - self._start:6.1f} s] {text}", markup=False, soft_wrap=True
        )

    def show(self, progress: TrainingProgress) -> None:
        """Where a training is."""
        if self._console.is_terminal:
            self._move_bar(progress)
            if progress.note:
                self.say(f"{progress.cell}: {progress.note}")
        elif progress.psnr_db or progress.note or self._is_due(progress.cell):
            self._last_line[progress.cell] = time.monotonic()
            self.say(str(progress))

    def finish(self, cell: str, text: str) -> None:
        """A training ended."""
        if cell in self._bars:
            self._progress.update(self._bars[cell], text=text)
        self.say(f"{cell}: {text}")

    def _is_due(self, cell: str) -> bool:
        return time.monotonic() - self._last_line.get(cell, self._start) > _LINE_EVERY_S

    def _move_bar(self, progress: TrainingProgress) -> None:
        psnr = "".join(f" ×{scale} {value:.2f} dB" for scale, value in progress.psnr_db.items())
        text = f"loss {progress.loss:.3g}{psnr}"
        if progress.cell not in self._bars:
            self._bars[progress.cell] = self._progress.add_task(
                "", total=progress.num_steps, cell=progress.cell, text=text
            )
        self._progress.update(self._bars[progress.cell], completed=progress.step, text=text)
