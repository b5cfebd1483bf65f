"""What sisr answers to hostile and broken inputs: `python -m tests.hostile_inputs`.

Makes each input in a temporary folder, gives it to the code that reads such inputs, and prints a
Markdown table: input, error, message. `tests/test_hostile_inputs.py` runs the same cases.
"""

import contextlib
import gzip
import http.server
import io
import json
import os
import pickle
import re
import stat
import struct
import tarfile
import tempfile
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tasks.archive import copy_images
from tasks.config import Dataset, Settings, load_catalogue, load_params
from tasks.download import fetch_dataset
from tasks.errors import (
    ArchiveError,
    DownloadError,
    ImageError,
    ParamsError,
    SisrError,
    WeightsError,
)
from tasks.foreign_weights import read_tensors
from tasks.images import read_image
from tasks.parameter_sets import adopt

REPOSITORY = Path(__file__).parent.parent
PARAMS = (REPOSITORY / "params.yaml").read_text("utf-8")
SMALL = 64  # bytes of a harmless member


@dataclass(frozen=True)
class Case:
    """One input: `make` writes it into a folder and returns what to give to `read`."""

    group: str
    name: str
    error: type[SisrError]
    make: Callable[[Path], Any]
    read: Callable[[Any], object]

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


# --- archives --------------------------------------------------------------------------------


def _zip(*members: tuple[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as opened:
        warnings.simplefilter("ignore")  # of one name given twice
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            opened.writestr(info, data, method)
    return buffer.getvalue()


def _tar(*members: tuple[str, bytes], **header: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as opened:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in header.items():
                setattr(info, key, value)
            opened.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _tar_header(name: str, kind: bytes, num_bytes: int, data: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, num_bytes
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def _gzip_of_zeros(start: bytes, num_bytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(start)]
    parts += [packer.compress(bytes(2**20)) for _ in range(num_bytes // 2**20)]
    return b"".join([*parts, packer.flush()])


def _pax_size(num_bytes: int) -> bytes:
    record = f"size={num_bytes}\n"
    record = f"{len(record) + 3} {record}"
    header = _tar_header("pax", tarfile.XHDTYPE, len(record), record.encode())
    return header + _tar_header("a.png", tarfile.REGTYPE, 0) + bytes(1024)


def _damaged_zip() -> bytes:
    data = bytearray(_zip(("a.png", bytes(range(256)) * 8), method=zipfile.ZIP_STORED))
    data[200] ^= 1
    return bytes(data)


def _encrypted_zip() -> bytes:
    data = bytearray(_zip(("a.png", bytes(SMALL))))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def _lying_zip() -> bytes:
    data = _zip(("a.png", bytes(5_000_000)))
    return data.replace(struct.pack("<I", 5_000_000), struct.pack("<I", 10))


def _overlapping_zip() -> bytes:
    """Two entries of the directory that share one member's bytes."""
    data = bytearray(_zip(("a.png", bytes(SMALL)), ("b.png", bytes(SMALL))))
    entries = [place for place in range(len(data)) if data[place : place + 4] == b"PK\x01\x02"]
    data[entries[1] + 42 : entries[1] + 46] = struct.pack("<I", 0)
    return bytes(data)


DATA = bytes(SMALL)
ARCHIVES: dict[str, Callable[[], bytes]] = {
    "zip, member ../evil.png": lambda: _zip(("../evil.png", DATA)),
    "tar, member ../evil.png": lambda: _tar(("../evil.png", DATA)),
    "zip, member /tmp/evil.png": lambda: _zip(("/tmp/evil.png", DATA)),
    "tar, member a/../../evil.png": lambda: _tar(("a/../../evil.png", DATA)),
    "zip, member ..\\evil.png": lambda: _zip(("..\\evil.png", DATA)),
    "zip, member C:\\evil.png": lambda: _zip(("C:\\evil.png", DATA)),
    "tar, folder ../evil": lambda: _tar(("../evil", b""), type=tarfile.DIRTYPE),
    "tar, name that is not UTF-8": lambda: _tar(("\udcff.png", DATA)),
    "tar, symbolic link": lambda: _tar(("a.png", b""), type=tarfile.SYMTYPE, linkname="/etc/hosts"),
    "tar, hard link": lambda: _tar(("a.png", b""), type=tarfile.LNKTYPE, linkname="/etc/hosts"),
    "tar, character device": lambda: _tar(("a.png", b""), type=tarfile.CHRTYPE),
    "tar, block device": lambda: _tar(("a.png", b""), type=tarfile.BLKTYPE),
    "tar, named pipe": lambda: _tar(("a.png", b""), type=tarfile.FIFOTYPE),
    "tar, sparse file": lambda: _tar(("a.png", b""), type=tarfile.GNUTYPE_SPARSE),
    "zip, symbolic link": lambda: _zip(("a.png", b"/etc/hosts"), mode=stat.S_IFLNK | 0o777),
    "zip, device": lambda: _zip(("a.png", b""), mode=stat.S_IFCHR | 0o666),
    "zip, one name twice": lambda: _zip(("a.png", DATA), ("a.png", DATA)),
    "zip, two folders, one name": lambda: _zip(("x/a.png", DATA), ("y/a.png", DATA)),
    "zip, names that differ in letter case": lambda: _zip(("a.png", DATA), ("A.png", DATA)),
    "tar, ö written in two ways": lambda: _tar(("\u00f6.png", DATA), ("o\u0308.png", DATA)),
    "zip, 100 MB of zeros": lambda: _zip(("a.png", bytes(100_000_000))),
    "tar.gz, 100 MB of zeros": lambda: _gzip_of_zeros(
        _tar_header("a.png", tarfile.REGTYPE, 100_000_000), 100_000_000
    ),
    "zip, a member declared as 2 GiB": lambda: _zip(("a.png", DATA)).replace(
        struct.pack("<II", SMALL, 0)[:4], struct.pack("<I", 2**31)
    ),
    "zip, a member larger than declared": _lying_zip,
    "zip, overlapping members": _overlapping_zip,
    "tar.gz, a member's name of 100 MB": lambda: _gzip_of_zeros(
        _tar_header("x", tarfile.GNUTYPE_LONGNAME, 100_000_000), 100_000_000
    ),
    "tar, a member of -512 bytes": lambda: _pax_size(-512),
    "zip, wrong CRC": _damaged_zip,
    "zip, cut": lambda: _zip(("a.png", os.urandom(4000)))[:2000],
    "tar, cut": lambda: _tar(("a.png", os.urandom(4000)))[:2000],
    "tar.gz, cut": lambda: gzip.compress(_tar(("a.png", os.urandom(4000))))[:2000],
    "zip, encrypted": _encrypted_zip,
    "zip in a tar": lambda: _tar(("inner.zip", _zip(("../evil.png", DATA)))),
    "a web page": lambda: b"<!DOCTYPE html><title>Please log in</title>",
    "an empty file": lambda: b"",
}


def _archive_case(name: str, data: Callable[[], bytes]) -> Case:
    def make(folder: Path) -> Path:
        (folder / "set.zip").write_bytes(data())
        return folder

    def read(folder: Path) -> None:
        (folder / "target").mkdir()
        settings = Settings(archive_cache=folder / "cache")
        fetch_dataset("mine", Dataset(url=str(folder / "set.zip")), folder / "target", settings)

    # The member in a nested archive is none that is looked for.
    return Case("archive", name, ImageError if name == "zip in a tar" else ArchiveError, make, read)


# --- folders of pictures ---------------------------------------------------------------------


def _folder(**files: Callable[[Path], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "mine").mkdir()
        for name, write in files.items():
            write(folder / "mine" / name.replace("_", "."))
        return folder

    return make


def _copy(folder: Path) -> None:
    (folder / "target").mkdir()
    copy_images(folder / "mine", "**/*", folder / "target")


def _bad_name(folder: Path) -> Path:
    (folder / "mine").mkdir()
    (folder / "mine" / "\udcff.png").touch()
    return folder


FOLDERS = [
    Case(
        "folder", "a broken link", ArchiveError,
        _folder(a_png=lambda path: path.symlink_to("nowhere")), _copy,
    ),
    Case("folder", "a named pipe called a.png", ArchiveError, _folder(a_png=os.mkfifo), _copy),
    Case(
        "folder", "a.png and A.png", ArchiveError,
        _folder(a_png=Path.touch, A_png=Path.touch), _copy,
    ),
    Case("folder", "a name that is not UTF-8", ArchiveError, _bad_name, _copy),
]  # fmt: skip


# --- pictures --------------------------------------------------------------------------------


def _png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _saved(kind: str, mode: str = "RGB", num_frames: int = 1) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new(mode, (20, 20), 70 * number) for number in range(num_frames)]
    more = {"save_all": True, "append_images": frames[1:]} if num_frames > 1 else {}
    frames[0].save(buffer, kind, **more)
    return buffer.getvalue()


def _noise_png() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    b"(%pipe%touch canary) (w) file closefile\nshowpage\n%%EOF\n"
)
PICTURES: dict[str, Callable[[], bytes]] = {
    "PostScript (EPS) called .png": lambda: POSTSCRIPT,
    "PDF called .png": lambda: b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n",
    "SVG called .png": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>',
    "GIF called .png": lambda: _saved("GIF", "P"),
    "a web page called .png": lambda: b"<html>404</html>",
    "an empty file": lambda: b"",
    "cut in the middle": lambda: _noise_png()[:6000],
    "a wrong CRC": lambda: _noise_png().replace(b"IDAT", b"IDAU", 1),
    "bomb, 14000×14000": lambda: _png(14_000, 14_000),
    "bomb, 9500×9500": lambda: _png(9_500, 9_500),
    "bomb, 2^31-1 squared": lambda: _png(2**31 - 1, 2**31 - 1),
    "0×0 pixels": lambda: _png(0, 0),
    "16 bits a channel": lambda: _png(2, 1, depth=16, rows=bytes(13)),
    "floating-point TIFF": lambda: _saved("TIFF", "F"),
    "CMYK JPEG": lambda: _saved("JPEG", "CMYK"),
    "LAB TIFF": lambda: _saved("TIFF", "LAB"),
    "animated PNG": lambda: _saved("PNG", num_frames=3),
    "animated WebP": lambda: _saved("WEBP", num_frames=3),
    "TIFF of three pages": lambda: _saved("TIFF", num_frames=3),
}


def _file(name: str, data: Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data())
        return folder / name

    return make


def _pipe(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    return make


def _a_folder(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).mkdir()
        return folder / name

    return make


# --- weights ---------------------------------------------------------------------------------


class _Call:
    """Pickles as a call; unpickling would make it."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _checkpoint(pickled: bytes, *storages: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    members = [("archive/data.pkl", pickled)]
    members += [(f"archive/data/{key}", data) for key, data in enumerate(storages)]
    return _zip(*members, method=method)


def _claim(numel: int, size: int, stride: int = 1, offset: int = 0) -> bytes:
    """The pickle of a state dict with one tensor of `size` numbers over a storage of `numel`."""

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    storage = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu" + number(numel) + b"tQ"
    view = number(offset) + number(size) + b"\x85" + number(stride) + b"\x85\x89}tR"
    return b"\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"s."


def _growing() -> bytes:
    """One list of 60,000 pairs, made a dict again and again: a thousand laughs."""
    pairs = b"".join(b"M" + struct.pack("<H", key) + b"N\x86" for key in range(60_000))
    call = b"h\x01h\x00\x85R"
    return (
        b"\x80\x02(](" + pairs + b"eq\x00ccollections\nOrderedDict\nq\x01" + call * 20_000 + b"t."
    )


def _safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _entry(start: int, stop: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


EIGHT = bytes(8)
WEIGHTS: dict[str, Callable[[], bytes]] = {
    "pickle, os.system": lambda: pickle.dumps(_Call(os.system, "touch canary"), 2),
    "zip, eval in data.pkl": lambda: _checkpoint(
        pickle.dumps({"w": _Call(eval, "open('canary', 'w')")}, 2)
    ),
    "zip, compressed bomb": lambda: _checkpoint(
        _claim(2, 2), bytes(100_000_000), method=zipfile.ZIP_DEFLATED
    ),
    "zip, tensor of 2^30 numbers on 8 bytes": lambda: _checkpoint(_claim(2**30, 2**30), EIGHT),
    "zip, 2^30 numbers with stride 0": lambda: _checkpoint(_claim(2, 2**30, stride=0), EIGHT),
    "zip, negative stride": lambda: _checkpoint(_claim(2, 2, stride=-1), EIGHT),
    "zip, negative offset": lambda: _checkpoint(_claim(2, 2, offset=-1), EIGHT),
    "zip, tensor beyond its storage": lambda: _checkpoint(_claim(2, 2, offset=1), EIGHT),
    "zip, storage shorter than claimed": lambda: _checkpoint(_claim(2, 2), bytes(4)),
    "zip, missing storage": lambda: _checkpoint(_claim(2, 2)),
    "pickle, one list made a dict 20,000 times": lambda: _checkpoint(_growing()),
    "pickle, 2,000,000 instructions": lambda: _checkpoint(b"\x80\x02" + b"]" * 2_000_000),
    "pickle, 500,000 tuples in each other as a key": lambda: _checkpoint(
        b"\x80\x02})" + b"\x85" * 500_000 + b"Ns."
    ),
    "pickle, a dict in itself": lambda: _checkpoint(b"\x80\x02}q\x00U\x05modelh\x00s."),
    "pickle, an integer of 40,000,000 bits": lambda: _checkpoint(
        b"\x80\x02\x8b" + struct.pack("<i", 5_000_000) + b"\x7f" * 5_000_000 + b"."
    ),
    "pickle, a string of 2 GiB in 9 bytes": lambda: _checkpoint(b"X\xff\xff\xff\x7fshort."),
    "safetensors, header of 2^60 bytes": lambda: _safetensors({}, length=2**60),
    "safetensors, header of 90 MB in a small file": lambda: _safetensors({}, length=90_000_000),
    "safetensors, overlapping tensors": lambda: _safetensors(
        {"v": _entry(0, 8), "w": _entry(4, 12)}, bytes(12)
    ),
    "safetensors, F64 on the bytes of F32": lambda: _safetensors({"w": _entry(0, 8, "F64")}, EIGHT),
    "safetensors, unknown type": lambda: _safetensors({"w": _entry(0, 8, "Q7")}, EIGHT),
    "safetensors, 2^64 numbers": lambda: _safetensors({"w": _entry(0, 8, shape=(2**62, 4))}, EIGHT),
    "safetensors, negative size": lambda: _safetensors({"w": _entry(0, 8, shape=(-2,))}, EIGHT),
    "safetensors, header 100,000 levels deep": lambda: _safetensors(
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    ),
    "safetensors, bytes that no tensor owns": lambda: _safetensors({"w": _entry(0, 8)}, bytes(80)),
    "a web page": lambda: b"<html>not found</html>",
    "an empty file": lambda: b"",
}


# --- parameters and catalogues ---------------------------------------------------------------


def _laughs() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return PARAMS + "\n".join(lines) + "\n"


def _with_seed(text: str) -> Callable[[], bytes]:
    return lambda: PARAMS.replace("seed: 1", f"seed: {text}", 1).encode("utf-8", "surrogatepass")


def _with_test_set(name: str) -> Callable[[], bytes]:
    return lambda: PARAMS.replace("[sample_test]", f"[{json.dumps(name)}]", 1).encode()


def _text(text: str) -> Callable[[], bytes]:
    return text.encode


YAMLS: dict[str, Callable[[], bytes]] = {
    "!!python/object/apply:os.system": _with_seed("!!python/object/apply:os.system [touch canary]"),
    "an unknown tag": _with_seed("!mine 1"),
    "!!binary": _with_seed("!!binary aGVsbG8="),
    "a billion laughs (aliases)": lambda: _laughs().encode(),
    "a list in itself": _text(PARAMS + "x: &a [*a]\n"),
    "100,000 brackets": _text(PARAMS + "x: " + "[" * 100_000 + "\n"),
    "2 MiB of comments": _text(PARAMS + "#" * 2**21),
    "a key given twice": _text(PARAMS + "seed: 2\n"),
    "an unknown key": _text(PARAMS + "sed: 2\n"),
    "a list as a key": lambda: b"? [a, b]\n: 1\n",
    ".nan": _with_seed(".nan"),
    ".inf": _with_seed(".inf"),
    "-1": _with_seed("-1"),
    "true": _with_seed("true"),
    "a text": _with_seed("one"),
    "30 digits": _with_seed("9" * 30),
    "5,000 digits": _with_seed("9" * 5000),
    "20,000 bits, hexadecimal": _with_seed("0x" + "f" * 5000),
    "an unquoted date": _with_seed("2024-05-01"),
    "half a character (\\ud800)": _with_seed('"\\ud800"'),
    "two documents": _text(PARAMS + "---\nseed: 2\n"),
    "NUL": lambda: PARAMS.encode() + b"x: \0\n",
    "UTF-16": lambda: PARAMS.encode("utf-16"),
    "Latin-1": lambda: (PARAMS + "# für\n").encode("latin-1"),
    "an empty file": lambda: b"",
    "a learning rate of 1e999": lambda: PARAMS.replace("0.001", "1e999").encode(),
    **{
        f"data set named {name!r}": _with_test_set(name)
        for name in (
            "../x", "a/b", "/etc", "", " ", "a\nb", "a'b", 'a"b', ".", "..", "-rf", "a" * 101,
        )
    },
}  # fmt: skip

CATALOGUES: dict[str, Callable[[], bytes]] = {
    "name ../x": lambda: b"../x: {url: /pictures}\n",
    "291 and '291'": lambda: b"291: {url: a}\n'291': {url: b}\n",
    "no name (~)": lambda: b"~: {url: /pictures}\n",
    "no mapping": lambda: b"- a\n",
    "sha256 that is none": lambda: b"mine: {url: a, sha256: abc}\n",
    "archive ../../secret.zip": lambda: b"mine: {archive: ../../secret.zip}\n",
    "installed file ../../../etc/passwd": lambda: (
        b"mine: {installed: {skimage: [../../../etc/passwd]}}\n"
    ),
    "installed package os.path": lambda: b"mine: {installed: {os.path: [a.png]}}\n",
}


def _load_and_adopt(path: Path) -> None:
    try:
        load_params(path)
    except ParamsError:
        adopt(path)  # must say the same, and change nothing
        raise AssertionError(f"{path} was adopted") from None


# --- addresses and servers -------------------------------------------------------------------


def _address(url: str) -> Callable[[Path], tuple[str, Path]]:
    return lambda folder: (url, folder)


def _fetch(made: tuple[str, Path]) -> None:
    url, folder = made
    (folder / "target").mkdir()
    settings = Settings(archive_cache=folder / "cache")
    fetch_dataset("mine", Dataset(url=url), folder / "target", settings)


ADDRESSES = {
    "ftp://user:secret@host/a.zip": ParamsError,
    "javascript:alert(1)": ParamsError,
    "data:text/plain,hello": ParamsError,
    "file://other-host/etc/passwd": ParamsError,
    "http://[::1": ParamsError,
    "http://user:sec/ret@host/a.zip": ParamsError,
    "https:///a.zip": ParamsError,
    "http://host:99999/a.zip": ParamsError,
    "C:\\pictures": ParamsError,
    "/no/such/file.zip": ParamsError,
    "/dev/zero": ParamsError,
    "http://user:secret@127.0.0.1:1/a.zip?token=secret": DownloadError,
}

ANSWERS: dict[str, tuple[type[SisrError], int, dict[str, str], bytes]] = {
    "redirects to file:///etc/hosts": (DownloadError, 302, {"Location": "file:///etc/hosts"}, b""),
    "redirects to ftp://host/a": (DownloadError, 302, {"Location": "ftp://host/a"}, b""),
    "redirects to itself": (DownloadError, 302, {"Location": "/"}, b""),
    "404": (DownloadError, 404, {}, b"not here"),
    "500": (DownloadError, 500, {}, b"broken"),
    "Content-Length larger than the body": (DownloadError, 200, {"Content-Length": "999"}, b"PK"),
    "Content-Length that is no number": (DownloadError, 200, {"Content-Length": "many"}, b"PK"),
    "announces 2^62 bytes": (ArchiveError, 200, {"Content-Length": str(2**62)}, b"PK"),
    "a web page instead of an archive": (ArchiveError, 200, {}, b"<html>Log in first</html>"),
    "no HTTP": (DownloadError, 0, {}, b"SSH-2.0-OpenSSH_9\r\n"),
}  # fmt: skip


@contextlib.contextmanager
def answering(status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """The address of a server of this machine that gives one answer to everything."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if status:
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://user:secret@127.0.0.1:{listening.server_port}/"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def _server_case(name: str) -> Case:
    error, status, headers, body = ANSWERS[name]

    def read(folder: Path) -> None:
        with answering(status, headers, body) as url:
            _fetch((url, folder))

    return Case("server", name, error, lambda folder: folder, read)


CASES = [
    *(_archive_case(name, data) for name, data in ARCHIVES.items()),
    *FOLDERS,
    *(
        Case("picture", name, ImageError, _file("a.png", data), read_image)
        for name, data in PICTURES.items()
    ),
    Case("picture", "a named pipe", ImageError, _pipe("a.png"), read_image),
    Case("picture", "a folder", ImageError, _a_folder("a.png"), read_image),
    *(
        Case("weights", name, WeightsError, _file("w.pth", data), read_tensors)
        for name, data in WEIGHTS.items()
    ),
    Case("weights", "a named pipe", WeightsError, _pipe("w.pth"), read_tensors),
    *(
        Case("params.yaml", name, ParamsError, _file("p.yaml", data), _load_and_adopt)
        for name, data in YAMLS.items()
    ),
    Case("params.yaml", "a named pipe", ParamsError, _pipe("p.yaml"), _load_and_adopt),
    Case("params.yaml", "a folder", ParamsError, _a_folder("p.yaml"), _load_and_adopt),
    *(
        Case("datasets.yaml", name, ParamsError, _file("d.yaml", data), load_catalogue)
        for name, data in CATALOGUES.items()
    ),
    *(Case("url", url, error, _address(url), _fetch) for url, error in ADDRESSES.items()),
    *(_server_case(name) for name in ANSWERS),
]


def refusal(case: Case, folder: Path) -> SisrError:
    """What is answered to one case, made in an empty folder.

    Raises:
        AssertionError: it was taken for good.
    """
    made = case.make(folder)
    try:
        case.read(made)
    except SisrError as error:
        return error
    raise AssertionError(f"{case} was not refused")


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's, besides our error
    print("| input | error | message |\n|---|---|---|")
    for case in CASES:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            tempfile.TemporaryDirectory(prefix="sisr-") as name,
        ):
            folder = Path(name).resolve()
            error = refusal(case, folder)
        print(row(case, error, folder))


def row(case: Case, error: SisrError, folder: Path) -> str:
    """What the table has of the answer to a case that was made in a folder."""
    message = str(error).replace(f"{folder}/", "")
    message = re.sub(r"127\.0\.0\.1:\d{4,}", "127.0.0.1:8000", message)
    shown = cell(" ".join(message.split()))
    shown = shown if len(shown) <= 300 else f"{shown[:300]}…"
    return f"| {case.group}: {cell(case.name)} | {type(error).__name__} | {shown} |"


def cell(text: str) -> str:
    """Text as a cell of a Markdown table."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
