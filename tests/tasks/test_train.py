import csv
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import models
from tasks.checkpoint import read_checkpoint
from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import TrainingError
from tasks.fingerprint import cell_fingerprint
from tasks.layout import CELL_FOLDER, CHECKPOINT_FOLDER
from tasks.shards import shard
from tasks.timing import device_name, matrix_gflops
from tasks.train import (
    EXIT_OUT_OF_TIME,
    Progress,
    cell_seed,
    checkpoint_file,
    is_finished,
    main,
    train_cell,
)
from tasks.training_step import Learner
from tests.conftest import REPOSITORY, Workspace, params_values_with


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


def test_a_full_gpu_is_told_with_the_batch_size(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = workspace.write_params()
    prepare(params)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Learner, "step", full)
    with pytest.raises(TrainingError, match="memory is full with batch_size 4 and windows of 24"):
        train(params, "srcnn-x2", tmp_path / "a")


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
    with (tmp_path / "a/history.csv").open(newline="") as opened:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(opened)]
    assert rates == pytest.approx([0.1, 0.1, 0.01])
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
    psnrs_db = [each.psnr_db[2] for each in progress if each.psnr_db]
    assert len(psnrs_db) == 50
    assert psnrs_db[-1] > psnrs_db[0]


def stopped(params: Params, folder: Path, step: int) -> None:
    """Train CNN_SMALL and break off while a step is reported."""

    def stop(progress: Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cell(params, params.cell("cnn_small-x2"), folder, stop)


def losses(folder: Path) -> list[str]:
    with (folder / "history.csv").open(newline="") as opened:
        return [row["loss"] for row in csv.DictReader(opened)]


def test_checkpoints_by_time_change_no_number(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after every step, also between two points of the loss, and a stop at each of them."""
    monkeypatch.setattr("tasks.train._NUM_LOSS_POINTS", 2)
    train(params, "cnn_small-x2", tmp_path / "undisturbed")
    cell = params.cell("cnn_small-x2")
    seen: list[Path] = []

    monkeypatch.setattr("tasks.train._CHECKPOINT_EVERY_S", 0.0)
    sittings = 1
    while not train_cell(
        params, cell, tmp_path / "a", lambda _: None, on_checkpoint=seen.append, deadline_s=0.0
    ):
        sittings += 1

    assert sittings == 6  # one step each
    assert set(seen) == {checkpoint_file(params, cell)}
    assert len(seen) == 2 * 5  # by time, and at the end of the sitting
    assert sha256(tmp_path / "a") == sha256(tmp_path / "undisturbed")
    assert losses(tmp_path / "a") == losses(tmp_path / "undisturbed")
    for name in ("step-0000003-x2.png", "step-0000006-x2.png", "hr-x2.png", "bicubic-x2.png"):
        one, other = (tmp_path / each / "snapshots" / name for each in ("a", "undisturbed"))
        assert one.read_bytes() == other.read_bytes()


def test_a_checkpoint_is_whole_when_it_is_handed_over(params: Params, tmp_path: Path) -> None:
    steps: list[int] = []

    def look(path: Path) -> None:
        steps.append(read_checkpoint(path, torch.device("cpu"))["step"])

    cell = params.cell("cnn_small-x2")
    assert train_cell(params, cell, tmp_path / "a", lambda _: None, on_checkpoint=look)

    assert steps == [3]  # after the validation that is not the last


def test_a_result_is_not_lost_with_a_checkpoint_that_nobody_needs(
    params: Params, tmp_path: Path
) -> None:
    def fail(path: Path) -> None:
        raise OSError("no room")

    cell = params.cell("cnn_small-x2")
    # Of six steps, validated every three: the only checkpoint is written beside the last ones.
    assert train_cell(params, cell, tmp_path / "a", lambda _: None, on_checkpoint=fail)

    record = json.loads((tmp_path / "a" / "training.json").read_text())
    assert record["notes"] == ["cnn_small-x2: its last checkpoint was not written: no room"]


@pytest.mark.parametrize("damage", ["changed", "cut", "other"])
def test_a_damaged_checkpoint_is_said_and_not_used(
    damage: str, params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(params, "cnn_small-x2", tmp_path / "undisturbed")
    stopped(params, tmp_path / "a", 5)
    path = checkpoint_file(params, params.cell("cnn_small-x2"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"changed": bytes(data), "cut": bytes(data[:-100]), "other": b"PK"}[damage])
    capsys.readouterr()

    first, *_ = train(params, "cnn_small-x2", tmp_path / "a")

    assert first.step == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"cnn_small-x2: {path} is ")
    assert said.endswith("; the training starts anew")
    assert said in str(first)
    assert json.loads((tmp_path / "a/training.json").read_text())["notes"] == [said]
    assert sha256(tmp_path / "a") == sha256(tmp_path / "undisturbed")


def test_the_record_says_what_trained_and_how_fast(params: Params, tmp_path: Path) -> None:
    train(params, "srcnn-x2", tmp_path / "a")

    record = json.loads((tmp_path / "a/training.json").read_text())
    assert record["fingerprint"] == cell_fingerprint(params, params.cell("srcnn-x2"))
    assert record["device"] == device_name(torch.device("cpu"))
    assert record["num_workers"] == 1
    assert record["precision"] == "fp32"
    assert record["cpu_seconds"] > 0
    seconds = record["seconds"] - record["validation_seconds"]
    assert record["steps_per_s"] == pytest.approx(6 / seconds, rel=0.02)
    # 8,032 weights, one multiply-add each for every pixel of 4 windows of 24×24, three passes but
    # for the first layer's 5,184: nobody asks for the gradient of its input.
    flops = 2 * (3 * 8032 - 5184) * 4 * 24 * 24
    assert record["gflops"] == pytest.approx(flops * record["steps_per_s"] / 1e9, rel=0.02)
    assert record["matrix_gflops"] == round(matrix_gflops(torch.device("cpu"), "fp32") or 0, 3)


def test_snapshots_show_the_validation_picture_getting_better(
    workspace: Workspace, tmp_path: Path
) -> None:
    values = params_values_with({})["trained"]["cnn_small"]
    params = workspace.write_params(
        trained={"cnn_small": values | {"train_for": "160 steps", "validate_every": "20 steps"}}
    )
    prepare(params)

    train(params, "cnn_small-x2", tmp_path / "a")

    folder = tmp_path / "a/snapshots"
    # Six of the eight validations: every 8/6th.
    steps = [40, 60, 80, 120, 140, 160]
    names = [f"step-{step:07d}-x2.png" for step in steps]
    assert sorted(path.name for path in folder.glob("step-*")) == names
    # 61×74, cropped to even: windows of 60 pixels.
    hr, *rest = (
        np.asarray(Image.open(folder / name)).astype(float)
        for name in ("hr-x2.png", "bicubic-x2.png", *names)
    )
    assert {each.shape for each in (hr, *rest)} == {(60, 60, 3)}
    bicubic, *_, last = (float(((each - hr) ** 2).mean()) for each in rest)
    assert last < bicubic


@pytest.mark.slow
def test_a_compiled_network_learns_the_same(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    values = params_values_with({})
    plain = workspace.write_params()
    prepare(plain)
    compiled = workspace.write_params(training=values["training"] | {"compile": True})

    train(plain, "cnn_small-x2", tmp_path / "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its compiler
        train(compiled, "cnn_small-x2", tmp_path / "compiled")

    a, b = (load_file(tmp_path / each / "weights.safetensors") for each in ("plain", "compiled"))
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=1e-5)
    assert json.loads((tmp_path / "compiled/training.json").read_text())["compile"] is True


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    return main()


def test_all_cells_are_trained_in_order_and_skipped_when_they_are_there(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--all") == 0
    said = capsys.readouterr().out
    assert said.index("cnn_small-x2: step 6/6") < said.index("srcnn-x2: step 1/6")

    assert run_main(monkeypatch, "--cell", "srcnn-x2", "--cell", "cnn_small-x2") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{name}: skipped, cells/{name} holds this very training's result"
        for name in ("srcnn-x2", "cnn_small-x2")
    ]

    # Another recipe, or another validation set, is another training.
    assert is_finished(params, params.cell("srcnn-x2"), CELL_FOLDER / "srcnn-x2")
    recipe = params.trained["srcnn"].model_copy(update={"learning_rate": 0.01})
    data = params.data.model_copy(update={"validation": ("other",)})
    for change in ({"trained": {"srcnn": recipe}}, {"data": data}):
        changed = params.model_copy(update=change)
        assert not is_finished(changed, changed.cell("srcnn-x2"), CELL_FOLDER / "srcnn-x2")
    # And so are other weights.
    shutil.copyfile(
        CELL_FOLDER / "cnn_small-x2/weights.safetensors",
        CELL_FOLDER / "srcnn-x2/weights.safetensors",
    )
    assert not is_finished(params, params.cell("srcnn-x2"), CELL_FOLDER / "srcnn-x2")
    # A damaged record is none.
    (CELL_FOLDER / "cnn_small-x2/training.json").write_text("{")
    assert not is_finished(params, params.cell("cnn_small-x2"), CELL_FOLDER / "cnn_small-x2")


def test_time_runs_out_and_the_next_command_goes_on(
    params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(params, "cnn_small-x2", Path("undisturbed"))
    left = "out of time; left: cnn_small-x2, srcnn-x2. Run the same command again to go on."

    assert run_main(monkeypatch, "--all", "--minutes", "0.00001") == EXIT_OUT_OF_TIME == 75
    assert capsys.readouterr().out.splitlines()[-1] == left
    assert not CELL_FOLDER.exists() or not list(CELL_FOLDER.iterdir())
    assert run_main(monkeypatch, "--all") == 0

    said = capsys.readouterr().out
    assert "cnn_small-x2: step 6/6" in said
    assert sha256(CELL_FOLDER / "cnn_small-x2") == sha256(Path("undisturbed"))


def test_a_cell_that_fails_does_not_keep_the_others_from_training(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = params_values_with({})["trained"]
    wild = values["srcnn"] | {"learning_rate": 1e30}
    prepare(workspace.write_params(trained={"srcnn": wild, "cnn_small": values["cnn_small"]}))

    assert run_main(monkeypatch, "--all") == 1

    said = capsys.readouterr()
    assert said.err.startswith("error: srcnn-x2 diverged: loss")
    assert "cnn_small-x2: step 6/6" in said.out


def test_the_command_trains_without_any_engine_installed(params: Params) -> None:
    """`python -m tasks.train` as on a machine that has torch, numpy and little else."""
    missing = ["prefect", "ray", "mlflow", "dvc", "boto3", "pandas", "matplotlib", "rich", "httpx"]
    missing += ["skimage", "sklearn", "psutil", "filelock", "pyarrow", "typer", "requests"]
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


def test_the_record_names_the_data_that_were_there_when_it_began(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = params.cell("srcnn-x2")
    before = cell_fingerprint(params, cell)

    def remake_shards(_: Progress) -> None:
        monkeypatch.setattr("tasks.train.cell_fingerprint", lambda *_: "of other data")

    assert train_cell(params, cell, tmp_path / "a", remake_shards)

    assert json.loads((tmp_path / "a" / "training.json").read_text())["fingerprint"] == before
    assert not is_finished(params, cell, tmp_path / "a")


@pytest.mark.parametrize("damage", ["history.csv", "snapshots", "training.json"])
def test_a_damaged_result_is_not_finished(damage: str, params: Params, tmp_path: Path) -> None:
    cell, folder = params.cell("srcnn-x2"), tmp_path / "a"
    train_cell(params, cell, folder, lambda _: None)
    assert is_finished(params, cell, folder)

    (folder / ".~lock.history.csv#").touch()  # somebody has looked at it
    assert is_finished(params, cell, folder)

    path = folder / damage
    if path.is_dir():
        next(path.iterdir()).unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40])

    assert not is_finished(params, cell, folder)
