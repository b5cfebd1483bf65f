"""What the shell completes agrees with what the code knows, and comes without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import models
from flows import completion
from tasks.config import CATALOGUE_FILE, load_catalogue
from tasks.layout import REGISTRY_FOLDER
from tests.conftest import REPOSITORY, Workspace


def test_architectures_are_those_of_the_registry() -> None:
    trainable = [name for name in models.names() if models.get(name).trainable]
    interpolations = [name for name in models.names() if not models.get(name).trainable]

    assert completion.architectures("") == trainable
    assert completion.architectures("lesrcnn_s") == ["lesrcnn_s", "lesrcnn_sn"]
    assert [name for name in completion.networks("") if name in models.names()] == interpolations


def test_registered_models_are_those_of_the_receipt(workspace: Workspace) -> None:
    assert completion.registered_networks("") == []

    Path("registry").mkdir()
    receipt = {"models": [{"model": "vdsr-x3"}, {"model": "srcnn-x2"}, {"model": "vdsr-x3"}]}
    (REGISTRY_FOLDER / "receipt.json").write_text(json.dumps(receipt), "utf-8")

    assert completion.registered_networks("") == ["srcnn-x2", "vdsr-x3"]
    assert completion.networks("b") == ["bicubic", "bilinear"]


def test_data_sets_are_those_of_the_catalogue(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.path / CATALOGUE_FILE).write_bytes((REPOSITORY / CATALOGUE_FILE).read_bytes())

    assert completion.datasets("") == list(load_catalogue())
    assert completion.datasets("SET5") == ["set5", "set5_selfexsr"]
    (workspace.path / CATALOGUE_FILE).unlink()
    assert completion.datasets("") == []


def test_the_shell_gets_them_without_torch(workspace: Workspace) -> None:
    code = "import sys; from flows.cli import main; sys.argv = ['sisr']\ntry:\n    main()\n"
    code += "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    asked = {"_SISR_COMPLETE": "complete_bash", "COMP_WORDS": "sisr import vd", "COMP_CWORD": "2"}

    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == ["vdsr", "vdsr_10", "vdsr_15", "vdsr_5", "vdsr_plain"]
    assert done.stderr.strip().endswith("False")
