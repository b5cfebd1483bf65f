"""On a real SQLite MLflow: who becomes champion, and what bad references are told."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import models
from tasks import tracking
from tasks.config import Params, Settings
from tasks.errors import StoreError, WeightsError
from tasks.evaluate import data_sha256
from tasks.layout import CELL_FOLDER, REGISTRY_FOLDER, weights_file
from tasks.mlflow_store import check_artifacts_stay
from tasks.tracking import Registered, best_registered, load_registered, log_benchmark
from tests.conftest import Workspace
from tests.tasks.stand_in import prepare, train_badly, write_tables

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.timeout(300)]


@pytest.fixture
def params(workspace: Workspace) -> Params:
    """One cell, with test pictures and no interpolations."""
    return prepare(workspace)


def log(params: Params) -> Registered:
    (registered,) = log_benchmark(params, Settings())
    return registered


def client() -> Any:
    """MLflow's own client on the workspace's store."""
    import mlflow

    return mlflow.MlflowClient(tracking.tracking_uri(Settings()))


def test_a_version_reigns_only_if_it_beats_the_reigning_one(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    first = log(params)
    train_badly(params, psnr_db=29.5, seed=2)
    worse = log(params)
    train_badly(params, psnr_db=30.0, seed=3)
    equal = log(params)
    train_badly(params, psnr_db=30.5, seed=4)
    better = log(params)

    assert [first.version, worse.version, equal.version, better.version] == ["1", "2", "3", "4"]
    assert [each.is_champion for each in (first, worse, equal, better)] == [
        True,
        False,
        False,
        True,
    ]


def test_the_same_weights_are_one_version(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)

    assert log(params).version == "1"
    again = log(params)

    assert (again.version, again.is_champion) == ("1", True)


def test_a_champion_of_other_test_data_is_measured_again(params: Params) -> None:
    """Its old 99 dB are of pictures that are no longer there; on these it has some 30 dB."""
    train_badly(params, psnr_db=99.0, seed=1, data="other pictures")
    log(params)
    train_badly(params, psnr_db=60.0, seed=2)

    assert log(params).is_champion


def test_on_new_pictures_the_better_network_keeps_the_crown(params: Params) -> None:
    """Told 1 dB of other pictures, it has some 30 dB on these: more than the 2 dB of the next."""
    train_badly(params, psnr_db=1.0, seed=1, data="other pictures")
    log(params)
    train_badly(params, psnr_db=2.0, seed=2)

    assert not log(params).is_champion

    tags = client().get_model_version("cnn_small-x2", "1").tags
    assert float(tags["psnr_db"]) > 15
    assert tags["test_data_sha256"] == data_sha256(["tiny_test"])


def test_a_champion_that_answers_no_numbers_on_new_pictures_falls(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    train_badly(params, psnr_db=99.0, seed=1, data="other pictures")
    huge = {name: 1e30 * each for name, each in models.create("cnn_small", 2).state_dict().items()}
    save_file(huge, weights_file("cnn_small-x2"))
    assert log(params).is_champion
    train_badly(params, psnr_db=2.0, seed=2)

    assert log(params).is_champion

    assert "cnn_small-x2/1 is no champion any more: cnn_small answers" in capsys.readouterr().err


def test_a_network_comes_back_from_the_registry_as_it_went_in(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    log(params)
    torch.manual_seed(1)
    expected = models.create("cnn_small", 2).state_dict()

    for reference in ("cnn_small-x2", "cnn_small-x2@champion", "cnn_small-x2/1"):
        served = load_registered(reference, 2, Settings())
        loaded = served.network.state_dict()
        assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_the_best_champion_of_a_scale_is_found(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    log(params)

    assert best_registered(2, Settings()) == "cnn_small-x2"
    with pytest.raises(WeightsError, match=r"no model is registered for ×3; run `sisr run`"):
        best_registered(3, Settings())


def test_a_wrong_reference_is_told_what_there_is(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    log(params)

    with pytest.raises(
        WeightsError, match="no registered model 'vdsr-x2@champion'; registered: cnn"
    ):
        load_registered("vdsr-x2", 2, Settings())
    with pytest.raises(WeightsError, match="cnn_small-x2/7"):
        load_registered("cnn_small-x2/7", 2, Settings())
    with pytest.raises(WeightsError, match="enlarges ×2, not ×3"):
        load_registered("cnn_small-x2", 3, Settings())


def test_a_store_out_of_reach_is_named(params: Params, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    nowhere = f"sqlite:///{tmp_path}/file/mlflow.db"

    with pytest.raises(StoreError, match=r"MLflow at sqlite:.*mlflow\.db cannot be used"):
        load_registered("cnn_small-x2", 2, Settings(tracking_uri=nowhere))


def test_the_receipt_names_runs_and_versions(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    registered = log(params)

    receipt = json.loads((REGISTRY_FOLDER / "receipt.json").read_text())

    assert receipt["models"] == [
        {
            "model": "cnn_small-x2",
            "version": "1",
            "run_id": registered.run_id,
            "psnr_db": 30.0,
            "is_champion": True,
        }
    ]


def test_the_same_results_are_logged_once(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    first = log(params)
    again = log(params)

    assert again == first
    experiment = client().get_experiment_by_name("sisr")
    runs = client().search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name.split()[0] for run in runs) == ["benchmark", "cnn_small-x2"]
    assert "[All rows, best first](#/experiments/1/runs?" in experiment.tags["mlflow.note.content"]


def test_the_run_shows_its_numbers_tables_and_figures(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    run = client().get_run(log(params).run_id)

    assert run.data.metrics["psnr_db/tiny_test-x2"] == 30.0
    assert run.data.metrics["psnr_db"] == 30.0
    assert run.data.metrics["train/loss"] == 0.125
    assert run.data.tags["architecture"] == "cnn_small"
    assert run.data.tags["scale"] == "2"
    assert run.data.tags["source"] == "trained"
    note = run.data.tags["mlflow.note.content"].replace("&emsp;", "")
    assert "| tiny_test ×2 | 30.000 | 0.9000 | 1.0 |" in note
    shown = json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert {"path": "tables/images.json", "type": "table"} in shown
    table = client().load_table("1", "tables/images.json", [run.info.run_id])
    assert table.to_dict("records")[0]["psnr_db"] == 30.0
    figures = [each.path for each in client().list_artifacts(run.info.run_id, "figures")]
    assert figures == ["figures/comparison-tiny_test-x2.png", "figures/training-cnn_small-x2.png"]
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.tags[0].value) == ("tiny_test", "test")
    assert dataset.dataset.digest == run.data.tags["test_data_sha256"]
    parent = client().get_run(run.data.tags["mlflow.parentRunId"])
    assert "#### tiny_test ×2" in parent.data.tags["mlflow.note.content"]
    reported = {each.path for each in client().list_artifacts(parent.info.run_id, "report")}
    assert {"report/report.html", "report/figures", "report/summary.parquet"} <= reported


def test_the_version_says_what_it_is(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    run_id = log(params).run_id

    version = client().get_model_version("cnn_small-x2", "1")
    assert version.run_id == run_id
    assert version.tags["psnr_db/tiny_test-x2"] == "30.0"
    assert version.description.startswith("Trained here, on tiny_train.")
    about = client().get_registered_model("cnn_small-x2").description
    assert "**cnn_small**, enlarges pictures ×2." in about
    assert 'mlflow.pyfunc.load_model("models:/cnn_small-x2@champion")' in about


# A process that could not import sisr: the logged code has to do.
_ALONE = """
import json, sys
import numpy as np
class NoSisr:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("flows", "ray", "prefect", "dvc", "boto3", "ruamel"):
            raise ImportError(name)
sys.meta_path.insert(0, NoSisr())
sys.path = [p for p in sys.path if p not in ("", sys.argv[2])]
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/cnn_small-x2@champion")
np.save("sr.npy", model.predict(np.load("lr.npy")))
shape = model.metadata.get_input_schema().inputs[0].shape
print(json.dumps({"shape": shape, "code": sys.modules["tasks.served"].__file__}))
"""


def test_artifacts_that_lie_elsewhere_are_told_before_the_work(
    params: Params, tmp_path: Path
) -> None:
    shared = Settings(storage=str(tmp_path / "lab"))
    check_artifacts_stay(shared)  # no store yet: it can be anywhere
    train_badly(params, psnr_db=30.0, seed=1)
    log(params)

    check_artifacts_stay(Settings())
    check_artifacts_stay(Settings(tracking_uri="http://127.0.0.1:5000", storage=shared.storage))
    with pytest.raises(StoreError) as before:
        check_artifacts_stay(shared)
    with pytest.raises(StoreError) as after:  # what would have been said at the end
        log_benchmark(params, shared)
    assert str(before.value) == str(after.value)
    assert f"{tmp_path}/lab/mlflow, and MLflow cannot move them" in str(before.value)

    Path("mlflow.db").write_bytes(b"no database")
    check_artifacts_stay(shared)  # MLflow will say what is wrong with it


def test_a_process_without_sisr_loads_the_network(params: Params, tmp_path: Path) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    log(params)
    uri = tracking.tracking_uri(Settings())
    lr = np.random.default_rng(0).uniform(0, 1, (2, 3, 17, 11)).astype(np.float32)
    np.save(tmp_path / "lr.npy", lr)

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ALONE, uri, str(Path(__file__).parents[2])],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )

    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["shape"] == [-1, 3, -1, -1]
    assert "/mlartifacts/" in answer["code"]
    sr = np.load(tmp_path / "sr.npy")
    assert sr.shape == (2, 3, 34, 22)
    assert np.array_equal(sr, load_registered("cnn_small-x2", 2, Settings()).predict(lr))


def test_a_row_that_failed_is_not_logged(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    log(params)
    (CELL_FOLDER / "cnn_small-x2").rename("elsewhere")  # and its result is of an earlier run
    write_tables(params, {"cnn_small-x2": "diverged"})

    assert log_benchmark(params, Settings()) == []


def test_a_champion_of_other_code_falls_on_new_pictures(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    train_badly(params, psnr_db=30.0, seed=1, data="other pictures")
    path = weights_file("cnn_small-x2")
    wider = {name: each.repeat_interleave(2, 0) for name, each in load_file(path).items()}
    save_file(wider, path)
    log(params)
    with pytest.raises(WeightsError, match=r"(?s)cnn_small-x2@champion is of other code.*size mis"):
        load_registered("cnn_small-x2", 2, Settings())
    train_badly(params, psnr_db=2.0, seed=2)

    assert log(params).is_champion

    assert "cnn_small-x2/1 is no champion any more" in capsys.readouterr().err


def test_a_deleted_run_is_logged_anew(params: Params) -> None:
    train_badly(params, psnr_db=30.0, seed=1)
    first = log(params)
    client().delete_run(first.run_id)

    again = log(params)

    assert (again.version, again.run_id != first.run_id) == ("1", True)


@pytest.mark.parametrize("reference", ["cnn_small-x2@", "cnn_small-x2/Production", "a/" + "9" * 20])
def test_what_is_no_reference_is_told(params: Params, reference: str) -> None:
    with pytest.raises(WeightsError, match="names no network; write vdsr-x2"):
        load_registered(reference, 2, Settings())
