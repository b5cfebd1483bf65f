"""What would be logged of results on disk, without any store."""

import json
from pathlib import Path

import pytest

from tasks.config import Params
from tasks.layout import CELL_FOLDER, result_file
from tasks.run_records import (
    benchmark_record,
    benchmark_sha256,
    own_rows,
    row_record,
    write_artifacts,
)
from tests.conftest import Workspace
from tests.tasks.stand_in import prepare, train_badly, write_tables

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def params(workspace: Workspace) -> Params:
    params = prepare(workspace)
    train_badly(params, psnr_db=30.0, seed=1)
    return params


def test_metrics_have_stable_names(params: Params) -> None:
    """Two pictures of 30 and 31 dB: the mean is 30.5."""
    result = json.loads(result_file("cnn_small", 2).read_text())
    result["images"].append(result["images"][0] | {"image": "clock.png", "psnr_db": 31.0})
    result_file("cnn_small", 2).write_text(json.dumps(result))
    (row,) = own_rows(params)

    assert row_record(params, row).metrics == {
        "psnr_db": 30.5,
        "psnr_db/tiny_test-x2": 30.5,
        "ssim/tiny_test-x2": 0.9,
        "latency_ms/tiny_test-x2": 1.0,
        "latency_ms/256px": 1.0,
        "num_parameters": 1683,
        "num_multiply_adds": 1,
        "train_s": 1.0,
        "gflops": 25.0,
        "matrix_gflops": 60.0,
    }


def test_each_data_set_is_logged_with_its_own_checksum(params: Params) -> None:
    """A result joins the checksums in the order of the names, its rows in params.yaml's."""
    result = json.loads(result_file("cnn_small", 2).read_text())
    row = result["images"][0]
    result["images"] = [row | {"dataset": "set5"}, row | {"dataset": "set14"}]
    result["test_data_sha256"] = "14141414+05050505"
    result_file("cnn_small", 2).write_text(json.dumps(result))
    (logged,) = own_rows(params)

    datasets = [(each.name, each.digest) for each in row_record(params, logged).datasets]
    assert datasets == [("set5", "05050505"), ("set14", "14141414")]


def test_a_training_becomes_curves_by_step(params: Params) -> None:
    (row,) = own_rows(params)

    curves = row_record(params, row).curves

    losses = [(each.step, each.value) for each in curves if each.name == "train/loss"]
    assert losses == [(1, 0.25), (2, 0.125)]
    assert [each.step for each in curves if each.name == "train/psnr_db_x2"] == [2]
    first, last = (each.time_ms for each in curves if each.name == "train/loss")
    assert last - first == 500


def test_only_measured_rows_are_logged(params: Params) -> None:
    write_tables(params, {"cnn_small-x2": "diverged"})
    assert list(own_rows(params)) == []

    write_tables(params, {}, left_out={"cnn_small-x2"})
    assert list(own_rows(params)) == []


def test_any_change_of_the_results_is_another_checksum(params: Params) -> None:
    checksums = [benchmark_sha256(list(own_rows(params)))]
    assert benchmark_sha256(list(own_rows(params))) == checksums[0]
    train_badly(params, psnr_db=30.0, seed=2)  # other weights, equal numbers
    checksums.append(benchmark_sha256(list(own_rows(params))))
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "# a word\n")
    checksums.append(benchmark_sha256(list(own_rows(params))))
    Path("report/report.html").write_text("<p>another page</p>")
    checksums.append(benchmark_sha256(list(own_rows(params))))

    assert len(set(checksums)) == 4


def test_artifacts_lie_in_folders_by_kind(params: Params, tmp_path: Path) -> None:
    rows = list(own_rows(params))

    write_artifacts(benchmark_record(params, rows), tmp_path / "parent")
    write_artifacts(row_record(params, rows[0]), tmp_path / "row")

    parent = {
        path.relative_to(tmp_path / "parent").as_posix() for path in files(tmp_path / "parent")
    }
    assert {"report/report.html", "tables/summary.json", "settings/params.yaml"} <= parent
    assert {path.relative_to(tmp_path / "row").as_posix() for path in files(tmp_path / "row")} == {
        "figures/comparison-tiny_test-x2.png",
        "figures/training-cnn_small-x2.png",
        "tables/images.json",
        "tables/latency.json",
        "training/history.csv",
        "training/training.json",
    }
    history = CELL_FOLDER / "cnn_small-x2" / "history.csv"
    assert (tmp_path / "row/training/history.csv").read_bytes() == history.read_bytes()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
