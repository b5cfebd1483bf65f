"""`sisr import` and `sisr models` as a person types them, on a real SQLite MLflow."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

import models
from flows.cli import app
from tasks import evaluate
from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import StoreError
from tasks.report import write_report
from tasks.tracking import load_registered, log_benchmark
from tests.conftest import Workspace

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.timeout(180)]

Sisr = Callable[..., Result]


@pytest.fixture
def sisr() -> Sisr:
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.fixture
def params(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.setattr(evaluate, "OUTPUT_SIZES_PX", (12,))
    params = workspace.write_params(interpolations=["bicubic"], trained={})
    download(params, load_catalogue(), Settings())
    degrade(2)
    return params


def test_imported_weights_become_a_registered_version(
    params: Params, sisr: Sisr, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    state = models.create("srcnn", 2).state_dict()
    torch.save(state, tmp_path / "srcnn.pth")

    done = sisr("import", "srcnn", str(tmp_path / "srcnn.pth"), "--scale", "2")

    assert done.exit_code == 0
    assert done.stdout.startswith("srcnn-published  tiny_test ×2  ")
    assert "srcnn-x2 version 1, source=published – champion" in done.stderr
    served = load_registered("srcnn-x2@champion", 2, Settings()).network.state_dict()
    assert all(torch.equal(served[name], state[name]) for name in state)
    listed = {each["name"]: each for each in json.loads(sisr("models", "--json").stdout)}
    (version,) = listed["srcnn"]["registered"]
    assert (version["model"], version["source"]) == ("srcnn-x2", "published")
    assert version["is_champion"]
    # The benchmark's own logging finds the same weights and makes no second version.
    evaluate.evaluate(params, "bicubic", 2)
    write_report(params, {})
    (logged,) = log_benchmark(params, Settings())
    assert (logged.model, logged.version) == ("srcnn-x2", "1")


def test_models_are_listed_without_a_store(workspace: Workspace, sisr: Sisr) -> None:
    done = sisr("models")

    assert done.exit_code == 0
    for text in ("lesrcnn_enlarged", "818,840", "707,968", "707K", "luminance, enlarged"):
        assert text in done.stdout
    assert not Path("mlflow.db").exists()


def test_a_store_that_cannot_be_used_is_an_error(workspace: Workspace, sisr: Sisr) -> None:
    Path("mlflow.db").write_text("no database")

    with pytest.raises(StoreError, match=r"MLflow at sqlite.*mlflow.db cannot be used"):
        sisr("models")
