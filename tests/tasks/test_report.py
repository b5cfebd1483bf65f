import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save_file
from typer.testing import CliRunner

import models
from flows.cli import app
from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import DataError
from tasks.last_report import read_summary, rows_left_out
from tasks.report import (
    build_report,
    formatted,
    markdown,
    write_report,
)
from tests.conftest import REPOSITORY, Workspace

# architecture -> picture -> PSNR, and with grey as RGB
PSNRS_DB = {
    "nearest": {"bridge.png": (28.0, 28.0), "clock.png": (30.0, 31.0)},
    "bicubic": {"bridge.png": (30.0, 30.0), "clock.png": (33.0, 34.5)},
    "cnn_small": {"bridge.png": (31.0, 31.0), "clock.png": (33.0, 34.0)},
    "srcnn": {"bridge.png": (31.0, 31.0), "clock.png": (34.0, 35.0)},
}


def result(architecture: str) -> dict[str, Any]:
    about = {"architecture": architecture, "scale": 2}
    return {
        **about,
        "test_data_sha256": "0123456789abcdef",
        "images": [
            {
                **about,
                "dataset": "tiny_test",
                "image": image,
                "psnr_db": psnr_db,
                "ssim": psnr_db / 100,
                "psnr_db_grey_as_rgb": as_rgb_db,
                "ssim_grey_as_rgb": as_rgb_db / 100,
                "latency_ms": latency_ms,
            }
            for (image, (psnr_db, as_rgb_db)), latency_ms in zip(
                PSNRS_DB[architecture].items(), (2.0, 5.0), strict=True
            )
        ],
        "latency": [
            {
                "output_px": size,
                "latency_ms": 1.5,
                "latency_p25_ms": 1.4,
                "latency_p75_ms": 1.7,
                "num_repeats": 100,
                "peak_memory_mib": 12.5,
                "input_px": size // 2,
                "device": "Abacus",
                "num_threads": 2,
                "precision": "fp32",
            }
            for size in (256, 512, 1024)
        ],
        "complexity": {"num_parameters": 1234, "num_multiply_adds": 56789},
    }


def write_cell(name: str, losses: list[float], psnrs_db: list[float | None]) -> None:
    folder = Path("cells") / name
    folder.mkdir(parents=True)
    save_file(
        models.create(name.removesuffix("-x2"), 2).state_dict(), folder / "weights.safetensors"
    )
    record = {"num_steps": 6, "seconds": 4.5, "device": "Abacus", "precision": "fp32"}
    (folder / "training.json").write_text(json.dumps(record))
    history = {"step": [3, 6], "loss": losses, "psnr_db_x2": psnrs_db}
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)


def measured(workspace: Workspace) -> Params:
    """Make the workspace one where everything is trained and measured, but nothing reported."""
    params = workspace.write_params()
    download(params, load_catalogue(), Settings())
    degrade(2)
    Path("results").mkdir()
    for architecture in PSNRS_DB:
        Path(f"results/{architecture}-x2.json").write_text(json.dumps(result(architecture)))
    write_cell("cnn_small-x2", [0.2, 0.1], [None, 32.0])
    write_cell("srcnn-x2", [0.4, 0.3], [30.0, 31.0])
    return params


@pytest.fixture
def params(workspace: Workspace) -> Params:
    return measured(workspace)


def test_summary(params: Params) -> None:
    summary = build_report(params, failures={}).summary.set_index("architecture")
    assert summary["psnr_db"].to_dict() == {
        "nearest": 29.0,
        "bicubic": 31.5,
        "cnn_small": 32.0,
        "srcnn": 32.5,
    }
    assert summary["psnr_db_grey_as_rgb"].tolist() == [29.5, 32.25, 32.5, 33.0]
    assert summary.loc["srcnn", "ssim"] == pytest.approx(0.325)
    assert set(summary["latency_ms"]) == {3.5}
    assert set(summary["num_images"]) == {2}
    assert summary["train_s"].tolist() == [0.0, 0.0, 4.5, 4.5]
    machine = summary.loc["bicubic", ["timed_device", "timed_num_threads", "timed_precision"]]
    assert machine.tolist() == ["Abacus", 2, "fp32"]


@pytest.mark.parametrize("name", ["summary", "images", "latency", "training"])
def test_every_table_is_written_twice(params: Params, name: str) -> None:
    table = getattr(write_report(params, failures={}), name)
    parquet = pd.read_parquet(f"report/{name}.parquet")
    pd.testing.assert_frame_equal(parquet, table)
    csv = pd.read_csv(f"report/{name}.csv", keep_default_na=False)
    assert csv.columns.tolist() == table.columns.tolist()
    numbers = table.select_dtypes("number").columns
    pd.testing.assert_frame_equal(
        csv[numbers].apply(pd.to_numeric), table[numbers], check_dtype=False
    )


def test_one_row_for_each_picture(params: Params) -> None:
    images = build_report(params, failures={}).images.set_index(["architecture", "image"])
    assert len(images) == 8
    assert images.loc[("bicubic", "clock.png"), "psnr_db"] == 33.0
    assert images.loc[("bicubic", "clock.png"), "psnr_db_grey_as_rgb"] == 34.5


def test_latency_says_what_it_depends_on(params: Params) -> None:
    latency = build_report(params, failures={}).latency
    assert latency["output_px"].tolist() == [256, 512, 1024] * 4
    needed = {"latency_p25_ms", "latency_p75_ms", "peak_memory_mib", "device", "num_threads"}
    assert needed | {"precision"} <= set(latency.columns)


def test_every_history_stands_in_one_table(params: Params) -> None:
    training = build_report(params, failures={}).training
    assert training["cell"].tolist() == ["cnn_small-x2"] * 2 + ["srcnn-x2"] * 2
    assert training["loss"].tolist() == [0.2, 0.1, 0.4, 0.3]
    assert training["psnr_db"].fillna(0).tolist() == [0, 32.0, 30.0, 31.0]
    assert training["loss_function"].unique().tolist() == ["mean mse", "mean l1"]


def test_no_trainings(workspace: Workspace, params: Params) -> None:
    training = write_report(workspace.write_params(trained={}), failures={}).training
    assert training.empty
    header = "cell,loss_function,step,loss,psnr_db"
    assert Path("report/training.csv").read_text().splitlines() == [header]
    assert not list(Path("report/figures").glob("training*.png"))


def test_metrics_file(params: Params) -> None:
    write_report(params, failures={})
    metrics = json.loads(Path("metrics.json").read_text())
    assert metrics["tiny_test"]["x2"]["bicubic"] == {"psnr_db": 31.5, "ssim": 0.315}
    assert list(metrics["tiny_test"]["x2"]) == list(PSNRS_DB)


def test_paper_tables_are_written(params: Params) -> None:
    write_report(params, failures={})
    files = {path.stem for path in Path("report/tables").iterdir()}
    assert files == {"lesrcnn_running_time_s", "lesrcnn_complexity", "four_cnns"}
    page = Path("report/tables.md").read_text()
    assert page.count("\n## ") + page.startswith("## ") == 3
    four = pd.read_csv("report/tables/four_cnns.csv").set_index("architecture")
    assert four.loc["cnn_small", ["training_loss", "validation_psnr_db"]].tolist() == [0.1, 32.0]


def test_markdown(params: Params) -> None:
    lines = markdown(build_report(params, failures={}).summary).splitlines()
    assert lines[0] == "### tiny_test ×2"
    # the grey picture has two conventions, so the second is shown under its name
    assert lines[2].endswith(" | PSNR, grey as RGB |")
    assert lines[-1].startswith("| srcnn | **32.50** | **0.3250** | 3.5 | 1,234 | 56.79 k |")
    assert lines[-2].startswith("| cnn_small | <u>32.00</u> | <u>0.3200</u> |")


def test_colour_pictures_have_one_convention(params: Params) -> None:
    summary = build_report(params, failures={}).summary
    summary = summary.assign(psnr_db_grey_as_rgb=summary["psnr_db"])
    assert "grey" not in markdown(summary)


def test_a_failed_cell_is_a_failed_row(params: Params) -> None:
    Path("results/srcnn-x2.json").unlink()
    report = write_report(params, failures={"srcnn-x2": "first line\nout of memory"})
    last = report.summary.iloc[-1]
    assert last[["architecture", "status", "error"]].tolist() == [
        "srcnn",
        "failed",
        "out of memory",
    ]
    assert "| srcnn | failed: out of memory |  |" in markdown(report.summary)
    assert "srcnn" not in json.loads(Path("metrics.json").read_text())["tiny_test"]["x2"]
    assert report.training["cell"].unique().tolist() == ["cnn_small-x2"]


def test_a_training_that_could_not_be_measured_keeps_its_curve(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.report.is_finished", lambda params, cell, folder: True)
    report = build_report(params, failures={"srcnn-x2": "answers no finite numbers"})

    assert report.summary.iloc[-1]["status"] == "failed"
    assert report.training["cell"].unique().tolist() == ["cnn_small-x2", "srcnn-x2"]


def test_a_failed_interpolation_is_a_failed_row(params: Params) -> None:
    Path("results/bicubic-x2.json").unlink()
    summary = write_report(params, failures={"bicubic-x2": "no memory"}).summary
    failed = summary[summary["status"] == "failed"]
    assert failed[["architecture", "source", "error"]].values.tolist() == [
        ["bicubic", "interpolation", "no memory"]
    ]
    # nothing to compare with
    assert summary["psnr_gain_db"].isna().all()
    assert "not measured" not in Path("report/summary.md").read_text()


def test_everything_failed(params: Params) -> None:
    failures = {name: "" for name in ("nearest-x2", "bicubic-x2", "cnn_small-x2", "srcnn-x2")}
    report = write_report(params, failures)
    assert report.summary["status"].tolist() == ["failed"] * 4
    assert set(report.summary["error"]) == {"no reason given"}
    assert "Nothing was measured" in Path("report/report.html").read_text()
    assert json.loads(Path("metrics.json").read_text()) == {}
    assert read_summary()["error"].tolist() == ["no reason given"] * 4


def test_a_row_that_was_not_asked_for_is_left_out_and_has_not_failed(params: Params) -> None:
    Path("results/srcnn-x2.json").unlink()
    report = write_report(params, failures={}, left_out={"srcnn-x2"})
    last = report.summary.iloc[-1]
    assert last[["architecture", "status", "error"]].tolist() == ["srcnn", "left out", ""]
    assert "| srcnn | left out of this run |  |" in markdown(report.summary)
    assert "failed" not in Path("report/summary.md").read_text()
    assert "srcnn" not in json.loads(Path("metrics.json").read_text())["tiny_test"]["x2"]
    assert report.training["cell"].unique().tolist() == ["cnn_small-x2"]
    assert rows_left_out() == ["srcnn-x2"]


def test_what_happens_at_one_scale_hides_no_other(params: Params, workspace: Workspace) -> None:
    recipe = params.trained["srcnn"].model_dump(mode="json", exclude_none=True)
    both = workspace.write_params(scales=[2, 3], trained={}, joint={"vdsr": recipe})
    for architecture in ("nearest", "bicubic"):
        at_3 = json.loads(json.dumps(result(architecture)).replace('"scale": 2', '"scale": 3'))
        Path(f"results/{architecture}-x3.json").write_text(json.dumps(at_3))
    Path("results/vdsr-x3.json").write_text("{}")
    failures = {"bicubic-x3": "no memory", "vdsr": "diverged"}
    summary = build_report(both, failures, left_out={"nearest-x2"}).summary
    status = summary.set_index(["architecture", "scale"])["status"].to_dict()
    assert status == {
        ("nearest", 2): "left out",
        ("nearest", 3): "ok",
        ("bicubic", 2): "ok",
        ("bicubic", 3): "failed",
        ("vdsr", 2): "failed",
        ("vdsr", 3): "failed",
    }


def test_gain_over_bicubic(params: Params) -> None:
    summary = build_report(params, failures={}).summary.set_index("architecture")
    assert summary["psnr_gain_db"].to_dict() == {
        "nearest": -2.5,
        "bicubic": 0.0,
        "cnn_small": 0.5,
        "srcnn": 1.0,
    }


def test_figures_are_written_and_shown(params: Params) -> None:
    summary = write_report(params, failures={}).summary
    figures = {path.name for path in Path("report/figures").iterdir()}
    assert figures == {
        "tradeoff-tiny_test-x2.png",
        "comparison-tiny_test-x2.png",
        "errors-tiny_test-x2.png",
        "training-x2.png",
        "training-cnn_small-x2.png",
        "training-srcnn-x2.png",
    }
    page = Path("report/report.html").read_text()
    assert page.count("data:image/png;base64,") == len(figures)
    for psnr_db in summary["psnr_db"]:
        assert f'data-value="{psnr_db}"' in page
    # what stands in cells/srcnn-x2/training.json, and in params.yaml
    assert "<dt>num steps</dt><dd>6</dd>" in page
    assert "<dt>learning rate</dt><dd>0.001</dd>" in page
    assert "dvc repro evaluate@srcnn-2" in page
    # without snapshots there is no such figure, and the page says so
    assert "no training left snapshots" in page


def test_snapshots_of_another_training_are_not_shown(params: Params) -> None:
    folder = Path("cells/srcnn-x2/snapshots")
    folder.mkdir()
    for name in ("hr-x2", "bicubic-x2", "step-0000006-x2"):
        Image.effect_noise((24, 24), 40).save(folder / f"{name}.png")

    write_report(params, failures={})
    assert Path("report/figures/steps-x2.png").exists()
    write_report(params, failures={"srcnn-x2": "diverged"})
    assert not Path("report/figures/steps-x2.png").exists()


def test_a_report_made_again_is_the_same(params: Params) -> None:
    def contents() -> dict[str, bytes]:
        files = (path for path in Path("report").rglob("*") if path.is_file())
        return {path.as_posix(): path.read_bytes() for path in files}

    write_report(params, failures={})
    first = contents()
    write_report(params, failures={})
    assert contents() == first


def test_the_page_for_a_pull_request(params: Params) -> None:
    write_report(params, failures={"cnn_small-x2": "a | b <c>"})
    page = Path("report/summary.md").read_text()
    assert page.startswith(
        "- tiny_test ×2: **srcnn** is best, 32.50 dB / 0.3250: +1.00 dB over bicubic;"
        " 1,234 parameters, 3.5 ms per picture (1.0 × bicubic), 4 s of training on Abacus\n"
        "- tiny_test ×2: **cnn_small failed**: a \\| b &lt;c>\n"
    )
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {table[0].count("|")}
    assert page.splitlines()[-1].startswith("Code: `")


def test_a_missing_row_is_an_error(params: Params) -> None:
    Path("results/bicubic-x2.json").unlink()
    with pytest.raises(FileNotFoundError, match="bicubic-x2"):
        write_report(params, failures={})


def test_formats(params: Params) -> None:
    summary = build_report(params, failures={}).summary
    assert formatted(summary, "md") == markdown(summary)
    lines = formatted(summary, "csv").splitlines()
    first = "architecture,dataset,scale,psnr_db,ssim,latency_ms,num_parameters,num_multiply_adds,"
    assert lines[0].startswith(first)
    assert lines[2].startswith("bicubic,tiny_test,2,31.5,0.315,3.5,1234,")
    rows = json.loads(formatted(summary, "json"))
    assert [each["psnr_db"] for each in rows] == [29.0, 31.5, 32.0, 32.5]
    latex = formatted(summary, "latex")
    assert r"bicubic & tiny\_test & 2 & 31.50 & 0.3150 & 3.5 & 1234 & 56789 \\" in latex


def test_the_table_command(params: Params) -> None:
    write_report(params, failures={})
    run = CliRunner().invoke(
        app, ["table", "--dataset", "tiny_test", "--scale", "2", "--format", "csv"]
    )
    assert run.exit_code == 0
    assert run.output.splitlines()[2].startswith("bicubic,tiny_test,2,31.5,0.315,3.5,1234,")
    printed = CliRunner().invoke(app, ["table"])
    assert "tiny_test ×2" in printed.output
    assert "srcnn" in printed.output
    write_report(params, {"srcnn-x2": "no room in [/dev/shm]"}, left_out={"cnn_small-x2"})
    lines = CliRunner().invoke(app, ["table"]).output.splitlines()
    shown = {
        line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines if "│" in line
    }
    assert shown["srcnn"] == "failed: no room in [/dev/shm]"
    assert shown["cnn_small"] == "left out of this run"
    assert CliRunner().invoke(app, ["table", "--format", "xml"]).exit_code == 2
    assert isinstance(CliRunner().invoke(app, ["table", "--scale", "3"]).exception, DataError)


def test_dvc_plots_what_the_report_writes(params: Params) -> None:
    write_report(params, failures={})
    columns = {
        file.as_posix(): set(pd.read_csv(file).columns) for file in Path("report").glob("*.csv")
    }
    for plot in YAML(typ="safe").load(Path("dvc.yaml"))["plots"]:
        ((_, about),) = plot.items()
        ((file, y),) = about["y"].items()
        assert {about["x"], y} <= columns[file]
        template = json.loads((REPOSITORY / f".dvc/plots/{about['template']}.json").read_text())
        assert template["data"] == {"values": "<DVC_METRIC_DATA>"}
