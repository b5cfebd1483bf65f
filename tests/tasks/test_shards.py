import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tasks import shards as shards_module
from tasks.config import Settings, Shards, load_catalogue, load_params
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import ImageError, ShardError
from tasks.shards import Shard, ShardSet, _corners, shard, shard_checksums, write_shards
from tasks.window import Window
from tests.conftest import Workspace

Pair = tuple[np.ndarray, np.ndarray]


def shape(patch_px: int = 24, stride_px: int = 12, shard_mib: int = 1) -> Shards:
    return Shards(patch_px=patch_px, stride_px=stride_px, shard_mib=shard_mib)


def noise(*size: int, seed: int) -> np.ndarray:
    """Pixels that tell every place from every other one."""
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def noisy_pair(height: int, width: int, scale: int, seed: int, *, colour: bool = True) -> Pair:
    """An HR and an LR picture that have nothing in common but their sizes."""
    channels = (3,) if colour else ()
    hr = noise(height, width, *channels, seed=seed)
    return hr, noise(height // scale, width // scale, *channels, seed=seed + 100)


def save_pairs(folder: Path, *pairs: Pair) -> list[tuple[Path, Path]]:
    files = []
    for number, pair in enumerate(pairs):
        hr_file, lr_file = (folder / kind / f"{number}.png" for kind in ("hr", "lr"))
        for picture, path in zip(pair, (hr_file, lr_file), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
        files.append((hr_file, lr_file))
    return files


def rgb(picture: np.ndarray) -> np.ndarray:
    """Channels first; a grey picture three times."""
    return np.stack([picture] * 3) if picture.ndim == 2 else np.moveaxis(picture, 2, 0)


def places(picture: np.ndarray, patches: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where each patch lies in its picture, found by looking everywhere."""
    side = patches.shape[-1]
    windows = sliding_window_view(rgb(picture), (side, side), axis=(1, 2))
    for patch in patches:
        fits = (windows == patch[:, None, None]).all(axis=(0, 3, 4))
        assert fits.sum() == 1
        ((y, x),) = np.argwhere(fits)
        yield int(y), int(x)


def read_with_the_library(folder: Path) -> Pair:
    tensors = [load_file(path) for path in sorted(folder.iterdir())]
    lr, hr = (np.concatenate([each[name] for each in tensors]) for name in ("lr", "hr"))
    return lr, hr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shards"
    made.mkdir()
    return made


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_patch_lies_in_its_picture_where_it_should(
    scale: int, colour: bool, tmp_path: Path, folder: Path
) -> None:
    pairs = [
        noisy_pair(61, 50, scale, 1, colour=colour),
        noisy_pair(24, 37, scale, 2, colour=colour),
    ]
    num = write_shards(save_pairs(tmp_path, *pairs), folder, scale, shape())

    lr, hr = read_with_the_library(folder)
    assert len(lr) == len(hr) == num
    assert (lr.dtype, hr.dtype) == (np.uint8, np.uint8)
    assert lr.shape[1:] == (3, 24 // scale, 24 // scale)
    assert hr.shape[1:] == (3, 24, 24)

    sources = list(ShardSet(folder).sources())
    assert [name for name, _ in sources] == ["hr/0.png", "hr/1.png"]
    start = 0
    for (hr_picture, lr_picture), (_, num_patches) in zip(pairs, sources, strict=True):
        own = slice(start, start + num_patches)
        hr_places = list(places(hr_picture, hr[own]))
        lr_places = list(places(lr_picture, lr[own]))
        assert hr_places == [(y * scale, x * scale) for y, x in lr_places]

        # All at multiples of the stride, but for those moved in at the right and below.
        ends = [size // scale * scale - 24 for size in hr_picture.shape[:2]]
        for place in hr_places:
            for at, end in zip(place, ends, strict=True):
                assert at == end or at % 12 == 0
        assert len(set(hr_places)) == num_patches
        covered = np.zeros(hr_picture.shape[:2], bool)
        for y, x in hr_places:
            covered[y : y + 24, x : x + 24] = True
        height, width = (size // scale * scale for size in covered.shape)
        assert covered[:height, :width].all()
        assert not covered[height:].any()
        assert not covered[:, width:].any()
        start += num_patches
    assert start == num


@given(
    height=st.integers(12, 70),
    width=st.integers(12, 70),
    stride=st.sampled_from([12, 24, 36, 60]),
    scale=st.sampled_from([2, 3, 4]),
)
def test_the_number_of_patches_is_the_fewest_that_reach_the_end(
    height: int, width: int, stride: int, scale: int
) -> None:
    hr, lr = noisy_pair(height, width, scale, 0, colour=False)

    corners = _corners(rgb(lr), rgb(hr), scale, shape(12, stride), "a")

    def expected(size: int) -> int:
        num = 1
        while (num - 1) * stride + 12 < size // scale * scale:
            num += 1
        return num

    assert len(set(corners)) == len(corners) == expected(height) * expected(width)


def test_patches_as_large_as_the_picture_are_the_picture(tmp_path: Path, folder: Path) -> None:
    pair = noisy_pair(24, 24, 2, 5)

    assert write_shards(save_pairs(tmp_path, pair), folder, 2, shape()) == 1

    lr, hr = read_with_the_library(folder)
    np.testing.assert_array_equal(hr[0], rgb(pair[0]))
    np.testing.assert_array_equal(lr[0], rgb(pair[1]))


def test_a_grey_picture_gives_three_equal_channels(tmp_path: Path, folder: Path) -> None:
    write_shards(save_pairs(tmp_path, noisy_pair(40, 40, 2, 6, colour=False)), folder, 2, shape())

    lr, hr = read_with_the_library(folder)
    for patches in (lr, hr):
        assert (patches[:, 0] == patches[:, 1]).all()
        assert (patches[:, 0] == patches[:, 2]).all()


def test_a_picture_smaller_than_a_patch_is_refused(tmp_path: Path, folder: Path) -> None:
    pairs = save_pairs(tmp_path, noisy_pair(40, 40, 2, 1), noisy_pair(40, 23, 2, 2))

    with pytest.raises(ShardError) as caught:
        write_shards(pairs, folder, 2, shape())
    expected = "hr/1.png gives no patch of 24 pixels; lower shards.patch_px"
    assert str(caught.value) == expected


def test_an_lr_picture_of_another_size_is_refused(tmp_path: Path, folder: Path) -> None:
    (hr, _), (_, lr) = noisy_pair(48, 48, 2, 1), noisy_pair(50, 48, 2, 2)

    with pytest.raises(ShardError) as caught:
        write_shards(save_pairs(tmp_path, (hr, lr)), folder, 2, shape())
    assert str(caught.value) == (
        "hr/0.png has 48×48 pixels and its ×2 LR picture 24×25; run the `degrade` stage again"
    )


def test_a_picture_that_gets_lost_is_noticed(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = shards_module._Writer.add

    def lose_one(writer: Any, source: str, *patches: Any) -> None:
        if source != "hr/1.png":
            add(writer, source, *patches)

    monkeypatch.setattr(shards_module._Writer, "add", lose_one)
    pairs = save_pairs(tmp_path, *(noisy_pair(48, 48, 2, seed) for seed in range(3)))

    with pytest.raises(ShardError) as caught:
        write_shards(pairs, folder, 2, shape())
    assert str(caught.value) == (
        f"3 pictures were to be in {folder}, and 2 are; not as planned: hr/1.png; shard them again"
    )


def test_progress_is_said_now_and_then(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = save_pairs(tmp_path, *(noisy_pair(48, 48, 2, seed) for seed in range(20)))
    said: list[str] = []

    write_shards(pairs, folder, 2, shape(), said.append)
    assert len(said) == 1  # a quick one, only the last line
    # 9 patches of 24 and 12 pixels from each picture.
    num_bytes = 20 * 9 * 3 * (24 * 24 + 12 * 12)
    assert said[0].startswith(f"shard ×2: 20 of 20 pictures, {num_bytes / 1e6:.0f} MB, ")

    monkeypatch.setattr(shards_module, "_SAY_EVERY_S", -1.0)
    write_shards(pairs, folder, 2, shape(), said.append)
    assert [line.split()[2] for line in said[1:]] == [*map(str, range(1, 21)), "20"]


def test_more_pictures_than_are_read_ahead_stay_in_order(tmp_path: Path, folder: Path) -> None:
    pairs = save_pairs(tmp_path, *(noisy_pair(24, 24, 2, seed) for seed in range(40)))

    write_shards(pairs, folder, 2, shape())

    _, hr = read_with_the_library(folder)
    for number, patch in enumerate(hr):
        np.testing.assert_array_equal(patch, rgb(noisy_pair(24, 24, 2, number)[0]))


@pytest.fixture
def three_shards(tmp_path: Path, folder: Path) -> tuple[Path, int]:
    """Shards of at most 121 pairs of 48 and 24 pixels, from two pictures, the second cut in two."""
    pairs = [noisy_pair(168, 156, 2, 8), noisy_pair(180, 180, 2, 9)]
    num = write_shards(save_pairs(tmp_path, *pairs), folder, 2, shape(patch_px=48))
    return folder, num


def test_a_full_shard_is_followed_by_the_next(three_shards: tuple[Path, int]) -> None:
    folder, num = three_shards
    capacity = 2**20 // (3 * (48 * 48 + 24 * 24))
    per_picture = [11 * 10, 12 * 12]

    assert num == sum(per_picture) == 254
    assert capacity == 121
    assert [path.name for path in sorted(folder.iterdir())] == [
        f"shard-0000{number}.safetensors" for number in range(3)
    ]
    assert all(path.stat().st_size < 2**20 + 2000 for path in folder.iterdir())
    shards = ShardSet(folder)
    assert [each.sources for each in shards.shards] == [
        (("hr/0.png", 110), ("hr/1.png", 11)),
        (("hr/1.png", 121),),
        (("hr/1.png", 12),),
    ]
    assert len(shards) == 254
    assert [each.scale for each in shards.shards] == [2, 2, 2]


def test_pairs_are_gathered_in_the_order_asked_for_across_shards(
    three_shards: tuple[Path, int],
) -> None:
    folder, num = three_shards
    lr, hr = read_with_the_library(folder)
    shards = ShardSet(folder)

    for indices in (
        np.array([253, 0, 121, 120, 241, 242, 0, 5]),
        np.array([7]),
        np.random.default_rng(0).permutation(num),
    ):
        got_lr, got_hr = shards.gather(indices)
        np.testing.assert_array_equal(got_lr, lr[indices])
        np.testing.assert_array_equal(got_hr, hr[indices])
    got_lr[:] = 0  # fresh arrays: what is done to them does not reach the file
    np.testing.assert_array_equal(shards.gather(np.array([7]))[0], lr[[7]])


def test_windows_are_cut_from_turned_pairs(three_shards: tuple[Path, int]) -> None:
    folder, num = three_shards
    lr, hr = read_with_the_library(folder)
    draw = np.random.default_rng(1)
    indices = draw.integers(0, num, 40)
    turns = draw.integers(0, 2, (3, 40)).astype(bool)

    for lr_window, hr_window in (
        (Window(3, 7, 11), Window(6, 14, 22)),
        (Window(0, 13, 11), Window(25, 0, 23)),
        (Window(0, 0, 24), Window(0, 0, 48)),
    ):
        got = ShardSet(folder).gather_windows(indices, lr_window, hr_window, turns)
        for patches, whole, window in zip(got, (lr, hr), (lr_window, hr_window), strict=True):
            assert patches.is_contiguous()
            for place, index in enumerate(indices):
                turned = whole[index]
                if turns[0, place]:
                    turned = np.flipud(turned.transpose(1, 2, 0)).transpose(2, 0, 1)
                if turns[1, place]:
                    turned = np.fliplr(turned.transpose(1, 2, 0)).transpose(2, 0, 1)
                if turns[2, place]:
                    turned = np.stack([channel.T for channel in turned])
                rows = slice(window.top, window.top + window.side)
                columns = slice(window.left, window.left + window.side)
                np.testing.assert_array_equal(patches[place], turned[:, rows, columns])


def test_pairs_are_gathered_from_a_single_shard(tmp_path: Path, folder: Path) -> None:
    write_shards(save_pairs(tmp_path, noisy_pair(60, 60, 2, 3)), folder, 2, shape())
    lr, hr = read_with_the_library(folder)

    got_lr, got_hr = ShardSet(folder).gather(np.array([3, 1, 3]))

    np.testing.assert_array_equal(got_lr, lr[[3, 1, 3]])
    np.testing.assert_array_equal(got_hr, hr[[3, 1, 3]])


@pytest.mark.parametrize("index", [-1, 4])
def test_a_pair_that_is_not_there_cannot_be_gathered(
    tmp_path: Path, folder: Path, index: int
) -> None:
    assert write_shards(save_pairs(tmp_path, noisy_pair(36, 36, 2, 3)), folder, 2, shape()) == 4

    with pytest.raises(IndexError, match=f"pairs are 0 to 3, not .*{index}"):
        ShardSet(folder).gather(np.array([0, index]))


def test_the_header_says_what_is_inside(three_shards: tuple[Path, int]) -> None:
    folder, _ = three_shards
    path = folder / "shard-00001.safetensors"

    with safe_open(path, framework="numpy") as opened:
        (about,) = [json.loads(value) for value in opened.metadata().values()]
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118

    assert about["format"] == "sisr-patches-1"
    assert about["scale"] == 2
    assert about["sources"] == [["hr/1.png", 121]]
    assert set(tensors) == {"lr", "hr"}
    for name, tensor in tensors.items():
        assert about[f"sha256_{name}"] == hashlib.sha256(tensor.tobytes()).hexdigest()


def test_the_checksums_of_a_scale_are_those_of_its_tensors(
    three_shards: tuple[Path, int],
) -> None:
    folder, _ = three_shards

    expected = [
        hashlib.sha256(load_file(path)[name].tobytes()).hexdigest()
        for path in sorted(folder.iterdir())
        for name in ("lr", "hr")
    ]
    assert shard_checksums(folder) == expected


def test_one_input_gives_one_file_byte_for_byte(tmp_path: Path) -> None:
    files = save_pairs(tmp_path, noisy_pair(60, 60, 2, 3))
    written = []
    for name in ("first", "second", "third"):
        (tmp_path / name).mkdir()
        write_shards(files, tmp_path / name, 2, shape())
        written.append((tmp_path / name / "shard-00000.safetensors").read_bytes())

    assert written[0] == written[1] == written[2]


@pytest.fixture
def one_shard(tmp_path: Path, folder: Path) -> Path:
    write_shards(save_pairs(tmp_path, noisy_pair(48, 48, 2, 4)), folder, 2, shape())
    return folder / "shard-00000.safetensors"


@pytest.mark.parametrize("tensor", ["lr", "hr"])
def test_a_changed_pixel_is_found(tensor: str, one_shard: Path) -> None:
    data = bytearray(one_shard.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    data[start + header[tensor]["data_offsets"][1] - 1] ^= 1
    one_shard.write_bytes(data)

    Shard.open(one_shard)  # opening reads nothing but the header
    with pytest.raises(ShardError) as caught:
        ShardSet(one_shard.parent)
    assert str(caught.value) == f"{one_shard} is damaged (checksum); shard it again"


def test_a_file_is_read_whole_once_under_any_name_until_it_changes(
    one_shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    verify = Shard.verify
    monkeypatch.setattr(Shard, "verify", lambda each: (read.append(each.path), verify(each)))
    # A worker's folder: links to what its node has fetched.
    linked = tmp_path / "linked" / one_shard.name
    linked.parent.mkdir()
    linked.symlink_to(one_shard)

    for folder in (one_shard.parent, one_shard.parent, linked.parent):
        ShardSet(folder)
    assert read == [one_shard]

    data = one_shard.read_bytes()
    one_shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ShardError, match="is damaged"):
        ShardSet(one_shard.parent)


def test_a_shard_cut_anywhere_is_refused(one_shard: Path) -> None:
    whole = one_shard.read_bytes()
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    reasons = {0: "is no shard", 5: "is no shard", 100: "is no shard", header_bytes: "is truncated"}

    for num_bytes, reason in (reasons | {len(whole) - 1: "is truncated"}).items():
        one_shard.write_bytes(whole[:num_bytes])
        with pytest.raises(ShardError, match=f"shard-00000.safetensors {reason}"):
            Shard.open(one_shard)


def test_a_shard_of_another_format_version_is_refused(one_shard: Path) -> None:
    # As long as the true one, so that nothing else changes.
    one_shard.write_bytes(one_shard.read_bytes().replace(b"sisr-patches-1", b"sisr-patches-2"))

    with pytest.raises(ShardError) as caught:
        Shard.open(one_shard)
    expected = f"{one_shard} has format 'sisr-patches-2', not 'sisr-patches-1'; shard it again"
    assert str(caught.value) == expected


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_any_other_safetensors_file_is_no_shard(
    metadata: dict[str, str] | None, tmp_path: Path
) -> None:
    path = tmp_path / "shard-00000.safetensors"
    save_file({"lr": np.zeros((1, 3, 2, 2), np.uint8)}, path, metadata=metadata)

    with pytest.raises(ShardError, match="has format None, not 'sisr-patches-1'"):
        Shard.open(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        (10**12).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (3).to_bytes(8, "little") + b"\xff\xfe{",
    ],
)
def test_what_is_no_safetensors_file_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.safetensors"
    path.write_bytes(data)

    with pytest.raises(ShardError, match=r"shard-00000\.safetensors is no shard: "):
        Shard.open(path)


def test_a_changed_header_is_a_shard_error_or_changes_no_pixel(one_shard: Path) -> None:
    whole = one_shard.read_bytes()
    lr, hr = read_with_the_library(one_shard.parent)
    draw = np.random.default_rng(0)
    num_refused = 0
    for place in range(8 + int.from_bytes(whole[:8], "little")):
        changed = bytes([draw.choice(list(b'0139ax"[]{},: -\0\xff'))])
        one_shard.write_bytes(whole[:place] + changed + whole[place + 1 :])
        try:
            shards = ShardSet(one_shard.parent)
        except ShardError:
            num_refused += 1
        else:
            got_lr, got_hr = shards.gather(np.arange(len(lr)))
            np.testing.assert_array_equal(got_lr, lr)
            np.testing.assert_array_equal(got_hr, hr)
    assert num_refused > 300


def test_sources_that_do_not_add_up_are_refused(one_shard: Path) -> None:
    text = one_shard.read_bytes()
    num_patches = sum(num for _, num in Shard.open(one_shard).sources)
    assert text.count(f"{num_patches}]]".encode()) == 1
    one_shard.write_bytes(
        text.replace(f"{num_patches}]]".encode(), f"{num_patches - 1}]]".encode())
    )

    with pytest.raises(ShardError, match="its patches and its list of sources disagree"):
        Shard.open(one_shard)


def test_a_scale_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError) as caught:
        ShardSet(tmp_path / "x2")
    assert str(caught.value) == f"no shards in {tmp_path}/x2; run the `shard` stage"


@pytest.fixture
def degraded(workspace: Workspace) -> Workspace:
    download(load_params(), load_catalogue(), Settings())
    degrade(2)
    return workspace


def test_the_training_pictures_of_a_workspace_are_sharded(degraded: Workspace) -> None:
    folder = degraded.path / "data" / "shards" / "x2"
    folder.mkdir(parents=True)
    (folder / "shard-00007.safetensors").write_bytes(b"stale")

    shard(("tiny_train",), 2, load_params().shards)

    assert [path.name for path in folder.iterdir()] == ["shard-00000.safetensors"]
    # 121×150 and 118×131, cropped to even, in patches of 48: 3×4 and 3×3 (3·48 = 144 < 150).
    expected = [("tiny_train/meadow.png", 12), ("tiny_train/pier.png", 9)]
    assert list(ShardSet(folder).sources()) == expected
    _, hr = read_with_the_library(folder)
    with Image.open(degraded.sources / "tiny_train" / "meadow.png") as image:
        np.testing.assert_array_equal(hr[0], rgb(np.asarray(image))[:, :48, :48])


def test_a_corrupt_lr_picture_is_named(degraded: Workspace) -> None:
    broken = degraded.path / "data/lr/x2/train/tiny_train/pier.png"
    broken.write_bytes(broken.read_bytes()[:99])

    with pytest.raises(ImageError, match=r"x2/train/tiny_train/pier\.png is corrupt"):
        shard(("tiny_train",), 2, load_params().shards)


def test_real_pictures_and_their_lr_patches_show_the_same(
    degraded: Workspace, make_photograph: Callable[..., np.ndarray]
) -> None:
    shard(("tiny_train",), 2, load_params().shards)

    lr, hr = read_with_the_library(degraded.path / "data" / "shards" / "x2")
    # Each LR pixel is close to the mean of its four HR pixels, and not so if misaligned by one.
    means = hr.reshape(len(hr), 3, 24, 2, 24, 2).mean(axis=(3, 5))
    error = np.abs(lr - means).mean()
    assert error < 2
    for axis in (2, 3):
        assert np.abs(lr - np.roll(means, 1, axis)).mean() > 2 * error
