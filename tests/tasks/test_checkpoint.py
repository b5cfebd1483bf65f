import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.checkpoint import (
    CheckpointWriter,
    DamagedCheckpoint,
    read_checkpoint,
    write_checkpoint,
)

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "cell.pt"
    write_checkpoint(path, {"step": 7, "weights": torch.arange(1000.0), "rows": [{"loss": 0.1}]})
    return path


def test_what_was_written_is_read(checkpoint: Path) -> None:
    state = read_checkpoint(checkpoint, CPU)

    assert state["step"] == 7
    assert state["rows"] == [{"loss": 0.1}]
    assert torch.equal(state["weights"], torch.arange(1000.0))
    assert [path.name for path in checkpoint.parent.iterdir()] == ["cell.pt"]


@pytest.mark.parametrize("place", [0, 20, 40, 60, 1000, 4000, -1])
def test_a_changed_byte_is_noticed(place: int, checkpoint: Path) -> None:
    data = bytearray(checkpoint.read_bytes())
    data[place] ^= 1
    checkpoint.write_bytes(data)

    with pytest.raises(DamagedCheckpoint, match=r"cell\.pt is (damaged|no checkpoint)"):
        read_checkpoint(checkpoint, CPU)


@pytest.mark.parametrize("num_bytes", [0, 10, 30, 100, 4000])
def test_a_cut_file_is_noticed(num_bytes: int, checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:num_bytes])

    with pytest.raises(DamagedCheckpoint):
        read_checkpoint(checkpoint, CPU)


class _Bomb:
    """Makes a folder when a reader executes what a pickle says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_sound_file_that_would_execute_something_does_not(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "cell.pt", {"step": _Bomb(tmp_path / "executed")})

    with pytest.raises(DamagedCheckpoint, match="it holds more than numbers"):
        read_checkpoint(tmp_path / "cell.pt", CPU)

    assert not (tmp_path / "executed").exists()


def test_a_file_of_torch_alone_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"step": 1}, tmp_path / "other.pt")

    with pytest.raises(DamagedCheckpoint, match="no checkpoint of format 'sisr-checkpoint-1'"):
        read_checkpoint(tmp_path / "other.pt", CPU)


def test_a_checkpoint_is_of_when_it_was_asked_for_and_nobody_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def wait_and_write(path: Path, state: dict[str, Any]) -> None:
        assert go_on.wait(60)
        write_checkpoint(path, state)

    monkeypatch.setattr("tasks.checkpoint.write_checkpoint", wait_and_write)
    weights, rows, seen = torch.zeros(3), [{"loss": 0.1}], []
    state = {"learner": {"weights": weights}, "rows": rows, "pair": (weights, 1)}
    with CheckpointWriter(
        tmp_path / "cell.pt", lambda path: seen.append(read_checkpoint(path, CPU))
    ) as writer:
        writer.write(state)
        weights.add_(1)
        rows.append({"loss": 0.2})
        time.sleep(0.01)
        assert writer.longest_s >= 0.01
        go_on.set()
        writer.write(state)

    for number, read in enumerate(seen):
        assert torch.equal(read["learner"]["weights"], torch.full((3,), float(number)))
        assert torch.equal(read["pair"][0], torch.full((3,), float(number)))
        assert read["rows"] == [{"loss": 0.1}, {"loss": 0.2}][: number + 1]
    assert len(seen) == 2


def test_a_training_that_breaks_leaves_its_last_checkpoint_whole(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), CheckpointWriter(tmp_path / "cell.pt") as writer:
        writer.write({"step": 1})
        writer.write({"step": 2})
        raise ZeroDivisionError

    assert read_checkpoint(tmp_path / "cell.pt", CPU) == {"step": 2}


@pytest.mark.parametrize("num_behind", [0, 1])
def test_a_checkpoint_that_cannot_be_written_is_an_error(num_behind: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises((FileExistsError, NotADirectoryError)),
        CheckpointWriter(tmp_path / "file" / "cell.pt") as writer,
    ):
        for step in range(1 + num_behind):
            writer.write({"step": step})
            # The second one says what the first one failed with.
            assert step == 0


def test_an_error_tells_that_the_last_checkpoint_was_not_written_either(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(ZeroDivisionError) as raised,
        CheckpointWriter(tmp_path / "file" / "cell.pt") as writer,
    ):
        writer.write({"step": 1})
        raise ZeroDivisionError

    (note,) = raised.value.__notes__
    assert note.startswith("its last checkpoint was not written either: ")
