"""The report as one page: everything inside one file, nothing fetched when it is opened.

Data in: the tables of `tasks.report`, the figures. Data out: HTML. Whatever comes from outside
(names of data sets and pictures, errors) is escaped by the template.
"""

import base64
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from tasks.complexity import OUTPUT_PX
from tasks.config import Params
from tasks.headline import headlines
from tasks.illustrations import CELLS, MISSING, NOTES, Illustration
from tasks.origin import anchor, row_origins, run_origin
from tasks.row_status import FAILED, LEFT_OUT, without_numbers
from tasks.tables import PaperTable, as_count, as_text

_TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class _Value:
    """One number of a table: its text, itself (for sorting), and whether it leads."""

    text: str
    number: float | None
    rank: str


@dataclass(frozen=True)
class _Column:
    """A column of the summary as the page shows it; `form` is missing for large counts.

    In a column with `num_digits` the highest values are marked. An optional one is left out where
    it has nothing to show.
    """

    name: str
    heading: str
    form: str | None
    num_digits: int | None = None
    optional: bool = False

    def values(self, rows: pd.DataFrame) -> list[_Value]:
        """One for each row."""
        values = rows[self.name]
        texts = as_count(values) if self.form is None else as_text(values, self.form)
        numbers = [None if pd.isna(each) else float(each) for each in values]
        return list(map(_Value, texts, numbers, self._ranks(values)))

    def _ranks(self, values: "pd.Series[float]") -> list[str]:
        """`best` and `second`; values that print alike are equally good."""
        if self.num_digits is None:
            return [""] * len(values)
        rounded = values.astype(float).round(self.num_digits)
        places = rounded.rank(method="dense", ascending=False).fillna(0)
        return [{1: "best", 2: "second"}.get(int(place), "") for place in places]


_COLUMNS = (
    _Column("psnr_db", "PSNR (dB)", "{:.2f}", num_digits=2),
    _Column("psnr_gain_db", "over bicubic", "{:+z.2f}", optional=True),
    _Column("ssim", "SSIM", "{:.4f}", num_digits=4),
    _Column("latency_ms", "time (ms)", "{:,.1f}"),
    _Column("num_parameters", "parameters", "{:,.0f}"),
    _Column("num_multiply_adds", "multiply-adds", None),
    _Column("train_s", "training (s)", "{:,.0f}", optional=True),
    _Column("published_psnr_db", "published PSNR", "{:.2f}", optional=True),
    _Column("difference_psnr_db", "ours − published", "{:+z.2f}", optional=True),
    _Column("psnr_db_grey_as_rgb", "PSNR, grey as RGB", "{:.2f}", num_digits=2, optional=True),
)


@dataclass(frozen=True)
class _Row:
    """One network; one that failed or was left out says so instead of its values."""

    architecture: str
    anchor: str
    source: str
    instead: str
    is_failed: bool
    values: tuple[_Value, ...]


@dataclass(frozen=True)
class _Table:
    """The rows of one data set at one scale."""

    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[_Row, ...]


def html_page(
    params: Params,
    summary: pd.DataFrame,
    in_papers_layouts: Sequence[PaperTable],
    illustrations: Sequence[Illustration],
    folder: Path,
    commit: str,
) -> str:
    """The page; the figures are read from `folder`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    places = summary[["dataset", "scale"]].drop_duplicates().itertuples(index=False)
    return environment.get_template(_TEMPLATE).render(
        headlines=headlines(summary),
        failed=_with_status(summary, FAILED),
        left_out=_with_status(summary, LEFT_OUT),
        tables=[_table(dataset, scale, summary) for dataset, scale in places],
        output_px=OUTPUT_PX,
        in_papers_layouts=[_paper_table(each) for each in in_papers_layouts],
        sections=_sections(illustrations, folder),
        run=run_origin(params, summary, commit),
        commit=None if commit.startswith("unknown") else commit.removesuffix("-dirty"),
        origins=list(row_origins(params, summary)),
    )


def _with_status(summary: pd.DataFrame, status: str) -> list[dict[Hashable, Any]]:
    """Which networks have that status where, and why, said once for each reason."""
    rows = summary[summary["status"] == status]
    rows = rows.assign(places=rows["dataset"] + " ×" + rows["scale"].astype("str"))
    grouped = rows.groupby(["architecture", "error"], sort=False)["places"]
    return grouped.agg(", ".join).reset_index().to_dict("records")


def _table(dataset: str, scale: int, summary: pd.DataFrame) -> _Table:
    rows = summary[(summary["dataset"] == dataset) & (summary["scale"] == scale)]
    # nothing was trained where it took no time
    rows = rows.assign(train_s=rows["train_s"].astype(float).replace(0.0, float("nan")))
    if not (rows["psnr_db"] - rows["psnr_db_grey_as_rgb"]).any():
        # only papers with RGB networks, and only on grey pictures, measure otherwise
        rows = rows.assign(psnr_db_grey_as_rgb=float("nan"))
    shown = [each for each in _COLUMNS if not (each.optional and rows[each.name].isna().all())]
    columns = [column.values(rows) for column in shown]
    rows = rows.assign(instead=without_numbers(rows))
    made = (
        _Row(
            architecture=row["architecture"],
            anchor=anchor(row["architecture"], scale),
            source=row["source"],
            instead=row["instead"],
            is_failed=row["status"] == FAILED,
            values=values,
        )
        for row, values in zip(rows.to_dict("records"), zip(*columns, strict=True), strict=True)
    )
    num_images = rows["num_images"].max()
    note = "" if pd.isna(num_images) else f"means over {num_images:.0f} pictures"
    headings = tuple(column.heading for column in shown)
    return _Table(f"{dataset} ×{scale}", note, headings, tuple(made))


def _paper_table(table: PaperTable) -> dict[str, Any]:
    return {
        "title": table.title,
        "note": _with_marks(table.note),
        "headings": list(table.cells.columns),
        "rows": [[_with_marks(str(text)) for text in row] for row in table.cells.values.tolist()],
    }


def _with_marks(text: str) -> Markup:
    """Escaped, but for the marks of `tasks.tables`: `**best**` and `<u>second</u>`."""
    parts = str(escape(text)).split("**")
    # every second part stands between two marks
    bold = "".join(
        f"<strong>{part}</strong>" if place % 2 else part for place, part in enumerate(parts)
    )
    return Markup(bold.replace("&lt;u&gt;", "<u>").replace("&lt;/u&gt;", "</u>"))  # noqa: S704


def _sections(illustrations: Iterable[Illustration], folder: Path) -> list[Mapping[str, Any]]:
    """Every heading with its figures; one without figures says so."""
    drawn = list(illustrations)
    return [
        {
            "heading": heading,
            "anchor": f"figures-{number}",
            "note": note,
            "missing": MISSING[heading],
            "folded": heading == CELLS,
            "figures": [
                {"caption": each.caption, "uri": _data_uri(folder / each.file_name)}
                for each in drawn
                if each.heading == heading
            ],
        }
        for number, (heading, note) in enumerate(NOTES.items())
    ]


def _data_uri(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode("ascii")
