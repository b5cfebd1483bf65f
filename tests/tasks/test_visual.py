from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from skimage.metrics import peak_signal_noise_ratio

from tasks import visual
from tasks.crops import Comparison, Crop
from tasks.images import write_png
from tasks.visual import plot_comparison, plot_errors, plot_snapshots, read_snapshots
from tasks.window import Window

Photograph = Callable[..., np.ndarray]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(visual, "save", lambda figure, path: kept.append(figure))
    return kept


@pytest.fixture
def make_comparison(make_photograph: Photograph) -> Callable[..., Comparison]:
    def make(num_networks: int, height: int = 160, width: int = 240) -> Comparison:
        hr = make_photograph(height, width, colour=True, seed=1)
        hr_y = hr[:, :, 1]
        window = Window(24, 60, 72)
        crops = [Crop("bicubic", window.of(hr), window.of(hr_y), 30.0, 0.9)]
        for number in range(num_networks):
            y = window.of(hr_y).astype(int) + number  # an error of so many levels everywhere
            crops.append(
                Crop(
                    f"network_{number}",
                    window.of(hr),
                    np.clip(y, 0, 255).astype(np.uint8),
                    31.0 + number / 8,
                    0.91,
                )
            )
        return Comparison("parks", 2, "pond.png", hr, hr_y, window, tuple(crops))

    return make


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_papers_layout(
    make_comparison: Callable[..., Comparison], drawn: list[Figure], tmp_path: Path
) -> None:
    comparison = make_comparison(2)
    plot_comparison(comparison, tmp_path / "c.png")
    whole, *panels = drawn[0].axes
    np.testing.assert_array_equal(np.asarray(whole.images[0].get_array()), comparison.hr)
    for box in whole.patches:
        assert isinstance(box, Rectangle)
        # pixel 60 begins half a pixel to the left of its centre
        assert (*box.get_xy(), box.get_width(), box.get_height()) == (59.5, 23.5, 72, 72)
    np.testing.assert_array_equal(
        np.asarray(panels[0].images[0].get_array()), comparison.hr[24:96, 60:132]
    )
    assert texts(drawn[0]) == [
        *("HR", "PSNR / SSIM"),
        *("bicubic", "30.00 / 0.9000"),
        *("network_0", "31.00 / 0.9100"),
        *("network_1", "31.12 / 0.9100"),
    ]
    bold = [
        text.get_text() for axes in panels for text in axes.texts if text.get_fontweight() == "bold"
    ]
    assert bold == ["network_1", "31.12 / 0.9100"]


@pytest.mark.parametrize("num_networks", [1, 3, 9, 22])
@pytest.mark.parametrize(("height", "width"), [(160, 240), (240, 160), (100, 400)])
def test_nothing_overlaps_or_leaves_the_figure(
    num_networks: int,
    height: int,
    width: int,
    make_comparison: Callable[..., Comparison],
    drawn: list[Figure],
    tmp_path: Path,
) -> None:
    plot_comparison(make_comparison(num_networks, height, width), tmp_path / "c.png")
    boxes = [axes.get_position() for axes in drawn[0].axes]
    assert len(boxes) == num_networks + 3
    for place, one in enumerate(boxes):
        assert one.x0 >= -1e-9
        assert one.y0 >= -1e-9
        assert one.x1 <= 1 + 1e-9
        for other in boxes[place + 1 :]:
            apart = one.x1 <= other.x0 or other.x1 <= one.x0
            assert apart or one.y1 <= other.y0 or other.y1 <= one.y0
    assert drawn[0].get_size_inches()[0] <= 10 + 1e-9


def test_error_maps(
    make_comparison: Callable[..., Comparison], drawn: list[Figure], tmp_path: Path
) -> None:
    plot_errors(make_comparison(3), tmp_path / "e.png")
    assert texts(drawn[0])[2:] == [
        *("bicubic", "RMSE 0.0"),
        *("network_0", "RMSE 0.0"),
        *("network_1", "RMSE 1.0"),
        *("network_2", "RMSE 2.0"),
    ]
    maps = [image for axes in drawn[0].axes[1:5] for image in axes.images]
    # one scale for all, or the colours could not be compared
    assert {image.get_clim() for image in maps} == {(0.0, 2.0)}


@pytest.fixture
def snapshots(tmp_path: Path, make_photograph: Photograph) -> dict[str, np.ndarray]:
    """The snapshots of one training, steps out of order."""
    hr = make_photograph(48, 48, colour=False, seed=2)
    draw = np.random.default_rng(0)
    pictures = {"hr-x2": hr, "step-0001000-x3": hr}
    for name, noise in (("bicubic-x2", 9), ("step-0001000-x2", 3), ("step-0000200-x2", 6)):
        noisy = hr + draw.normal(0, noise, hr.shape)
        pictures[name] = np.clip(noisy, 0, 255).astype(np.uint8)
    (tmp_path / "snapshots").mkdir()
    for name, picture in pictures.items():
        write_png(tmp_path / "snapshots" / f"{name}.png", picture)
    return pictures


def test_the_same_picture_at_several_steps(
    snapshots: dict[str, np.ndarray], drawn: list[Figure], tmp_path: Path
) -> None:
    read = read_snapshots("srcnn-x2", tmp_path, 2)
    assert read is not None
    plot_snapshots([read], 2, tmp_path / "s.png")

    def decibels(name: str) -> str:
        inner = (slice(2, -2), slice(2, -2))
        value = peak_signal_noise_ratio(snapshots["hr-x2"][inner], snapshots[name][inner])
        return f"{value:.2f} dB"

    assert texts(drawn[0]) == [
        *("bicubic", decibels("bicubic-x2")),
        *("step 200", decibels("step-0000200-x2")),
        *("step 1,000", decibels("step-0001000-x2")),
        *("HR", ""),
    ]


def test_a_training_without_snapshots(tmp_path: Path) -> None:
    assert read_snapshots("srcnn-x2", tmp_path, 2) is None


@pytest.mark.parametrize("name", ["a$_$b.png", "price_$^$.png", "5$ and 6$.png"])
def test_a_name_is_no_formula(
    name: str, make_comparison: Callable[..., Comparison], tmp_path: Path
) -> None:
    comparison = replace(make_comparison(1), image=name)
    plot_comparison(comparison, tmp_path / "c.png")
    plot_errors(comparison, tmp_path / "e.png")
