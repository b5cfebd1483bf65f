"""On a real DVC repository: what makes a joint training stale, and what does not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tasks import pipeline
from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.fingerprint import write_fingerprints
from tasks.joint_data import write_joint_data
from tasks.shards import shard
from tests.conftest import Workspace, params_values_with

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TRAINING = "train_joint@vdsr"


def make_data(workspace: Workspace, scales: list[int], test: list[str]) -> None:
    """Change the parameters, and make and record what the trainings need."""
    recipes = params_values_with({})["trained"]
    only = {"trained": {}, "joint": {"vdsr": recipes["srcnn"]}, "interpolations": []}
    data = {"train": ["tiny_train"], "validation": ["tiny_validation"], "test": test}
    params: Params = workspace.write_params(scales=scales, data=data, **only)
    download(params, load_catalogue(), Settings())
    write_fingerprints()
    stages = ["code", "download"]
    for scale in scales:
        degrade(scale)
        shard(params.data.train, scale, params.shards)
        stages += [f"degrade@{scale}", f"shard@{scale}"]
    write_joint_data(params, "vdsr")
    for stage in [*stages, "joint_data@vdsr"]:
        pipeline.record(stage, {})


def train(text: str) -> None:
    Path("cells/vdsr").mkdir(parents=True, exist_ok=True)
    Path("cells/vdsr/weights.safetensors").write_text(text)
    pipeline.record(TRAINING, {})


def test_only_its_own_data_make_a_joint_training_stale(workspace: Workspace) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    make_data(workspace, [2], ["tiny_test"])
    train("two")
    assert TRAINING not in pipeline.stale_stages()

    make_data(workspace, [2], ["tiny_test", "tiny_validation"])
    assert TRAINING not in pipeline.stale_stages()

    make_data(workspace, [2, 3], ["tiny_test"])
    assert TRAINING in pipeline.stale_stages()
    train("two and three")

    make_data(workspace, [2], ["tiny_test"])  # the shards of ×3 are still there
    assert Path("data/shards/x3").exists()
    assert TRAINING in pipeline.stale_stages()
    assert pipeline.restore(TRAINING)
    assert Path("cells/vdsr/weights.safetensors").read_text() == "two"
