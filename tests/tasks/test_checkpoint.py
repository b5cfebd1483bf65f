import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.checkpoint import DamagedCheckpoint, read_checkpoint, write_checkpoint

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
