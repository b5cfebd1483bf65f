from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from tasks import scatter
from tasks.figures import styles
from tasks.scatter import plot_tradeoff

# Two networks side by side, two alike, one far away, and what costs nothing.
ROWS = pd.DataFrame(
    [
        ("nearest", 30.0, 0, 0, 1.0),
        ("bicubic", 31.0, 0, 0, 2.0),
        ("lanczos", 31.5, 0, 0, 2.1),
        ("srcnn", 33.0, 8_129, 131_000_000, 160.0),
        ("srcnn_955", 33.02, 57_281, 936_000_000, 400.0),
        ("vdsr_10", 34.0, 296_064, 4_850_000_000, 3_000.0),
        ("vdsr", 34.1, 664_704, 10_890_000_000, 6_000.0),
    ],
    columns=["architecture", "psnr_db", "num_parameters", "num_multiply_adds", "latency_ms"],
)


@pytest.fixture
def figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    kept: list[Figure] = []
    monkeypatch.setattr(scatter, "save", lambda figure, path: kept.append(figure))
    plot_tradeoff(ROWS, styles(["srcnn", "srcnn_955", "vdsr_10", "vdsr"]), tmp_path / "t.png")
    return kept[0]


def place(line: Line2D) -> tuple[float, float]:
    return np.asarray(line.get_xdata())[0], np.asarray(line.get_ydata())[0]


def test_every_point_stands_where_its_row_says(figure: Figure) -> None:
    for axes, cost in zip(
        figure.axes, ("num_parameters", "num_multiply_adds", "latency_ms"), strict=True
    ):
        assert axes.get_xscale() == "log"
        points = {place(line) for line in axes.lines if line.get_marker() != "None"}
        rows = ROWS[ROWS[cost] > 0]
        assert points == set(zip(rows[cost], rows["psnr_db"], strict=True))


def test_what_costs_nothing_is_a_line(figure: Figure) -> None:
    parameters, _, time = figure.axes
    lines = [line for line in parameters.lines if line.get_marker() == "None"]
    assert sorted(place(line)[1] for line in lines) == [31.0, 31.5]  # bicubic, and the best
    assert not [line for line in time.lines if line.get_marker() == "None"]


def test_names_cover_neither_each_other_nor_a_point(figure: Figure) -> None:
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == len({text.get_text() for text in axes.texts}) >= 6
        for one, other in combinations(boxes, 2):
            assert not Bbox.intersection(one, other)
        # half a pixel of rounding
        assert all(axes.bbox.x0 - 0.5 <= box.x0 and box.x1 <= axes.bbox.x1 + 0.5 for box in boxes)
        for line in axes.lines:
            if line.get_marker() != "None":
                x, y = axes.transData.transform(place(line))
                assert not any(box.contains(x, y) for box in boxes)
