import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.checks import check_inputs
from tasks.errors import ParamsError, StoreError
from tests.conftest import REPOSITORY, Workspace, dump_yaml


def test_a_sound_workspace_passes(workspace: Workspace) -> None:
    before = sorted(workspace.path.rglob("*"))

    check_inputs()

    assert sorted(workspace.path.rglob("*")) == before


def test_the_repository_itself_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)

    check_inputs()


@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_a_data_set_that_no_catalogue_has_is_named(role: str, workspace: Workspace) -> None:
    data = {each: [f"tiny_{each}"] for each in ("train", "validation", "test")}
    workspace.write_params(data=data | {role: ["set55"]})

    with pytest.raises(ParamsError, match=r"^unknown data set 'set55'; datasets\.yaml has: "):
        check_inputs()


def test_an_address_that_can_never_be_fetched_is_refused(workspace: Workspace) -> None:
    path = workspace.path / "datasets.yaml"
    path.write_text(path.read_text() + "other: {url: 'ftp://unused/but/wrong'}\n")
    check_inputs()  # nobody asks for it

    entries = {f"tiny_{role}": {"url": "/pictures"} for role in ("train", "validation")}
    dump_yaml(entries | {"tiny_test": {"url": "ftp://me:secret@host/a.zip"}}, path)
    with pytest.raises(ParamsError) as caught:
        check_inputs()
    assert str(caught.value).startswith("tiny_test: unknown scheme in 'ftp://host/a.zip'; known: ")


@pytest.mark.parametrize("name", ["params.yaml", "datasets.yaml", "dvc.yaml"])
def test_a_missing_file_is_named(name: str, workspace: Workspace) -> None:
    (workspace.path / name).unlink()

    with pytest.raises(ParamsError) as caught:
        check_inputs()
    assert str(caught.value) == f"there is no {name} in {workspace.path}; run sisr where it lies"


def test_wrong_parameters_are_found(workspace: Workspace) -> None:
    path = workspace.path / "params.yaml"
    path.write_text(path.read_text().replace("seed: 1", "seed: one"))

    with pytest.raises(ParamsError, match=r"^params\.yaml: seed: Input should be a valid integer"):
        check_inputs()


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """What may be written is asked for the real user; the superuser may write everywhere."""
    if os.getuid() == 0:
        os.setresuid(65534, 0, 0)
        yield
        os.setresuid(0, 0, 0)
    else:
        yield


@pytest.mark.usefixtures("ordinary_user")
def test_a_folder_that_cannot_be_written_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not under tmp_path, whose parents are closed to other users.
    with tempfile.TemporaryDirectory() as parent:
        home = Path(parent, "home")
        shutil.copytree(workspace.path, home, symlinks=True)
        Path(parent).chmod(0o755)
        home.chmod(0o777)
        monkeypatch.chdir(home)
        check_inputs()

        home.chmod(0o555)
        with pytest.raises(StoreError) as caught:
            check_inputs()
        home.chmod(0o777)
        monkeypatch.chdir(workspace.path)
    assert str(caught.value) == f"{home} cannot be written; choose another folder"


@pytest.mark.parametrize("name", ["models", "tasks", "flows"])
@pytest.mark.parametrize("kind", ["package", "folder", "file"])
def test_what_hides_our_code_from_workers_is_refused(
    name: str, kind: str, workspace: Workspace
) -> None:
    found = workspace.path / (f"{name}.py" if kind == "file" else name)
    found.unlink(missing_ok=True)
    (workspace.path / name).unlink(missing_ok=True)
    if kind == "file":
        found.write_text("")
    else:
        found.mkdir()
    if kind == "package":
        (found / "__init__.py").write_text("")

    with pytest.raises(StoreError) as caught:
        check_inputs()
    expected = f"{found} hides sisr's own `{name}`; rename it or move away"
    assert str(caught.value) == expected


def test_a_folder_of_that_name_does_hide_our_code(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    code = "import models; print(models.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == str(tmp_path / "models" / "__init__.py")
