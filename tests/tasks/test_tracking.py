"""On a real SQLite MLflow: who becomes champion, and what bad references are told."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import models
from tasks import tracking
from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import StoreError, WeightsError
from tasks.evaluate import data_sha256
from tasks.layout import CELL_FOLDER, result_file, weights_file
from tasks.report import write_report
from tasks.tracking import Registered, best_registered, load_registered, log_benchmark
from tests.conftest import Workspace

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.timeout(120)]

ImageRows = Callable[..., list[dict[str, object]]]


@pytest.fixture
def params(workspace: Workspace) -> Params:
    """One cell, with test pictures and no interpolations."""
    params = workspace.write_params(interpolations=[])
    params = params.model_copy(update={"trained": {"cnn_small": params.trained["cnn_small"]}})
    download(params, load_catalogue(), Settings())
    degrade(2)
    return params


def train_badly(params: Params, psnr_db: float, seed: int, data: str | None = None) -> None:
    """Leave on disk what a training and an evaluation leave, with a PSNR of our choice."""
    torch.manual_seed(seed)
    cell = CELL_FOLDER / "cnn_small-x2"
    cell.mkdir(parents=True, exist_ok=True)
    save_file(models.create("cnn_small", 2).state_dict(), weights_file("cnn_small-x2"))
    (cell / "history.csv").write_text(
        "step,epoch,seconds,learning_rate,loss,psnr_db_x2\n1,0.1,0.5,0.01,0.25,\n2,0.2,1,0.01,0.125,30\n"
    )
    record = {"num_steps": 2, "seconds": 1.0, "device": "a CPU", "precision": "fp32"}
    (cell / "training.json").write_text(json.dumps(record))
    image = {
        "architecture": "cnn_small",
        "dataset": "tiny_test",
        "scale": 2,
        "image": "bridge.png",
        "psnr_db": psnr_db,
        "ssim": 0.9,
        "psnr_db_grey_as_rgb": psnr_db,
        "ssim_grey_as_rgb": 0.9,
        "latency_ms": 1.0,
    }
    result = {
        "architecture": "cnn_small",
        "scale": 2,
        "test_data_sha256": data or data_sha256(["tiny_test"]),
        "images": [image],
        "latency": [
            {
                "output_px": 256,
                "latency_ms": 1.0,
                "latency_p25_ms": 0.9,
                "latency_p75_ms": 1.1,
                "num_repeats": 3,
                "peak_memory_mib": 1.0,
                "input_px": 256,
                "device": "a CPU",
                "num_threads": 1,
                "precision": "fp32",
            }
        ],
        "complexity": {
            "num_parameters": 1683,
            "num_multiply_adds": 1,
            "num_flops": 2,
            "input_px": 128,
            "output_px": 128,
        },
    }
    file = result_file("cnn_small", 2)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(result))
    write_report(params, {})


def log(params: Params) -> Registered:
    (registered,) = log_benchmark(params, Settings())
    return registered


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

    receipt = json.loads((tracking.REGISTRY_FOLDER / "receipt.json").read_text())

    assert receipt["models"] == [
        {
            "model": "cnn_small-x2",
            "version": "1",
            "run_id": registered.run_id,
            "psnr_db": 30.0,
            "is_champion": True,
        }
    ]
