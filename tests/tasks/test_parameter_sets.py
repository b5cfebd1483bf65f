import shutil
from pathlib import Path

import pytest

from tasks.config import load_params
from tasks.errors import ParamsError
from tasks.parameter_sets import adopt
from tests.conftest import Workspace


def other_set(workspace: Workspace, name: str, seed: int) -> Path:
    """A parameter set beside the one in use, with a comment that must survive."""
    before = (workspace.path / "params.yaml").read_bytes()
    workspace.write_params(seed=seed)
    path = workspace.path / "sets" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"# seed " + str(seed).encode() + b"\n" + Path("params.yaml").read_bytes())
    Path("params.yaml").write_bytes(before)
    return path


def files(workspace: Workspace) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in workspace.path.glob("params*")}


def test_a_set_becomes_the_one_in_use_and_the_one_before_is_kept(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("params.yaml").read_bytes()
    path = other_set(workspace, "quick.yaml", seed=7)

    adopt(path.relative_to(workspace.path))

    assert load_params().seed == 7
    assert files(workspace) == {"params.yaml": path.read_bytes(), "params.previous.yaml": before}
    assert capsys.readouterr().err == (
        "sets/quick.yaml is now params.yaml; what was there is kept as params.previous.yaml\n"
    )


def test_without_a_set_in_use_there_is_nothing_to_keep(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    path = other_set(workspace, "quick.yaml", seed=7)
    Path("params.yaml").unlink()

    adopt(path)

    assert files(workspace) == {"params.yaml": path.read_bytes()}
    assert capsys.readouterr().err == ""


def test_the_set_in_use_may_be_named_again(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Path("params.yaml").read_bytes()
    path = other_set(workspace, "quick.yaml", seed=7)
    adopt(path)
    capsys.readouterr()

    adopt(path)
    adopt(Path("params.yaml"))

    # The one before is still the one before.
    expected = {"params.yaml": path.read_bytes(), "params.previous.yaml": first}
    assert files(workspace) == expected
    assert capsys.readouterr().err == ""


def test_the_set_before_can_be_taken_back(workspace: Workspace) -> None:
    first = Path("params.yaml").read_bytes()
    second = other_set(workspace, "quick.yaml", seed=7)
    adopt(second)

    adopt(Path("params.previous.yaml"))

    expected = {"params.yaml": first, "params.previous.yaml": second.read_bytes()}
    assert files(workspace) == expected


def test_a_set_that_is_not_valid_changes_nothing(workspace: Workspace) -> None:
    before = files(workspace)
    path = other_set(workspace, "broken.yaml", seed=7)
    path.write_text(path.read_text().replace("srcnn", "srcn"))

    with pytest.raises(ParamsError, match="unknown architecture 'srcn'"):
        adopt(path)
    with pytest.raises(ParamsError, match=r"there is no sets/missing\.yaml in "):
        adopt(Path("sets/missing.yaml"))

    assert files(workspace) == before


def test_a_set_from_elsewhere_is_copied_and_not_moved(workspace: Workspace, tmp_path: Path) -> None:
    elsewhere = tmp_path / "mine.yaml"
    shutil.copyfile(other_set(workspace, "quick.yaml", seed=7), elsewhere)
    written = elsewhere.read_bytes()

    adopt(elsewhere)

    assert elsewhere.read_bytes() == Path("params.yaml").read_bytes() == written
