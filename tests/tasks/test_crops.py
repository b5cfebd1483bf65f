import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_forward_pre_hook

import models
from tasks.bicubic import shrink
from tasks.color import luminance
from tasks.config import Params
from tasks.crops import MAX_COMPARISONS, choose_picture, compare, comparisons
from tasks.images import write_png
from tasks.layout import weights_file
from tasks.protocol import prepare, sr_luminance, sr_picture

Photograph = Callable[..., np.ndarray]


@pytest.fixture
def hr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_photograph: Photograph) -> np.ndarray:
    """A test picture and its LR one on disk, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    picture: np.ndarray = make_photograph(180, 240, colour=True, seed=3)
    for folder, content in (("hr/test", picture), ("lr/x2/test", shrink(picture, 2))):
        path = Path("data") / folder / "parks"
        path.mkdir(parents=True)
        write_png(path / "pond.png", content)
    return picture


def save_network(name: str) -> None:
    torch.manual_seed(1)
    path = weights_file(f"{name}-x2")
    path.parent.mkdir(parents=True)
    save_file(models.create(name, 2).state_dict(), path)


def rows(**psnrs_db: dict[str, float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "dataset": "parks",
                "scale": 2,
                "architecture": architecture,
                "image": image,
                "psnr_db": psnr_db,
                "ssim": psnr_db / 50,
            }
            for architecture, images in psnrs_db.items()
            for image, psnr_db in images.items()
        ]
    )


def test_the_picture_with_the_largest_gain() -> None:
    images = rows(
        bicubic={"a.png": 30.0, "b.png": 25.0, "c.png": 40.0},
        srcnn={"a.png": 31.0, "b.png": 27.0, "c.png": 41.9},
        vdsr={"a.png": 31.5, "b.png": 26.0, "c.png": 41.0},
    )
    assert choose_picture(images, ["srcnn", "vdsr"]) == "b.png"
    assert choose_picture(images, ["vdsr"]) == "a.png"


def test_a_picture_that_bicubic_restores_perfectly_has_no_gain() -> None:
    flat = {"a.png": math.inf, "b.png": math.inf}
    assert choose_picture(rows(bicubic=flat, srcnn=flat), ["srcnn"]) == "a.png"
    one = {"a.png": math.inf, "b.png": 30.0}
    images = rows(bicubic=one, srcnn={"a.png": math.inf, "b.png": 30.5})
    assert choose_picture(images, ["srcnn"]) == "b.png"


def test_without_bicubic_the_lowest_figure_stands_for_it() -> None:
    images = rows(srcnn={"a.png": 31.0, "b.png": 27.0}, vdsr={"a.png": 31.1, "b.png": 28.0})
    assert choose_picture(images, ["srcnn", "vdsr"]) == "b.png"


@pytest.mark.parametrize("name", ["srcnn", "cnn_small", "lesrcnn"])
def test_a_crop_is_what_the_whole_picture_gives(name: str, hr: np.ndarray) -> None:
    save_network(name)
    images = rows(bicubic={"pond.png": 30.0}, **{name: {"pond.png": 31.25}})
    made = compare("parks", 2, {name: f"{name}-x2"}, images)
    about = models.get(name)
    torch.manual_seed(1)
    picture = prepare(about, "pond.png", hr, shrink(hr, 2), 2)
    with torch.inference_mode():
        answer = sr_picture(about, models.create(name, 2).eval()(picture.x))
        whole = sr_luminance(about, picture, answer)
    (bicubic, crop) = made.crops
    window = made.window
    assert 0 <= window.top <= 180 - window.side
    assert 0 <= window.left <= 240 - window.side
    expected = whole[
        window.top : window.top + window.side, window.left : window.left + window.side
    ].astype(int)
    # floating-point sums in another order may round to the neighbouring level
    assert np.abs(crop.y - expected).max() <= 1
    assert (crop.y != expected).mean() < 0.01
    assert crop.picture.shape == (window.side, window.side, 3)
    # the colours shown have the luminance that was compared, up to clipping and rounding
    assert np.abs(luminance(crop.picture).astype(int) - crop.y).mean() < 1
    assert (crop.psnr_db, crop.ssim) == (31.25, 0.625)
    assert (bicubic.name, bicubic.psnr_db) == ("bicubic", 30.0)


def test_a_report_shows_few_pictures(
    monkeypatch: pytest.MonkeyPatch, make_params: Callable[..., Params]
) -> None:
    sets = [f"set{number}" for number in range(5)]
    data = {"train": ["t"], "validation": ["v"], "test": sets}
    params = make_params(scales=[2, 4], data=data)
    summary = pd.DataFrame(
        [
            {
                "dataset": dataset,
                "scale": scale,
                "architecture": "srcnn",
                "num_parameters": 8129,
                "cell": f"srcnn-x{scale}",
                "status": "ok",
            }
            for scale in (2, 4)
            for dataset in sets
        ]
    )
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr("tasks.crops.compare", lambda name, scale, *_: asked.append((name, scale)))
    images = pd.DataFrame({"dataset": [], "scale": []})
    assert len(list(comparisons(params, summary, images))) == MAX_COMPARISONS == 6
    assert asked == [*((name, 4) for name in sets), ("set0", 2)]


def test_networks_are_shown_as_exactly_as_they_are_measured(hr: np.ndarray) -> None:
    save_network("cnn_small")
    images = rows(bicubic={"pond.png": 30.0}, cnn_small={"pond.png": 31.0})
    rounded: list[bool] = []
    hook = register_module_forward_pre_hook(
        lambda *_: rounded.append(torch.backends.cudnn.allow_tf32)
    )
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        compare("parks", 2, {"cnn_small": "cnn_small-x2"}, images)
    hook.remove()

    assert False in rounded
    assert True not in rounded
