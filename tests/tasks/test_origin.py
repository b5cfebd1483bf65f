import subprocess
from pathlib import Path

import pytest

from tasks.origin import git_commit


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
    git("add", "a")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert git_commit() == commit
    Path("a").write_text("2")
    assert git_commit() == f"{commit}-dirty"
