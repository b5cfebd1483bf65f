"""What a run shows in a terminal and elsewhere."""

import sys
from io import StringIO

import pytest

from flows.progress import Board
from tasks.train import Progress


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [StringIO, Terminal])
def test_what_a_training_notes_is_always_told(
    stream: type[StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    lines: list[str] = []

    with Board(lines.append) as board:
        board.show(Progress("srcnn-x2", 1, 9, 0.5, {}, 1.0, note="the checkpoint is damaged"))

    assert ["the checkpoint is damaged" in line for line in lines] == [True]
    assert "the checkpoint is damaged" in shown.getvalue()
