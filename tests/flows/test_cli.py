import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY, Workspace, dump_yaml


def sisr(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a person types it."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_imports_no_engine() -> None:
    code = (
        "import sys\n"
        "import flows.cli\n"
        "print(sorted({'torch', 'prefect', 'ray', 'mlflow', 'dvc', 'pandas', 'boto3'}"
        " & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_help_lists_the_commands() -> None:
    shown = sisr("--help").stdout
    for command in ("run", "status", "table", "upscale", "ui", "serve"):
        assert f" {command} " in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained": {"edrs": {}}}, "unknown architecture 'edrs'; known: bicubic"),
        ({"scales": [5]}, "scale 5 is not one of [2, 3, 4]"),
        ({"sceed": 3}, "sceed: unknown key; check its spelling"),
        ({"seed": "one"}, "seed: Input should be a valid integer (got 'one')"),
        (
            {"data": {"train": ["x"], "validation": ["tiny_validation"], "test": ["tiny_test"]}},
            "unknown data set 'x'; datasets.yaml has: tiny_test, tiny_train",
        ),
    ],
)
def test_bad_parameters_are_told_in_one_line_before_work_starts(
    workspace: Workspace, params_values: dict[str, object], changes: dict[str, object], message: str
) -> None:
    dump_yaml(params_values | changes, workspace.path / "params.yaml")

    done = sisr("run")

    assert done.returncode == 1
    assert done.stderr.startswith("sisr: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("data").exists()


def test_run_outside_a_workspace_says_where_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    done = sisr("run")

    assert done.returncode == 1
    assert f"there is no params.yaml in {tmp_path}; run sisr where it lies" in done.stderr
    assert not list(tmp_path.iterdir())


def test_upscale_by_interpolation_needs_no_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("it's a “small”\npicture.png")

    done = sisr(
        "upscale",
        "it's a “small”\npicture.png",
        "-o",
        "out.png",
        "--scale",
        "3",
        "--model",
        "nearest",
    )

    assert done.returncode == 0, done.stderr
    with Image.open("out.png") as out:
        assert np.array_equal(np.asarray(out), pixels.repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["missing.png", "-o", "out.png", "--model", "bicubic"],
            "there is no picture missing.png",
        ),
        (["tiny.png", "-o", "out.png", "--scale", "5"], "scale 5 is not one of [2, 3, 4]"),
        (["tiny.png", "-o", "out.txt", "--model", "bicubic"], "unknown suffix; use .png"),
        (
            ["tiny.png", "-o", "no/way/out.png", "--model", "vdsr-x2"],
            "registered: none; run `sisr run`",
        ),
    ],
)
def test_upscale_tells_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("tiny.png")

    done = sisr("upscale", *arguments)

    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        done = sisr("ui", "--mlflow-port", str(port))

    assert done.returncode == 1
    assert f"port {port} is not free" in done.stderr
