"""Pictures and data sets of any sensible or odd name go all the way; a shell never sees them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.checks import check_inputs
from tasks.config import Settings, load_catalogue, load_params
from tasks.degrade import degrade
from tasks.download import download
from tasks.evaluate import evaluate
from tasks.shards import shard
from tests.conftest import Workspace, dump_yaml

NAMES = [
    "two words.png",
    'it\'s "quoted" $(touch canary) `touch canary`; touch canary.png',
    "line\nbreak.png",
    "Größe 漢字 🦋.png",
    "-rf.png",
    "--help.PNG",
    "*.png",
    "#%&{}.png",
    "a.b.c.png",
    ".hidden.png",
    "ö" * 124 + ".png",
]
SETS = {"train": "mes images v1.0", "validation": "検証", "test": "Größe-2.0"}


@pytest.fixture
def odd(workspace: Workspace, make_photograph: Callable[..., np.ndarray]) -> Workspace:
    catalogue = {}
    for number, name in enumerate(SETS.values()):
        folder = workspace.sources / f"-{name}"
        folder.mkdir()
        for seed, file_name in enumerate(NAMES):
            picture = make_photograph(60, 52, colour=True, seed=100 * number + seed)
            Image.fromarray(picture).save(folder / file_name)
        catalogue[name] = {"url": str(folder)}
    dump_yaml(catalogue, workspace.path / "datasets.yaml")
    workspace.write_params(data={role: [name] for role, name in SETS.items()})
    return workspace


def test_odd_names_go_all_the_way(odd: Workspace) -> None:
    check_inputs()
    download(load_params(), load_catalogue(), Settings())
    degrade(2)
    params = load_params()
    shard(params.data.train, 2, params.shards)
    evaluate(params, "bicubic", 2)

    stems = sorted(f"{Path(name).stem}.png" for name in NAMES)
    for role, name in SETS.items():
        assert sorted(path.name for path in Path("data/lr/x2", role, name).iterdir()) == stems
    shards = b"".join(path.read_bytes() for path in Path("data/shards/x2").glob("*.safetensors"))
    assert all(json.dumps(json.dumps(name)[1:-1])[1:-1].encode() in shards for name in NAMES)
    rows = json.loads(Path("results/bicubic-x2.json").read_text("utf-8"))["images"]
    assert sorted(row["image"] for row in rows) == sorted(NAMES)
    assert {row["dataset"] for row in rows} == {SETS["test"]}
    assert not list(odd.path.rglob("canary"))
