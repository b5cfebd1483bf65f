from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import models
from tasks.bicubic import shrink
from tasks.color import luminance
from tasks.protocol import prepare
from tasks.snapshots import Snapshots, snapshot_steps


@pytest.mark.parametrize(
    ("num_validations", "expected"),
    [
        (1, [1]),
        (4, [1, 2, 3, 4]),
        (6, [1, 2, 3, 4, 5, 6]),
        (12, [2, 4, 6, 8, 10, 12]),
        (100, [17, 34, 50, 67, 84, 100]),
    ],
)
def test_at_most_six_evenly_spaced_with_the_last(num_validations: int, expected: list[int]) -> None:
    assert sorted(snapshot_steps(range(1, num_validations + 1))) == expected


@pytest.mark.parametrize("architecture", ["srcnn", "cnn_small", "edsr_baseline"])
def test_snapshots_survive_a_checkpoint_and_become_pictures(
    architecture: str, tmp_path: Path
) -> None:
    about = models.get(architecture)
    draw = np.random.default_rng(0)
    # Bicubic restores a plain picture; what it cannot restore fills the window.
    hr = np.full((130, 140, 3), 100, np.uint8)
    inside = (slice(22, 118), slice(8, 104))
    hr[inside] = draw.choice(np.array([0, 255], np.uint8), (96, 96, 1))
    lr = np.full((65, 70, 3), 100, np.uint8)
    answer = draw.integers(0, 256, (about.num_channels, 130, 140), dtype=np.uint8)
    taken = Snapshots()
    taken.take_references(about, prepare(about, "a", hr, lr, 2), 2)
    taken.take(30, 2, answer)

    resumed = Snapshots()
    resumed.load_state_dict(taken.state_dict())
    resumed.write(tmp_path)

    names = ["bicubic-x2.png", "hr-x2.png", "step-0000030-x2.png"]
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == names
    read = {name: np.asarray(Image.open(tmp_path / "snapshots" / name)) for name in names}
    as_seen = luminance(hr) if about.channels == "y" else hr
    np.testing.assert_array_equal(read["hr-x2.png"], as_seen[inside])
    shown = answer[0] if about.channels == "y" else answer.transpose(1, 2, 0)
    np.testing.assert_array_equal(read["step-0000030-x2.png"], shown[inside])
    assert read["bicubic-x2.png"].shape == as_seen[inside].shape
    if about.channels == "rgb":  # a luminance network's LR picture is made of the HR one
        assert (read["bicubic-x2.png"] == 100).all()


def test_all_networks_show_the_same_place(
    tmp_path: Path, make_photograph: Callable[..., np.ndarray]
) -> None:
    hr = make_photograph(150, 210, colour=True, seed=5)
    shown = []
    for name in ("srcnn", "edsr_baseline"):
        about = models.get(name)
        taken = Snapshots()
        taken.take_references(about, prepare(about, "a", hr, shrink(hr, 2), 2), 2)
        (tmp_path / name).mkdir()
        taken.write(tmp_path / name)
        shown.append(np.asarray(Image.open(tmp_path / name / "snapshots/hr-x2.png")))
    np.testing.assert_array_equal(luminance(shown[1]), shown[0])


def test_snapshots_of_another_picture_are_not_gone_on_with(tmp_path: Path) -> None:
    about, draw = models.get("srcnn"), np.random.default_rng(0)
    hrs = draw.integers(0, 256, (2, 96, 96), dtype=np.uint8)
    before, now = Snapshots(), Snapshots()
    for taken, hr in zip((before, now), hrs, strict=True):
        taken.take_references(about, prepare(about, "a", hr, hr[::2, ::2], 2), 2)
    before.take(30, 2, hrs[:1])

    now.load_state_dict(before.state_dict())
    now.write(tmp_path)

    names = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert names == ["bicubic-x2.png", "hr-x2.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "snapshots/hr-x2.png")), hrs[1])


def test_the_bicubic_picture_is_the_interpolations(tmp_path: Path) -> None:
    about = models.get("srcnn")
    hr = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    picture = prepare(about, "a", hr, hr[::2, ::2], 2)
    taken = Snapshots()
    taken.take_references(about, picture, 2)
    taken.write(tmp_path)

    x = prepare(models.get("bicubic"), "a", hr, hr[::2, ::2], 2).x
    expected = np.floor(models.create("bicubic", 2)(x)[0, 0].numpy().clip(0, 1) * 255 + 0.5)
    shown = np.asarray(Image.open(tmp_path / "snapshots/bicubic-x2.png")).astype(int)
    assert np.abs(shown - expected).max() <= 1  # single against double precision
    assert (shown != expected).mean() < 0.001


def test_a_grey_picture_stays_grey_for_an_rgb_network(
    tmp_path: Path, make_photograph: Callable[..., np.ndarray]
) -> None:
    hr = make_photograph(130, 140, colour=False, seed=3)
    read = []
    for name in ("srcnn_955", "cnn_small"):
        about, taken, folder = models.get(name), Snapshots(), tmp_path / name
        taken.take_references(about, prepare(about, "a", hr, shrink(hr, 2), 2), 2)
        taken.take(30, 2, np.broadcast_to(hr, (about.num_channels, *hr.shape)))
        folder.mkdir()
        taken.write(folder)
        files = sorted((folder / "snapshots").iterdir())
        read.append({path.name: np.asarray(Image.open(path)).astype(int) for path in files})

    luminance_network, rgb_network = read
    for name in ("hr-x2.png", "step-0000030-x2.png"):
        np.testing.assert_array_equal(rgb_network[name], luminance_network[name])
    # An RGB network's LR picture is rounded, a luminance network's is not.
    assert abs(rgb_network["bicubic-x2.png"] - luminance_network["bicubic-x2.png"]).max() <= 2
