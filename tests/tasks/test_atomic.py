import subprocess
import sys
from pathlib import Path

import pytest

from tasks import atomic
from tasks.atomic import replacing_file, replacing_folder, write_text


class Interrupted(Exception):
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "result.json"

    with replacing_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        # On the same file system, or the last step would be a copy.
        assert temporary.parent == path.parent
        temporary.write_text("whole")

    assert path.read_text() == "whole"
    assert names(path.parent) == ["result.json"]


def test_a_failed_write_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("before")

    with pytest.raises(Interrupted), replacing_file(path) as temporary:
        temporary.write_text("half")
        raise Interrupted

    assert path.read_text() == "before"
    assert names(tmp_path) == ["result.json"]


def test_a_failed_write_leaves_nothing_where_nothing_was(tmp_path: Path) -> None:
    with pytest.raises(Interrupted), replacing_file(tmp_path / "result.json"):
        raise Interrupted

    assert names(tmp_path) == []


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text("before, and longer")

    write_text(path, "Größe ×2\n")

    assert path.read_bytes() == b"Gr\xc3\xb6\xc3\x9fe \xc3\x972\n"


def test_a_file_is_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.umask(0o027)\n"
        "from pathlib import Path; from tasks.atomic import replacing_file\n"
        "with replacing_file(Path('a')) as temporary:\n"
        "    os.close(os.open(temporary, os.O_CREAT, 0o600))\n"
        "Path('b').touch()\n"  # the umask is as it was
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)

    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"a": 0o640, "b": 0o640}


def test_a_folder_replaces_the_old_one_with_all_its_files(tmp_path: Path) -> None:
    path = tmp_path / "cells" / "srcnn-x2"
    path.mkdir(parents=True)
    (path / "stale").write_text("before")

    with replacing_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "fresh").write_text("after")
        assert names(path) == ["stale"]

    assert names(path) == ["inner"]
    assert (path / "inner" / "fresh").read_text() == "after"
    assert names(path.parent) == ["srcnn-x2"]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.mkdir()
    (path / "old").write_text("before")

    with pytest.raises(Interrupted), replacing_folder(path) as temporary:
        (temporary / "new").write_text("half")
        raise Interrupted

    assert names(tmp_path) == ["data"]
    assert (path / "old").read_text() == "before"


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "result.json"

    with replacing_file(path) as first, replacing_file(path) as second:
        assert first != second
        first.write_text("a" * 10)
        second.write_text("b" * 5)

    assert path.read_text() == "a" * 10  # the outer block ends last
    assert names(tmp_path) == ["result.json"]


def test_what_a_folder_holds_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a power cut leaves a folder that looks whole, and empty files in it."""
    flushed: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        atomic, "_flush", lambda file: flushed.append((file.name, (tmp_path / "cell").exists()))
    )

    with replacing_folder(tmp_path / "cell") as folder:
        (folder / "weights").write_bytes(b"1")
        (folder / "snapshots").mkdir()
        (folder / "snapshots" / "step").write_bytes(b"2")

    assert sorted(flushed) == [("step", False), ("weights", False)]
