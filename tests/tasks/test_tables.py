from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.published_tables import published
from tasks.tables import (
    PaperTable,
    as_text,
    beside_published,
    markdown_table,
    marked,
    paper_tables,
)

NO_TRAINING = pd.DataFrame(columns=["cell", "loss_function", "step", "loss", "psnr_db"])


def row(dataset: str, scale: int, architecture: str, psnr_db: float, ssim: float) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "scale": scale,
        "architecture": architecture,
        "psnr_db": psnr_db,
        "ssim": ssim,
        "psnr_db_grey_as_rgb": psnr_db,
        "ssim_grey_as_rgb": ssim,
        "latency_ms": 130.0,
        "num_parameters": 0,
        "num_multiply_adds": 0,
        "cell": "",
        "num_steps": 0,
        "train_s": 0.0,
        "device": "",
        "status": "ok",
    }


def latency(*architectures: str) -> pd.DataFrame:
    times = [
        {
            "architecture": name,
            "scale": 2,
            "output_px": size,
            "latency_ms": 10.0 * size,
            "latency_p25_ms": 9.0 * size,
            "latency_p75_ms": 11.0 * size,
            "peak_memory_mib": size / 2,
            "device": "Abacus",
            "num_threads": 2,
            "precision": "fp32",
        }
        for name in architectures
        for size in (256, 512, 1024)
    ]
    return pd.DataFrame(times)


def tables(*rows: dict[str, Any], training: pd.DataFrame = NO_TRAINING) -> dict[str, PaperTable]:
    summary = pd.DataFrame(rows)
    made = paper_tables(summary, latency(*summary["architecture"].unique()), training)
    return {table.name: table for table in made}


def cells(table: PaperTable, *index: str) -> pd.DataFrame:
    return table.cells.set_index(list(index))


def test_marks() -> None:
    values = pd.Series([31.004, 30.0, 31.001, None, 29.5])
    assert marked(values, 2).tolist() == ["**31.00**", "<u>30.00</u>", "**31.00**", "", "29.50"]


def test_marks_compete_within_their_group() -> None:
    values, group = pd.Series([1.0, 2.0, 3.0, 4.0]), pd.Series(["a", "b", "a", "b"])
    assert marked(values, 0, [group]).tolist() == ["<u>1</u>", "<u>2</u>", "**3**", "**4**"]


def test_no_values_have_no_text() -> None:
    assert as_text(pd.Series([1234.5, np.nan]), "{:,.0f}").tolist() == ["1,234", ""]
    assert as_text(pd.Series(np.array([])), "{:.2f}").tolist() == []


def test_a_markdown_table() -> None:
    printed = markdown_table(pd.DataFrame({"a": ["1", "2"], "b": ["x", ""]}))
    assert printed == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 |  |"


def test_differences_to_table_3_of_the_vdsr_paper() -> None:
    # its rows: bicubic Set5 ×2 33.66/0.9299, VDSR Set14 ×3 29.77/0.8314
    ours = pd.DataFrame([row("set5", 2, "bicubic", 33.661, 0.9300), row("set14", 3, "vdsr", 30, 1)])
    beside = beside_published(ours, published())
    assert beside["published_psnr_db"].tolist() == [33.66, 29.77]
    assert beside["published_ssim"].tolist() == [0.9299, 0.8314]
    assert beside["difference_psnr_db"].tolist() == pytest.approx([0.001, 0.23])
    assert beside["difference_ssim"].tolist() == pytest.approx([0.0001, 0.1686])
    assert set(beside["published_in"]) == {"Kim et al. 2016, Table 3"}


def test_nobody_published_figures_of_our_own_pictures() -> None:
    beside = beside_published(pd.DataFrame([row("mine", 2, "bicubic", 30.0, 0.9)]), published())
    assert len(beside) == 1
    assert beside[["published_psnr_db", "difference_psnr_db", "published_in"]].isna().all(axis=None)


def test_the_selfexsr_copies_are_the_same_pictures() -> None:
    ours = pd.DataFrame([row("set5_selfexsr", 2, "bicubic", 33.66, 0.9299)])
    assert beside_published(ours, published())["difference_psnr_db"].tolist() == [0.0]


def test_imported_weights_meet_their_papers_figures() -> None:
    # the released VDSR on the ruler, and Kim et al. 2016, Table 3
    cost = {"num_parameters": 664_704, "num_multiply_adds": 664_704 * 128**2}
    made = tables(
        row("set5", 2, "vdsr", 37.0, 0.9560) | cost,
        row("set5", 2, "vdsr-published", 37.589, 0.9591) | cost,
    )
    printed: Any = cells(made["vdsr_table3"], "dataset", "scale").loc[("Set5", "×2")]
    assert printed["ours: vdsr"] == "<u>37.00</u>/<u>0.9560</u>/0.13 (-0.53/-0.0027)"
    assert printed["ours: vdsr-published"] == "**37.59**/**0.9591**/0.13 (+0.06/+0.0004)"
    counted = made["lesrcnn_complexity"].cells["ours"].tolist()
    assert counted == ["vdsr ×2"] + [""] * 6


@pytest.mark.parametrize(
    ("dataset", "architecture", "difference_db"),
    # LESRCNN's paper (RGB) has 31.45 for Urban100; VDSR's (luminance) 33.03 for Set14
    [("urban100", "lesrcnn", 31.60 - 31.45), ("set14", "vdsr", 33.00 - 33.03)],
)
def test_only_papers_with_rgb_networks_meet_grey_as_rgb(
    dataset: str, architecture: str, difference_db: float
) -> None:
    grey = {"psnr_db_grey_as_rgb": 31.60, "ssim_grey_as_rgb": 0.93}
    ours = pd.DataFrame([row(dataset, 2, architecture, 33.00, 0.92) | grey])
    beside = beside_published(ours, published())
    assert beside["difference_psnr_db"].tolist() == pytest.approx([difference_db])


def test_vdsr_table_3() -> None:
    made = tables(
        row("set5", 2, "bicubic", 33.6614, 0.92988),
        row("set5", 2, "vdsr", 37.589, 0.9591),
        row("set14", 4, "vdsr", 28.0, 0.7670),
        row("sample_test", 2, "vdsr", 30.0, 0.9),
    )
    printed = cells(made["vdsr_table3"], "dataset", "scale")
    assert printed.index.tolist() == [("Set5", "×2"), ("Set14", "×4")]
    methods = ["Bicubic", "A+", "RFL", "SelfEx", "SRCNN", "VDSR", "ours: bicubic", "ours: vdsr"]
    assert printed.columns.tolist() == methods
    # A+ ties with RFL in PSNR; second best in SSIM is A+, in PSNR SRCNN
    assert printed.loc[("Set5", "×2")].tolist() == [
        "33.66/0.9299/0",
        "36.54/<u>0.9544</u>/0.58",
        "36.54/0.9537/0.63",
        "36.49/0.9537/45.8",
        "<u>36.66</u>/0.9542/2.19",
        "**37.53**/**0.9587**/0.13",
        "<u>33.66</u>/<u>0.9299</u>/0.13 (+0.00/+0.0000)",
        "**37.59**/**0.9591**/0.13 (+0.06/+0.0004)",
    ]
    assert printed.loc[("Set14", "×4"), "ours: bicubic"] == ""
    assert str(printed.loc[("Set14", "×4"), "ours: vdsr"]).endswith(" (-0.01/-0.0004)")


def test_numbers_are_not_rounded() -> None:
    made = tables(row("set5", 2, "vdsr", 37.589, 0.9591))
    numbers = made["vdsr_table3"].numbers
    assert numbers[["dataset", "scale", "A+ time_s"]].values.tolist() == [["Set5", 2, 0.58]]
    assert numbers["ours: vdsr psnr_db"].tolist() == [37.589]
    assert numbers["ours: vdsr difference_psnr_db"].tolist() == pytest.approx([0.059])
    assert "A+ difference_psnr_db" not in numbers.columns


def test_lesrcnns_urban100_table() -> None:
    grey = {"psnr_db_grey_as_rgb": 31.40, "ssim_grey_as_rgb": 0.9200}
    made = tables(row("urban100", 2, "lesrcnn", 31.0, 0.9) | grey)
    printed = cells(made["lesrcnn_urban100"], "method", "whose")["×2"]
    assert len(printed) == 20 + 1 + 1
    assert printed["CARN-M", "published"] == "31.23/0.9193"
    assert printed["LESRCNN", "published"] == "<u>31.45</u>/0.9206"
    assert printed["LESRCNN-enlarged", "published"] == "**31.61**/**0.9226**"
    assert printed["lesrcnn", "ours"] == "**31.40**/**0.9200** (-0.05/-0.0006)"


def test_the_ablation_takes_lesrcnns_variants_only() -> None:
    made = tables(
        row("set5", 4, "lesrcnn_hn", 31.52, 0.8850), row("set5", 4, "bicubic", 28.42, 0.8104)
    )
    printed = cells(made["lesrcnn_ablation_set5_x4"], "method", "whose")["×4"]
    assert printed["HN", "published"] == "31.62/0.8852"
    assert printed["lesrcnn_hn", "ours"] == "**31.52**/**0.8850** (-0.10/-0.0002)"
    assert ("bicubic", "ours") not in printed.index


def test_running_time() -> None:
    made = tables(row("mine", 2, "vdsr", 30.0, 0.9))
    printed = cells(made["lesrcnn_running_time_s"], "method")
    assert printed.loc["MemNet", ["256²", "512²", "1024²"]].tolist() == ["0.877", "3.6", "14.7"]
    assert printed.loc["vdsr ×2"].to_dict() == {
        "whose": "ours",
        "machine": "Abacus, 2 threads, fp32",
        "256²": "2.56 (2.3–2.82)",
        "512²": "5.12 (4.61–5.63)",
        "1024²": "10.2 (9.22–11.3)",
        "MiB": "512",
    }
    assert printed.index[:6].tolist() == ["VDSR", "MemNet", "CARN-M", "LESRCNN", "SN", "HN"]


def test_complexity() -> None:
    cost = {"num_parameters": 664_704, "num_multiply_adds": 664_704 * 128**2}
    small = {"num_parameters": 8_129, "num_multiply_adds": 8_032 * 128**2}
    made = tables(
        row("set5", 3, "vdsr", 33.0, 0.9) | cost,
        row("set14", 3, "vdsr", 29.0, 0.8) | cost,
        row("set5", 3, "srcnn", 32.0, 0.9) | small,
        row("set5", 3, "bicubic", 30.0, 0.8),
    )
    printed = made["lesrcnn_complexity"].cells
    assert printed["method"].tolist() == [
        *("VDSR", "DnCNN", "DRCN", "MemNet", "LESRCNN", "SN", "HN"),
        "",
    ]
    ours = ["vdsr ×3", "665K", "664,704", "1.000", "10.90G", "10.89G", "0.999"]
    assert printed.iloc[0].tolist() == ["VDSR", *ours]
    assert printed.iloc[-1].tolist() == ["", "srcnn ×3", "", "8,129", "", "", "0.1316G", ""]
    numbers = made["lesrcnn_complexity"].numbers
    assert numbers["ratio_num_multiply_adds"].iloc[0] == pytest.approx(10.890510336 / 10.90)


def test_interpolations_beside_wide_networks() -> None:
    made = tables(
        row("set5", 4, "bicubic", 28.42, 0.8104),
        row("set5", 4, "nearest", 26.25, 0.7374),
        row("set5", 4, "srcnn", 30.0, 0.86),
    )
    printed = cells(made["interpolation_and_wide"], "architecture")
    assert printed.columns.tolist() == [
        "published: unnamed test set",
        "published: DIV2K 0861, crop",
        "ours: set5",
    ]
    assert printed.loc["nearest"].tolist() == [
        "25.12/0.8470 (-2.14)",  # 25.118 - 27.254
        "",
        "<u>26.25</u>/<u>0.7374</u> (-2.17)",
    ]
    assert printed.loc["edsr"].tolist() == ["", "**23.36**/**0.7830** (+2.13)", ""]
    assert "srcnn" not in printed.index


def test_four_cnns() -> None:
    training = pd.DataFrame(
        {
            "cell": ["cnn_deep-x2", "cnn_deep-x2", "waifu2x-x2", "srcnn-x2"],
            "loss_function": ["mean mse", "mean mse", "mean l1", "mean mse"],
            "step": [50, 100, 100, 100],
            "loss": [0.02, 0.0015, 0.03, 0.001],
            "psnr_db": [31.5, None, 32.25, 33.0],
        }
    )
    rows = [
        row("mine", 2, name, 30.0, 0.9)
        | {"cell": f"{name}-x2", "num_steps": 100, "train_s": 12.4, "device": "Abacus"}
        for name in ("cnn_deep", "waifu2x", "srcnn")
    ]
    printed = cells(tables(*rows, training=training)["four_cnns"], "network")
    assert printed.index.tolist() == ["CNN-small", "CNN-medium", "CNN-deep", "waifu2x"]
    published_part = ["0.001422", "0.001451", "0.001234", "3921"]
    assert printed.loc["CNN-deep"].tolist() == [
        "cnn_deep-x2",
        *published_part,
        *("0.001500", "31.50", "12", "100", "Abacus"),
    ]
    # another loss cannot stand beside mean squared errors
    assert printed.loc["waifu2x", "ours: training loss"] == ""
    assert printed.loc["waifu2x", "ours: validation PSNR"] == "32.25"
    assert set(printed.loc["CNN-small"].iloc[-5:]) == {""}


def test_tables_without_a_row_of_ours_are_left_out() -> None:
    assert list(tables(row("mine", 2, "bicubic", 30.0, 0.9))) == ["lesrcnn_running_time_s"]
    failed = row("set5", 4, "vdsr", 30.0, 0.9) | {"status": "failed"}
    assert list(tables(failed)) == ["lesrcnn_running_time_s"]


def test_a_page_names_its_sources() -> None:
    page = tables(row("set5", 2, "vdsr", 37.5, 0.95))["vdsr_table3"].markdown()
    lines = page.splitlines()
    assert lines[0].startswith("## PSNR / SSIM / seconds per picture")
    assert lines[2].startswith("| dataset | scale | Bicubic | A+ |")
    assert lines[-1].startswith("Published: Kim et al. 2016, Table 3. Best **bold**")
