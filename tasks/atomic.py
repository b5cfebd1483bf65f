"""Nothing half-written ever passes for whole: write beside, then rename.

A full disk is told in words here, for every file that sisr writes.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.errors import StoreError

# No space, over the quota, over the file size limit (`ulimit -f`), read-only.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# How libraries in Rust, safetensors among them, say it.
_OS_ERROR_IN_TEXT = re.compile(r"\(os error (\d+)\)")
# File systems take names of 255 bytes; ours add at most 16 to a picture's.
_MAX_KEPT_BYTES = 200

_UMASK = os.umask(0)
os.umask(_UMASK)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends without an error.

    Raises:
        StoreError: no room to write it.
    """
    with room_for(path):
        temporary = _beside(path)
        try:
            yield temporary
            _flush(temporary)
            # Some writers make private files; a result is as readable as any other file.
            temporary.chmod(0o666 & ~_UMASK)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends without an error.

    Raises:
        StoreError: no room to write it.
    """
    with room_for(path):
        temporary = _beside(path)
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            _swap(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn what a full disk raises in the block, while `path` is written, into a `StoreError`.

    Raises:
        StoreError: no space, over the quota or a size limit, or a read-only file system.
    """
    try:
        yield
    except Exception as error:
        number = _errno(error)
        if number not in NO_ROOM:
            raise
        raise StoreError(
            f"cannot write {path}: {os.strerror(number)} ({_free(path)}); make room and run again:"
            " what was finished is kept"
        ) from error


def check_room(folder: Path, num_bytes: int) -> None:
    """Refuse to begin a file that cannot end.

    Raises:
        StoreError: the folder's file system has less than `num_bytes` free.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise StoreError(
            f"cannot write into {folder}: it needs {_size(num_bytes)} ({_size(free)} free there);"
            " make room and run again: what was finished is kept"
        )


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 text file, or leave what was there."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _beside(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.name.encode()[:_MAX_KEPT_BYTES].decode(errors="ignore")
    return path.with_name(f".{kept}.{uuid.uuid4().hex[:8]}.part")


def _swap(temporary: Path, path: Path) -> None:
    """Rename a folder over another; a full one cannot be renamed over, so it steps aside first."""
    if not path.exists():
        temporary.rename(path)
        return
    old = _beside(path)
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = _OS_ERROR_IN_TEXT.search(str(error))
    return int(found[1]) if found else None


def _free(path: Path) -> str:
    return f"{_size(shutil.disk_usage(_existing(path)).free)} free there now"


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next(parent for parent in path.absolute().parents if parent.is_dir())


def _size(num_bytes: int) -> str:
    if num_bytes < 2**20:
        return f"{num_bytes / 2**10:.1f} KiB"
    return f"{num_bytes / 2**20:.1f} MiB" if num_bytes < 2**30 else f"{num_bytes / 2**30:.1f} GiB"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
