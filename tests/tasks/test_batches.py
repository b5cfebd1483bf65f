from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch import Tensor

import models
from models.interpolation import enlarge
from tasks.batches import Batch, Batches, enlarge_window
from tasks.config import Shards
from tasks.shards import ShardSet, write_shards
from tasks.window import Window

MakeShards = Callable[..., ShardSet]


@pytest.fixture
def make_shards(tmp_path: Path) -> MakeShards:
    """`make_shards(pairs, scale, …)` of (HR, LR) arrays."""
    num_made = 0

    def make(
        pairs: list[tuple[np.ndarray, np.ndarray]],
        scale: int,
        patch_px: int = 24,
        stride_px: int = 12,
    ) -> ShardSet:
        nonlocal num_made
        num_made += 1
        folder = tmp_path / str(num_made)
        folder.mkdir()
        files = []
        for number, pair in enumerate(pairs):
            hr_file, lr_file = (folder / f"{kind}{number}.png" for kind in ("hr", "lr"))
            Image.fromarray(pair[0]).save(hr_file)
            Image.fromarray(pair[1]).save(lr_file)
            files.append((hr_file, lr_file))
        shape = Shards(patch_px=patch_px, stride_px=stride_px, shard_mib=1)
        write_shards(files, folder, scale, shape)
        return ShardSet(folder)

    return make


def noise(height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noisy_pair(height: int, width: int, scale: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """HR and LR pixels that tell every place from every other one."""
    return noise(height, width, seed), noise(height // scale, width // scale, seed + 100)


def numbered_pairs(num: int, scale: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures of one patch and one grey level each: number k is of level k."""
    side = 24 // scale
    return [
        (np.full((24, 24), k, np.uint8), np.full((side, side), k, np.uint8)) for k in range(num)
    ]


def batches_of(
    shards: dict[int, ShardSet],
    architecture: str = "cnn_small",
    batch_size: int = 4,
    window_px: int | dict[int, int] = 12,
    seed: int = 1,
) -> Batches:
    windows = window_px if isinstance(window_px, dict) else dict.fromkeys(shards, window_px)
    about = models.get(architecture)
    return Batches(shards, about, batch_size, windows, seed, torch.device("cpu"))


def numbers(batch: Batch) -> list[int]:
    """Which of the numbered pictures are in a batch."""
    levels = batch.target.flatten(1) * 255
    assert (levels == levels[:, :1]).all()
    return [round(float(level)) for level in levels[:, 0]]


def equal(a: tuple[Batch, ...], b: tuple[Batch, ...]) -> bool:
    return len(a) == len(b) and all(
        one.scale == other.scale
        and torch.equal(one.x, other.x)
        and torch.equal(one.target, other.target)
        for one, other in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("architecture", ["srcnn", "edsr", "vdsr"])
def test_a_batch_is_a_function_of_seed_and_step(architecture: str, make_shards: MakeShards) -> None:
    shards = {
        scale: make_shards([noisy_pair(60, 60, scale)], scale)
        for scale in ((2, 3) if architecture == "vdsr" else (2,))
    }
    batches = batches_of(shards, architecture)

    undisturbed = list(batches.from_step(0, 7))
    resumed = [*batches.from_step(0, 3), *batches.from_step(3, 5), *batches.from_step(5, 7)]
    assert len(undisturbed) == 7
    for one, other in zip(undisturbed, resumed, strict=True):
        assert equal(one, other)

    # A loop that stops early leaves nothing behind that changes the next one.
    for _ in batches.from_step(2, 7):
        break
    assert equal(next(batches.from_step(6, 7)), undisturbed[6])

    another = batches_of(shards, architecture, seed=2).from_step(0, 7)
    for one, other in zip(another, undisturbed, strict=True):
        assert not equal(one, other)
    assert not any(equal(one, undisturbed[0]) for one in undisturbed[1:])


@pytest.mark.parametrize("architecture", ["srcnn", "edsr"])
def test_another_seed_draws_other_windows_and_turns(
    architecture: str, make_shards: MakeShards
) -> None:
    # With a single patch the order cannot differ; what is left are window and turn.
    shards = {2: make_shards([noisy_pair(24, 24, 2)], 2)}

    one, other = (
        list(batches_of(shards, architecture, 1, seed=seed).from_step(0, 12)) for seed in (1, 2)
    )

    assert sum(equal(a, b) for a, b in zip(one, other, strict=True)) < 4


def test_no_steps_give_no_batches(make_shards: MakeShards) -> None:
    batches = batches_of({2: make_shards(numbered_pairs(3, 2), 2)})

    assert list(batches.from_step(4, 4)) == []


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 27])
def test_each_epoch_visits_every_patch_once(batch_size: int, make_shards: MakeShards) -> None:
    batches = batches_of({2: make_shards(numbered_pairs(10, 2), 2)}, batch_size=batch_size)

    seen = [
        number
        for (batch,) in batches.from_step(0, -(-60 // batch_size))
        for number in numbers(batch)
    ]

    epochs = [tuple(seen[start : start + 10]) for start in range(0, 60, 10)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert len(set(epochs)) == 6  # each in another order
    assert tuple(range(10)) not in epochs


def test_an_epoch_has_as_many_steps_as_full_batches(make_shards: MakeShards) -> None:
    ten = make_shards(numbered_pairs(10, 2), 2)
    four = make_shards(numbered_pairs(4, 3), 3)

    assert batches_of({2: ten}, batch_size=5).steps_per_epoch == 2
    assert batches_of({2: ten}, batch_size=4).steps_per_epoch == 2
    assert batches_of({2: ten}, batch_size=40).steps_per_epoch == 1
    assert batches_of({2: ten, 3: four}, "vdsr", batch_size=7).steps_per_epoch == 2


ORIENTATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda p: p,
    "upside down": lambda p: p[:, ::-1],
    "mirrored": lambda p: p[:, :, ::-1],
    "turned by 180": lambda p: p[:, ::-1, ::-1],
    "transposed": lambda p: p.transpose(0, 2, 1),
    "turned by 90": lambda p: np.rot90(p, 1, (1, 2)),
    "turned by 270": lambda p: np.rot90(p, 3, (1, 2)),
    "transposed the other way": lambda p: p[:, ::-1, ::-1].transpose(0, 2, 1),
}


def locate(patch: np.ndarray, picture: np.ndarray) -> tuple[str, int, int]:
    """How a patch was turned and where it lies in its picture, found by trying everything."""
    side = patch.shape[-1]
    windows = sliding_window_view(picture, (side, side), axis=(1, 2))
    found = []
    for name, turn in ORIENTATIONS.items():
        turned = turn(patch)
        # Channel by channel and first the corner: most places are out at once.
        fits = (windows[0, :, :, 0, 0] == turned[0, 0, 0]) & (
            windows[0, :, :, -1, -1] == turned[0, -1, -1]
        )
        for y, x in np.argwhere(fits):
            if (windows[:, y, x] == turned).all():
                found.append((name, int(y), int(x)))
    assert len(found) == 1, "the patch is nowhere, or it is no window of one picture"
    return found[0]


def levels(tensor: Tensor) -> np.ndarray:
    """0–1 back to the whole numbers 0–255 they came from."""
    scaled = tensor.double().numpy() * 255
    assert np.abs(scaled - scaled.round()).max() < 1e-4
    return scaled.round().astype(np.uint8)


def channels_first(picture: np.ndarray) -> np.ndarray:
    return np.moveaxis(picture, 2, 0)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_and_hr_windows_show_the_same_place_turned_alike(
    scale: int, make_shards: MakeShards
) -> None:
    hr, lr = noisy_pair(61, 62, scale)
    batches = batches_of({scale: make_shards([(hr, lr)], scale)}, "edsr", 8)

    seen = Counter[str]()
    for (batch,) in batches.from_step(0, 8):
        assert batch.scale == scale
        assert batch.x.shape == (8, 3, 12 // scale, 12 // scale)
        assert batch.target.shape == (8, 3, 12, 12)
        assert batch.x.dtype == batch.target.dtype == torch.float32
        for x, target in zip(levels(batch.x), levels(batch.target), strict=True):
            how, y, x_place = locate(target, channels_first(hr))
            how_lr, y_lr, x_lr = locate(x, channels_first(lr))
            assert (how, y, x_place) == (how_lr, y_lr * scale, x_lr * scale)
            seen[how] += 1
    # 64 draws of 8 equally likely ways: each is there, none is the rule.
    assert set(seen) == set(ORIENTATIONS)
    assert max(seen.values()) < 24


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_an_enlarged_window_is_the_window_of_the_whole_enlarged_picture(
    scale: int, make_shards: MakeShards
) -> None:
    hr, lr = noisy_pair(12 * 7, 12 * 6, scale)
    # 36 − 12 pixels leave room for the two LR pixels that bicubic looks beyond the window.
    shards = make_shards([(hr, lr)], scale, patch_px=36)
    batches = batches_of({scale: shards}, "cnn_small", 8, window_px=12)
    tensor = torch.from_numpy(channels_first(lr) / 255.0)[None]
    enlarged = enlarge(tensor, scale)[0].numpy()

    for (batch,) in batches.from_step(0, 6):
        assert batch.x.shape == batch.target.shape == (8, 3, 12, 12)
        for x, target in zip(batch.x.numpy(), levels(batch.target), strict=True):
            how, top, left = locate(target, channels_first(hr))
            expected = enlarged[:, top : top + 12, left : left + 12]
            np.testing.assert_allclose(ORIENTATIONS[how](x), expected, atol=1e-6)


@pytest.mark.parametrize(("scale", "window_px"), [(2, 24), (2, 21), (3, 24), (3, 19), (4, 23)])
def test_without_room_the_whole_patch_is_enlarged_by_itself(
    scale: int, window_px: int, make_shards: MakeShards
) -> None:
    hr, lr = noisy_pair(24, 24, scale)
    batches = batches_of({scale: make_shards([(hr, lr)], scale)}, "cnn_small", 4, window_px)
    enlarged = enlarge(torch.from_numpy(channels_first(lr) / 255.0)[None], scale)[0].numpy()

    for (batch,) in batches.from_step(0, 8):
        for x, target in zip(batch.x.numpy(), levels(batch.target), strict=True):
            how, top, left = locate(target, channels_first(hr))
            expected = enlarged[:, top : top + window_px, left : left + window_px]
            np.testing.assert_allclose(ORIENTATIONS[how](x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        # On the LR grid: every other pixel from 0 to 24 − 14.
        ("edsr", {0, 2, 4, 6, 8, 10}),
        # 4 pixels (2 LR pixels) away from both ends of 24 − 14.
        ("cnn_small", {4, 5, 6}),
    ],
)
def test_windows_lie_everywhere_they_may(
    architecture: str, expected: set[int], make_shards: MakeShards
) -> None:
    hr, lr = noisy_pair(24, 24, 2)
    shards = make_shards([(hr, lr)], 2)

    rows, columns = set(), set()
    for (batch,) in batches_of({2: shards}, architecture, 1, 14).from_step(0, 60):
        _, top, left = locate(levels(batch.target)[0], channels_first(hr))
        rows.add(top)
        columns.add(left)

    assert rows == columns == expected


def test_scales_share_a_batch_evenly_over_time(make_shards: MakeShards) -> None:
    shards = {scale: make_shards(numbered_pairs(7, scale), scale) for scale in (2, 3, 4)}
    batches = batches_of(shards, "vdsr", batch_size=16)

    seen: dict[int, list[int]] = {2: [], 3: [], 4: []}
    for step, parts in enumerate(batches.from_step(0, 21), start=1):
        sizes = {part.scale: len(part.x) for part in parts}
        assert sum(sizes.values()) == 16
        assert set(sizes.values()) == {5, 6}
        for part in parts:
            seen[part.scale] += numbers_of_luminance(part)
        if step % 3 == 0:
            assert {len(each) for each in seen.values()} == {16 * step // 3}

    for each in seen.values():
        assert len(each) == 112
        for start in range(0, 112, 7):
            assert sorted(each[start : start + 7]) == list(range(7))


def numbers_of_luminance(batch: Batch) -> list[int]:
    """Which of the numbered pictures: luminance of grey level k is (16 + 219·k/255)/255."""
    found = (batch.target[:, 0, 0, 0].double() * 255 - 16) * 255 / 219
    assert (found - found.round()).abs().max() < 1e-3
    return [int(number) for number in found.round()]


def test_a_batch_smaller_than_the_number_of_scales_takes_turns(make_shards: MakeShards) -> None:
    shards = {scale: make_shards(numbered_pairs(4, scale), scale) for scale in (2, 3, 4)}

    parts = list(batches_of(shards, "vdsr", batch_size=2).from_step(0, 6))

    assert [sum(len(part.x) for part in step) for step in parts] == [2] * 6
    for start in (0, 3):
        drawn = Counter(part.scale for step in parts[start : start + 3] for part in step)
        assert drawn == {2: 2, 3: 2, 4: 2}


def test_each_scale_has_its_own_window(make_shards: MakeShards) -> None:
    shards = {scale: make_shards([noisy_pair(36, 36, scale)], scale) for scale in (2, 3)}

    (parts,) = batches_of(shards, "vdsr", 4, window_px={2: 14, 3: 21}).from_step(0, 1)

    assert {part.scale: tuple(part.x.shape) for part in parts} == {
        2: (2, 1, 14, 14),
        3: (2, 1, 21, 21),
    }


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        # ITU-R BT.601, studio range: 16 is black, 235 white, and 65.481 of it are red.
        ((0, 0, 0), 16 / 255),
        ((255, 255, 255), 235 / 255),
        ((255, 0, 0), 81.481 / 255),
        ((0, 255, 0), 144.553 / 255),
        ((0, 0, 255), 40.966 / 255),
    ],
)
@pytest.mark.parametrize("architecture", ["srcnn", "edsr"])
def test_a_network_gets_luminance_or_rgb_as_it_takes_it(
    architecture: str,
    colour: tuple[int, int, int],
    expected: float,
    make_shards: MakeShards,
) -> None:
    about = models.get(architecture)
    pair = (np.full((24, 24, 3), colour, np.uint8), np.full((12, 12, 3), colour, np.uint8))

    ((batch,),) = batches_of({2: make_shards([pair], 2)}, architecture, 2).from_step(0, 1)

    values = [expected] if about.channels == "y" else [level / 255 for level in colour]
    side = 12 if about.enlarged else 6
    assert batch.x.shape == (2, len(values), side, side)
    assert batch.target.shape == (2, len(values), 12, 12)
    for tensor in (batch.x, batch.target):
        for channel, value in enumerate(values):
            torch.testing.assert_close(
                tensor[:, channel], torch.full_like(tensor[:, channel], value), atol=1e-6, rtol=0
            )


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("top", "side"), [(0, 24), (0, 7), (5, 12), (13, 11)])
def test_enlarging_a_window_is_cutting_it_from_the_enlarged_patch(
    scale: int, top: int, side: int
) -> None:
    lr_px = 24 // scale
    lr = torch.rand(3, 2, lr_px, lr_px, dtype=torch.float64, generator=torch.manual_seed(scale))
    whole, hr_window = Window(0, 0, lr_px), Window(top, 24 - side - top // 2, side)

    window = enlarge_window(lr, whole, hr_window, scale, lr_px)

    rows = slice(hr_window.top, hr_window.top + side)
    columns = slice(hr_window.left, hr_window.left + side)
    expected = enlarge(lr, scale)[..., rows, columns]
    torch.testing.assert_close(window, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
@pytest.mark.parametrize("architecture", ["edsr", "vdsr"])
def test_workers_share_the_batch_of_a_single_one(
    architecture: str, num_workers: int, make_shards: MakeShards
) -> None:
    scales = (2, 3) if architecture == "vdsr" else (2,)
    shards = {scale: make_shards([noisy_pair(61, 62, scale)], scale) for scale in scales}
    alone = list(batches_of(shards, architecture, batch_size=7).from_step(3, 8))

    of_ranks = [
        list(
            replace(
                batches_of(shards, architecture, batch_size=7), rank=rank, num_workers=num_workers
            ).from_step(3, 8)
        )
        for rank in range(num_workers)
    ]

    for step, whole in enumerate(alone):
        for part in whole:
            for rank, steps in enumerate(of_ranks):
                found = [each for each in steps[step] if each.scale == part.scale]
                if not found:  # fewer pairs of this scale than workers
                    assert len(part.x) <= rank
                    continue
                (own,) = found
                # Enlargement multiplies larger matrices for a larger batch.
                expected = part.x[rank::num_workers]
                torch.testing.assert_close(own.x, expected, rtol=0, atol=1e-6)
                assert torch.equal(own.target, part.target[rank::num_workers])
