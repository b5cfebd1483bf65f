"""What a training and an evaluation leave on disk, with a PSNR of our choice."""

import json
import tempfile
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

import models
from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.evaluate import data_sha256
from tasks.layout import CELL_FOLDER, REPORT_FOLDER, result_file, weights_file
from tasks.mlflow_store import STORE_FILE, connected
from tasks.report import build_report
from tests.conftest import Workspace


def prepare(workspace: Workspace) -> Params:
    """One cell, with test pictures, no interpolations, and an empty store."""
    (workspace.path / STORE_FILE).write_bytes(_empty_store())
    params = workspace.write_params(interpolations=[])
    params = params.model_copy(update={"trained": {"cnn_small": params.trained["cnn_small"]}})
    download(params, load_catalogue(), Settings())
    degrade(2)
    return params


@cache
def _empty_store() -> bytes:
    """A new SQLite store; MLflow takes seconds to make one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        with connected(Settings(tracking_uri=f"sqlite:///{file}")):
            return file.read_bytes()


def train_badly(params: Params, psnr_db: float, seed: int, data: str | None = None) -> None:
    """Weights of a seed, a history, a result and the report."""
    torch.manual_seed(seed)
    cell = CELL_FOLDER / "cnn_small-x2"
    cell.mkdir(parents=True, exist_ok=True)
    save_file(models.create("cnn_small", 2).state_dict(), weights_file("cnn_small-x2"))
    (cell / "history.csv").write_text(
        "step,epoch,seconds,learning_rate,loss,psnr_db_x2\n1,0.1,0.5,0.01,0.25,\n2,0.2,1,0.01,0.125,30\n"
    )
    record = {"num_steps": 2, "seconds": 1.0, "device": "a CPU", "precision": "fp32"}
    record |= {"gflops": 25.0, "matrix_gflops": 60.0}
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
    write_tables(params, {})


def write_tables(
    params: Params, failures: Mapping[str, str], left_out: Collection[str] = ()
) -> None:
    """The report's tables, real; its figures, a grey dot each."""
    report = build_report(params, failures, left_out)
    (REPORT_FOLDER / "figures").mkdir(parents=True, exist_ok=True)
    for name in ("summary", "images", "latency"):
        getattr(report, name).to_parquet(REPORT_FOLDER / f"{name}.parquet", index=False)
    for name in ("training-cnn_small-x2", "training-srcnn-x2", "comparison-tiny_test-x2"):
        Image.new("L", (2, 2)).save(REPORT_FOLDER / "figures" / f"{name}.png")
    (REPORT_FOLDER / "report.html").write_text("<p>everything</p>")
