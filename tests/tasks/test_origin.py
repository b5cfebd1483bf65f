import subprocess
from pathlib import Path

import pytest

from tasks.checksums import folder_sha256
from tasks.evaluate import data_sha256
from tasks.layout import HR_FOLDER
from tasks.origin import git_commit, picture_digests


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_and_whether_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_commit() == "unknown: not a git checkout"
    git("init", "-q")
    Path("a").write_text("1")
    Path("params.yaml").write_text("seed: 1")
    git("add", "a", "params.yaml")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert git_commit() == commit
    Path("params.yaml").write_text("seed: 2")
    assert git_commit() == commit  # parameters are told apart from the code
    Path("a").write_text("2")
    assert git_commit() == f"{commit}-dirty"


def test_each_data_set_has_the_checksum_of_its_own_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name `set14` comes before `set5`; params.yaml may have them the other way round."""
    monkeypatch.chdir(tmp_path)
    names = ("set5", "set14")
    for name in names:
        folder = HR_FOLDER / "test" / name
        folder.mkdir(parents=True)
        (folder / "a.png").write_text(name)

    digests = picture_digests(data_sha256(names), names)

    own = {name: folder_sha256(HR_FOLDER / "test" / name)[:16] for name in names}
    assert list(digests.items()) == list(own.items())
    assert picture_digests(data_sha256(names), ["set5"]) == {}
