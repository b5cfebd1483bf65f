"""What an interrupted training needs to go on: one file that notices its own damage.

A line that names the format, the SHA-256 of the rest, and the state as `torch.save` writes it.
Read without executing anything (`weights_only`).
"""

import hashlib
import io
import pickle
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from tasks.atomic import replacing_file

_MAGIC = b"sisr-checkpoint-1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size

State = dict[str, Any]


class DamagedCheckpoint(Exception):
    """The file is not what was written; the training can only start anew."""


def write_checkpoint(path: Path, state: State) -> None:
    """Write tensors, numbers and texts, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    saved = buffer.getbuffer()
    with replacing_file(path) as temporary, temporary.open("wb") as opened:
        opened.write(_MAGIC + hashlib.sha256(saved).digest())
        opened.write(saved)


class CheckpointWriter:
    """Writes checkpoints while the training goes on.

    It waits for a copy in main memory, and for the checkpoint before if that is not written yet.
    One at a time, in a thread of its own; a context, at whose end the last one is in its file.
    `on_written` is called in that thread with the path of each that is whole.
    """

    def __init__(self, path: Path, on_written: Callable[[Path], None] | None = None) -> None:
        self._path = path
        self._on_written = on_written
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._under_way: Future[None] | None = None
        self._longest_s = 0.0
        self._start_s: float | None = None

    def __enter__(self) -> "CheckpointWriter":
        """Write checkpoints from now on."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for the last one.

        Raises:
            Exception: what writing it failed with; a note of another error, if there is one.
        """
        self._pool.shutdown()
        failure = self.failure()
        if failure and error:
            error.add_note(f"its last checkpoint was not written either: {failure}")
        elif failure:
            raise failure

    @property
    def longest_s(self) -> float:
        """What the slowest one took, or has taken so far."""
        start_s = self._start_s
        running_s = 0.0 if start_s is None else time.monotonic() - start_s
        return max(self._longest_s, running_s)

    def write(self, state: State) -> None:
        """Write this state as it is now; what it holds may be changed at once.

        Raises:
            Exception: what writing the one before it failed with.
        """
        if failure := self.failure():
            raise failure
        self._under_way = self._pool.submit(self._write, _copied(state))

    def failure(self) -> BaseException | None:
        """Wait for the one under way; what writing it failed with, which is not told again."""
        under_way, self._under_way = self._under_way, None
        return under_way.exception() if under_way else None

    def _write(self, state: State) -> None:
        self._start_s = time.monotonic()
        write_checkpoint(self._path, state)
        if self._on_written is not None:
            self._on_written(self._path)
        self._longest_s, self._start_s = self.longest_s, None


def _copied(value: Any) -> Any:
    """The same, of new dictionaries, lists and tensors in main memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value


def read_checkpoint(path: Path, device: torch.device) -> State:
    """The state in a checkpoint, its tensors on the device.

    Raises:
        DamagedCheckpoint: truncated, changed, another format version, or made by something else.
    """
    data = path.read_bytes()
    start = len(_MAGIC) + _DIGEST_BYTES
    if not data.startswith(_MAGIC):
        raise DamagedCheckpoint(f"{path} is no checkpoint of format {_MAGIC.decode().strip()!r}")
    saved = memoryview(data)[start:]
    if hashlib.sha256(saved).digest() != data[len(_MAGIC) : start]:
        raise DamagedCheckpoint(f"{path} is damaged (checksum)")
    try:
        state: State = torch.load(io.BytesIO(saved), map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise DamagedCheckpoint(f"{path} is no training's: it holds more than numbers") from error
    return state
