"""The examples of the documentation work as they stand there, and its lists are whole."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer
from safetensors.torch import load_file

from flows.cli import app
from tests.conftest import (
    REPOSITORY,
    Workspace,
    dump_yaml,
    make_workspace,
    params_values_with,
)

GUIDE = REPOSITORY / "docs" / "architectures.md"

CONVERT = """
from pathlib import Path
import torch
from tasks import foreign_weights
from tasks.foreign_weights import LAYER_NAMES, convert
import models
exec(Path("mapping.py").read_text())
ours = models.create("toy", 2).state_dict()
names = {"first": "net.conv_in", "last": "net.conv_out"}
theirs = {names[name.split(".")[0]] + "." + name.split(".")[1]: ours[name] for name in ours}
converted = convert("toy", 2, theirs)
assert converted.keys() == ours.keys()
assert all(torch.equal(converted[name], ours[name]) for name in ours)
"""


def block(belongs_to: str) -> str:
    """The code block behind `<!-- belongs_to -->`."""
    found = re.search(
        rf"<!-- {re.escape(belongs_to)} -->\n```\w+\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL
    )
    assert found is not None
    return found[1]


@pytest.fixture
def toy(workspace: Workspace) -> Workspace:
    """A workspace with its own copy of the code, one new file and one entry in params.yaml."""
    from ruamel.yaml import YAML

    for package in ("models", "tasks"):
        (workspace.path / package).unlink()  # the workspace's link to ours
        for source in (REPOSITORY / package).glob("*.py"):
            target = workspace.path / package / source.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(source.read_bytes())
    (workspace.path / "models/toy.py").write_text(block("models/toy.py"), "utf-8")
    entry = YAML(typ="safe", pure=True).load(block("params.yaml"))
    # Not checked here: this process does not know the new file.
    dump_yaml(params_values_with({"trained": entry}), workspace.path / "params.yaml")
    return workspace


def python(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_toy_architecture_trains_from_one_file_and_one_entry(toy: Workspace) -> None:
    python("-m", "tasks.download")
    python("-m", "tasks.degrade", "--scale", "2")
    python("-m", "tasks.shards", "--scale", "2")
    trained = python("-m", "tasks.train", "--cell", "toy-x2")

    assert "toy-x2: step 20/20" in trained
    weights = load_file(toy.path / "cells/toy-x2/weights.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == (9 + 1) * 8 + 8 * 9 + 1


def test_a_mapping_of_names_imports_another_author_s_weights(toy: Workspace) -> None:
    (toy.path / "mapping.py").write_text(block("tasks/foreign_weights.py"), "utf-8")
    (toy.path / "convert.py").write_text(CONVERT, "utf-8")

    python("convert.py")


COMMANDS_PAGE = REPOSITORY / "docs" / "commands.md"
_SAID_ONCE = {"--help", "--version", "--install-completion", "--show-completion"}


def documented(page: str) -> dict[str, set[str]]:
    """Every command of docs/commands.md with the options and arguments in its table."""
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    return {
        match[1]: set(re.findall(r"`([^`]+)`", "\n".join(_first_cells(section))))
        for section in sections
        if (match := re.match(r"`sisr (\w+)`", section))
    }


def _first_cells(section: str) -> list[str]:
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return [row.split(" | ")[0] for row in rows]


def existing() -> dict[str, set[str]]:
    """Every command of the program with the names of its parameters."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        name: {
            label
            for parameter in command.params
            for label in (
                parameter.opts
                if parameter.param_type_name == "option"
                else [parameter.metavar or parameter.name.upper()]
            )
        }
        - _SAID_ONCE
        for name, command in commands.items()
    }


def test_every_command_and_option_is_documented_and_the_other_way_round() -> None:
    page = COMMANDS_PAGE.read_text("utf-8")

    assert documented(page) == existing()
    general = page.split("## For every command")[1]
    assert set(re.findall(r"^\| `(--[\w-]+)`", general, re.MULTILINE)) == _SAID_ONCE


def meaning(parameter: Any, annotation: object) -> str:
    """What the page says of a parameter: its help, what it may be, and what it is if not given."""
    said = [parameter.help or ""]
    annotations = (annotation, *get_args(annotation))
    choices = [each for one in annotations if get_origin(one) is Literal for each in get_args(one)]
    if choices:
        said.append(f"One of: {', '.join(choices)}.")
    if parameter.param_type_name == "option":
        if parameter.min is not None:
            said.append(f"From {parameter.min} to {parameter.max}.")
        if parameter.required:
            said.append("Required.")
        if parameter.default not in (None, False):
            said.append(f"Default: {parameter.default}.")
    return " ".join(said)


def test_every_option_means_what_its_help_says() -> None:
    sections = re.split(r"^## `sisr ", COMMANDS_PAGE.read_text("utf-8"), flags=re.MULTILINE)
    pages = {section.partition("`")[0]: section.split("\n## ")[0] for section in sections}
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        hints = get_type_hints(command.callback)
        expected = [
            meaning(each, hints[each.name]) for each in command.params if each.name in hints
        ]
        rows = [line for line in pages[name].splitlines() if line.startswith("| `")]
        assert [row.split(" | ")[1].removesuffix(" |") for row in rows] == expected, name


def examples() -> list[str]:
    """Each command line of the page and of every `--help`."""
    found = re.findall(r"^\$ (sisr .*)$", COMMANDS_PAGE.read_text("utf-8"), re.MULTILINE)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        in_help = re.findall(r"^\s+(sisr .*)$", command.help or "", re.MULTILINE)
        assert in_help, f"`sisr {name} --help` shows no example"
        found += in_help
    return found


@pytest.mark.parametrize("line", examples())
def test_every_example_can_be_typed(line: str) -> None:
    """Parsed as the shell and the program do it, not run."""
    words = shlex.split(line.split(" > ", maxsplit=1)[0])[1:]
    group = typer.main.get_command(app)
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    with command.make_context(words[0], words[1:]) as context:
        assert not context.args


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["table"], 1),
        (["tabel"], 2),
        (["table", "--scal", "2"], 2),
        (["upscale", "picture.png"], 2),
    ],
)
def test_exit_codes(arguments: list[str], code: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == code
    assert done.stderr.startswith("sisr: ") == (code == 1)
    assert f"| {code} |" in COMMANDS_PAGE.read_text("utf-8")


def python_examples() -> list[str]:
    """The blocks of docs/python.md; each is a program of its own."""
    page = (REPOSITORY / "docs" / "python.md").read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which srcnn-x2 is registered and measured, and a picture lies."""
    home = make_workspace(tmp_path_factory.mktemp("finished")).path
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FINISH],
        cwd=home,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return home


FINISH = """
from pathlib import Path
import torch
from PIL import Image
import models
from tasks import evaluate
from tasks.config import Settings, load_catalogue, load_params
from tasks.degrade import degrade
from tasks.download import download
from tasks.importing import import_weights
from tasks.report import write_report
from tasks.tracking import register_imported
from tests.conftest import dump_yaml, params_values_with
dump_yaml(params_values_with({"interpolations": ["bicubic"], "trained": {}}), Path("params.yaml"))
evaluate.OUTPUT_SIZES_PX = (12,)
params, settings = load_params(), Settings()
download(params, load_catalogue(), settings)
degrade(2)
torch.save(models.create("srcnn", 2).state_dict(), "srcnn.pth")
import_weights(params, settings, "srcnn", "srcnn.pth", sha256=None, scales=[2], say=print)
register_imported(params, settings, "srcnn")
evaluate.evaluate(params, "bicubic", 2)
write_report(params, {})
Image.effect_noise((20, 30), 40).convert("RGB").save("photo.png")
"""


@pytest.mark.parametrize("number", range(len(python_examples())))
def test_the_examples_for_python_run(number: int, finished: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", python_examples()[number]],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        cwd=finished,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
