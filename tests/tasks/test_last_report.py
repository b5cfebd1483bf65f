"""The last report's summary, read again without what draws it."""

import subprocess
import sys

import pandas as pd
import pytest

from tasks.errors import DataError
from tasks.last_report import read_summary, rows_left_out
from tasks.layout import REPORT_FOLDER
from tests.conftest import REPOSITORY, Workspace

ROWS = [
    ("bicubic", "set5", 2, "ok"),
    ("srcnn", "set5", 2, "left out"),
    ("bicubic", "Set14", 2, "ok"),
    ("srcnn", "Set14", 2, "left out"),
    ("srcnn", "set5", 3, "failed"),
]


@pytest.fixture
def reported(workspace: Workspace) -> None:
    REPORT_FOLDER.mkdir()
    summary = pd.DataFrame(ROWS, columns=["architecture", "dataset", "scale", "status"])
    summary.to_parquet(REPORT_FOLDER / "summary.parquet")


def test_reading_some_rows(reported: None) -> None:
    assert len(read_summary()) == 5
    assert read_summary("SET5", 2)["architecture"].tolist() == ["bicubic", "srcnn"]
    assert read_summary(scale=3)["status"].tolist() == ["failed"]
    with pytest.raises(DataError, match=r"no rows of Urban100 ×any scale; .* set5 ×2, Set14 ×2,"):
        read_summary("Urban100")
    with pytest.raises(DataError, match="any data set ×4"):
        read_summary(scale=4)


def test_rows_left_out_are_named_once(reported: None) -> None:
    assert rows_left_out() == ["srcnn-x2"]


def test_no_report_yet(workspace: Workspace) -> None:
    assert rows_left_out() == []
    with pytest.raises(DataError, match="sisr run"):
        read_summary()


def test_reading_imports_nothing_that_draws() -> None:
    code = "import sys, tasks.last_report; print('matplotlib' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
