"""What the flow and the workers hand each other: inputs, checkpoints, results.

With a storage (`SISR_STORAGE`) nothing else is shared. Inputs are kept there by
their checksum and fetched once per node into a cache; a result is its files and
then a list of their checksums, so that half a result is none. Without a storage,
workers stand in the flow's own workspace.
"""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from tasks.atomic import replacing_folder
from tasks.checksums import file_sha256
from tasks.config import Cell, Settings
from tasks.errors import StoreError
from tasks.layout import HR_FOLDER, lr_folder, shard_folder
from tasks.storage import Store

_LIST = "files.json"


@dataclass(frozen=True)
class Job:
    """One cell for a worker. `name` holds its fingerprint, so no other training's state is met.

    `inputs` are relative paths with their checksums; none where the worker
    stands in the workspace itself.
    """

    name: str
    cell: str
    params: str
    inputs: dict[str, str]
    is_large: bool


def offer_inputs(store: Store, cells: Iterable[Cell]) -> dict[str, dict[str, str]]:
    """Put what the cells read into the storage, unless it is there; checksums by cell and path.

    Raises:
        StoreError: the storage refuses, or is away for too long.
    """
    known: dict[Path, str] = {}
    offered = {}
    for cell in cells:
        files = [path for folder in _input_folders(cell) for path in _files(folder)]
        for path in files:
            if path not in known:
                known[path] = file_sha256(path)
                if not store.has(_input_key(known[path])):
                    store.put(_input_key(known[path]), path)
        offered[cell.name] = {path.as_posix(): known[path] for path in files}
    return offered


def fetch_inputs(store: Store, inputs: dict[str, str], cache: Path, workspace: Path) -> None:
    """Lay a cell's inputs into a folder, as links to this node's cache.

    Raises:
        StoreError: an object is missing or damaged, or the storage is away for too long.
    """
    for relative, sha256 in inputs.items():
        cached = cache / "inputs" / sha256
        cached.parent.mkdir(parents=True, exist_ok=True)
        # One fetch per node, however many workers ask.
        with FileLock(cached.with_suffix(".lock")):
            if not (cached.is_file() and file_sha256(cached) == sha256):
                _fetch(store, sha256, cached)
        link = workspace / relative
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(cached)


def keep_result(store: Store, name: str, folder: Path) -> None:
    """Put a finished cell's files into the storage; their list comes last and makes it whole.

    Raises:
        StoreError: the storage refuses, or is away for too long.
    """
    sums = {}
    for path in _files(folder):
        relative = path.relative_to(folder).as_posix()
        sums[relative] = file_sha256(path)
        store.put(f"{_result_key(name)}/{relative}", path)
    with tempfile.TemporaryDirectory(prefix="sisr-") as temporary:
        listed = Path(temporary) / _LIST
        listed.write_text(json.dumps(sums), encoding="utf-8")
        store.put(f"{_result_key(name)}/{_LIST}", listed)


def has_result(store: Store, name: str) -> bool:
    """Whether a cell has finished and its files are kept."""
    return store.has(f"{_result_key(name)}/{_LIST}")


def take_result(store: Store, name: str, target: Path) -> bool:
    """Bring a finished cell's files into a folder; False if it has not finished.

    Raises:
        StoreError: a file is missing or damaged, or the storage is away for too long.
    """
    with tempfile.TemporaryDirectory(prefix="sisr-") as temporary:
        listed = Path(temporary) / _LIST
        if not store.get(f"{_result_key(name)}/{_LIST}", listed):
            return False
        sums: dict[str, str] = json.loads(listed.read_text("utf-8"))
    with replacing_folder(target) as folder:
        for relative, sha256 in sums.items():
            key = f"{_result_key(name)}/{relative}"
            if not store.get(key, folder / relative) or file_sha256(folder / relative) != sha256:
                forget_result(store, name)
                raise StoreError(f"{store.url}/{key} was damaged; run again to train it anew")
    return True


def forget_result(store: Store, name: str) -> None:
    """Delete a finished cell's files; the list goes first, so that half of them is none."""
    with tempfile.TemporaryDirectory(prefix="sisr-") as temporary:
        listed = Path(temporary) / _LIST
        if not store.get(f"{_result_key(name)}/{_LIST}", listed):
            return
        sums: dict[str, str] = json.loads(listed.read_text("utf-8"))
    for relative in (_LIST, *sums):
        store.delete(f"{_result_key(name)}/{relative}")


def checkpoint_key(name: str) -> str:
    """Where a cell's checkpoint lies in the storage."""
    return f"checkpoints/{name}.pt"


def node_cache() -> Path:
    """Where this node keeps the inputs it has fetched, by its own environment, not the flow's."""
    # Absolute, because links lead there.
    return Settings().node_cache.absolute()


def _input_folders(cell: Cell) -> list[Path]:
    folders = [HR_FOLDER / "validation"]
    for scale in cell.scales:
        folders += [lr_folder(scale) / "validation", shard_folder(scale)]
    return folders


def _fetch(store: Store, sha256: str, target: Path) -> None:
    if not store.get(_input_key(sha256), target):
        raise StoreError(f"{store.url}/{_input_key(sha256)} is missing; run again to offer it anew")
    if file_sha256(target) != sha256:
        target.unlink()
        store.delete(_input_key(sha256))
        raise StoreError(f"{store.url}/{_input_key(sha256)} was damaged and is deleted; run again")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _input_key(sha256: str) -> str:
    return f"inputs/{sha256}"


def _result_key(name: str) -> str:
    return f"results/{name}"
