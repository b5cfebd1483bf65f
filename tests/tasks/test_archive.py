import gzip
import io
import stat
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tasks import archive
from tasks.archive import copy_images, fits, unpack_images
from tasks.errors import ArchiveError

PICTURE = b"any bytes: nobody looks into a picture while unpacking"
Maker = Callable[[Path, Mapping[str, bytes]], Path]


def make_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in members.items():
            opened.writestr(zipfile.ZipInfo(name), data, method)
    return path


def make_tar(path: Path, members: Mapping[str, bytes], packing: str = "") -> Path:
    with tarfile.open(path, f"w:{packing}") as opened:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return path


def make_tar_of(path: Path, *infos: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as opened:
        for info in infos:
            opened.addfile(info)
    return path


def tar_info(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


BOTH = pytest.mark.parametrize("make", [make_zip, make_tar])


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "target"
    folder.mkdir(parents=True)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*")}


def refusal(path: Path, target: Path, pattern: str = "**/*") -> str:
    with pytest.raises(ArchiveError) as caught:
        unpack_images(path, pattern, target)
    assert str(path) in str(caught.value)
    # Nothing may lie outside the target, whatever had been written into it by then.
    assert [each.name for each in target.parent.iterdir()] == ["target"]
    return str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        make_zip,
        lambda path, members: make_zip(path, members, zipfile.ZIP_STORED),
        make_tar,
        lambda path, members: make_tar(path, members, "gz"),
        lambda path, members: make_tar(path, members, "bz2"),
        lambda path, members: make_tar(path, members, "xz"),
    ],
)
def test_pictures_are_unpacked_flat_and_the_rest_is_left(
    make: Maker, tmp_path: Path, target: Path
) -> None:
    members = {
        "Set/b.png": b"1",
        "Set/deep/A.JPG": PICTURE * 1000,
        "top.bmp": b"3",
        "Set/readme.txt": b"no",
        "__MACOSX/Set/._b.png": b"no",
        "Set/__MACOSX/c.png": b"no",
        "Set/.DS_Store": b"no",
    }

    # The name says nothing about the kind: mirrors and caches name archives as they like.
    num = unpack_images(make(tmp_path / "some", members), "**/*", target)

    assert num == 3
    assert contents(target) == {"b.png": b"1", "A.JPG": PICTURE * 1000, "top.bmp": b"3"}


@BOTH
def test_only_what_fits_the_pattern_is_unpacked(make: Maker, tmp_path: Path, target: Path) -> None:
    members = {
        "Set5/image_SRF_2/img_001_SRF_2_HR.png": b"hr2",
        "Set5/image_SRF_2/img_001_SRF_2_LR.png": b"lr2",
        "Set5/image_SRF_3/img_001_SRF_3_HR.png": b"hr3",
    }

    num = unpack_images(make(tmp_path / "a", members), "*image_SRF_2/*_HR.png", target)

    assert num == 1
    assert contents(target) == {"img_001_SRF_2_HR.png": b"hr2"}


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("a.png", "**/*", True),
        ("x/y/a.WEBP", "**/*", True),
        ("x/a.gif", "**/*", False),
        ("x/png", "**/*", False),
        ("x/a.png", "x/*", True),
        ("x/y/a.png", "x/*", True),
        ("y/a.png", "x/*", False),
        ("X/a.png", "x/*", False),
        ("x/a.png", "*.bmp", False),
        ("x/a1.png", "x/a[0-9].png", True),
        ("__MACOSX/x/a.png", "*", False),
        ("my__MACOSX/a.png", "*", True),
        ("x/line\nbreak.png", "x/*", True),
    ],
)
def test_which_members_are_pictures(name: str, pattern: str, expected: bool) -> None:
    assert fits(name, pattern) is expected


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        "two words.png",
        'it\'s "quoted" $(touch x) `y`;.png',
        "Größe 漢字 🦋.png",
        "line\nbreak.png",
        "-rf.png",
        "..png",
        "a..b.png",
    ],
)
def test_odd_names_are_only_names(make: Maker, name: str, tmp_path: Path, target: Path) -> None:
    unpack_images(make(tmp_path / "a", {f"Set/{name}": PICTURE}), "Set/*", target)

    assert contents(target) == {name: PICTURE}


def test_an_archive_of_the_tar_command_is_unpacked(tmp_path: Path, target: Path) -> None:
    (tmp_path / "Set").mkdir()
    (tmp_path / "Set" / "Größe 1.png").write_bytes(PICTURE)
    subprocess.run(["tar", "-czf", "a.tgz", "./Set"], cwd=tmp_path, check=True)

    assert unpack_images(tmp_path / "a.tgz", "**/*", target) == 1
    assert contents(target) == {"Größe 1.png": PICTURE}


@BOTH
@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "Set/../../evil.png",
        "/tmp/evil.png",
        "..\\evil.png",
        "Set\\..\\..\\evil.png",
        "\\evil.png",
        "C:\\evil.png",
        "C:evil.png",
        "../evil.txt",
    ],
)
def test_a_member_that_would_leave_the_folder_is_refused(
    make: Maker, name: str, tmp_path: Path, target: Path
) -> None:
    path = make(tmp_path / "a", {"Set/good.png": PICTURE, name: PICTURE})

    text = refusal(path, target)

    assert text == (
        f"{path}: member {name!r} would leave the target folder; do not use this archive"
    )
    assert contents(target) == {}  # all members are checked before the first is written


@pytest.mark.parametrize(
    "info",
    [
        tar_info("a.png", tarfile.SYMTYPE, "/etc/passwd"),
        tar_info("a.png", tarfile.LNKTYPE, "b.png"),
        tar_info("a.png", tarfile.FIFOTYPE),
        tar_info("a.png", tarfile.CHRTYPE),
        tar_info("a.png", tarfile.BLKTYPE),
        tar_info("not-a-picture", tarfile.SYMTYPE, "/"),
    ],
    ids=["symbolic", "hard", "fifo", "character", "block", "not a picture"],
)
def test_links_and_devices_in_a_tar_are_refused(
    info: tarfile.TarInfo, tmp_path: Path, target: Path
) -> None:
    path = make_tar_of(tmp_path / "a.tar", tar_info("b.png", tarfile.REGTYPE), info)

    text = refusal(path, target)

    assert text == (f"{path}: member {info.name!r} is a link, a device or sparse; pack plain files")


def test_a_link_in_a_zip_is_refused(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "a.zip"
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr(info, "/etc/passwd")

    assert refusal(path, target) == (
        f"{path}: member 'a.png' is a link, a device or sparse; pack plain files"
    )


@BOTH
def test_two_pictures_of_one_name_are_refused(make: Maker, tmp_path: Path, target: Path) -> None:
    path = make(tmp_path / "a", {"x2/a.png": b"1", "x3/a.png": b"2"})

    assert refusal(path, target) == (
        f"{path} holds two pictures named 'a.png'; rename one or narrow `images`"
    )
    # With a pattern that takes one of them there is nothing to confuse.
    assert unpack_images(path, "x3/*", target) == 1
    assert contents(target) == {"a.png": b"2"}


def test_one_name_given_twice_is_refused(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "a.zip"
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(path, "w") as opened,
    ):
        opened.writestr("a.png", "1")
        opened.writestr("a.png", "2")

    assert refusal(path, target) == (
        f"{path} holds two pictures named 'a.png'; rename one or narrow `images`"
    )


@BOTH
def test_a_member_over_the_limit_is_refused_and_not_unpacked(
    make: Maker, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 1000)
    assert unpack_images(make(tmp_path / "a", {"a.png": bytes(1000)}), "**/*", target) == 1
    (target / "a.png").unlink()

    text = refusal(make(tmp_path / "b", {"bomb.txt": bytes(1001)}), target)

    assert "member 'bomb.txt' brings it to 1001 unpacked bytes; the limits are 1000" in text
    assert contents(target) == {}


@BOTH
def test_all_members_together_have_a_limit(
    make: Maker, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_UNPACKED_BYTES", 1000)
    members = {f"{number}.png": bytes(250) for number in range(4)}
    assert unpack_images(make(tmp_path / "a", members), "**/*", target) == 4
    for path in target.iterdir():
        path.unlink()

    text = refusal(make(tmp_path / "b", members | {"last.png": b"x"}), target)

    assert "member 'last.png' brings it to 1001 unpacked bytes" in text
    assert contents(target) == {}


@BOTH
def test_the_number_of_members_has_a_limit(
    make: Maker, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    members = {f"{number}.png": b"" for number in range(3)}
    assert unpack_images(make(tmp_path / "a", members), "**/*", target) == 3

    path = make(tmp_path / "b", members | {"fourth.txt": b""})
    assert refusal(path, target).startswith(f"{path} has more than 3 members; ")


def test_folders_count_as_members(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    folders = [tar_info(str(number), tarfile.DIRTYPE) for number in range(4)]

    text = refusal(make_tar_of(tmp_path / "a.tar", *folders), target)

    assert "has more than 3 members" in text


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path, target: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"other.png": b"other"}).read_bytes()
    path = make_tar(tmp_path / "a.tar", {"a.png": PICTURE, "inner.zip": inner})
    assert zipfile.is_zipfile(path)  # which looks at the end only

    assert unpack_images(path, "**/*", target) == 1
    assert contents(target) == {"a.png": PICTURE}


def test_a_picture_may_shrink_much_in_a_small_archive(tmp_path: Path, target: Path) -> None:
    drawing = bytes(30_000_000)
    path = make_zip(tmp_path / "a.zip", {"a.bmp": drawing})
    assert len(drawing) > archive.MAX_RATIO * path.stat().st_size

    assert unpack_images(path, "**/*", target) == 1


def test_a_zip_that_declares_less_than_it_holds_is_refused(tmp_path: Path, target: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"bomb.png": bytes(5_000_000)})
    data = path.read_bytes()
    true, false = struct.pack("<I", 5_000_000), struct.pack("<I", 10)
    assert data.count(true) == 2  # once before the member, once in the directory
    path.write_bytes(data.replace(true, false))

    assert "is corrupt: Bad CRC-32" in refusal(path, target)
    assert (target / "bomb.png").stat().st_size <= 10


@pytest.mark.parametrize("surplus", [1, 5_000_000])
def test_copying_stops_at_the_declared_size_whatever_the_reader_gives(
    surplus: int, tmp_path: Path
) -> None:
    # zipfile and tarfile stop there by themselves; this is for the day that one does not.
    member = archive._Member("bomb.png", 10, is_folder=False, is_plain=True)
    exact, written = io.BytesIO(bytes(10)), io.BytesIO()
    archive._copy_bounded(exact, written, member, tmp_path)
    assert written.getvalue() == bytes(10)

    target = io.BytesIO()
    with pytest.raises(ArchiveError, match=r"member 'bomb\.png' is larger than it declares"):
        archive._copy_bounded(io.BytesIO(bytes(10 + surplus)), target, member, tmp_path)
    assert len(target.getvalue()) <= 10


def test_a_tar_that_declares_more_than_it_holds_is_refused(tmp_path: Path, target: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"a.png": bytes(5000)})
    path.write_bytes(path.read_bytes()[:3000])

    assert "is corrupt: unexpected end of data" in refusal(path, target)


def test_an_encrypted_zip_is_refused(tmp_path: Path, target: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": PICTURE})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag "encrypted", before the member ...
    data[data.index(b"PK\x01\x02") + 8] |= 1  # ... and in the directory
    path.write_bytes(data)

    assert "cannot be read: File 'a.png' is encrypted, password required" in refusal(path, target)


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"])
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path, target: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(data)

    assert refusal(path, target).startswith(f"{path} is neither a zip nor a tar archive")


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_a_damaged_zip_is_refused_wherever_the_damage_is(
    method: int, tmp_path: Path, target: Path
) -> None:
    noise = bytes((i * i * 31 + 7 * i) % 251 for i in range(3000))
    path = make_zip(tmp_path / "a.zip", {"a.png": noise, "ä.png": noise[::-1]}, method)
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    inside = [60, directory // 3, directory // 2 - 9]

    for place in inside:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert "is corrupt: " in refusal(path, target)


def test_a_zip_with_a_name_that_is_no_text_is_refused(tmp_path: Path, target: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"ä.png": PICTURE})
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))

    assert "is corrupt: 'utf-8' codec can't decode" in refusal(path, target)


def test_a_zip_with_a_false_offset_is_refused(tmp_path: Path, target: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"a.png": PICTURE})
    data = bytearray(path.read_bytes())
    end = data.index(b"PK\x05\x06")
    data[end + 16 : end + 20] = struct.pack("<I", 10**6)  # where the directory lies
    path.write_bytes(data)

    assert "is corrupt: " in refusal(path, target)


@pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz"])
def test_a_cut_tar_is_refused(packing: str, tmp_path: Path, target: Path) -> None:
    noise = bytes((i * i * 31 + 7 * i) % 251 for i in range(300_000))
    path = make_tar(tmp_path / "a.tar", {"a.png": noise, "b.png": noise[::-1]}, packing)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    # bz2 packs so much at once that not even the first member can be read.
    assert refusal(path, target).startswith((f"{path} is corrupt: ", f"{path} is neither a zip"))


@pytest.mark.parametrize(
    ("place", "reason"), [(-8, "CRC check failed"), (10, "Error -3 while decompressing")]
)
def test_a_damaged_packed_tar_is_refused(
    place: int, reason: str, tmp_path: Path, target: Path
) -> None:
    path = make_tar(tmp_path / "a.tar", {"a.png": bytes(9000)})
    plain = path.read_bytes()
    # Two halves packed one by one; the checksum of the second, or its first block, is damaged.
    parts = [bytearray(gzip.compress(half)) for half in (plain[:5000], plain[5000:9500])]
    parts[1][place] ^= 7
    path.write_bytes(b"".join(parts) + gzip.compress(plain[9500:]))

    assert f"is corrupt: {reason}" in refusal(path, target)


def test_a_name_too_long_for_the_file_system_is_refused(tmp_path: Path, target: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {f"{'a' * 300}.png": PICTURE})

    assert "File name too long" in refusal(path, target)


def test_folders_count_for_nothing(tmp_path: Path, target: Path) -> None:
    path = make_tar_of(tmp_path / "a.tar", tar_info("Set.png", tarfile.DIRTYPE))

    assert unpack_images(path, "**/*", target) == 0
    assert contents(target) == {}


def test_the_pictures_of_a_folder_are_copied_flat(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "mine"
    for name in ("a.png", "deep/er/b.jpg", "notes.txt", "deep/__MACOSX/c.png"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())

    assert copy_images(source, "**/*", target) == 2
    assert contents(target) == {"a.png": b"a.png", "b.jpg": b"deep/er/b.jpg"}


def test_only_what_fits_the_pattern_is_copied(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "mine"
    for name in ("HR/a.png", "LR/a.png"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_bytes(name.encode())

    assert copy_images(source, "HR/*", target) == 1
    assert contents(target) == {"a.png": b"HR/a.png"}

    with pytest.raises(ArchiveError, match=r"mine holds two pictures named 'a\.png'; rename"):
        copy_images(source, "*", target)
