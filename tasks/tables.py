"""Our figures in the layouts of the papers' tables, the published ones beside them.

Data in: the tables of `tasks.report`, and `tasks/published/`. Data out: `PaperTable`s, printed in
`report/tables.md` and, unrounded, in `report/tables/<name>.csv`. A table that none of our rows
belongs to is left out.
"""

import re
from dataclasses import dataclass

import pandas as pd

from tasks.complexity import OUTPUT_PX
from tasks.importing import SUFFIX
from tasks.published_tables import SOURCES, published, published_table
from tasks.row_status import measured_rows

# Papers with RGB networks turn grey pictures into colour before they measure.
GREY_AS_RGB_TABLES = (
    "lesrcnn_urban100",
    "lesrcnn_ablation_set5_x4",
    "lesrcnn_enlarged_urban100",
)
# Our names of the papers' test sets. The SelfExSR authors' copies are the same pictures.
_PAPERS_NAMES = {
    f"{name.lower()}{suffix}": name
    for name in ("Set5", "Set14", "BSD100", "Urban100")
    for suffix in ("", "_selfexsr")
}
_QUALITY = ["psnr_db", "ssim", "time_s", "difference_psnr_db", "difference_ssim"]
_MARKS = "Best **bold**, second best <u>underlined</u>, among the published and among ours."
_DIFFERENCE = "In brackets: ours minus the published figures."
_TITLES = {
    "vdsr_table3": "PSNR / SSIM / seconds per picture, as in Table 3 of the VDSR paper",
    "lesrcnn_urban100": "PSNR / SSIM on Urban100, as in the LESRCNN paper",
    "lesrcnn_ablation_set5_x4": "What LESRCNN's blocks add on Set5 ×4: PSNR / SSIM",
    "lesrcnn_running_time_s": "Seconds for one picture by its output size, as in the LESRCNN paper",
    "lesrcnn_complexity": f"Parameters and multiply-adds of a {OUTPUT_PX}×{OUTPUT_PX} picture",
    "interpolation_and_wide": "EDSR and WDSR beside Lanczos, bicubic and nearest, ×4: PSNR / SSIM",
    "four_cnns": "Four plain networks: losses and training time",
}
_NOTES = {
    "vdsr_table3": f"{_MARKS} {_DIFFERENCE} Times are each machine's own.",
    "lesrcnn_urban100": f"{_MARKS} {_DIFFERENCE} Ours: grey pictures as RGB.",
    "lesrcnn_ablation_set5_x4": f"{_MARKS} {_DIFFERENCE} Ours: grey pictures as RGB.",
    "lesrcnn_running_time_s": "Seconds depend on the machine: only ratios within one column and one"
    " machine mean something. Ours: median and quartiles; MiB: peak of the largest size.",
    "lesrcnn_complexity": "Its FLOPs are multiply-adds: at this size VDSR's and, at ×2, SN's come"
    " out; LESRCNN's and HN's do at no scale. It counts LESRCNN's parameters with a smaller"
    " upsampler than the released networks have. Ratio: ours ÷ published.",
    "interpolation_and_wide": f"{_MARKS} In brackets: the gain over bicubic on the same pictures,"
    " in dB. The published test set has no name, so only gains can be compared.",
    "four_cnns": "Losses are mean squared errors of pixels in 0–1. Other pictures and another"
    " machine: compare ours with ours, theirs with theirs. Our training loss is the last one, of"
    " networks trained with that loss; our validation is a PSNR of luminance, and no test loss is"
    " looked at while training.",
}
# The networks of the comparison with interpolations; its EDSR may be any of these.
_WIDE_COMPARISON = ("nearest", "bicubic", "lanczos", "wdsr_a", "edsr", "edsr_baseline")
_WIDE_SCALE = 4


@dataclass(frozen=True)
class PaperTable:
    """One table: `numbers` as they are, `cells` the text that is printed in its paper's layout."""

    name: str
    numbers: pd.DataFrame
    cells: pd.DataFrame

    def markdown(self) -> str:
        """Title, table and what a reader must know."""
        return "\n\n".join([f"## {self.title}", markdown_table(self.cells), self.note])

    @property
    def title(self) -> str:
        """What the table compares."""
        return _TITLES[self.name]

    @property
    def note(self) -> str:
        """Where the published figures stand, and what a reader must know."""
        return f"Published: {SOURCES[self.name]}. {_NOTES[self.name]}"


def paper_tables(
    summary: pd.DataFrame, latency: pd.DataFrame, training: pd.DataFrame
) -> list[PaperTable]:
    """Every table that one of our rows belongs to; those without numbers belong to none."""
    measured = measured_rows(summary)
    if latency.empty:
        # not one result
        return []
    measured = measured.assign(network=_network(measured))
    tables = [
        _vdsr_table3(measured),
        _lesrcnn_urban100(measured),
        _lesrcnn_ablation(measured),
        _running_time(latency),
        _complexity(measured),
        _interpolation_and_wide(measured),
        _four_cnns(measured, training),
    ]
    return [table for table in tables if table is not None]


def beside_published(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Our rows with the figures of `theirs` (rows of `published()`) and the differences.

    Added: `published_psnr_db`, `published_ssim`, `published_in`, `difference_psnr_db` and
    `difference_ssim` (ours minus theirs, missing where there is none). The difference to a paper
    with RGB networks is that of our figures with grey pictures as RGB. A row of imported weights
    meets the figures of its network.
    """
    keys = ["paper_dataset", "scale", "network"]
    names = {"dataset": "paper_dataset", "architecture": "network", "source": "published_in"}
    theirs = theirs.rename(columns=names).dropna(subset=["network"]).drop_duplicates(keys)
    theirs = theirs[[*keys, "psnr_db", "ssim", "published_in", "table"]]
    ours = ours.drop(columns="published_in", errors="ignore")
    ours = ours.assign(paper_dataset=_paper_dataset(ours), network=_network(ours))
    beside = ours.merge(theirs, on=keys, how="left", suffixes=("", "_published"))
    as_rgb = beside["table"].isin(GREY_AS_RGB_TABLES)
    for measure in ("psnr_db", "ssim"):
        compared = beside[measure].mask(as_rgb, beside[f"{measure}_grey_as_rgb"])
        beside[f"published_{measure}"] = beside.pop(f"{measure}_published")
        beside[f"difference_{measure}"] = compared - beside[f"published_{measure}"]
    return beside.drop(columns=["paper_dataset", "network", "table"])


def marked(
    values: "pd.Series[float]", num_digits: int, among: "list[pd.Series[str]] | None" = None
) -> "pd.Series[str]":
    """Each value as text, the best bold, the second best underlined, nothing for a missing one.

    Values that print alike are equally good. With `among`, each competes with those rows only that
    are equal to its own in these series.
    """
    rounded = values.astype(float).round(num_digits)
    rank = (rounded.groupby(among) if among else rounded).rank(method="dense", ascending=False)
    text = as_text(rounded, f"{{:.{num_digits}f}}")
    text = text.mask(rank == 1, "**" + text + "**")
    return text.mask(rank == 2, "<u>" + text + "</u>")  # noqa: PLR2004


def as_text(values: "pd.Series[float]", form: str) -> "pd.Series[str]":
    """Each value in a format such as `{:.2f}`, nothing for a missing one."""
    return values.astype(float).map(form.format).astype("str").mask(values.isna(), "")


def as_count(values: "pd.Series[float]") -> "pd.Series[str]":
    """Large counts to four digits: `131.6 M`, `10.89 G`; 0 as it is."""
    return values.astype(float).map(_count).astype("str").mask(values.isna(), "")


def markdown_table(cells: pd.DataFrame) -> str:
    """A table of text as GitHub's Markdown."""
    rows = [list(cells.columns), ["---"] * cells.shape[1], *cells.values.tolist()]
    return "\n".join(f"| {' | '.join(map(markdown_text, row))} |" for row in rows)


def markdown_text(text: object) -> str:
    """Text that stays inside its cell; our own marks, `**` and `<u>`, stay marks."""
    plain = str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return re.sub(r"&lt;(/?u)>", r"<\1>", plain).replace("\n", " ")


def _count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # what would print as 1000 belongs to the next unit
        if value >= 0.99995 * size:
            return f"{value / size:.4g} {unit}"
    return f"{value:.0f}"


def _machines(latency: pd.DataFrame) -> "pd.Series[str]":
    threads = latency["num_threads"].astype("str") + " threads"
    return latency["device"] + ", " + threads + ", " + latency["precision"]


def _network(ours: pd.DataFrame) -> "pd.Series[str]":
    """The architecture's name, of imported weights too."""
    return ours["architecture"].str.removesuffix(SUFFIX)


def _paper_dataset(ours: pd.DataFrame) -> "pd.Series[str]":
    return ours["dataset"].map(_PAPERS_NAMES).astype("str")


def _vdsr_table3(measured: pd.DataFrame) -> PaperTable | None:
    """A row for each data set and scale, methods side by side."""
    rows = _quality_rows(_published("vdsr_table3"), measured)
    if rows.empty:
        return None
    rows["column"] = rows["method"].where(rows["whose"] == "published", "ours: " + rows["method"])
    rows["text"] = rows["quality"] + "/" + as_text(rows["time_s"], "{:.3g}") + rows["brackets"]
    index = ["dataset", "scale"]
    cells = _pivot(rows, index, "column", "text").fillna("").reset_index()
    cells["scale"] = "×" + cells["scale"].astype("str")
    return PaperTable("vdsr_table3", _numbers(rows, index, "column"), cells)


def _lesrcnn_urban100(measured: pd.DataFrame) -> PaperTable | None:
    name = "lesrcnn_urban100"
    theirs = _published(name, "lesrcnn_enlarged_urban100").drop_duplicates(["scale", "method"])
    return _by_method(name, theirs, measured)


def _lesrcnn_ablation(measured: pd.DataFrame) -> PaperTable | None:
    name = "lesrcnn_ablation_set5_x4"
    theirs = _published(name)
    ours = measured[measured["network"].isin(theirs["architecture"])]
    return _by_method(name, theirs, ours)


def _by_method(name: str, theirs: pd.DataFrame, measured: pd.DataFrame) -> PaperTable | None:
    """A row for each method, scales side by side."""
    rows = _quality_rows(theirs, measured)
    if rows.empty:
        return None
    rows["column"] = "×" + rows["scale"].astype("str")
    rows["text"] = rows["quality"] + rows["brackets"]
    index = ["method", "whose"]
    cells = _pivot(rows, index, "column", "text").fillna("").reset_index()
    return PaperTable(name, _numbers(rows, index, "column"), cells)


def _quality_rows(theirs: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Published rows, then ours, for each data set and scale that has one of ours.

    Adds the parts of the printed cell: `quality` (marked) and `brackets` (the difference).
    """
    ours = beside_published(measured, theirs).assign(whose="ours")
    ours = ours.assign(
        method=ours["architecture"],
        dataset=_paper_dataset(ours),
        time_s=ours["latency_ms"] / 1000,
    )
    if theirs["table"].isin(GREY_AS_RGB_TABLES).any():
        ours = ours.assign(psnr_db=ours["psnr_db_grey_as_rgb"], ssim=ours["ssim_grey_as_rgb"])
    places = theirs[["dataset", "scale"]].drop_duplicates()
    ours = places.merge(ours).drop_duplicates(["dataset", "scale", "method"])
    theirs = theirs.assign(whose="published").merge(ours[["dataset", "scale"]].drop_duplicates())
    rows = places.merge(
        pd.concat([theirs, ours])[["method", "whose", "dataset", "scale", *_QUALITY]]
    )
    rows["quality"] = _marked_quality(rows, ["dataset", "scale", "whose"])
    rows["brackets"] = _bracketed(rows["difference_psnr_db"], rows["difference_ssim"])
    return rows


def _running_time(latency: pd.DataFrame) -> PaperTable:
    """A row for each method, output sizes side by side."""
    name = "lesrcnn_running_time_s"
    theirs = published_table(name).rename(columns={"size_px": "output_px"})
    ours = latency.assign(
        method=latency["architecture"] + " ×" + latency["scale"].astype("str"),
        machine=_machines(latency),
        time_s=latency["latency_ms"] / 1000,
    )
    rows = pd.concat([theirs.assign(whose="published", machine=""), ours.assign(whose="ours")])
    low, high = (as_text(rows[f"latency_{end}_ms"] / 1000, "{:.3g}") for end in ("p25", "p75"))
    quartiles = (" (" + low + "–" + high + ")").mask(rows["whose"] != "ours", "")
    rows["text"] = as_text(rows["time_s"], "{:.3g}") + quartiles
    rows["column"] = rows["output_px"].astype("str") + "²"
    index = ["method", "whose", "machine"]
    cells = _pivot(rows, index, "column", "text")
    peaks_mib = rows.groupby(index)["peak_memory_mib"].max()
    cells = cells.assign(MiB=as_text(peaks_mib, "{:.0f}")).fillna("").reset_index()
    numbers = _numbers(rows, index, "column", ["time_s", "peak_memory_mib"])
    return PaperTable(name, numbers, cells)


def _complexity(measured: pd.DataFrame) -> PaperTable | None:
    """A row for each published method and each of our networks and scales."""
    name, counts = "lesrcnn_complexity", ["num_parameters", "num_multiply_adds"]
    ours = measured.loc[measured["num_parameters"] > 0, ["network", "scale", *counts]]
    if ours.empty:
        return None
    theirs = published_table(name).rename(columns={count: f"published_{count}" for count in counts})
    # one row for a network, whether we trained its weights or imported them
    ours = ours.rename(columns={"network": "architecture"}).drop_duplicates()
    numbers = theirs.merge(ours, on="architecture", how="left")
    numbers = pd.concat([numbers, ours[~ours["architecture"].isin(theirs["architecture"])]])
    for count in counts:
        numbers[f"ratio_{count}"] = numbers[count] / numbers[f"published_{count}"]
    columns = ["method", "architecture", "scale"]
    columns += [f"{part}{count}" for count in counts for part in ("published_", "", "ratio_")]
    return PaperTable(name, numbers[columns], _complexity_cells(numbers))


def _complexity_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    """Theirs in the paper's units, ours to the parameter, ours ÷ published beside them."""
    scale = " ×" + numbers["scale"].astype("Int64").astype("str")
    ours = (numbers["architecture"] + scale).mask(numbers["scale"].isna(), "")
    return pd.DataFrame(
        {
            "method": numbers["method"].fillna(""),
            "ours": ours,
            "parameters, published": as_text(numbers["published_num_parameters"] / 1e3, "{:,.0f}K"),
            "parameters, ours": as_text(numbers["num_parameters"], "{:,.0f}"),
            "ratio": as_text(numbers["ratio_num_parameters"], "{:.3f}"),
            "multiply-adds, published": as_text(
                numbers["published_num_multiply_adds"] / 1e9, "{:.2f}G"
            ),
            "multiply-adds, ours": as_text(numbers["num_multiply_adds"] / 1e9, "{:.4g}G"),
            "their ratio": as_text(numbers["ratio_num_multiply_adds"], "{:.3f}"),
        }
    )


def _interpolation_and_wide(measured: pd.DataFrame) -> PaperTable | None:
    """A row for each method, pictures side by side, each figure with its gain over bicubic."""
    name = "interpolation_and_wide"
    belongs = measured["network"].isin(_WIDE_COMPARISON) & (measured["scale"] == _WIDE_SCALE)
    ours = measured[belongs].assign(whose="ours")
    if ours.empty:
        return None
    theirs = _published(name).assign(whose="published")
    theirs["dataset"] = theirs["dataset"].replace("unnamed", "unnamed test set")
    rows = pd.concat([theirs, ours], ignore_index=True)
    rows["column"] = rows["whose"] + ": " + rows["dataset"]
    rows["quality"] = _marked_quality(rows, ["column"])
    rows["gain_db"] = rows["psnr_db"] - _bicubic_psnr_db(rows)
    rows["text"] = rows["quality"] + _bracketed(rows["gain_db"])
    index = ["architecture"]
    numbers = _numbers(rows, index, "column", ["psnr_db", "ssim", "gain_db"])
    cells = _pivot(rows, index, "column", "text").fillna("").reset_index()
    return PaperTable(name, numbers, cells)


def _bicubic_psnr_db(rows: pd.DataFrame) -> "pd.Series[float]":
    """What bicubic scores in each row's column; missing where it is not among the rows."""
    bicubic = rows["psnr_db"].where(rows["architecture"] == "bicubic")
    return bicubic.groupby(rows["column"]).transform("max")


def _four_cnns(measured: pd.DataFrame, training: pd.DataFrame) -> PaperTable | None:
    """A row for each published network, ours of that name beside it."""
    name, losses = "four_cnns", ["training_loss", "validation_loss", "best_test_loss"]
    theirs = published_table(name).rename(columns={"training_time_s": "published_train_s"})
    theirs = theirs.rename(columns={loss: f"published_{loss}" for loss in losses})
    cells = measured[["architecture", "cell", "num_steps", "train_s", "device"]]
    # imported weights were not trained here
    ours = cells[cells["cell"].isin(training["cell"])].drop_duplicates("cell")
    if not ours["architecture"].isin(theirs["architecture"]).any():
        return None
    numbers = theirs.merge(ours.merge(_ends(training), on="cell"), on="architecture", how="left")
    return PaperTable(name, numbers, _four_cnns_cells(numbers))


def _ends(training: pd.DataFrame) -> pd.DataFrame:
    """How each training ended: its last loss (if a mean squared error) and validation PSNR."""
    last = training.groupby("cell").last()
    return pd.DataFrame(
        {
            "training_loss": last["loss"].where(last["loss_function"] == "mean mse"),
            "validation_psnr_db": last["psnr_db"],
        }
    ).reset_index()


def _four_cnns_cells(numbers: pd.DataFrame) -> pd.DataFrame:
    printed = {
        "training loss": ("published_training_loss", "{:.6f}"),
        "validation loss": ("published_validation_loss", "{:.6f}"),
        "best test loss": ("published_best_test_loss", "{:.6f}"),
        "seconds": ("published_train_s", "{:.0f}"),
        "ours: training loss": ("training_loss", "{:.6f}"),
        "ours: validation PSNR": ("validation_psnr_db", "{:.2f}"),
        "ours: seconds": ("train_s", "{:.0f}"),
        "ours: steps": ("num_steps", "{:.0f}"),
    }
    texts = {"network": numbers["method"], "our training": numbers["cell"].fillna("")}
    for title, (column, form) in printed.items():
        texts[title] = as_text(numbers[column], form)
    return pd.DataFrame({**texts, "ours: device": numbers["device"].fillna("")})


def _published(*tables: str) -> pd.DataFrame:
    rows = published()
    return rows[rows["table"].isin(tables)]


def _marked_quality(rows: pd.DataFrame, among: list[str]) -> "pd.Series[str]":
    """PSNR and SSIM as one text, each marked among the rows that share the columns `among`."""
    keys = [rows[name] for name in among]
    return marked(rows["psnr_db"], 2, keys) + "/" + marked(rows["ssim"], 4, keys)


def _bracketed(
    psnr_db: "pd.Series[float]", ssim: "pd.Series[float] | None" = None
) -> "pd.Series[str]":
    """` (+0.12/-0.0010)` or ` (+0.12)`, or nothing for a missing value."""
    # z: a difference that rounds to zero has no sign
    text = as_text(psnr_db, "{:+z.2f}")
    if ssim is not None:
        text = text + "/" + as_text(ssim, "{:+z.4f}")
    return (" (" + text + ")").mask(psnr_db.isna(), "")


def _pivot(rows: pd.DataFrame, index: list[str], column: str, value: str) -> pd.DataFrame:
    """Long rows made wide; both ways in the order in which they come."""
    wide = rows.set_index([*index, column])[value].unstack(column, sort=False)
    return wide.reindex(columns=rows[column].unique())


def _numbers(
    rows: pd.DataFrame, index: list[str], column: str, measures: list[str] | None = None
) -> pd.DataFrame:
    """The same layout unrounded: a column for each printed column and measure."""
    parts = {name: _pivot(rows, index, column, name) for name in measures or _QUALITY}
    wide = pd.concat(parts, axis=1).dropna(axis=1, how="all")
    wide.columns = wide.columns.map(lambda names: f"{names[1]} {names[0]}")
    return wide.reset_index()
