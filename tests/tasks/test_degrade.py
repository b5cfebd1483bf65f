import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.config import Settings, load_catalogue, load_params
from tasks.degrade import degrade, degrade_folder
from tasks.download import download
from tasks.errors import ImageError
from tests.conftest import Workspace


def save(picture: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def ramp(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    return (2 * y + 4 * x).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_constant_picture_stays_constant(scale: int, tmp_path: Path) -> None:
    colour = np.array([3, 128, 255], np.uint8)
    save(np.broadcast_to(colour, (31, 42, 3)), tmp_path / "hr" / "a.png")

    degrade_folder(tmp_path / "hr", tmp_path / "lr", scale)

    lr = load(tmp_path / "lr" / "a.png")
    assert lr.shape == (31 // scale, 42 // scale, 3)
    assert (lr == colour).all()


@pytest.mark.parametrize(("scale", "centre"), [(2, 0.5), (3, 1), (4, 1.5)])
def test_each_lr_pixel_lies_in_the_middle_of_its_hr_pixels(
    scale: int, centre: float, tmp_path: Path
) -> None:
    # A symmetric kernel of sum 1 keeps a linear ramp: an LR pixel has the value that the ramp has
    # in the middle of its HR pixels, wherever the kernel's four LR pixels lie within the picture.
    save(ramp(31, 43), tmp_path / "hr" / "a.png")

    degrade_folder(tmp_path / "hr", tmp_path / "lr", scale)

    lr = load(tmp_path / "lr" / "a.png")
    y, x = np.mgrid[0 : 31 // scale, 0 : 43 // scale]
    expected = 2 * (scale * y + centre) + 4 * (scale * x + centre)
    assert lr.shape == expected.shape
    np.testing.assert_array_equal(lr[2:-2, 2:-2], expected[2:-2, 2:-2])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_what_exceeds_a_multiple_of_the_scale_is_cut_off_at_the_right_and_below(
    scale: int, tmp_path: Path, make_photograph: Callable[..., np.ndarray]
) -> None:
    whole = make_photograph(12 * 2 + scale - 1, 12 * 3 + 1, colour=True, seed=1)
    save(whole, tmp_path / "odd" / "a.png")
    save(whole[:24, :36], tmp_path / "even" / "a.png")

    for name in ("odd", "even"):
        degrade_folder(tmp_path / name, tmp_path / f"lr_{name}", scale)

    odd, even = (load(tmp_path / f"lr_{name}" / "a.png") for name in ("odd", "even"))
    assert odd.shape == (24 // scale, 36 // scale, 3)
    np.testing.assert_array_equal(odd, even)


def test_lr_pictures_are_png_files_of_the_same_kind_and_stem(tmp_path: Path) -> None:
    save(np.full((20, 20, 3), 9, np.uint8), tmp_path / "hr" / "colour v1.0.bmp")
    save(np.full((20, 20), 9, np.uint8), tmp_path / "hr" / "grey.JPG")

    degrade_folder(tmp_path / "hr", tmp_path / "lr", 2)

    assert sorted(path.name for path in (tmp_path / "lr").iterdir()) == [
        "colour v1.0.png",
        "grey.png",
    ]
    assert load(tmp_path / "lr" / "colour v1.0.png").shape == (10, 10, 3)
    assert load(tmp_path / "lr" / "grey.png").shape == (10, 10)
    with Image.open(tmp_path / "lr" / "grey.png") as image:
        assert image.format == "PNG"


def test_pictures_that_differ_only_in_their_suffix_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp"):
        save(ramp(20, 20), tmp_path / "hr" / name)

    with pytest.raises(ImageError, match="holds pictures that differ only in their suffix"):
        degrade_folder(tmp_path / "hr", tmp_path / "lr", 2)
    assert not (tmp_path / "lr").exists()


def test_every_role_and_data_set_gets_its_lr_pictures(workspace: Workspace) -> None:
    download(load_params(), load_catalogue(), Settings())
    stale = workspace.path / "data/lr/x2/test/before"
    stale.mkdir(parents=True)

    degrade(2)

    lr = workspace.path / "data" / "lr"
    sizes = {
        path.relative_to(lr).as_posix(): load(path).shape
        for path in lr.rglob("*")
        if path.is_file()
    }
    assert sizes == {
        "x2/train/tiny_train/meadow.png": (60, 75, 3),
        "x2/train/tiny_train/pier.png": (59, 65),
        "x2/validation/tiny_validation/harbour.png": (30, 37, 3),
        "x2/test/tiny_test/bridge.png": (27, 31, 3),
        "x2/test/tiny_test/clock.png": (25, 33),
    }
    assert not stale.exists()


def test_a_corrupt_picture_is_named_and_the_old_pictures_stay(workspace: Workspace) -> None:
    download(load_params(), load_catalogue(), Settings())
    degrade(2)
    broken = workspace.path / "data/hr/train/tiny_train/pier.png"
    broken.write_bytes(broken.read_bytes()[:500])

    with pytest.raises(ImageError, match=r"tiny_train/pier\.png is corrupt, truncated"):
        degrade(2)

    left = {path.name for path in (workspace.path / "data/lr/x2/train/tiny_train").iterdir()}
    assert left == {"meadow.png", "pier.png"}


def test_the_stage_knows_the_scales_of_params_yaml_only(workspace: Workspace) -> None:
    command = [sys.executable, "-m", "tasks.degrade", "--scale", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "invalid choice: 3" in done.stderr


def test_what_dvc_leaves_of_a_data_set_is_passed_over(workspace: Workspace) -> None:
    download(load_params(), load_catalogue(), Settings())
    Path("data/hr/test/taken_away").mkdir()
    Path("data/hr/test/.DS_Store").touch()

    degrade(2)

    assert [path.name for path in Path("data/lr/x2/test").iterdir()] == ["tiny_test"]
