"""A disk that is full: one clear error, earlier outputs whole, no temporary files.

The limit on a file's size (`ulimit -f`) stands in for it: the kernel refuses the write in the same
place, and no privilege is needed.
"""

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tasks.atomic import check_room, replacing_file, replacing_folder, room_for, write_text
from tasks.config import Settings, load_catalogue, load_params
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import StoreError
from tasks.images import write_png
from tasks.parameter_sets import adopt
from tests.conftest import Workspace

_LIMIT_BYTES = 60_000
NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)


@contextmanager
def no_room() -> Iterator[None]:
    """No file may grow above the limit; Python ignores the signal and raises EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_LIMIT_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def refusal(write: Callable[[], object]) -> str:
    with no_room(), pytest.raises(StoreError) as caught:
        write()
    return str(caught.value)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _safetensors(path: Path) -> None:
    with replacing_file(path) as temporary:
        safetensors.numpy.save_file({"a": NOISE}, temporary)  # which reports in Rust's words


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 100_000),
        lambda path: write_png(path, NOISE),
        _safetensors,
    ],
    ids=["text", "png", "safetensors"],
)
def test_a_file_that_finds_no_room_leaves_the_old_one(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"before")

    said = refusal(lambda: write(path))

    assert said.startswith(f"cannot write {path}: File too large (")
    assert said.endswith("B free there now); make room and run again: what was finished is kept")
    assert files(tmp_path) == {"out": b"before"}


def test_a_folder_that_finds_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_bytes(b"before")

    def write() -> None:
        with replacing_folder(path) as temporary:
            (temporary / "small").write_bytes(bytes(9))
            (temporary / "large").write_bytes(bytes(100_000))

    assert refusal(write).startswith(f"cannot write {path}: File too large (")
    assert files(tmp_path) == {"out/old": b"before"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_each_kind_of_no_room_is_told(number: int, tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "there"

    with pytest.raises(StoreError) as caught, room_for(path):
        raise OSError(number, os.strerror(number))

    assert str(caught.value).startswith(f"cannot write {path}: {os.strerror(number)} (")


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), room_for(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(ValueError, match="28"), room_for(tmp_path / "a"):
        raise ValueError("28")


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_bytes(b"before")
    rename = Path.rename

    def second_fails(source: Path, target: Path) -> Path:
        if target == path and source.name.endswith(".part") and (source / "new").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(StoreError, match="No space left on device"), replacing_folder(path) as new:
        (new / "new").touch()

    assert files(tmp_path) == {"out/old": b"before"}


def test_a_name_of_the_longest_kind_is_written(tmp_path: Path) -> None:
    name = "ö" * 125 + ".png"
    assert len(name.encode()) == 254

    write_png(tmp_path / name, NOISE)

    assert [path.name for path in tmp_path.iterdir()] == [name]


def _run_download() -> None:
    download(load_params(), load_catalogue(), Settings())


@pytest.fixture
def finished(workspace: Workspace) -> Workspace:
    """A workspace whose pictures are there, and a further one that is too large."""
    _run_download()
    degrade(2)
    (workspace.path / "tasks").unlink()  # the code is none of the outputs
    (workspace.path / "models").unlink()
    noise = np.random.default_rng(1).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(workspace.sources / "tiny_test" / "zebra.png")
    return workspace


def test_a_download_that_finds_no_room_leaves_the_old_data(finished: Workspace) -> None:
    before = files(finished.path)
    assert "data/hr/test/tiny_test/bridge.png" in before

    said = refusal(_run_download)

    assert said.startswith("cannot write data/hr/test: File too large (")
    assert files(finished.path) == before


def test_a_degradation_that_finds_no_room_leaves_the_old_pictures(finished: Workspace) -> None:
    shutil.copy(finished.sources / "tiny_test" / "zebra.png", "data/hr/test/tiny_test")
    before = files(finished.path)
    assert "data/lr/x2/test/tiny_test/bridge.png" in before

    said = refusal(lambda: degrade(2))

    assert said.startswith("cannot write data/lr/x2/")
    assert "zebra.png: File too large (" in said
    assert files(finished.path) == before


def test_a_file_larger_than_the_disk_is_not_begun(tmp_path: Path) -> None:
    check_room(tmp_path, 1)

    with pytest.raises(StoreError, match=r"it needs 4294967296\.0 GiB \(.* free there\); make ro"):
        check_room(tmp_path, 2**62)


def test_a_parameter_set_that_finds_no_room_changes_nothing(workspace: Workspace) -> None:
    large = workspace.path / "large.yaml"
    large.write_bytes((workspace.path / "params.yaml").read_bytes() + b"#" * 100_000)
    before = (workspace.path / "params.yaml").read_bytes()

    assert refusal(lambda: adopt(large)).startswith("cannot write params.yaml: File too large (")

    assert (workspace.path / "params.yaml").read_bytes() == before
    assert not list(workspace.path.glob("*.part"))
    assert not list(workspace.path.glob(".*.part"))
