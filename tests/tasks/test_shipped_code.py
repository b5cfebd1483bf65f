"""The copied files are all that a network needs, in a Python that has no sisr."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import models
from tasks.served import load, save
from tasks.shipped_code import copy_code

# Runs with the copied files alone: whatever else of sisr could be imported is refused.
_ALONE = """
import json, sys
from pathlib import Path
code, network = sys.argv[1:]
sys.path.insert(0, code)
class NoEngines:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mlflow", "ray", "prefect", "dvc", "boto3", "pandas",
                                      "pydantic", "ruamel", "skimage", "flows"):
            raise ImportError(name)
sys.meta_path.insert(0, NoEngines())
import torch
from tasks.served import load
torch.manual_seed(5)
sr = load(Path(network)).predict(torch.rand(1, 3, 7, 9).numpy())
files = [m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] in ("tasks", "models")]
print(json.dumps({"sum": float(sr.sum(dtype="float64")), "files": files}))
"""


@pytest.mark.parametrize("architecture", ["srcnn", "edsr_baseline", "lesrcnn"])
def test_the_copied_files_are_enough(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_file(models.create(architecture, 2).state_dict(), tmp_path / "weights")
    save(tmp_path / "network", architecture, 2, tmp_path / "weights")

    packages = copy_code(architecture, tmp_path / "code")

    assert [path.name for path in packages] == ["tasks", "models"]
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, str(tmp_path / "code"), str(tmp_path / "network")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    answer = json.loads(done.stdout)
    assert all(Path(file).is_relative_to(tmp_path / "code") for file in answer["files"])
    torch.manual_seed(5)
    expected = load(tmp_path / "network").predict(torch.rand(1, 3, 7, 9).numpy())
    assert answer["sum"] == pytest.approx(expected.sum(dtype="float64"), rel=1e-6)


def test_nothing_else_is_copied(tmp_path: Path) -> None:
    copy_code("srcnn", tmp_path)

    models_copied = {path.name for path in (tmp_path / "models").glob("*.py")}
    assert "srcnn.py" in models_copied
    assert models_copied.isdisjoint({"vdsr.py", "edsr.py", "lesrcnn.py", "wdsr.py"})
    assert not (tmp_path / "tasks" / "config.py").exists()
