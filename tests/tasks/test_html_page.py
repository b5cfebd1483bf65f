"""The page, read back as a browser would: with a parser, not with the template's own code."""

import base64
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.config import Params
from tasks.html_page import html_page
from tasks.illustrations import CURVES, MISSING, NOTES, Illustration
from tasks.tables import PaperTable

HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x>'


class Page(HTMLParser):
    """Elements with their attributes, the tables' cells, and all text outside of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[tuple[str, dict[str, str | None]]]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append(("", dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self._open or "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open):
            text, attributes = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = (text + data, attributes)


def summary(*rows: dict[str, Any]) -> pd.DataFrame:
    plain = {
        "dataset": "parks",
        "scale": 2,
        "architecture": "bicubic",
        "psnr_db": 31.8561224,
        "ssim": 0.902416,
        "latency_ms": 2.95829,
        "num_parameters": 0,
        "num_multiply_adds": 0,
        "psnr_db_grey_as_rgb": 31.8561224,
        "num_images": 4,
        "source": "interpolation",
        "test_data_sha256": "0123456789abcdef",
        "timed_device": "Abacus",
        "timed_num_threads": 2,
        "timed_precision": "fp32",
        "cell": "",
        "train_s": 0.0,
        "device": "",
        "status": "ok",
        "error": "",
        "psnr_gain_db": 0.0,
        "published_psnr_db": float("nan"),
        "difference_psnr_db": float("nan"),
    }
    return pd.DataFrame([plain | row for row in rows])


NEAREST = {
    "architecture": "nearest",
    "psnr_db": 30.24,
    "psnr_db_grey_as_rgb": 30.24,
    "psnr_gain_db": -1.6161,
}
FAILED = {
    "architecture": "lanczos",
    "status": "failed",
    "error": "out of memory",
    **dict.fromkeys(("psnr_db", "ssim", "latency_ms", "num_parameters", "psnr_gain_db")),
}


@pytest.fixture
def make_page(make_params: Callable[..., Params], tmp_path: Path) -> Callable[..., Page]:
    """`make_page(summary, …)`: the page of the workspace's parameters, parsed."""

    def make(
        rows: pd.DataFrame,
        tables: list[PaperTable] | None = None,
        drawn: list[Illustration] | None = None,
        commit: str = "unknown: not a git checkout",
    ) -> Page:
        params = make_params(data={"train": ["t"], "validation": ["v"], "test": ["parks"]})
        return Page(html_page(params, rows, tables or [], drawn or [], tmp_path, commit))

    return make


def test_the_numbers_are_those_of_the_summary(make_page: Callable[..., Page]) -> None:
    table = make_page(summary({}, NEAREST)).tables[0]
    assert [text.strip() for text, _ in table[0]] == [
        "network",
        "PSNR (dB)",
        "over bicubic",
        "SSIM",
        "time (ms)",
        "parameters",
        "multiply-adds",
        "weights",
    ]
    assert [text for text, _ in table[1]] == [
        *("bicubic", "31.86", "+0.00", "0.9024", "3.0", "0", "0", "interpolation")
    ]
    unrounded = [float(about["data-value"] or 0) for _, about in table[1] if "data-value" in about]
    assert unrounded == [31.8561224, 0.0, 0.902416, 2.95829, 0.0, 0.0]
    marks = [[about.get("class") for _, about in row[1:2]] for row in table[1:]]
    assert marks == [["best"], ["second"]]


def test_grey_pictures_have_a_second_convention(make_page: Callable[..., Page]) -> None:
    table = make_page(summary({"psnr_db_grey_as_rgb": 32.5}, NEAREST)).tables[0]
    place = [text for text, _ in table[0]].index("PSNR, grey as RGB")
    assert [row[place][0] for row in table[1:]] == ["32.50", "30.24"]


def test_what_is_best_stands_on_top(make_page: Callable[..., Page]) -> None:
    text = " ".join(make_page(summary({}, NEAREST)).text.split())
    best = "Best on parks ×2 bicubic, 31.86 dB +1.62 dB over nearest"
    assert best in text
    assert text.index(best) < text.index("A click on a heading sorts")


def test_a_failed_row_says_why(make_page: Callable[..., Page]) -> None:
    page = make_page(summary({}, FAILED))
    cells = [text for text, _ in page.tables[0][-1]]
    assert cells == ["lanczos", "failed: out of memory"]
    assert "lanczos failed on parks ×2: out of memory" in " ".join(page.text.split())


def test_a_row_that_was_left_out_is_not_a_failure(make_page: Callable[..., Page]) -> None:
    page = make_page(summary({}, FAILED | {"status": "left out", "error": ""}))
    cells = [text for text, _ in page.tables[0][-1]]
    assert cells == ["lanczos", "left out of this run"]
    assert "lanczos was left out of this run: parks ×2" in " ".join(page.text.split())
    assert "failed" not in page.text


def test_nothing_is_fetched(make_page: Callable[..., Page], tmp_path: Path) -> None:
    (tmp_path / "training-x2.png").write_bytes(b"\x89PNG picture")
    drawn = [Illustration(CURVES, "training-x2.png", "curves")]
    page = make_page(summary({}), drawn=drawn, commit="0" * 40)
    sources = [about["src"] or "" for _, about in page.elements if "src" in about]
    assert len(sources) == 1
    kind, _, content = sources[0].partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == b"\x89PNG picture"
    links = [about["href"] or "" for _, about in page.elements if "href" in about]
    targets = {about["id"] for _, about in page.elements if "id" in about}
    assert {"#results", "#origin", "#origin-bicubic-x2"} <= set(links)
    assert {link.removeprefix("#") for link in links} <= targets
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.elements}
    policy = [about["content"] for _, about in page.elements if "http-equiv" in about]
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'")


@pytest.mark.parametrize("place", ["dataset", "error", "caption", "table", "commit"])
def test_hostile_text_stays_text(
    place: str, make_page: Callable[..., Page], tmp_path: Path
) -> None:
    (tmp_path / "t.png").write_bytes(b"")
    rows = summary({}, FAILED | ({"error": HOSTILE} if place == "error" else {}))
    if place == "dataset":
        rows = rows.assign(dataset=HOSTILE)
    cells = pd.DataFrame({"method": [HOSTILE if place == "table" else "A+"]})
    page = make_page(
        rows,
        tables=[PaperTable("lesrcnn_complexity", cells, cells)],
        drawn=[Illustration(CURVES, "t.png", HOSTILE if place == "caption" else "curves")],
        commit=HOSTILE if place == "commit" else "abc",
    )
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert all((about.get("src") or "data:").startswith("data:") for _, about in page.elements)
    assert HOSTILE in page.text


def test_marks_of_the_papers_tables(make_page: Callable[..., Page]) -> None:
    cells = pd.DataFrame({"dataset": ["Set5"], "ours": ["**37.59**/<u>0.95</u> (+0.06)"]})
    page = make_page(summary({}), tables=[PaperTable("vdsr_table3", cells, cells)])
    assert [text for text, _ in page.tables[1][1]] == ["Set5", "37.59/0.95 (+0.06)"]
    tags = [tag for tag, _ in page.elements]
    assert "u" in tags
    assert tags.count("strong") >= 1


def test_where_the_numbers_come_from(make_page: Callable[..., Page]) -> None:
    commit = "0123456789" * 4
    text = " ".join(make_page(summary({}, NEAREST), commit=f"{commit}-dirty").text.split())
    assert f"code{commit}, with changes that are not committed" in text
    assert f"git checkout {commit} make setup" in text
    assert "parks (sha256 0123456789abcdef…)" in text
    assert "timed onAbacus, 2 threads, fp32" in text
    assert "to repeatdvc repro evaluate_interpolation@bicubic-2" in text


def test_figures_that_are_not_there_are_named(make_page: Callable[..., Page]) -> None:
    text = make_page(summary({})).text
    assert MISSING.keys() == NOTES.keys()
    for heading, reason in MISSING.items():
        assert re.search(rf"{heading}: {reason}\.", text)
