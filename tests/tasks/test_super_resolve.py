import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import models
from models.interpolation import enlarge
from tasks.color import rgb_to_ycbcr_f64, ycbcr_to_rgb_f64
from tasks.errors import DeviceError, ImageError
from tasks.super_resolve import (
    read_picture,
    super_resolve,
    upscale,
    use_all_cores,
    write_picture,
)

# One of each kind: luminance or RGB, enlarged input or LR, and no parameters at all.
KINDS = ["srcnn", "vdsr_5", "cnn_small", "lesrcnn", "bicubic", "lanczos"]


def network(name: str, scale: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.create(name, scale)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("name", KINDS)
def test_tiles_give_the_answer_of_the_whole_picture(name: str, scale: int) -> None:
    rgb = torch.rand(1, 3, 75, 62, generator=torch.Generator().manual_seed(1))
    built, about = network(name, scale), models.get(name)

    whole = super_resolve(rgb, built, about, scale, tile_px=1000)
    tiled = super_resolve(rgb, built, about, scale, tile_px=24)

    assert whole.shape == (1, 3, 75 * scale, 62 * scale)
    torch.testing.assert_close(tiled, whole, atol=2e-6, rtol=0)


def test_a_luminance_network_leaves_cb_and_cr_bicubic() -> None:
    """Against the long way round: RGB -> YCbCr, each channel by itself, and back."""
    rgb = np.random.default_rng(2).uniform(0, 1, (1, 3, 20, 24))
    srcnn = network("srcnn").double()
    ycbcr = rgb_to_ycbcr_f64(rgb[0].transpose(1, 2, 0) * 255) / 255
    bicubic = enlarge(torch.from_numpy(ycbcr.transpose(2, 0, 1).copy())[None], 2)
    with torch.inference_mode():
        bicubic[:, :1] = srcnn(bicubic[:, :1])
    expected = ycbcr_to_rgb_f64(bicubic[0].numpy().transpose(1, 2, 0) * 255) / 255

    sr = super_resolve(torch.from_numpy(rgb), srcnn, models.get("srcnn"), 2)

    np.testing.assert_allclose(sr[0].numpy().transpose(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_damaged_exif_data_are_told(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (8, 8)).save(path, exif=b"Exif\0\0garbage")

    with pytest.raises(ImageError, match=rf"a\.{suffix} is corrupt.*garbage"):
        read_picture(path)
    with Image.open(path) as opened, pytest.raises(ImageError, match="EXIF data are damaged"):
        upscale(opened, network("nearest"), models.get("nearest"), 2)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("RGB", "RGB"),
        ("L", "L"),
        ("1", "L"),
        ("P", "RGB"),
        ("RGBA", "RGBA"),
        ("LA", "LA"),
        ("CMYK", "RGB"),
        ("I;16", "I;16"),
    ],
)
@pytest.mark.parametrize("name", ["cnn_small", "srcnn", "nearest"])
def test_every_kind_of_picture_is_enlarged(
    name: str, mode: str, expected: str, make_photograph: Callable[..., np.ndarray]
) -> None:
    rgb = Image.fromarray(make_photograph(13, 17, colour=True, seed=3))
    image = rgb.convert("L").convert(mode) if mode == "I;16" else rgb.convert(mode)

    enlarged = upscale(image, network(name), models.get(name), 2)

    assert (enlarged.mode, enlarged.size) == (expected, (34, 26))
    if name == "nearest":
        plain = np.asarray(image if mode == "I;16" else image.convert(expected))
        repeated = plain.repeat(2, axis=0).repeat(2, axis=1)
        np.testing.assert_array_equal(np.asarray(enlarged), repeated)


def test_nearest_repeats_pixels_in_every_channel(
    make_photograph: Callable[..., np.ndarray],
) -> None:
    rgb = make_photograph(9, 11, colour=True, seed=4)

    enlarged = upscale(Image.fromarray(rgb), network("nearest", 3), models.get("nearest"), 3)

    assert np.array_equal(np.asarray(enlarged), rgb.repeat(3, axis=0).repeat(3, axis=1))


def test_sixteen_bits_stay_sixteen_bits() -> None:
    levels = np.full((8, 8), 12345, np.uint16)

    enlarged = upscale(Image.fromarray(levels), network("bicubic"), models.get("bicubic"), 2)

    # 12345 is 48.04 in 8 bits: only 16-bit arithmetic gives it back.
    assert np.array_equal(np.asarray(enlarged), np.full((16, 16), 12345))


@pytest.mark.parametrize(("mode", "is_kept"), [("RGB", True), ("L", True), ("CMYK", False)])
def test_a_colour_profile_is_kept_where_it_still_fits(
    mode: str, is_kept: bool, tmp_path: Path
) -> None:
    image = Image.new(mode, (8, 8))
    image.info["icc_profile"] = b"profile"

    enlarged = upscale(image, network("nearest"), models.get("nearest"), 2)
    write_picture(tmp_path / "a.png", enlarged)

    with Image.open(tmp_path / "a.png") as written:
        assert written.info.get("icc_profile") == (b"profile" if is_kept else None)


def test_transparency_is_kept() -> None:
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 3] = 200
    rgba[:, :4, 3] = 0

    enlarged = np.asarray(
        upscale(Image.fromarray(rgba), network("bicubic"), models.get("bicubic"), 2)
    )

    assert np.all(enlarged[:, :3, 3] == 0)
    assert np.all(enlarged[:, -3:, 3] == 200)


def test_the_cameras_orientation_is_applied() -> None:
    image = Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = _through_png(image, exif)

    enlarged = upscale(turned, network("nearest"), models.get("nearest"), 2)

    upright = np.rot90(np.asarray(image), -1)  # 6: to be turned clockwise
    repeated = upright.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(np.asarray(enlarged), repeated)


def _through_png(image: Image.Image, exif: Image.Exif) -> Image.Image:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return Image.open(io.BytesIO(buffer.getvalue()))


def test_a_truncated_picture_is_refused(
    tmp_path: Path, make_photograph: Callable[..., np.ndarray]
) -> None:
    path = tmp_path / "half.png"
    Image.fromarray(make_photograph(40, 40, colour=True, seed=5)).save(path)
    path.write_bytes(path.read_bytes()[:-500])

    with pytest.raises(ImageError, match=r"half\.png is corrupt, truncated or no picture"):
        read_picture(path)


def test_a_format_that_cannot_hold_the_picture_is_refused(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4))

    with pytest.raises(ImageError, match=r"cannot write .*out\.jpg as JPEG.*use \.png"):
        write_picture(tmp_path / "out.jpg", image)
    with pytest.raises(ImageError, match=r"unknown suffix; use \.png"):
        write_picture(tmp_path / "out.xyz", image)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["srcnn", "lesrcnn", "bicubic"])
def test_tiles_together_give_the_answer_of_each_alone(name: str) -> None:
    rgb = torch.rand(2, 3, 30, 26, generator=torch.Generator().manual_seed(6))
    built, about = network(name), models.get(name)

    alone = super_resolve(rgb, built, about, 2, tile_px=10, batch=1)
    together = super_resolve(rgb, built, about, 2, tile_px=10, batch=3)

    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)


class _Small(nn.Module):
    """A GPU's memory: some tiles at once fit, or none."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.inner, self.most = network("nearest"), most
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        answer: Tensor = self.inner(x)
        return answer


def test_where_memory_does_not_suffice_fewer_tiles_go_at_a_time() -> None:
    rgb = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(9))
    small, about = _Small(most=2), models.get("nearest")

    sr = super_resolve(rgb, small, about, 2, tile_px=8, batch=8)

    assert torch.equal(sr, rgb.repeat_interleave(2, 2).repeat_interleave(2, 3))
    # 25 tiles, first the four corners: they have one size
    assert small.sizes[0] == 4
    assert (max(small.sizes[1:]), sum(small.sizes[1:])) == (2, 25)
    with pytest.raises(DeviceError, match=r"cpu: its memory does not suffice for a tile of \d+×"):
        super_resolve(rgb, _Small(most=0), about, 2, tile_px=8, batch=8)


def test_repeating_applies_the_network_to_its_own_unrounded_answer(
    make_photograph: Callable[..., np.ndarray],
) -> None:
    rgb = make_photograph(12, 10, colour=True, seed=7)
    x = torch.from_numpy(rgb.transpose(2, 0, 1).astype(np.float32) / 255)[None]
    for _ in range(2):
        x = enlarge(x, 2).clamp(0, 1)
    shares: list[float] = []

    enlarged = upscale(
        Image.fromarray(rgb),
        network("bicubic"),
        models.get("bicubic"),
        2,
        repeat=2,
        on_progress=shares.append,
    )

    expected = (x[0].numpy().transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
    assert np.array_equal(np.asarray(enlarged), expected)
    # one tile each; the second pass has four times the pixels
    assert shares == pytest.approx([1 / 5, 1])


def test_progress_rises_to_one() -> None:
    shares: list[float] = []

    super_resolve(
        torch.rand(1, 3, 40, 30),
        network("nearest"),
        models.get("nearest"),
        2,
        tile_px=16,
        on_progress=shares.append,
    )

    assert len(shares) == 6
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_bf16_is_near_and_is_not_used_for_interpolation() -> None:
    rgb = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(8))
    for name, least, most in (("srcnn", 1e-6, 0.02), ("bicubic", 0.0, 0.0)):
        built, about = network(name), models.get(name)

        exact = super_resolve(rgb, built, about, 2)
        rough = super_resolve(rgb, built, about, 2, precision="bf16")

        assert rough.dtype == torch.float32
        assert least <= float((rough - exact).abs().max()) <= most


def test_all_cores_are_used_unless_the_person_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert use_all_cores() == before
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert use_all_cores() == len(os.sched_getaffinity(0))
    finally:
        torch.set_num_threads(before)
