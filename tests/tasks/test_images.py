import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tasks.errors import ImageError
from tasks.images import list_images, read_image, write_png

# numpy's words for PNG's colour types: grey, RGB, grey with alpha, RGB with alpha.
GREY, RGB, GREY_ALPHA, RGB_ALPHA = 0, 2, 4, 6
CHANNELS = {GREY: 1, RGB: 3, GREY_ALPHA: 2, RGB_ALPHA: 4}


def png_bytes(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG file put together by hand, as ISO 15948 has it; every row starts with filter 0."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def decode_png(data: bytes) -> tuple[int, int, int, int, bytes]:
    """Width, height, depth, colour type and unpacked data of a PNG file, by hand."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place, packed, header = 8, b"", b""
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        name, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        header = body if name == b"IHDR" else header
        packed += body if name == b"IDAT" else b""
        place += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    return width, height, depth, colour, zlib.decompress(packed)


def test_an_rgb_picture_has_three_channels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(2, 1, 8, RGB, b"\0" + bytes([1, 2, 3, 4, 5, 255])))

    picture = read_image(path)

    assert picture.dtype == np.uint8
    assert picture.tolist() == [[[1, 2, 3], [4, 5, 255]]]


def test_a_grey_picture_has_two_axes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(3, 2, 8, GREY, bytes([0, 9, 8, 7, 0, 6, 5, 4])))

    assert read_image(path).tolist() == [[9, 8, 7], [6, 5, 4]]


def test_one_bit_a_pixel_becomes_black_and_white(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(3, 1, 1, GREY, b"\0" + bytes([0b10100000])))

    assert read_image(path).tolist() == [[255, 0, 255]]


@pytest.mark.parametrize(
    ("colour", "pixels", "expected"),
    [
        (RGB_ALPHA, [10, 20, 30, 0, 40, 50, 60, 128], [[[10, 20, 30], [40, 50, 60]]]),
        (GREY_ALPHA, [10, 0, 20, 128], [[10, 20]]),
    ],
)
def test_transparency_is_dropped_and_the_colours_stay(
    colour: int, pixels: list[int], expected: list[list[int]], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(2, 1, 8, colour, b"\0" + bytes(pixels)))

    assert read_image(path).tolist() == expected


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_a_palette_is_resolved(transparency: int | bytes | None, tmp_path: Path) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2, 1])
    more: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **more)

    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    assert read_image(tmp_path / "a.png").tolist() == expected


@pytest.mark.parametrize("colour", CHANNELS)
def test_a_png_of_16_bits_is_refused(colour: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_bytes(2, 1, 16, colour, b"\0" + bytes(2 * 2 * CHANNELS[colour])))

    with pytest.raises(ImageError, match=r"a\.png has more than the 8 bits a channel"):
        read_image(path)


def test_a_tiff_of_16_bits_is_refused(tmp_path: Path) -> None:
    pixels = bytes(range(12))  # 2×1 RGB pixels of 16 bits
    bits_at, pixels_at = 122, 128
    entries = [(256, 4, 1, 2), (257, 4, 1, 1), (258, 3, 3, bits_at), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 2), (273, 4, 1, pixels_at), (277, 3, 1, 3), (278, 4, 1, 1)]
    entries += [(279, 4, 1, len(pixels))]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    head = b"II*\0" + struct.pack("<I", 8) + directory
    data = head + struct.pack("<HHH", 16, 16, 16) + pixels
    assert (len(head), len(data)) == (bits_at, pixels_at + len(pixels))
    (tmp_path / "a.tif").write_bytes(data)

    with pytest.raises(ImageError, match=r"a\.tif has more than the 8 bits a channel"):
        read_image(tmp_path / "a.tif")


def test_a_floating_point_picture_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "a.tif")

    with pytest.raises(ImageError, match=r"8 bits a channel that data sets hold \(mode F\)"):
        read_image(tmp_path / "a.tif")


def test_a_16_bit_bmp_has_fewer_than_8_bits_a_channel_and_is_read(tmp_path: Path) -> None:
    # One pixel of 5-6-5 bits: all red, no green, all blue.
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    info = struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0) + masks
    head = b"BM" + struct.pack("<IHHI", 14 + len(info) + 4, 0, 0, 14 + len(info))
    (tmp_path / "a.bmp").write_bytes(head + info + struct.pack("<HH", 0xF81F, 0))

    assert read_image(tmp_path / "a.bmp").tolist() == [[[255, 0, 255]]]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".tif", ".webp"])
def test_a_file_cut_anywhere_is_refused(
    suffix: str, make_photograph: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(make_photograph(24, 31, colour=True, seed=3)).save(whole)
    data = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    assert read_image(whole).shape == (24, 31, 3)

    # A file that lacks only its last bytes may have all its pixels.
    for num_bytes in range(0, len(data) * 3 // 4, max(1, len(data) // 25)):
        cut.write_bytes(data[:num_bytes])
        with pytest.raises(ImageError, match=f"cut{suffix} is corrupt, truncated or no picture"):
            read_image(cut)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"BM"])
def test_what_is_no_picture_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(data)

    with pytest.raises(ImageError, match="is corrupt, truncated or no picture"):
        read_image(tmp_path / "a.png")


def test_a_missing_picture_is_an_image_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("side_px", [9_500, 14_000])  # a warning and an error in Pillow's words
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(
    side_px: int, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bytes(side_px, side_px, 8, RGB, b""))

    with pytest.raises(ImageError, match=r"bomb\.png is larger than Pillow's safety limit"):
        read_image(path)


PICTURES = st.one_of(
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))),
    arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(picture=PICTURES)
def test_a_picture_survives_png(picture: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"

    write_png(path, picture)

    again = read_image(path)
    assert again.shape == picture.shape
    assert (again == picture).all()
    width, height, depth, colour, _ = decode_png(path.read_bytes())
    assert (height, width) == picture.shape[:2]
    assert (depth, colour) == (8, GREY if picture.ndim == 2 else RGB)


def test_png_files_hold_the_pixels_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.full((1, 3), 77, np.uint8))

    *_, rows = decode_png((tmp_path / "a.png").read_bytes())
    assert rows in (bytes([0, 77, 77, 77]), bytes([1, 77, 0, 0]))  # filter none or sub
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_images_are_listed_by_name_whatever_the_case_of_their_suffix(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.txt", "Thumbs.db", "d.tiff", "e"):
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "z.png").touch()

    assert [path.name for path in list_images(tmp_path)] == ["a.jpeg", "b.PNG", "d.tiff"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()

    with pytest.raises(ImageError) as caught:
        list_images(tmp_path)
    known = ".bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp"
    assert str(caught.value) == f"no images found in {tmp_path}; known: {known}"


def test_the_orientation_that_a_camera_noted_is_not_followed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=exif)

    assert read_image(tmp_path / "a.jpg").shape == (20, 30, 3)


def test_the_preview_behind_a_camera_s_picture_is_ignored(tmp_path: Path) -> None:
    preview = Image.new("RGB", (6, 4))
    Image.new("RGB", (30, 20)).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview]
    )

    assert read_image(tmp_path / "a.jpg").shape == (20, 30, 3)


def test_one_pixel_is_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_bytes(1, 1, 8, RGB, b"\0\1\2\3"))

    assert read_image(tmp_path / "a.png").tolist() == [[[1, 2, 3]]]
