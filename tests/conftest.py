"""What several test files share: a small workspace with pictures, and parameters for it."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from ruamel.yaml import YAML

from tasks.config import Params

# Before any engine is imported: no test reports to anyone or depends on the caller's settings.
os.environ |= {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# … but for the folder of real data sets, which some tests ask for.
for _name in [name for name in os.environ if name.startswith("SISR_") and name != "SISR_TEST_DATA"]:
    del os.environ[_name]

# How long an example takes says how busy the machine is.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

REPOSITORY = Path(__file__).parent.parent

# role -> data set -> file name -> height, width, whether it is a colour picture
PICTURES: dict[str, dict[str, dict[str, tuple[int, int, bool]]]] = {
    "train": {
        "tiny_train": {"meadow.png": (121, 150, True), "pier.png": (118, 131, False)},
    },
    "validation": {"tiny_validation": {"harbour.png": (61, 74, True)}},
    "test": {"tiny_test": {"bridge.png": (55, 63, True), "clock.png": (50, 67, False)}},
}

_PARAMS: dict[str, Any] = {
    "seed": 1,
    "scales": [2],
    "data": {role: list(sets) for role, sets in PICTURES.items()},
    "shards": {"patch_px": 48, "stride_px": 48, "shard_mib": 1},
    "training": {"num_threads": 1},
    "interpolations": ["nearest", "bicubic"],
    "trained": {
        "cnn_small": {
            "optimizer": "adam",
            "learning_rate": 0.002,
            "schedule": "cosine",
            "loss": "mse",
            "batch_size": 4,
            "patch_px": 36,
            "train_for": "6 steps",
            "validate_every": "3 steps",
        },
        "srcnn": {
            "optimizer": "adam",
            "learning_rate": 0.001,
            "loss": "l1",
            "batch_size": 4,
            "patch_px": 24,
            "train_for": "6 steps",
            "validate_every": "3 steps",
        },
    },
    "joint": {},
}


@dataclass(frozen=True)
class Workspace:
    """A folder to run in, with params.yaml, datasets.yaml, dvc.yaml and the pictures they name."""

    path: Path
    sources: Path

    def write_params(self, **changes: Any) -> Params:
        """Write params.yaml with some of its top-level values replaced, and return it."""
        values = params_values_with(changes)
        dump_yaml(values, self.path / "params.yaml")
        return _params(values)


def params_values_with(changes: dict[str, Any]) -> dict[str, Any]:
    """The workspace's parameters as plain values, some top-level ones replaced."""
    return copy.deepcopy(_PARAMS) | copy.deepcopy(changes)


def _params(values: dict[str, Any]) -> Params:
    return Params.model_validate_json(json.dumps(values))


def dump_yaml(values: Any, path: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    with path.open("w", encoding="utf-8") as opened:
        yaml.dump(values, opened)


def photograph(height: int, width: int, *, colour: bool, seed: int) -> np.ndarray:
    """A picture with what photographs have: slow shading, sharp edges, lines and a little noise."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    planes = []
    centre_y, centre_x, radius = draw.uniform(0.25, 0.5), draw.uniform(0.3, 0.6), 0.18
    disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2
    roof = (np.abs(x - 0.7) < 0.15) & (y > 0.35 + np.abs(x - 0.7))
    lines = np.sin(2 * np.pi * (9 * x + 5 * y + draw.uniform())) > 0.6
    for _ in range(3 if colour else 1):
        shade = 120 + 60 * np.sin(2 * np.pi * (draw.uniform(0.5, 1.5) * x + draw.uniform() * y))
        shade = shade + draw.uniform(30, 60) * disc - draw.uniform(40, 80) * roof
        shade = shade + np.where(lines & ~disc, draw.uniform(10, 25), 0)
        planes.append(shade + draw.normal(0, 2, shade.shape))
    picture = np.stack(planes, axis=-1) if colour else planes[0]
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


@pytest.fixture
def make_photograph() -> Callable[..., np.ndarray]:
    """`make_photograph(height, width, colour=…, seed=…)` as uint8."""
    return photograph


@pytest.fixture
def make_params() -> Callable[..., Params]:
    """`make_params(scales=[2, 3], …)`: the workspace's parameters, some top-level ones replaced."""
    return lambda **changes: _params(params_values_with(changes))


@pytest.fixture
def params_values() -> dict[str, Any]:
    """The workspace's parameters as plain values, to be changed freely."""
    return params_values_with({})


def make_workspace(root: Path) -> Workspace:
    """Write a workspace's files under a folder."""
    home, sources = root / "workspace", root / "sources"
    home.mkdir()
    seed = 0
    for sets in PICTURES.values():
        for name, pictures in sets.items():
            (sources / name).mkdir(parents=True)
            for file_name, (height, width, colour) in pictures.items():
                seed += 1
                picture = photograph(height, width, colour=colour, seed=seed)
                Image.fromarray(picture).save(sources / name / file_name)
    catalogue = {name: {"url": str(sources / name)} for sets in PICTURES.values() for name in sets}
    dump_yaml(catalogue, home / "datasets.yaml")
    (home / "dvc.yaml").write_bytes((REPOSITORY / "dvc.yaml").read_bytes())
    # The stages of dvc.yaml depend on the code, which they name by these paths.
    for package in ("models", "tasks"):
        (home / package).symlink_to(REPOSITORY / package)
    made = Workspace(home, sources)
    made.write_params()
    return made


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A fresh workspace, made the current folder."""
    made = make_workspace(tmp_path)
    monkeypatch.chdir(made.path)
    return made


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The address of an S3 API on this machine, and credentials that the caller's do not touch."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    listening = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    listening.start()
    host, port = listening.get_host_and_port()
    yield f"http://{host}:{port}"
    listening.stop()
