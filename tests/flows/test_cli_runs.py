"""`sisr run` and `status` before and beside any work."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from tasks import pipeline, staleness
from tasks.errors import ParamsError, StoreError
from tests.conftest import Workspace


@pytest.fixture
def sisr(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The commands, in a workspace where a training and the report are stale."""
    stale = {"train@srcnn-2": "changed", "report": "changed"}
    monkeypatch.setattr(staleness, "stale_stages", lambda: stale)
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_parameter_set_waits_for_the_run_that_is_going_on(
    sisr: Callable[..., Result], workspace: Workspace
) -> None:
    before = Path("params.yaml").read_bytes()
    workspace.write_params(seed=7)
    Path("params.yaml").rename("other.yaml")
    Path("params.yaml").write_bytes(before)

    with pipeline.workspace_lock(), pytest.raises(StoreError, match="another run is going on"):
        sisr("run", "--params", "other.yaml")

    assert Path("params.yaml").read_bytes() == before


def test_what_params_yaml_lacks_is_refused_even_if_there_is_nothing_to_do(
    sisr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleness, "stale_stages", dict)

    with pytest.raises(ParamsError, match=r"'edrs' is not in params\.yaml"):
        sisr("run", "--architecture", "edrs")
    with pytest.raises(ParamsError, match=r"scale 4 is not in params\.yaml"):
        sisr("run", "--scale", "4")


def test_a_run_with_nothing_to_do_shows_the_tables(
    sisr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleness, "stale_stages", dict)
    Path("report").mkdir()
    row = {
        "architecture": "srcnn",
        "dataset": "set5",
        "scale": 2,
        "status": "ok",
        "error": "",
        "psnr_db": 36.66,
        "ssim": 0.9542,
        "latency_ms": 1.5,
        "num_parameters": 8129,
        "train_s": 0.0,
    }
    pd.DataFrame([row]).to_parquet("report/summary.parquet")

    done = sisr("run")

    assert done.exit_code == 0
    assert done.stderr == "nothing to do: every stage is up to date\n"
    assert "36.66" in done.stdout


def test_what_was_not_pushed_is_pushed_by_the_next_run(
    sisr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def push() -> None:
        raise StoreError("the remote is still away")

    monkeypatch.setattr(staleness, "stale_stages", dict)
    monkeypatch.setattr(pipeline, "has_unpushed", lambda: True)
    monkeypatch.setattr(pipeline, "push", push)

    with pytest.raises(StoreError, match="still away"):
        sisr("run")


def test_ctrl_c_ends_a_run_with_its_own_code(
    sisr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def stop(**_: object) -> None:
        order.append("flow")
        raise KeyboardInterrupt

    def begin() -> Callable[[], None]:
        order.append("server begun")
        return lambda: order.append("server there")

    monkeypatch.setenv("PREFECT_HOME", str(Path("prefect").absolute()))
    monkeypatch.setattr("flows.cli_runs.guard", lambda: None)
    monkeypatch.setattr("flows.cli_runs.begin_own_server", begin)
    monkeypatch.setattr("flows.benchmark.benchmark", stop)

    done = sisr("run")

    assert done.exit_code == 130
    assert order == ["server begun", "server there", "flow"]
    assert done.stderr.splitlines() == [
        "starting Prefect …",
        "sisr: stopped; `sisr run` goes on where this was",
    ]


def test_status_names_what_the_last_run_left_out(sisr: Callable[..., Result]) -> None:
    assert sisr("status").stdout.splitlines() == ["train@srcnn-2: changed", "report: changed"]
    Path("report").mkdir()
    rows = [
        ("bicubic", "set5", "ok"),
        ("srcnn", "set5", "left out"),
        ("srcnn", "set14", "left out"),
    ]
    summary = pd.DataFrame(rows, columns=["architecture", "dataset", "status"]).assign(scale=2)
    summary.to_parquet("report/summary.parquet")

    assert sisr("status").stdout.splitlines()[2:] == ["srcnn-x2: left out of the last run"]
    assert sisr("status", "--json").stdout.count("left out") == 0
