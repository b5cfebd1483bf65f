import csv
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import models
from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import TrainingError
from tasks.layout import CELL_FOLDER, CHECKPOINT_FOLDER
from tasks.shards import shard
from tasks.train import Progress, cell_seed, train_cell
from tests.conftest import REPOSITORY, Workspace


def prepare(params: Params) -> None:
    download(params, load_catalogue(), Settings())
    for scale in params.scales:
        degrade(scale)
        shard(params.data.train, scale, params.shards)


@pytest.fixture
def params(workspace: Workspace) -> Params:
    params = workspace.write_params()
    prepare(params)
    return params


def train(params: Params, name: str, folder: Path) -> list[Progress]:
    seen: list[Progress] = []
    train_cell(params, params.cell(name), folder, seen.append)
    return seen


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def test_two_trainings_of_one_cell_give_the_same_weights(params: Params, tmp_path: Path) -> None:
    train(params, "srcnn-x2", tmp_path / "a")
    train(params, "srcnn-x2", tmp_path / "b")

    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")


def test_another_seed_gives_other_weights(params: Params, tmp_path: Path) -> None:
    train(params, "srcnn-x2", tmp_path / "a")
    train(params.model_copy(update={"seed": 2}), "srcnn-x2", tmp_path / "b")

    assert sha256(tmp_path / "a") != sha256(tmp_path / "b")


def test_an_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(
    params: Params, tmp_path: Path
) -> None:
    class PowerCut(Exception):
        pass

    def cut_power(progress: Progress) -> None:
        if progress.step == 5:
            raise PowerCut

    train(params, "cnn_small-x2", tmp_path / "undisturbed")
    with pytest.raises(PowerCut):
        train_cell(params, params.cell("cnn_small-x2"), tmp_path / "cut", cut_power)
    assert not (tmp_path / "cut").exists()
    assert len(list(CHECKPOINT_FOLDER.iterdir())) == 1

    resumed = train(params, "cnn_small-x2", tmp_path / "cut")

    # The checkpoint is of step 3, the last validation before the cut.
    assert [progress.step for progress in resumed] == [4, 5, 6]
    assert sha256(tmp_path / "cut") == sha256(tmp_path / "undisturbed")
    assert not list(CHECKPOINT_FOLDER.iterdir())


def test_another_recipe_does_not_resume_the_old_one(params: Params, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cell(params, params.cell("srcnn-x2"), tmp_path / "a", stop)
    recipe = params.trained["srcnn"].model_copy(update={"learning_rate": 0.01})
    changed = params.model_copy(update={"trained": params.trained | {"srcnn": recipe}})

    assert train(changed, "srcnn-x2", tmp_path / "b")[0].step == 1


def test_history_and_record_say_what_happened(params: Params, tmp_path: Path) -> None:
    train(params, "cnn_small-x2", tmp_path / "a")

    with (tmp_path / "a/history.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    record = json.loads((tmp_path / "a/training.json").read_text())
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [bool(row["psnr_db_x2"]) for row in rows] == [False, False, True, False, False, True]
    # Cosine from 0.002 over 6 steps.
    expected = [0.001 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(expected)
    assert record["num_steps"] == 6
    assert record["seed"] == cell_seed(1, params.cell("cnn_small-x2"))
    # 121×150 gives 3×3 and 118×131 gives 3×3 overlapping patches of 48.
    assert record["num_patches"] == {"2": 3 * 4 + 3 * 3}


def test_a_training_that_diverges_says_so(workspace: Workspace, tmp_path: Path) -> None:
    params = workspace.write_params()
    wild = params.trained["srcnn"].model_copy(update={"learning_rate": 1e30})
    params = params.model_copy(update={"trained": {"srcnn": wild}})
    prepare(params)

    with pytest.raises(TrainingError, match=r"srcnn-x2 diverged: loss (nan|inf) at step \d"):
        train(params, "srcnn-x2", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_one_training_serves_several_scales(workspace: Workspace, tmp_path: Path) -> None:
    recipe = {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0001,
        "schedule": "step",
        "decay_every": "2 steps",
        "decay_factor": 0.1,
        "gradient_clip_theta": 0.001,
        "loss": "mse",
        "batch_size": 6,
        "patch_px": 24,
        "train_for": "3 steps",
        "validate_every": "3 steps",
    }
    params = workspace.write_params(scales=[2, 3, 4], trained={}, joint={"vdsr_5": recipe})
    prepare(params)

    last = train(params, "vdsr_5", tmp_path / "a")[-1]

    assert sorted(last.psnr_db) == [2, 3, 4]
    for scale in (2, 3, 4):
        models.create("vdsr_5", scale).load_state_dict(
            load_file(tmp_path / "a/weights.safetensors")
        )


def test_gradients_are_clipped_to_theta_over_the_rate(workspace: Workspace, tmp_path: Path) -> None:
    """With plain SGD a clipped step moves a weight by exactly γ·θ/γ = θ, at any rate."""
    theta = 1e-6
    recipe = {
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "gradient_clip_theta": theta,
        "loss": "mse",
        "loss_reduction": "sum",
        "batch_size": 4,
        "patch_px": 24,
        "train_for": "1 step",
        "validate_every": "1 step",
    }
    params = workspace.write_params(trained={"srcnn": recipe})
    prepare(params)
    cell = params.cell("srcnn-x2")
    torch.manual_seed(cell_seed(1, cell))
    before = models.create("srcnn", 2).state_dict()

    train(params, "srcnn-x2", tmp_path / "a")

    after = load_file(tmp_path / "a/weights.safetensors")
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in after])
    assert moved.max().item() == pytest.approx(theta, rel=0.1)
    # Summed losses have large gradients: most weights reach the bound.
    assert (moved > 0.8 * theta).float().mean().item() > 0.5


def test_a_network_learns(workspace: Workspace, tmp_path: Path) -> None:
    params = workspace.write_params()
    longer = params.trained["cnn_small"].model_copy(
        update={
            "train_for": params.trained["cnn_small"].train_for.model_copy(update={"count": 150})
        }
    )
    params = params.model_copy(update={"trained": {"cnn_small": longer}})
    prepare(params)

    progress = train(params, "cnn_small-x2", tmp_path / "a")

    assert progress[-1].loss < 0.8 * progress[0].loss
    assert progress[-1].psnr_db[2] > progress[0].psnr_db.get(2, 0)


def test_the_command_trains_without_any_engine_installed(params: Params) -> None:
    """`python -m tasks.train` as on a machine that has torch, numpy and little else."""
    missing = ["prefect", "ray", "mlflow", "dvc", "boto3", "pandas", "matplotlib", "rich", "httpx"]
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({missing}))\n"
        "sys.argv = ['train', '--cell', 'cnn_small-x2']\n"
        "runpy.run_module('tasks.train', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "cnn_small-x2: step 6/6" in done.stdout
    plain = sha256(CELL_FOLDER / "cnn_small-x2")
    train(params, "cnn_small-x2", CELL_FOLDER / "again")
    assert sha256(CELL_FOLDER / "again") == plain
