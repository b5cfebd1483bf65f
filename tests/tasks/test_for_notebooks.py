import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import models
import tasks
from tasks.errors import ImageError
from tests.conftest import REPOSITORY

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
TWICE = RGB.repeat(2, axis=0).repeat(2, axis=1)


def test_import_is_instant() -> None:
    code = "import sys, tasks; print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_picture_comes_as_an_array_a_file_or_itself(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    Image.fromarray(RGB).save(file)

    for image in (RGB, file, str(file), Image.fromarray(RGB)):
        answer = tasks.upscale(image, model="nearest", scale=2)

        assert isinstance(answer, Image.Image)
        assert np.array_equal(np.asarray(answer), TWICE)


@pytest.mark.parametrize(
    ("array", "mode"),
    [
        (RGB[..., 0], "L"),
        (np.dstack([RGB, RGB[..., :1]]), "RGBA"),
        (RGB[..., 0].astype(np.uint16) * 257, "I;16"),
    ],
)
def test_every_kind_of_array_keeps_its_kind(array: np.ndarray, mode: str) -> None:
    assert tasks.upscale(array, model="bicubic", scale=2).mode == mode


@pytest.mark.parametrize(
    "array", [RGB.astype(np.float32), RGB[None], RGB.astype(np.uint16), RGB[..., :2]]
)
def test_an_array_of_another_kind_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"an array must be uint8, H×W.* not "):
        tasks.upscale(array, model="bicubic", scale=2)


def test_a_network_says_its_architecture_and_scale() -> None:
    network = models.create("cnn_small", 3)

    answer = tasks.upscale(RGB, model=network, architecture="cnn_small", scale=3)

    assert answer.size == (21, 15)
    wrong: list[dict[str, Any]] = [
        {"model": network},
        {"model": network, "architecture": "cnn_small"},
        {"model": "bicubic", "architecture": "bicubic", "scale": 2},
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match="architecture"):
            tasks.upscale(RGB, **arguments)


def test_no_picture_is_an_error() -> None:
    with pytest.raises(ImageError, match=r"there is no picture missing\.png"):
        tasks.upscale("missing.png", model="bicubic")
