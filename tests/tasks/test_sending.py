"""Checkpoints that are under way while the training goes on."""

import os
import threading
import time
from pathlib import Path

import pytest

from tasks.errors import StoreError
from tasks.sending import CheckpointSender


class Storage:
    """Takes a file when it is let; `arrived` are the contents."""

    def __init__(self) -> None:
        self.arrived: list[str] = []
        self.asked, self.may_take = threading.Semaphore(0), threading.Semaphore(0)

    def put(self, path: Path) -> None:
        self.asked.release()
        assert self.may_take.acquire(timeout=60)
        self.arrived.append(path.read_text())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "cell").mkdir()
    return tmp_path / "cell" / "checkpoint.pt"


def write(checkpoint: Path, text: str) -> None:
    """As training does it: beside, then in its place."""
    beside = checkpoint.with_suffix(".new")
    beside.write_text(text)
    beside.replace(checkpoint)


def test_only_the_newest_waits_and_the_training_never(checkpoint: Path) -> None:
    storage = Storage()
    with CheckpointSender(storage.put) as sender:
        write(checkpoint, "first")
        sender.take(checkpoint)
        assert storage.asked.acquire(timeout=60)
        for text in ("second", "third", "fourth"):
            write(checkpoint, text)
            sender.take(checkpoint)  # comes back although nothing has arrived
        assert storage.arrived == []
        storage.may_take.release()
        assert storage.asked.acquire(timeout=60)
        storage.may_take.release()
    assert storage.arrived == ["first", "fourth"]
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_what_waits_at_the_end_is_dropped_and_what_is_under_way_arrives(checkpoint: Path) -> None:
    storage = Storage()

    def release_when_dropped() -> None:
        while len(list(checkpoint.parent.glob("*.sending"))) > 1:
            time.sleep(0.01)
        storage.may_take.release(2)

    late = threading.Thread(target=release_when_dropped)
    with CheckpointSender(storage.put) as sender:
        for text in ("first", "second"):
            write(checkpoint, text)
            sender.take(checkpoint)
            if text == "first":
                assert storage.asked.acquire(timeout=60)
        late.start()
    late.join()
    assert storage.arrived == ["first"]
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]


def test_a_file_system_without_links(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    storage = Storage()
    storage.may_take.release()
    write(checkpoint, "first")
    with CheckpointSender(storage.put) as sender:
        sender.take(checkpoint)
        assert storage.asked.acquire(timeout=60)
    assert storage.arrived == ["first"]


@pytest.mark.parametrize("num_behind", [0, 1])
def test_a_failure_is_not_swallowed(num_behind: int, checkpoint: Path) -> None:
    tried, may_fail = threading.Event(), threading.Event()

    def fail(path: Path) -> None:
        if path.read_text() == "first":
            tried.set()
            assert may_fail.wait(60)
            raise StoreError("no room")

    write(checkpoint, "first")
    with pytest.raises(StoreError, match="no room"), CheckpointSender(fail) as sender:
        sender.take(checkpoint)
        assert tried.wait(60)
        for _ in range(num_behind):
            write(checkpoint, "second")
            sender.take(checkpoint)
        may_fail.set()
