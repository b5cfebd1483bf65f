from pathlib import Path

import pytest

import tasks.published_tables
from models.registry import names
from tasks.published_tables import SOURCES, published, published_table

FOLDER = Path(tasks.published_tables.__file__).parent / "published"


def test_columns_and_types() -> None:
    rows = published()
    assert {name: str(dtype) for name, dtype in rows.dtypes.items()} == {
        "table": "str",
        "source": "str",
        "dataset": "str",
        "scale": "int64",
        "method": "str",
        "architecture": "str",
        "psnr_db": "float64",
        "ssim": "float64",
        "time_s": "float64",
    }
    needed = rows.drop(columns=["architecture", "time_s"])
    assert not needed.isna().any().any()
    assert set(rows["scale"]) == {2, 3, 4}
    assert rows["psnr_db"].between(15, 50).all()
    assert rows["ssim"].between(0.5, 1).all()


def test_a_row_of_vdsrs_table_3() -> None:
    rows = published("Set5", 2, architecture="vdsr")
    assert rows[["psnr_db", "ssim", "time_s"]].values.tolist() == [[37.53, 0.9587, 0.13]]
    assert rows["table"].tolist() == ["vdsr_table3"]
    assert rows["method"].tolist() == ["VDSR"]


def test_a_method_may_stand_in_several_tables() -> None:
    rows = published("Urban100", 4, method="A+")
    assert rows["psnr_db"].tolist() == [24.32, 24.32]
    assert rows["table"].tolist() == ["vdsr_table3", "lesrcnn_urban100"]
    assert rows["architecture"].isna().all()


def test_interpolations() -> None:
    rows = published("unnamed", 4).set_index("architecture")
    assert rows.loc["nearest", ["psnr_db", "ssim"]].tolist() == [25.118, 0.847]
    assert rows.loc["bicubic", ["psnr_db", "ssim"]].tolist() == [27.254, 0.894]
    assert rows.loc["lanczos", ["psnr_db", "ssim"]].tolist() == [26.566, 0.871]


def test_the_longer_training_of_the_enlarged_network() -> None:
    rows = published("Urban100", architecture="lesrcnn_enlarged")
    assert rows["psnr_db"].tolist() == [31.61, 27.84, 25.81]


def test_an_answer_may_be_changed() -> None:
    rows = published()
    rows["psnr_db"] = 0.0
    assert (published()["psnr_db"] > 0).all()


def test_counts_are_numbers() -> None:
    rows = published_table("lesrcnn_complexity").set_index("method")
    assert rows.loc["VDSR", "num_parameters"] == 665_000
    assert rows.loc["VDSR", "num_multiply_adds"] == 10_900_000_000
    assert rows.loc["LESRCNN", "num_multiply_adds"] == 3_080_000_000


@pytest.mark.parametrize("table", list(SOURCES))
def test_every_table_is_whole(table: str) -> None:
    rows = published_table(table)
    assert len(rows) == len((FOLDER / f"{table}.csv").read_text().splitlines()) - 1
    if "architecture" in rows.columns:
        assert set(rows["architecture"].dropna()) <= set(names())


def test_table_3_of_vdsr_is_whole() -> None:
    """Kim et al. 2016: six methods on four sets at three scales, and VDSR leads all of them."""
    rows = published_table("vdsr_table3")
    assert len(rows) == 6 * 4 * 3
    best = rows.loc[rows.groupby(["dataset", "scale"])["psnr_db"].idxmax(), "method"]
    assert list(best) == ["VDSR"] * 12


def test_every_file_has_a_source() -> None:
    assert {path.stem for path in FOLDER.glob("*.csv")} == set(SOURCES)
    readme = (FOLDER / "README.md").read_text()
    assert all(f"`{table}.csv`" in readme for table in SOURCES)


def test_unknown_table() -> None:
    with pytest.raises(ValueError, match=r"unknown table 'table3'.*vdsr_table3"):
        published_table("table3")


def test_the_papers_srcnn_is_the_larger_one() -> None:
    # Dong et al. 2016 (FSRCNN): SRCNN-Ex, 57,184 weights, has 32.75 dB on Set5 at ×3.
    assert published("Set5", 3, architecture="srcnn_955")["psnr_db"].tolist() == [32.75]
    assert published(architecture="srcnn").empty
