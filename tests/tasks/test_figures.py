from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tasks import figures
from tasks.figures import COLOURS, plot_training, styles


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, to be looked into."""
    kept: list[Figure] = []
    save = figures.save

    def keep(figure: Figure, path: Path) -> None:
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(figures, "save", keep)
    return kept


def history(**columns: list[float | None]) -> pd.DataFrame:
    return pd.DataFrame({"step": [10, 20, 30], "loss": [0.4, 0.2, 0.1], **columns})


def test_no_two_of_28_networks_look_alike() -> None:
    looks = styles([str(number) for number in range(28)])
    assert len(set(looks.values())) == 28
    # black-and-white print: dash and marker alone
    assert len({(look.marker, look.dash) for look in looks.values()}) == 28


def test_curves_hold_the_history(tmp_path: Path, drawn: list[Figure]) -> None:
    path = tmp_path / "training.png"
    plot_training({"srcnn-x2": history(psnr_db_x2=[None, 30.0, 31.0])}, path)
    losses, psnrs = drawn[0].axes
    assert losses.get_yscale() == "log"
    assert np.asarray(losses.lines[0].get_ydata()).tolist() == [0.4, 0.2, 0.1]
    assert np.asarray(psnrs.lines[0].get_xdata()).tolist() == [20, 30]
    assert np.asarray(psnrs.lines[0].get_ydata()).tolist() == [30.0, 31.0]
    assert (psnrs.get_xlabel(), psnrs.get_ylabel()) == ("step", "PSNR (dB)")
    with Image.open(path) as image:
        assert image.width == 1100
        red, green, blue = (int(COLOURS[0][at : at + 2], 16) for at in (1, 3, 5))
        pixels = image.convert("RGB").get_flattened_data()
        assert (red, green, blue) in set(pixels)


def test_a_joint_training_has_a_line_for_each_scale(tmp_path: Path, drawn: list[Figure]) -> None:
    two = history(psnr_db_x2=[None, 36.0, 37.0], psnr_db_x3=[None, 32.0, 33.0])
    plot_training(
        {"vdsr": two, "srcnn-x2": history(psnr_db_x2=[1.0, 2.0, 3.0])}, tmp_path / "t.png"
    )
    (legend,) = drawn[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["vdsr ×2", "vdsr ×3", "srcnn-x2"]
    lines = drawn[0].axes[1].lines
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()


def test_a_training_that_never_validated(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_training({"srcnn-x2": history(psnr_db_x2=[None, None, None])}, tmp_path / "t.png")
    assert not drawn[0].axes[1].lines
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["srcnn-x2"]
