"""What has to be made, with folders that DVC does not watch."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks import pipeline
from tasks.config import Params, Settings, load_catalogue
from tasks.download import download
from tasks.errors import ParamsError
from tasks.staleness import is_restorable, stale_stages
from tests.conftest import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def recorded(workspace: Workspace, make_params: Callable[..., Params]) -> Workspace:
    """A workspace whose download stage is up to date."""
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    download(make_params(), load_catalogue(), Settings())
    pipeline.record("download", {})
    return workspace


def test_a_changed_folder_makes_the_download_stale(
    recorded: Workspace, make_photograph: Callable[..., np.ndarray]
) -> None:
    assert "download" not in stale_stages()
    # A folder is copied once more: DVC does not know what is in it now.
    assert not is_restorable("download")

    new = make_photograph(120, 130, colour=True, seed=77)
    Image.fromarray(new).save(recorded.sources / "tiny_train" / "new.png")

    assert "download" not in pipeline.stale_stages()  # DVC alone does not see it
    assert next(iter(stale_stages())) == "download"
    assert stale_stages()["download"].endswith("tiny_train has changed: 1 new")
    assert not is_restorable("download")
    assert is_restorable("shard@2")
    assert not is_restorable("register")  # what it makes is in MLflow
    shutil.rmtree(recorded.sources)
    assert is_restorable("download")  # its copy is what there is


def test_a_bad_params_yaml_is_told_before_dvc_reads_it(recorded: Workspace) -> None:
    Path("params.yaml").write_text("seed: !!python/object:os.system {}")
    with pytest.raises(ParamsError, match=r"params\.yaml is not valid YAML"):
        stale_stages()
