import time

import pytest

from flows.picture_progress import progress_of


def test_plain_lines_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)

    with progress_of("cat.png") as show:
        for share in (0.1, 0.25, 0.5, 1.0):
            now_s += 10
            show(share)

    # 20 s after the start; 20 s later; the end has a line of its own
    assert capsys.readouterr().err == "cat.png: 25 %\n"


def test_a_short_wait_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of("cat.png") as show:
        show(0.5)
        show(1)

    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    with progress_of("[red]cat.png") as show:
        show(1)

    shown = capsys.readouterr().err
    assert "[red]cat.png" in shown
    assert "100%" in shown
