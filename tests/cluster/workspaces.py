"""A workspace to try things in: this repository's code, real pictures, small recipes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.cluster.services import REPOSITORY, quiet
from tests.conftest import dump_yaml

_RECIPE = {
    "optimizer": "adam",
    "learning_rate": 0.001,
    "schedule": "cosine",
    "loss": "mse",
    "batch_size": 8,
    "patch_px": 48,
}


def make_workspace(
    root: Path,
    *,
    trained: dict[str, str],
    scales: list[int],
    validate_every: str,
    num_workers: int = 1,
) -> Path:
    """Write a workspace; `trained` says for how long each architecture is trained."""
    root.mkdir(parents=True)
    for package in ("flows", "tasks", "models"):
        (root / package).symlink_to(REPOSITORY / package)
    for name in ("dvc.yaml", ".dvcignore", "datasets.yaml", "prefect.yaml"):
        shutil.copyfile(REPOSITORY / name, root / name)
    recipes = {
        name: _RECIPE | {"train_for": length, "validate_every": validate_every}
        for name, length in trained.items()
    }
    params: dict[str, Any] = {
        "seed": 1,
        "scales": scales,
        "data": {role: [f"sample_{role}"] for role in ("train", "validation", "test")},
        "shards": {"patch_px": 96, "stride_px": 96, "shard_mib": 4},
        "training": {"num_threads": 1, "num_workers": num_workers},
        "interpolations": ["bicubic"],
        "trained": recipes,
        "joint": {},
    }
    dump_yaml(params, root / "params.yaml")
    init = [*python("dvc"), "init", "--no-scm", "-q"]
    subprocess.run(init, cwd=root, env=environment({}), check=True)
    return root


def change(workspace: Path, edit: "dict[str, Any]") -> None:
    """Replace some top-level values of params.yaml."""
    from tasks.config import read_yaml

    dump_yaml(read_yaml(workspace / "params.yaml") | edit, workspace / "params.yaml")


def environment(settings: dict[str, str]) -> dict[str, str]:
    """What a command in the workspace sees: this Python first, nothing of the caller's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SISR_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return kept | quiet() | {"PATH": path, "PYTHONPATH": str(REPOSITORY)} | settings


def python(module: str) -> list[str]:
    """`python -m module` of this Python."""
    return [sys.executable, "-m", module]


def sisr(workspace: Path, *arguments: str, settings: dict[str, str], log: Path) -> int:
    """Run a command in the workspace; its output goes to the log. Returns its exit code."""
    with log.open("ab") as opened:
        return subprocess.run(
            [*python("flows.cli"), *arguments],
            cwd=workspace,
            env=environment(settings),
            stdout=opened,
            stderr=opened,
            check=False,
        ).returncode


def weights(workspace: Path) -> dict[str, str]:
    """The checksum of every cell's weights."""
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((workspace / "cells").glob("*/weights.safetensors"))
    }


def training(workspace: Path, cell: str) -> dict[str, Any]:
    """What a cell's training says of itself."""
    read: dict[str, Any] = json.loads((workspace / "cells" / cell / "training.json").read_text())
    return read
