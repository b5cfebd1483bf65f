"""Every hostile input is refused with its error and a way out; nothing runs or is left behind."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from tests.hostile_inputs import ADDRESSES, CASES, POSTSCRIPT, REPOSITORY, Case, cell, refusal, row


def _our_words(row: str) -> tuple[str, str]:
    """A row's input and the way out at its end: what is between may be another library's."""
    return row.partition(" | ")[0], row.rpartition("; ")[2]


DOCUMENTED = {
    _our_words(line)
    for line in (REPOSITORY / "docs" / "safety.md").read_text("utf-8").splitlines()
    if line.startswith("|")
}


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture(autouse=True)
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Ghostscript that tells of being called, and a current folder to leave traces in."""
    folder = tmp_path / "traps"
    (folder / "bin").mkdir(parents=True)
    for name in ("gs", "gswin64c", "convert", "inkscape"):
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\n: > '{folder}/canary'\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_refused_and_nothing_else_happens(case: Case, tmp_path: Path, traps: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    before = _files(traps)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # as outside of tests
        error = refusal(case, home)

    assert type(error) is case.error
    assert _our_words(row(case, error, home)) in DOCUMENTED
    text = str(error)
    assert not re.search(r"\bsec(ret)?\b", text.replace("secret.zip", ""))
    assert all(character.isprintable() or character == "\n" for character in text)
    assert len(text) < 6000
    # Nothing ran, and nothing lies outside of the folder that the input was made for.
    assert _files(traps) == before
    assert _files(tmp_path) - {f"home/{name}" for name in _files(home)} == {
        "home", "traps", *(f"traps/{name}" for name in before),
    }  # fmt: skip
    assert not [name for name in _files(home) if name.endswith(".part") or "evil" in name]
    # An archive that is not what was meant is not kept for the next time.
    assert not [
        name for name in _files(home) if name.startswith("cache/") and "zip in a" not in case.name
    ]


def test_the_table_of_the_documentation_has_every_case() -> None:
    _, _, table = (REPOSITORY / "docs" / "safety.md").read_text("utf-8").partition("| input |")
    documented = [tuple(row.split(" | ")[:2]) for row in table.splitlines()[2:]]

    assert documented == [
        (f"| {case.group}: {cell(case.name)}", case.error.__name__) for case in CASES
    ]


def test_every_kind_of_address_was_tried() -> None:
    assert {url.partition(":")[0] for url in ADDRESSES} >= {"ftp", "javascript", "data", "file"}


def test_the_trap_would_have_caught_pillow_on_its_own(tmp_path: Path, traps: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(POSTSCRIPT)
    code = "import sys; from PIL import Image; Image.open(sys.argv[1]).load()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(picture)], capture_output=True, check=False
    )

    assert done.returncode != 0
    assert (traps / "canary").exists()
