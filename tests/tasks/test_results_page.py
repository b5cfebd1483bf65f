import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.config import Params
from tasks.errors import DataError
from tasks.report import write_report
from tasks.results_page import residual_table, training_costs, write_results
from tests.conftest import Workspace
from tests.tasks.test_report import measured

RECORD = {
    "cell": "srcnn-x2",
    "num_steps": 40000,
    "num_epochs": 76.78,
    "seconds": 750.0,
    "cpu_seconds": 690.0,
    "precision": "fp32",
    "num_threads": 1,
    "device": "Abacus",
    "torch": "2.13.0",
}
# Kim et al. 2016, Table 1, learning rate 0.1: PSNR after 10, 20, 40 and 80 epochs.
RESIDUAL_DB = ["36.90", "36.64", "37.12", "37.05"]
VDSR_CELLS = {"vdsr-x2", "vdsr_plain-x2"}
PLAIN_DB = ["27.42", "19.59", "31.38", "35.66"]


def write_record(**changes: Any) -> None:
    record = RECORD | changes
    folder = Path("cells") / str(record["cell"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training.json").write_text(json.dumps(record))


def test_costs_of_the_trainings_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_params: Callable[..., Params]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_record()
    (row,) = training_costs(make_params(), {"srcnn-x2"}).to_dict("records")
    assert row == {
        "cell": "srcnn-x2",
        "steps": "40,000",
        "epochs": "76.8",
        "batch": 4,
        "window": "24 px",
        "minutes": "12.5",
        "CPU minutes": "11.5",
        "precision": "fp32",
        "threads": 1,
        "device": "Abacus",
        "torch": "2.13.0",
    }


@pytest.fixture
def vdsr_params(params_values: dict[str, Any], make_params: Callable[..., Params]) -> Params:
    recipe = params_values["trained"]["srcnn"]
    data = params_values["data"] | {"validation": ["set5"]}
    return make_params(trained={"vdsr": recipe, "vdsr_plain": recipe}, data=data)


def test_residual_at_the_papers_fractions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vdsr_params: Params
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, first_db in (("vdsr", 30), ("vdsr_plain", 20)):
        folder = Path("cells") / f"{name}-x2"
        folder.mkdir(parents=True)
        # 1200 steps stand for 80 epochs: 10 are 150.
        history = pd.DataFrame({"step": range(75, 1201, 75)})
        history["psnr_db_x2"] = [
            first_db + step / 1000 if step % 150 == 0 else None for step in history["step"]
        ]
        history.to_csv(folder / "history.csv", index=False)
    table = residual_table(vdsr_params, VDSR_CELLS)
    assert table is not None
    rows = table.set_index("network").T.to_dict("list")
    assert rows == {
        "vdsr, ours": ["30.15", "30.30", "30.60", "31.20"],
        "residual, paper": RESIDUAL_DB,
        "vdsr_plain, ours": ["20.15", "20.30", "20.60", "21.20"],
        "non_residual, paper": PLAIN_DB,
    }


def test_no_residual_table_unless_it_is_the_papers(
    vdsr_params: Params, make_params: Callable[..., Params]
) -> None:
    assert residual_table(make_params(), VDSR_CELLS) is None
    other_data = vdsr_params.data.model_copy(update={"validation": ("set14",)})
    others = vdsr_params.model_copy(update={"data": other_data})
    assert residual_table(others, VDSR_CELLS) is None
    assert residual_table(vdsr_params, {"vdsr-x2"}) is None  # the other one diverged


def test_the_page_and_its_files(workspace: Workspace, tmp_path: Path) -> None:
    params = measured(workspace)
    for name in ("cnn_small-x2", "srcnn-x2"):
        write_record(cell=name)
    write_report(params, failures={})
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "results-notes.md").write_text("## What fell short\n\nTime.\n")
    write_results(docs)
    page = (docs / "results.md").read_text()
    assert "| cnn_small-x2 | 40,000 |" in page
    assert "32.50" in page
    assert "## What fell short\n\nTime.\n\n![" in page
    assert "![training-x2.png](results/training-x2.png)" in page
    for table in ("summary", "images", "latency", "training"):
        written = (docs / "results" / f"{table}.csv").read_bytes()
        assert written == Path(f"report/{table}.csv").read_bytes()
    assert (docs / "results" / "training-x2.png").exists()
    assert len(pd.read_csv(docs / "results" / "costs.csv")) == 2


def test_without_a_report(workspace: Workspace, tmp_path: Path) -> None:
    workspace.write_params()
    with pytest.raises(DataError, match="there are no tables yet; run `sisr run` first"):
        write_results(tmp_path / "docs")
