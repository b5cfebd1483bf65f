"""What became of a row of the tables: measured, failed, or left out of the run that made them.

The words of the column `status`; every table and page takes them from here.
"""

import pandas as pd

MEASURED = "ok"
FAILED = "failed"
LEFT_OUT = "left out"


def measured_rows(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows that have numbers."""
    return summary[summary["status"] == MEASURED]


def without_numbers(rows: pd.DataFrame) -> "pd.Series[str]":
    """What each row shows instead of numbers, nothing where it has some."""
    text = FAILED + ": " + rows["error"].astype("str")
    text = text.mask(rows["status"] == LEFT_OUT, f"{LEFT_OUT} of this run")
    return text.mask(rows["status"] == MEASURED, "")
