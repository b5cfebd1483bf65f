import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

import models
from tasks import fingerprint as fingerprint_module
from tasks.config import Params
from tasks.errors import ShardError
from tasks.fingerprint import cell_fingerprint, network_code, write_fingerprints
from tasks.importing import _RULER
from tasks.shards import write_shards
from tests.conftest import REPOSITORY, Workspace

NAMES = models.names()

# A new architecture, and every way to import a module of `models/`.
TOY = '''
import models.vdsr
from models import registry, wdsr
from torch import nn
from .blocks import conv3x3

@registry.register(channels="y", enlarged=True)
def toy(scale: int) -> nn.Module:
    """One layer."""
    return conv3x3(1, 1, bias=True)
'''


@pytest.mark.parametrize("name", NAMES)
def test_a_network_comes_from_its_own_file_and_what_that_imports(name: str) -> None:
    code = network_code(name)

    own = models.get(name).build.__module__
    assert own in code
    for module, checksum in code.items():
        path = REPOSITORY / (module.replace(".", "/") + ".py")
        assert checksum == hashlib.sha256(path.read_bytes()).hexdigest()
    # What is built on whose file, as the papers and docstrings have it.
    others = {models.get(other).build.__module__ for other in NAMES} - {own}
    inherited = {"models.cnn"} if name == "waifu2x" else set()
    assert set(code) & others == {"models.interpolation"} - {own} | inherited


@pytest.mark.parametrize("name", ["srcnn", "edsr", "vdsr"])
def test_what_makes_a_networks_input_belongs_to_it(name: str) -> None:
    # A training enlarges patches and takes their luminance with these two files.
    assert {"models.interpolation", "models.luminance"} <= set(network_code(name))


def copy_of_the_code(folder: Path) -> Path:
    for package in ("models", "tasks"):
        shutil.copytree(REPOSITORY / package, folder / package)
    return folder


def written(folder: Path) -> dict[str, dict[str, str]]:
    return {
        path.stem: json.loads(path.read_text()) for path in (folder / "data" / "code").iterdir()
    }


def test_a_new_or_edited_file_changes_its_own_networks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = copy_of_the_code(tmp_path / "copy")
    (tmp_path / "original").mkdir()
    monkeypatch.chdir(tmp_path / "original")
    write_fingerprints()
    before = written(tmp_path / "original")
    assert sorted(before) == NAMES

    (code / "models" / "toy.py").write_text(TOY)
    with (code / "models" / "edsr.py").open("a") as opened:
        opened.write("# edited\n")
    subprocess.run([sys.executable, "-m", "tasks.fingerprint"], cwd=code, check=True)
    after = written(code)

    edited = {name for name in NAMES if models.get(name).build.__module__ == "models.edsr"}
    assert edited == {"edsr", "edsr_baseline"}
    assert set(after) == {*NAMES, "toy"}
    assert {name for name in NAMES if after[name] != before[name]} == edited
    assert {"models.toy", "models.vdsr", "models.wdsr", "models.blocks"} <= set(after["toy"])


@pytest.fixture
def sharded(workspace: Workspace) -> Callable[..., None]:
    """Make the shards of scales 2 and 3; another seed gives other pixels."""

    def make(seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        for scale in (2, 3):
            folder = workspace.path / "data" / "shards" / f"x{scale}"
            folder.mkdir(parents=True, exist_ok=True)
            files = []
            for name, side in (("hr", 48), ("lr", 48 // scale)):
                path = workspace.path / f"{name}{scale}.png"
                Image.fromarray(draw.integers(0, 256, (side, side), np.uint8)).save(path)
                files.append(path)
            shape = workspace.write_params().shards
            write_shards([(files[0], files[1])], folder, scale, shape)

    make()
    return make


def recipes(**changes: object) -> dict[str, dict[str, object]]:
    recipe: dict[str, object] = {
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "loss": "mse",
        "batch_size": 4,
        "patch_px": 36,
        "train_for": "6 steps",
        "validate_every": "3 steps",
    }
    return {"srcnn": recipe | changes}


def fingerprint(params: Params, cell: str = "srcnn-x2") -> str:
    return cell_fingerprint(params, params.cell(cell))


@pytest.mark.usefixtures("sharded")
def test_what_decides_the_weights_changes_the_fingerprint(
    make_params: Callable[..., Params],
) -> None:
    base = {"scales": [2, 3], "trained": recipes()}
    seen = {fingerprint(make_params(**base))}
    for change in (
        {"seed": 2},
        {"training": {"num_threads": 2}},
        {"trained": recipes(learning_rate=0.2)},
        {"trained": recipes(momentum=0.9)},
        {"trained": recipes(train_for="7 steps")},
        {"trained": recipes(train_for="6 epochs")},
        {"trained": recipes(schedule="cosine")},
        {"trained": recipes(precision="bf16")},
    ):
        seen.add(fingerprint(make_params(**(base | change))))
    seen.add(fingerprint(make_params(**base), "srcnn-x3"))
    assert len(seen) == 10

    twin = {"srcnn": recipes()["srcnn"], "srcnn_955": recipes()["srcnn"]}
    seen.add(fingerprint(make_params(**(base | {"trained": twin})), "srcnn_955-x2"))
    assert len(seen) == 11


@pytest.mark.usefixtures("sharded")
def test_other_validation_pictures_change_the_fingerprint(
    make_params: Callable[..., Params],
) -> None:
    """Else a resumed training's curve would be of two sets of pictures."""
    params = make_params(scales=[2, 3], trained=recipes())
    before = fingerprint(params)
    folder = Path("data/hr/validation/tiny_validation")
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"picture")
    assert fingerprint(params) != before


@pytest.mark.usefixtures("sharded")
@pytest.mark.parametrize(
    "module", ["models.srcnn", "models.interpolation", *fingerprint_module.TRAINING_MODULES]
)
def test_other_code_changes_the_fingerprint(
    module: str, make_params: Callable[..., Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = make_params(scales=[2, 3], trained=recipes())
    before, real = fingerprint(params), fingerprint_module._module_sha256
    monkeypatch.setattr(
        fingerprint_module,
        "_module_sha256",
        lambda name: "0" * 64 if name == module else real(name),
    )
    assert fingerprint(params) != before


def test_stages_depend_on_the_code_that_decides_their_numbers() -> None:
    stages = YAML(typ="safe", pure=True).load(REPOSITORY / "dvc.yaml")["stages"]
    needed = {
        "download": {"tasks.download", "tasks.archive", "tasks.images"},
        "degrade": {
            *("tasks.degrade", "tasks.bicubic", "tasks.color", "tasks.images"),
            "models.interpolation",
        },
        "shard": {"tasks.shards", "tasks.images"},
    }
    for name in ("evaluate", "evaluate_joint", "evaluate_interpolation"):
        needed[name] = {*_RULER, "tasks.images", "tasks.timing", "tasks.complexity"}
    for name in ("train", "train_joint"):
        needed[name] = set(fingerprint_module.TRAINING_MODULES)
    for name, modules in needed.items():
        files = {f"{module.replace('.', '/')}.py" for module in modules}
        assert files <= set(stages[name]["deps"]), name


@pytest.mark.usefixtures("sharded")
def test_a_joint_training_depends_on_its_scales(make_params: Callable[..., Params]) -> None:
    (recipe,) = recipes().values()

    seen = {
        fingerprint(make_params(scales=scales, trained={}, joint={"vdsr": recipe}), "vdsr")
        for scales in ([2, 3], [2], [3])
    }

    assert len(seen) == 3


@pytest.mark.usefixtures("sharded")
def test_what_does_not_decide_the_weights_leaves_the_fingerprint(
    make_params: Callable[..., Params],
) -> None:
    expected = fingerprint(make_params(scales=[2, 3], trained=recipes()))
    (other,) = recipes(learning_rate=9.0).values()

    for change in (
        {},
        {"scales": [3, 2]},
        {"scales": [2]},
        {"interpolations": []},
        {"trained": recipes() | {"cnn_small": other}},
        {"joint": {"vdsr": other}},
        {"data": {"train": ["tiny_train"], "validation": ["tiny_validation"], "test": ["else"]}},
    ):
        params = make_params(**({"scales": [2, 3], "trained": recipes()} | change))
        assert fingerprint(params) == expected


def test_other_patches_change_the_fingerprint(
    sharded: Callable[..., None], make_params: Callable[..., Params]
) -> None:
    params = make_params(scales=[2, 3], trained=recipes())
    before = fingerprint(params)

    sharded()
    assert fingerprint(params) == before
    sharded(seed=1)
    assert fingerprint(params) != before


@pytest.mark.usefixtures("workspace")
def test_without_shards_a_training_has_no_fingerprint(make_params: Callable[..., Params]) -> None:
    with pytest.raises(ShardError, match="no shards in data/shards/x2"):
        fingerprint(make_params(trained=recipes()))
