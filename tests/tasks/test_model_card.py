"""The descriptions that people read in MLflow."""

import pandas as pd
import pytest

import models
from tasks.config import Params
from tasks.model_card import benchmark_note, model_description, row_note, version_description
from tasks.run_records import own_rows
from tests.conftest import Workspace
from tests.tasks.stand_in import prepare, train_badly

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(
    ("architecture", "paper"),
    [
        ("srcnn", "arXiv:1501.00092"),
        ("vdsr", "arXiv:1511.04587"),
        ("lesrcnn", "arXiv:2007.04344"),
        ("edsr", "arXiv:1707.02921"),
        ("wdsr", "arXiv:1808.08718"),
    ],
)
def test_a_model_names_its_paper(architecture: str, paper: str) -> None:
    names = [name for name in models.names() if name.startswith(architecture)]

    assert names
    assert all(paper in model_description(name, 3) for name in names)


def test_a_model_says_how_to_load_it() -> None:
    text = model_description("vdsr", 4)

    assert 'mlflow.pyfunc.load_model("models:/vdsr-x4@champion")' in text
    assert "--scale 4 --model vdsr-x4@champion" in text
    assert "Output: N×3×4h×4w" in text


def test_a_version_and_its_run_say_what_they_score(workspace: Workspace) -> None:
    params: Params = prepare(workspace)
    train_badly(params, psnr_db=28.125, seed=1)
    (row,) = own_rows(params)

    version = version_description(row, params).replace("&emsp;", "")
    note = row_note(row, "1234abc").replace("&emsp;", "")

    assert version.startswith("Trained here, on tiny_train.")
    for text in (version, note):
        assert "| tiny_test ×2 | 28.125 | 0.9000 | 1.0 |" in text
    assert "[cnn_small-x2](#/models/cnn_small-x2)" in note
    assert "code at commit `1234abc`" in note


def test_a_benchmark_shows_its_rows_without_numbers() -> None:
    rows = {
        "dataset": ["set5"] * 3,
        "scale": [2] * 3,
        "architecture": ["bicubic", "vdsr", "srcnn"],
        "psnr_db": [33.66, float("nan"), float("nan")],
        "ssim": [0.93, float("nan"), float("nan")],
        "latency_ms": [1.0, float("nan"), float("nan")],
        "status": ["ok", "failed", "left out"],
        "error": ["", "diverged", ""],
    }

    note = benchmark_note(pd.DataFrame(rows), "1234abc").replace("&emsp;", "")

    assert "#### set5 ×2" in note
    assert "| bicubic | **33.66** | **0.9300** | 1.0 |" in note
    assert "| vdsr | failed: diverged |  |  |" in note
    assert "| srcnn | left out of this run |  |  |" in note
