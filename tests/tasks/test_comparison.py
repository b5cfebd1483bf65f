"""The sheet: what stands on it, where, and that its figures are those of the tables."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

import models
from tasks import evaluate
from tasks.bicubic import crop_to_multiple, shrink
from tasks.comparison import Box, compare, most_detailed, parse_box
from tasks.config import Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import ImageError, ParamsError
from tasks.network_choice import Choice, choose
from tasks.protocol import prepare, sr_picture
from tasks.served import ServedNetwork
from tests.conftest import Workspace

Photograph = Callable[..., np.ndarray]


def choice(name: str, scale: int = 2) -> Choice:
    torch.manual_seed(0)
    served = ServedNetwork(models.get(name), scale, models.create(name, scale).eval())
    return Choice(f"{name}-x{scale}", served)


def test_under_degrade_the_figures_are_those_of_the_tables(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "OUTPUT_SIZES_PX", (12,))
    params = workspace.write_params(interpolations=["nearest", "bicubic"], trained={})
    download(params, load_catalogue(), Settings())
    degrade(2)
    names = ("nearest", "bicubic")
    for name in names:
        evaluate.evaluate(params, name, 2)

    for file in ("bridge.png", "clock.png"):  # a colour and a grey picture, of odd sizes
        with Image.open(f"data/hr/test/tiny_test/{file}") as picture:
            sheet = compare(picture, [choice(name) for name in names], 2, degrade=True)

        for entry in sheet.entries[1:]:
            result = json.loads(Path(f"results/{entry.name}.json").read_text("utf-8"))
            (row,) = (row for row in result["images"] if row["image"] == file)
            assert entry.quality is not None
            assert entry.quality.psnr_db == pytest.approx(row["psnr_db"], abs=2e-3)
            assert entry.quality.ssim == pytest.approx(row["ssim"], abs=1e-4)


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("name", ["srcnn", "cnn_small", "waifu2x"])
def test_networks_are_measured_as_in_the_tables(
    name: str, colour: bool, make_photograph: Photograph
) -> None:
    hr, chosen = make_photograph(61, 80, colour=colour, seed=1), choice(name)
    *_, last = chosen.served.network.parameters()
    with torch.no_grad():  # untrained networks answer a grey picture nearly in grey
        last.add_(torch.linspace(-0.1, 0.1, last.numel()).view_as(last))

    sheet = compare(Image.fromarray(hr), [chosen], 2, degrade=True)

    about = chosen.served.architecture
    picture = prepare(about, name, hr, shrink(crop_to_multiple(hr, 2), 2), 2)
    with torch.inference_mode():
        answer = sr_picture(about, chosen.served.network.cpu()(picture.x))
    row = evaluate._row(about, "d", 2, picture, answer, 1.0)
    quality = sheet.entries[1].quality
    assert quality is not None
    assert quality.psnr_db == pytest.approx(row.psnr_db, abs=2e-3)
    assert quality.ssim == pytest.approx(row.ssim, abs=1e-4)


def test_against_a_reference_the_shown_picture_is_measured(make_photograph: Photograph) -> None:
    hr = make_photograph(61, 80, colour=False, seed=1)  # a row more than twice the LR picture's
    lr = Image.fromarray(hr[:60:2, ::2].copy())

    sheet = compare(lr, [choice("nearest")], 2, reference=Image.fromarray(hr))

    repeated = np.asarray(lr).repeat(2, axis=0).repeat(2, axis=1)
    quality = sheet.entries[1].quality
    assert quality is not None
    inside = (slice(2, -2), slice(2, -2))
    expected = peak_signal_noise_ratio(hr[:60][inside], repeated[inside])
    assert quality.psnr_db == pytest.approx(expected, abs=1e-9)


def test_the_box_is_marked_and_its_detail_enlarged(make_photograph: Photograph) -> None:
    rgb = make_photograph(60, 90, colour=True, seed=2)

    sheet = compare(Image.fromarray(rgb), [choice("nearest")], 2, box=Box(20, 10, 14, 14))

    assert sheet.box == Box(40, 20, 28, 28)
    pixels = np.asarray(sheet.image)
    # 224 pixels a cell: the 28 SR pixels eight times, 14 LR pixels sixteen times.
    detail = rgb[10:24, 20:34].repeat(16, axis=0).repeat(16, axis=1)
    assert detail.shape == (224, 224, 3)
    windows = [
        x
        for x in range(pixels.shape[1] - 223)
        if np.array_equal(pixels[14 : 14 + 224, x : x + 224], detail)
    ]
    assert len(windows) == 1
    marked = (pixels == np.array([0xD5, 0x5E, 0x00])).all(axis=2)
    assert marked.any()


def test_the_default_box_is_where_neighbours_differ_most() -> None:
    y = np.full((200, 300), 100, np.uint8)
    y[120:150:2, 210:240:2] = 220

    box = most_detailed(y)

    assert (box.width, box.height) == (40, 40)
    assert box.x <= 210 and box.x + 40 >= 240
    assert box.y <= 120 and box.y + 40 >= 150
    assert most_detailed(y) == box
    assert most_detailed(np.zeros((9, 7), np.uint8)) == Box(0, 0, 7, 7)


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "0,0,0,5", "-1,0,5,5", ""])
def test_a_box_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ParamsError, match="--box"):
        parse_box(text)


def test_a_box_outside_and_a_reference_of_another_size_are_refused() -> None:
    picture = Image.new("RGB", (40, 30))
    chosen = [choice("bicubic")]

    with pytest.raises(ParamsError, match=r"box 30,0,11,5 does not lie inside .* 40×30"):
        compare(picture, chosen, 2, box=parse_box("30,0,11,5"))
    with pytest.raises(ParamsError, match=r"box 0,28,5,5 does not lie inside .* 40×30"):
        compare(picture, chosen, 2, box=parse_box("0,28,5,5"))
    with pytest.raises(ImageError, match=r"the reference is 79×60; ×2 of this picture is 80×60"):
        compare(picture, chosen, 2, reference=Image.new("RGB", (79, 60)))
    with pytest.raises(ImageError, match=r"the reference is 120×90, too large for ×2 of 40×30"):
        compare(picture, chosen, 2, reference=Image.new("RGB", (120, 90)))
    with pytest.raises(ImageError, match="--degrade needs 17 pixels"):
        compare(Image.new("RGB", (16, 30)), chosen, 2, degrade=True)


def test_a_sheet_of_many_networks_has_a_place_for_each(make_photograph: Photograph) -> None:
    picture = Image.fromarray(make_photograph(40, 50, colour=True, seed=3))
    names = ["bicubic", "bilinear", "nearest", "lanczos", "srcnn", "cnn_small", "vdsr_5"]

    sheet = compare(picture, [choice(name) for name in names], 2, degrade=True)

    assert [entry.name for entry in sheet.entries] == ["HR", *(f"{name}-x2" for name in names)]
    assert sheet.image.width > sheet.image.height > 2 * 224


def test_choices_need_no_store_for_interpolations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert choose("lanczos", 3, Settings()).name == "lanczos-x3"
    assert not list(tmp_path.iterdir())


def test_levels_beyond_16_bits_stay_white_and_floats_are_refused() -> None:
    levels = np.linspace(0, 70_000, 40 * 40).astype(np.int32).reshape(40, 40)
    shown = np.asarray(compare(Image.fromarray(levels), [choice("nearest")], 2).entries[0].sr)
    assert shown[-1, -1] == 255
    assert (np.diff(shown[::2, ::2].ravel().astype(int)) >= 0).all()
    with pytest.raises(ImageError, match="floating-point values"):
        compare(Image.new("F", (40, 40)), [choice("nearest")], 2)
