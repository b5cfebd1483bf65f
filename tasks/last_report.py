"""The last report's summary, read again; apart from `tasks.report`, which imports what draws."""

import pandas as pd

from tasks.errors import DataError
from tasks.layout import REPORT_FOLDER, result_name
from tasks.row_status import LEFT_OUT


def read_summary(dataset: str | None = None, scale: int | None = None) -> pd.DataFrame:
    """The last report's summary, or its rows of one data set (in any case) and scale.

    Raises:
        DataError: no report yet, or no such rows; the message says which there are.
    """
    file = REPORT_FOLDER / "summary.parquet"
    if not file.exists():
        raise DataError("there are no tables yet; run `sisr run` first")
    summary = pd.read_parquet(file)
    wanted = summary["dataset"].str.lower() == (dataset or "").lower()
    rows = summary[(wanted | (dataset is None)) & ((summary["scale"] == scale) | (scale is None))]
    if rows.empty:
        known = (summary["dataset"] + " ×" + summary["scale"].astype("str")).unique()
        asked = f"{dataset or 'any data set'} ×{scale or 'any scale'}"
        raise DataError(f"no rows of {asked}; the tables have: {', '.join(known)}")
    return rows


def rows_left_out() -> list[str]:
    """The last report's rows (`srcnn-x2`) whose run was not asked to make them."""
    file = REPORT_FOLDER / "summary.parquet"
    if not file.exists():
        return []
    summary = pd.read_parquet(file)
    rows = summary[summary["status"] == LEFT_OUT]
    pairs = rows[["architecture", "scale"]].drop_duplicates().itertuples(index=False)
    return [result_name(architecture, scale) for architecture, scale in pairs]
