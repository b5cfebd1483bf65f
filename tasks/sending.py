"""Checkpoints on their way to a storage, while the training goes on.

A slow storage, or one that is away, must not stop a GPU. While one checkpoint is under way only the
newest of the others waits: it makes those before it worthless.
"""

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path
from types import TracebackType


class CheckpointSender:
    """Sends files in a thread of its own; a context, at whose end what still waits is dropped."""

    def __init__(self, send: Callable[[Path], None]) -> None:
        self._send = send
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._lock = threading.Lock()
        self._waiting: Path | None = None
        self._futures: list[Future[None]] = []
        self._numbers = count()

    def __enter__(self) -> "CheckpointSender":
        """Take checkpoints from now on."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is under way: nothing may arrive after the training's end."""
        self._take_waiting(None)
        self._pool.shutdown()
        if error is None:
            self._raise_what_failed()

    def take(self, checkpoint: Path) -> None:
        """Send this file as it is now; it may be replaced at once.

        Raises:
            Exception: what an earlier one failed with.
        """
        kept = checkpoint.absolute()
        kept = kept.with_name(f"{kept.name}.{next(self._numbers)}.sending")
        try:
            os.link(checkpoint, kept)
        except OSError:  # a file system without links
            shutil.copyfile(checkpoint, kept)
        if self._take_waiting(kept):
            return  # it takes the place, and the turn, of the one that waited
        self._raise_what_failed()
        self._futures.append(self._pool.submit(self._send_waiting))

    def _raise_what_failed(self) -> None:
        for future in [future for future in self._futures if future.done()]:
            self._futures.remove(future)
            future.result()

    def _send_waiting(self) -> None:
        with self._lock:
            path, self._waiting = self._waiting, None
        if path is None:
            return
        try:
            self._send(path)
        finally:
            path.unlink(missing_ok=True)

    def _take_waiting(self, path: Path | None) -> bool:
        """Put a file, or none, in the place of the one that waits; whether there was one."""
        with self._lock:
            before, self._waiting = self._waiting, path
        if before is not None:
            before.unlink(missing_ok=True)
        return before is not None
