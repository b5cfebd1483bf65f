"""The examples of docs/architectures.md work as they stand there."""

import os
import re
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from tests.conftest import REPOSITORY, Workspace, dump_yaml, params_values_with

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
