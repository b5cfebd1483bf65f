"""What an interrupted training needs to go on: one file that notices its own damage.

A line that names the format, the SHA-256 of the rest, and the state as `torch.save` writes it.
Read without executing anything (`weights_only`).
"""

import hashlib
import io
import pickle
from pathlib import Path
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
