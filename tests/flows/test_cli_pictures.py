"""`sisr upscale`, `compare`, `export`, `data`, `table` and `report` as a person types them."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from flows.cli import app
from tasks import network_choice
from tasks.config import Settings
from tasks.errors import DataError, ImageError, ParamsError, SisrError, WeightsError
from tasks.versions import Version
from tests.conftest import Workspace

pytestmark = pytest.mark.timeout(180)

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture
def sisr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path("pictures").mkdir(exist_ok=True)
        Image.fromarray(RGB).save(f"pictures/{name}.png")
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_folder_is_enlarged_into_a_folder(sisr: Callable[..., Result]) -> None:
    done = sisr("upscale", "pictures", "-o", "large", "--model", "nearest", "--scale", "3")

    assert done.exit_code == 0
    assert sorted(path.name for path in Path("large").iterdir()) == ["one-x3.png", "two-x3.png"]
    assert "large/one-x3.png: 90×60, by nearest-x3" in done.stderr.replace("\\", "/")
    with Image.open("large/two-x3.png") as large:
        assert np.array_equal(np.asarray(large), RGB.repeat(3, axis=0).repeat(3, axis=1))


def test_repeat_zooms(sisr: Callable[..., Result]) -> None:
    sisr("upscale", "pictures/one.png", "-o", "zoom", "--model", "nearest", "--repeat", "2")

    with Image.open("zoom/one-x4.png") as large:
        assert large.size == (120, 80)


def test_a_folder_may_have_a_dot(sisr: Callable[..., Result]) -> None:
    Path("holiday.2024").mkdir()
    sisr("upscale", "pictures/one.png", "-o", "holiday.2024", "--model", "nearest")
    sisr("upscale", "pictures", "-o", "holiday.2024", "--model", "nearest", "--scale", "3")

    names = sorted(path.name for path in Path("holiday.2024").iterdir())
    assert names == ["one-x2.png", "one-x3.png", "two-x3.png"]


def test_a_corrupt_picture_does_not_stop_the_others(sisr: Callable[..., Result]) -> None:
    Path("pictures/broken.png").write_text("no picture")

    with pytest.raises(SisrError, match=r"1 of 3 pictures failed:\n  pictures/broken.png is cor"):
        sisr("upscale", "pictures", "-o", "large", "--model", "nearest")

    assert sorted(path.name for path in Path("large").iterdir()) == ["one-x2.png", "two-x2.png"]


def test_several_pictures_need_a_folder_and_their_own_names(sisr: Callable[..., Result]) -> None:
    with pytest.raises(ImageError, match=r"several pictures need a folder: -o all/"):
        sisr("upscale", "pictures/one.png", "pictures/two.png", "-o", "all.png")
    with pytest.raises(ImageError, match="two of the pictures are called 'one'"):
        sisr("upscale", "pictures/one.png", "pictures", "-o", "all")


def test_compare_writes_a_sheet_and_its_figures(sisr: Callable[..., Result]) -> None:
    arguments = ("--model", "nearest", "--degrade", "--json", "--scale", "3", "--box", "3,4,8,9")
    done = sisr("compare", "pictures/one.png", *arguments)

    described = json.loads(done.stdout)
    assert described["box"] == {"x": 3, "y": 4, "width": 8, "height": 9}
    assert [each["name"] for each in described["entries"]] == ["HR", "bicubic-x3", "nearest-x3"]
    assert 5 < described["entries"][1]["psnr_db"] < 20  # noise does not survive
    with Image.open(described["sheet"]) as sheet:
        assert (described["sheet"], sheet.format) == ("one-compared.png", "PNG")


def test_compare_of_equal_pictures_is_json_all_the_same(sisr: Callable[..., Result]) -> None:
    Image.new("L", (40, 40), 90).save("flat.png")
    done = sisr("compare", "flat.png", "--degrade", "--json")

    _, bicubic = json.loads(done.stdout)["entries"]
    assert bicubic == {"name": "bicubic-x2", "psnr_db": None, "ssim": 1.0}


def test_compare_without_a_registry_shows_bicubic(sisr: Callable[..., Result]) -> None:
    done = sisr("compare", "pictures/one.png", "-o", "sheet.png")

    assert done.stdout.split() == ["bicubic-x2"]
    with pytest.raises(ParamsError, match="leave --reference out"):
        sisr("compare", "pictures/one.png", "--degrade", "--reference", "pictures/two.png")


@pytest.mark.filterwarnings("ignore")
def test_export_tells_how_far_the_file_is_from_the_network(sisr: Callable[..., Result]) -> None:
    done = sisr("export", "nearest", "--scale", "2", "-o", "nearest.pt2", "--json")

    exported = json.loads(done.stdout)
    assert exported["about"]["model"] == "nearest-x2"
    assert [check["input_shape"] for check in exported["checks"]][1] == [1, 1, 1, 1]
    assert max(check["largest_difference"] for check in exported["checks"]) == 0
    assert Path("nearest.pt2").stat().st_size == exported["num_bytes"]
    with pytest.raises(ParamsError, match=r"end it in \.onnx or \.pt2"):
        sisr("export", "nearest", "-o", "nearest.bin")


def test_data_lists_the_catalogue(
    sisr: Callable[..., Result], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.path)

    rows = json.loads(sisr("data", "--json").stdout)
    shown = sisr("data").stdout

    assert {row["name"]: row["roles"] for row in rows} == {
        "tiny_test": ["test"],
        "tiny_train": ["train"],
        "tiny_validation": ["validation"],
    }
    assert all(row["name"] in shown for row in rows)


def test_table_matches_names_in_any_case_and_names_the_known(sisr: Callable[..., Result]) -> None:
    with pytest.raises(DataError, match="run `sisr run` first"):
        sisr("table")
    Path("report").mkdir()
    row = {"dataset": "set5", "scale": 2, "architecture": "bicubic", "psnr_db": 33.66}
    row |= {
        "ssim": 0.93,
        "latency_ms": 1.0,
        "num_parameters": 0,
        "num_multiply_adds": 0,
        "status": "ok",
        "error": "",
    }
    row |= {"train_s": 0.0}
    pd.DataFrame([row]).to_parquet("report/summary.parquet")

    asked = ("--dataset", "SET5", "--scale", "2")
    assert json.loads(sisr("table", *asked, "--format", "json").stdout)[0]["psnr_db"] == 33.66
    rows = pd.read_csv(StringIO(sisr("table", *asked, "--format", "csv").stdout))
    assert rows[["dataset", "psnr_db"]].to_numpy().tolist() == [["set5", 33.66]]
    assert "33.66" in sisr("table", *asked, "--format", "latex").stdout
    with pytest.raises(DataError, match=r"urban100.*set5"):
        sisr("table", "--dataset", "urban100")


def test_report_is_named_and_copied(sisr: Callable[..., Result]) -> None:
    with pytest.raises(DataError, match=r"there is no report.report\.html yet; run `sisr run`"):
        sisr("report")
    Path("report").mkdir()
    Path("report/report.html").write_text("<html>", "utf-8")

    assert Path(sisr("report").stdout.strip()) == Path("report/report.html")
    assert sisr("report", "-o", "copy.html").stdout == "copy.html\n"
    assert Path("copy.html").read_text("utf-8") == "<html>"


def test_version(sisr: Callable[..., Result]) -> None:
    from importlib.metadata import version

    assert sisr("--version").stdout == f"sisr {version('sisr')}\n"


def test_compare_passes_over_a_champion_that_cannot_be_loaded(
    sisr: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    champions = [Version(f"{name}-x2", "1", "trained", 30.0, True) for name in ("gone", "kept")]
    real = network_choice.choose

    def choose(model: str | None, scale: int | None, settings: Settings) -> network_choice.Choice:
        if model == "gone-x2":
            raise WeightsError("gone-x2@champion is of other code")
        return real("nearest" if model == "kept-x2" else model, scale, settings)

    monkeypatch.setattr("tasks.tracking.registered_versions", lambda settings: champions)
    monkeypatch.setattr(network_choice, "choose", choose)
    done = sisr("compare", "pictures/one.png", "-o", "sheet.png", "--json")

    assert "gone-x2 is left out: gone-x2@champion is of other code" in done.stderr
    assert [each["name"] for each in json.loads(done.stdout)["entries"]] == [
        "bicubic-x2",
        "nearest-x2",
    ]
    with pytest.raises(WeightsError, match="of other code"):
        sisr("compare", "pictures/one.png", "-o", "sheet.png", "--model", "gone-x2")
