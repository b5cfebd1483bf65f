"""The published figures that ours stand beside; their sources are in `published/README.md`."""

from functools import lru_cache
from pathlib import Path

import pandas as pd

SOURCES = {
    "vdsr_table3": "Kim et al. 2016, Table 3",
    "vdsr_residual_set5_x2_psnr_db": "Kim et al. 2016, Table 1",
    "vdsr_scale_augmentation_set5_psnr_db": "Kim et al. 2016, Table 2",
    "lesrcnn_urban100": "Tian et al. 2020, Urban100",
    "lesrcnn_ablation_set5_x4": "Tian et al. 2020, ablation",
    "lesrcnn_complexity": "Tian et al. 2020, complexity",
    "lesrcnn_running_time_s": "Tian et al. 2020, running time",
    "lesrcnn_enlarged_urban100": "enlarged LESRCNN, presentation",
    "four_cnns": "four plain CNNs, 100 epochs",
    "interpolation_and_wide": "Ceccarelli 2020",
    "cpu_time_510x339_s": "Ceccarelli 2020",
}
# How the papers write a method, where a file writes it otherwise.
_METHODS = {
    "bicubic": "Bicubic",
    "nearest": "Nearest",
    "lanczos": "Lanczos",
    "a_plus": "A+",
    "rfl": "RFL",
    "selfex": "SelfEx",
    "srcnn": "SRCNN",
    "vdsr": "VDSR",
    "edsr": "EDSR",
    "wdsr": "WDSR",
    "cnn_small": "CNN-small",
    "cnn_medium": "CNN-medium",
    "cnn_deep": "CNN-deep",
    "enlarged": "LESRCNN-enlarged",
}
# The names of those that we have too.
_ARCHITECTURES = {
    "Bicubic": "bicubic",
    "Nearest": "nearest",
    "Lanczos": "lanczos",
    "SRCNN": "srcnn_955",  # 57,184 weights: Dong et al. 2016 (FSRCNN), sec. 4: 32.75 dB, Set5 ×3
    "VDSR": "vdsr",
    "EDSR": "edsr",
    "WDSR": "wdsr_a",
    "LESRCNN": "lesrcnn",
    "LESRCNN-S": "lesrcnn_s",
    "LESRCNN-enlarged": "lesrcnn_enlarged",
    "SN": "lesrcnn_sn",
    "HN": "lesrcnn_hn",
    "IEEB": "lesrcnn_ieeb",
    "IEEB+RB": "lesrcnn_ieeb_rb",
    "CNN-small": "cnn_small",
    "CNN-medium": "cnn_medium",
    "CNN-deep": "cnn_deep",
    "waifu2x": "waifu2x",
}
_COLUMNS = {
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
# The final training of the enlarged LESRCNN; the file holds a shorter one as well.
_ENLARGED_NUM_STEPS = 600_000
_UNNAMED = "unnamed"
_SUFFIXES = {"K": 1e3, "M": 1e6, "G": 1e9}


def published(
    dataset: str | None = None,
    scale: int | None = None,
    method: str | None = None,
    architecture: str | None = None,
) -> pd.DataFrame:
    """Every published PSNR and SSIM, or those of one data set, scale, method or architecture.

    Columns: `table` (a key of `SOURCES`), `source`, `dataset`, `scale`, `method` (as papers write
    it), `architecture` (our name; missing where we have none), `psnr_db`, `ssim`, `time_s`
    (seconds per picture; missing where not printed). A method may stand in several tables.
    """
    rows = _quality()
    wanted = {"dataset": dataset, "scale": scale, "method": method, "architecture": architecture}
    for column, value in wanted.items():
        if value is not None:
            rows = rows[rows[column] == value]
    return rows.reset_index(drop=True)


def published_table(table: str) -> pd.DataFrame:
    """One table in its own columns and order, with `method` and `architecture` as in `published`.

    Counts such as 665K become numbers; `num_multiply_adds` is what its paper calls FLOPs.

    Raises:
        ValueError: there is no table of that name; the message lists those that there are.
    """
    if table not in SOURCES:
        raise ValueError(f"unknown table {table!r}; known: {', '.join(SOURCES)}")
    rows = pd.read_csv(Path(__file__).parent / "published" / f"{table}.csv")
    rows = rows.rename(columns={"network": "method", "flops": "num_multiply_adds"})
    for column in {"num_parameters", "num_multiply_adds"} & set(rows.columns):
        rows[column] = rows[column].map(_count).astype("int64")
    if "method" in rows.columns:
        rows["method"] = rows["method"].replace(_METHODS).astype("str")
        rows["architecture"] = rows["method"].map(_ARCHITECTURES).astype("str")
    return rows


@lru_cache(maxsize=1)
def _quality() -> pd.DataFrame:
    """The tables with PSNR and SSIM, one under the other."""
    enlarged = published_table("lesrcnn_enlarged_urban100")
    enlarged = enlarged[enlarged["num_steps"] == _ENLARGED_NUM_STEPS]
    interpolation = published_table("interpolation_and_wide")
    tables = {
        "vdsr_table3": published_table("vdsr_table3"),
        "lesrcnn_urban100": published_table("lesrcnn_urban100"),
        "lesrcnn_ablation_set5_x4": published_table("lesrcnn_ablation_set5_x4").assign(
            dataset="Set5", scale=4
        ),
        "lesrcnn_enlarged_urban100": enlarged.assign(dataset="Urban100"),
        "interpolation_and_wide": interpolation.assign(
            dataset=interpolation["note"].fillna(_UNNAMED), scale=4
        ),
    }
    rows = [rows.assign(table=name, source=SOURCES[name]) for name, rows in tables.items()]
    return pd.concat(rows).reindex(columns=list(_COLUMNS)).astype(_COLUMNS)


def _count(text: str) -> int:
    """665K, 10.90G and the like as a number."""
    return round(float(text[:-1]) * _SUFFIXES[text[-1]])
