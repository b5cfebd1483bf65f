"""The flow on the real engines: Ray, a DVC repository, a SQLite MLflow, Prefect's server."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prefect.states import Failed

from flows.benchmark import benchmark, register_task
from tasks import pipeline
from tasks.config import Settings, load_params
from tasks.errors import CellsFailed, StoreError, WeightsError
from tasks.layout import CELL_FOLDER, METRICS_FILE, REGISTRY_FOLDER, REPORT_FOLDER, weights_file
from tasks.tracking import load_registered
from tasks.train import train_cell
from tests.conftest import REPOSITORY, Workspace, make_workspace, params_values_with

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Workspace]:
    """A workspace in which the flow ran once, the current folder of this file's tests."""
    workspace = make_workspace(tmp_path_factory.mktemp("flow"))
    (workspace.path / "flows").symlink_to(REPOSITORY / "flows")
    with contextlib.chdir(workspace.path):
        dvc("init", "--no-scm")
        shutil.copyfile(REPOSITORY / ".dvcignore", ".dvcignore")
        benchmark()
        yield workspace


def dvc(*arguments: str) -> str:
    """DVC as a person types it, with this Python's commands first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def weights_sha256(cell: str) -> str:
    return hashlib.sha256(weights_file(cell).read_bytes()).hexdigest()


def test_after_the_flow_dvc_has_nothing_to_do(finished: Workspace) -> None:
    assert json.loads(dvc("status", "--json")) == {}
    repro = dvc("repro")
    assert "Running stage" not in repro
    assert repro.count("didn't change, skipping") == len(pipeline.stage_names())


def test_the_tables_have_a_row_for_every_architecture(finished: Workspace) -> None:
    summary = pd.read_parquet(REPORT_FOLDER / "summary.parquet")
    images = pd.read_csv(REPORT_FOLDER / "images.csv")

    assert list(summary["architecture"]) == ["nearest", "bicubic", "cnn_small", "srcnn"]
    assert set(summary["status"]) == {"ok"}
    by_hand = images[images["architecture"] == "bicubic"]["psnr_db"].to_numpy()
    bicubic = summary.set_index("architecture").loc["bicubic"]
    assert bicubic["psnr_db"] == pytest.approx((by_hand[0] + by_hand[1]) / 2)
    assert bicubic["num_images"] == 2
    assert json.loads(METRICS_FILE.read_text())["tiny_test"]["x2"]["bicubic"][
        "psnr_db"
    ] == pytest.approx(bicubic["psnr_db"], abs=1e-4)


def test_ray_and_the_plain_function_give_the_same_weights(
    finished: Workspace, tmp_path: Path
) -> None:
    params = load_params()

    train_cell(params, params.cell("srcnn-x2"), tmp_path / "plain", lambda progress: None)

    plain = hashlib.sha256((tmp_path / "plain/weights.safetensors").read_bytes()).hexdigest()
    assert plain == weights_sha256("srcnn-x2")


def test_mlflow_has_a_parent_a_child_per_row_and_a_champion_per_cell(finished: Workspace) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{Path('mlflow.db').absolute()}")
    experiment = client.get_experiment_by_name("sisr")
    runs = client.search_runs([experiment.experiment_id])
    receipt = json.loads((REGISTRY_FOLDER / "receipt.json").read_text())
    children = {
        run.info.run_name: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == receipt["run_id"]
    }
    assert sorted(children) == ["bicubic-x2", "cnn_small-x2", "nearest-x2", "srcnn-x2"]
    assert {run.info.status for run in runs} == {"FINISHED"}

    child = children["cnn_small-x2"]
    losses = client.get_metric_history(child.info.run_id, "train/loss")
    psnrs = client.get_metric_history(child.info.run_id, "train/psnr_db_x2")
    assert [metric.step for metric in losses] == [1, 2, 3, 4, 5, 6]
    assert [metric.step for metric in psnrs] == [3, 6]
    assert child.data.params["learning_rate"] == "0.002"
    assert {"code_commit", "seed", "hardware", "test_data_sha256"} <= set(child.data.tags)
    tables = {each.path for each in client.list_artifacts(receipt["run_id"], "tables")}
    assert {"tables/summary.json", "tables/images.json", "tables/latency.json"} <= tables
    for name in ("cnn_small-x2", "srcnn-x2"):
        assert client.get_model_version_by_alias(name, "champion").version in (1, "1")


def test_a_registered_network_is_loaded_by_its_alias(finished: Workspace) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{Path('mlflow.db').absolute()}")
    lr = np.random.default_rng(0).uniform(0, 1, (1, 3, 10, 13)).astype(np.float32)

    sr = mlflow.pyfunc.load_model("models:/cnn_small-x2@champion").predict(lr)

    assert sr.shape == (1, 3, 20, 26)
    ours = load_registered("cnn_small-x2", 2, Settings()).predict(lr)
    assert np.array_equal(sr, ours)


def test_only_a_stores_own_failure_is_tried_again() -> None:
    out_of_reach = StoreError("MLflow cannot be used: refused")
    out_of_reach.__cause__ = ConnectionError("refused")
    may_come_back: Any = register_task.retry_condition_fn
    found = [
        may_come_back(register_task, None, Failed(data=error))
        for error in (out_of_reach, StoreError("files lie elsewhere"), WeightsError("no numbers"))
    ]

    assert found == [True, False, False]


@pytest.mark.slow
def test_one_changed_rate_retrains_that_architecture_and_nothing_else(
    finished: Workspace,
) -> None:
    before = {name: weights_sha256(name) for name in ("srcnn-x2", "cnn_small-x2")}
    trained = params_values_with({})["trained"]
    trained["cnn_small"]["learning_rate"] = 0.001
    finished.write_params(trained=trained)

    # The report depends on the recipes too, to name the rows.
    assert list(pipeline.stale_stages()) == ["train@cnn_small-2", "report"]
    benchmark()

    assert weights_sha256("srcnn-x2") == before["srcnn-x2"]
    assert weights_sha256("cnn_small-x2") != before["cnn_small-x2"]
    assert json.loads(dvc("status", "--json")) == {}

    # Back again: DVC's cache has it, nothing trains, the first weights return.
    finished.write_params()
    benchmark()
    assert weights_sha256("cnn_small-x2") == before["cnn_small-x2"]
    assert pipeline.stale_stages() == {}


@pytest.mark.slow
def test_what_was_trained_elsewhere_is_taken(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it comes back from a machine that has torch and no engine."""
    before = weights_sha256("srcnn-x2")
    finished.write_params(seed=5)
    params = load_params()
    for cell in params.cells:
        train_cell(params, cell, CELL_FOLDER / cell.name, lambda progress: None)
    with monkeypatch.context() as patched:
        patched.setattr("flows.benchmark.cluster", None)  # nothing is left for Ray
        benchmark()

    assert weights_sha256("srcnn-x2") != before
    assert json.loads(dvc("status", "--json")) == {}
    finished.write_params()
    benchmark()
    assert weights_sha256("srcnn-x2") == before


@pytest.mark.slow
def test_a_cell_that_fails_is_a_failed_row_and_the_others_finish(finished: Workspace) -> None:
    trained = params_values_with({})["trained"]
    trained["cnn_small"]["learning_rate"] = 1e30
    trained["srcnn"]["learning_rate"] = 0.0005
    finished.write_params(trained=trained)

    with pytest.raises(CellsFailed, match="cnn_small-x2 diverged"):
        benchmark()

    summary = pd.read_parquet(REPORT_FOLDER / "summary.parquet").set_index("architecture")
    assert summary.loc["cnn_small", "status"] == "failed"
    assert "lower learning_rate" in summary.loc["cnn_small", "error"]
    assert summary.loc["srcnn", "status"] == "ok"
    # What failed is still to be made; what did not is done.
    assert "train@cnn_small-2" in pipeline.stale_stages()
    assert "train@srcnn-2" not in pipeline.stale_stages()
    finished.write_params()


@pytest.mark.slow
def test_a_run_of_one_architecture_leaves_the_others_out_and_succeeds(
    finished: Workspace,
) -> None:
    trained = params_values_with({})["trained"]
    trained["cnn_small"]["learning_rate"] = 0.003
    trained["srcnn"]["learning_rate"] = 0.003
    finished.write_params(trained=trained)

    benchmark(architectures=["srcnn"])

    summary = pd.read_parquet(REPORT_FOLDER / "summary.parquet").set_index("architecture")
    assert summary["status"].to_dict() == {
        "nearest": "ok",
        "bicubic": "ok",
        "srcnn": "ok",
        "cnn_small": "left out",
    }
    receipt = json.loads((REGISTRY_FOLDER / "receipt.json").read_text())
    assert [each["model"] for each in receipt["models"]] == ["srcnn-x2"]
    # What was left out is still to be made, and so are the whole tables.
    assert {"train@cnn_small-2", "report"} <= set(pipeline.stale_stages())
    assert "train@srcnn-2" not in pipeline.stale_stages()
    finished.write_params()


def test_a_second_run_in_the_same_workspace_is_refused(finished: Workspace) -> None:
    code = (
        "from tasks.pipeline import workspace_lock\n"
        "with workspace_lock():\n"
        "    print('held', flush=True)\n"
        "    input()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(StoreError, match=r"another run is going on in .*run\.lock is held"):
            benchmark()
    finally:
        holder.communicate("\n")


@pytest.mark.slow
def test_dvc_repro_from_nothing_gives_the_weights_of_the_flow(finished: Workspace) -> None:
    benchmark()
    expected = {name: weights_sha256(name) for name in ("srcnn-x2", "cnn_small-x2")}
    for folder in ("data", "cells", "results", "report", "registry", ".dvc/cache"):
        shutil.rmtree(folder, ignore_errors=True)
    Path("dvc.lock").unlink()

    dvc("repro")

    assert {name: weights_sha256(name) for name in expected} == expected
    assert pipeline.stale_stages() == {}
