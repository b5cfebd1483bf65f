"""Several workers train one cell: real processes that talk by gloo."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from tasks.config import Params
from tasks.train import train_cell
from tasks.workers import current_workers
from tests.conftest import REPOSITORY, Workspace, params_values_with
from tests.tasks.test_train import prepare, sha256

# One worker: its rank, how many there are, a file to meet at, and what to do.
WORKER = """
import datetime, sys
from pathlib import Path
import torch
from torch import distributed
from tasks.config import load_params
from tasks.errors import TrainingError
from tasks.train import train_cell

rank, num, meeting, dtype, *jobs = sys.argv[1:]
distributed.init_process_group(
    "gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=int(num),
    timeout=datetime.timedelta(seconds=120),
)
torch.set_default_dtype(getattr(torch, dtype))
params = load_params()
for name, folder, deadline_s in [job.split("|") for job in jobs]:
    try:
        finished = train_cell(
            params, params.cell(name), Path(folder), lambda progress: print(progress),
            deadline_s=float(deadline_s) if deadline_s else None,
        )
        print(name, "finished" if finished else "not finished")
    except TrainingError as error:
        print("error:", error)
"""


def work(
    home: Path, num: int, *jobs: str, dtype: str = "float32"
) -> list[subprocess.CompletedProcess[str]]:
    """Let `num` workers do the jobs, each `cell|folder|deadline_s`."""
    meeting = home / f"meeting-{len(list(home.glob('meeting-*')))}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(num), str(meeting), dtype, *jobs],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num)
    ]
    done = [(each, *each.communicate(timeout=300)) for each in started]
    return [subprocess.CompletedProcess([], each.returncode, *texts) for each, *texts in done]


def weights(folder: Path) -> torch.Tensor:
    return torch.cat(
        [each.flatten() for each in load_file(folder / "weights.safetensors").values()]
    )


def losses(folder: Path) -> list[float]:
    with (folder / "history.csv").open(newline="") as opened:
        return [float(row["loss"]) for row in csv.DictReader(opened)]


@pytest.fixture
def params(workspace: Workspace) -> Params:
    joint = {
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.9,
        "gradient_clip_theta": 0.01,
        "loss": "mse",
        "loss_reduction": "sum",
        # A worker of two has no pair of one of the scales at every other step.
        "batch_size": 3,
        "patch_px": 24,
        "train_for": "6 steps",
        "validate_every": "3 steps",
    }
    values = params_values_with({})["trained"]
    trained = {
        **values,
        "srcnn_955": values["srcnn"] | {"learning_rate": 1e300},
        "edsr_baseline": values["cnn_small"] | {"batch_size": 1, "patch_px": 12},
    }
    made = workspace.write_params(scales=[2, 3], trained=trained, joint={"vdsr_5": joint})
    prepare(made)
    return made


def alone(params: Params, name: str, folder: Path) -> None:
    assert train_cell(params, params.cell(name), folder, lambda progress: None)


def test_a_training_without_torch_distributed_is_its_only_worker() -> None:
    workers = current_workers()

    assert (workers.rank, workers.num, workers.is_first) == (0, 1, True)
    value = torch.tensor([3.0])
    assert workers.sum_all([value])[0] is value
    assert workers.any(True)
    assert not workers.any(False)
    assert workers.agree(5)


@pytest.fixture
def default_dtype(dtype: str) -> Iterator[str]:
    torch.set_default_dtype(getattr(torch, dtype))
    yield dtype
    torch.set_default_dtype(torch.float32)


# In single precision a sum of other order may turn a ReLU of a deep network over, and its weights
# jump; in double precision none is that near to zero.
@pytest.mark.parametrize(
    ("dtype", "names", "rtol", "atol"),
    [
        ("float32", ["cnn_small-x2", "srcnn-x3"], 1e-4, 1e-6),
        ("float64", ["cnn_small-x2", "srcnn-x3", "vdsr_5"], 1e-10, 1e-12),
    ],
)
def test_two_workers_end_as_one_does(
    names: list[str], default_dtype: str, rtol: float, atol: float, params: Params, tmp_path: Path
) -> None:
    for name in names:
        alone(params, name, tmp_path / "alone" / name)

    jobs = [f"{name}|{tmp_path / 'two' / name}|" for name in names]
    refused, wild = (f"{name}|{tmp_path / name}|" for name in ("edsr_baseline-x2", "srcnn_955-x2"))
    first, second = work(tmp_path, 2, *jobs, refused, wild, dtype=default_dtype)

    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    for name in names:
        one, two = tmp_path / "alone" / name, tmp_path / "two" / name
        torch.testing.assert_close(weights(two), weights(one), rtol=rtol, atol=atol)
        assert losses(two) == pytest.approx(losses(one), rel=rtol)
        assert json.loads((two / "training.json").read_text())["num_workers"] == 2
        assert len(list((two / "snapshots").iterdir())) == len(list((one / "snapshots").iterdir()))
    # The first alone reports ...
    assert "cnn_small-x2: step 6/6" in first.stdout
    *endings, too_many, diverged = second.stdout.splitlines()
    assert endings == [f"{name} finished" for name in names]
    # ... and what is wrong is seen by all: before work starts, or at the same step.
    assert too_many == (
        "error: edsr_baseline-x2: 2 workers cannot share a batch of 1; "
        "use fewer workers or raise batch_size"
    )
    assert diverged.startswith("error: srcnn_955-x2 diverged: loss")
    assert {too_many, diverged} < set(first.stdout.splitlines())


@pytest.mark.slow
def test_two_workers_stop_together_and_go_on_as_if_nothing_had_been(
    params: Params, workspace: Workspace, tmp_path: Path
) -> None:
    longer = params_values_with({})["trained"]["cnn_small"] | {"train_for": "50 steps"}
    workspace.write_params(trained={"cnn_small": longer})

    jobs = [f"cnn_small-x2|{tmp_path / 'a'}|", f"cnn_small-x2|{tmp_path / 'b'}|0"]
    for each in work(tmp_path, 2, *jobs):
        assert each.returncode == 0, each.stderr
        assert each.stdout.endswith("cnn_small-x2 not finished\n")
    resumed, _ = work(tmp_path, 2, f"cnn_small-x2|{tmp_path / 'b'}|")

    assert resumed.returncode == 0, resumed.stderr
    # They ask one another every 20 steps.
    assert "step 20/50" not in resumed.stdout
    assert "step 21/50" in resumed.stdout
    assert sha256(tmp_path / "b") == sha256(tmp_path / "a")
    assert losses(tmp_path / "b") == losses(tmp_path / "a")


def test_one_worker_of_one_changes_no_bit(params: Params, tmp_path: Path) -> None:
    alone(params, "cnn_small-x2", tmp_path / "alone")

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        assert current_workers().num == 1
        alone(params, "cnn_small-x2", tmp_path / "one")
    finally:
        distributed.destroy_process_group()

    assert sha256(tmp_path / "one") == sha256(tmp_path / "alone")
