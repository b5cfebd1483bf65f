"""Unpack the pictures of an archive that may be hostile."""

import contextlib
import errno
import fnmatch
import lzma
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Self

from tasks.errors import ArchiveError
from tasks.images import SUFFIXES

# DIV2K, the largest set of the catalogue, unpacks to 3.6 GiB in 800 files.
MAX_UNPACKED_BYTES = 64 * 2**30
MAX_MEMBER_BYTES = 2**30
MAX_MEMBERS = 200_000
# Pictures hardly shrink; only drawings in BMP or TIFF come near this. Small archives are free.
MAX_RATIO = 200
_RATIO_FREE_BYTES = 64 * 2**20
# What a tar tells of a member besides its block of 512 bytes: long names, times, owners.
_MAX_TAR_HEADER_BYTES = 2**20
_COPY_BYTES = 2**20
# What the readers say of a damaged archive; ValueError is a name that is no name.
_CORRUPT = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    ValueError,
)
# gzip and bz2 raise an OSError without a number, a false offset or name gives one of these;
# a full disk is another matter.
_CORRUPT_ERRNOS = (None, errno.EINVAL, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class _Member:
    name: str
    num_bytes: int
    is_folder: bool
    is_plain: bool


class _TarInfo(tarfile.TarInfo):
    """A tar header that is believed only where that is safe."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As in the base class; what follows relies on `size`, of which tarfile checks nothing."""
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0:  # sends the reader back to where it was, for ever
            raise ValueError(f"a member of {info.size} bytes")
        # The reader takes these into memory whole, to learn the next member's name.
        if info.type in _TAR_HEADERS and info.size > _MAX_TAR_HEADER_BYTES:
            raise ValueError(f"a header of {info.size} bytes")
        return info


_TAR_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def unpack_images(archive: Path, pattern: str, folder: Path) -> int:
    """Write the pictures whose path in the archive fits `pattern` flat into `folder`.

    The archive is a zip or a tar. Every member is checked, also those that do
    not fit the pattern. Returns the number of pictures.

    Raises:
        ArchiveError: neither zip nor tar, corrupt, a member that would leave
            the folder, a link, two pictures of one name, or too large.
    """
    try:
        # `is_zipfile` alone takes a tar whose last member is a zip for that zip.
        if _start(archive).startswith(b"PK") and zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return _unpack(_zip_members(opened), opened.open, archive, pattern, folder)
        return _unpack_tar(archive, pattern, folder)
    except _CORRUPT as error:
        raise ArchiveError(f"{archive} is corrupt: {_reason(error)}; {_WAY_OUT}") from error
    except RuntimeError as error:  # zipfile's word for an encrypted member
        raise ArchiveError(f"{archive} cannot be read: {error}; {_WAY_OUT}") from error
    except OSError as error:
        if error.errno not in _CORRUPT_ERRNOS:
            raise
        raise ArchiveError(f"{archive} is corrupt: {error}; {_WAY_OUT}") from error


_WAY_OUT = "fetch it again, or unpack it yourself and name the folder as `url`"


def _reason(error: BaseException) -> str:
    return str(error)[:200] or type(error).__name__


def _unpack_tar(archive: Path, pattern: str, folder: Path) -> int:
    try:
        opened = tarfile.open(archive, tarinfo=_TarInfo)  # noqa: SIM115
    except tarfile.ReadError as error:
        text = f"{archive} is neither a zip nor a tar archive{_looks(archive)}"
        raise ArchiveError(text) from error
    with opened:
        return _unpack(_tar_members(opened), _tar_open(opened), archive, pattern, folder)


def _looks(archive: Path) -> str:
    """What an archive that is none begins with."""
    start = _start(archive).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return " but a web page; open its address in a browser to see what it says"
    return f"; {_WAY_OUT}" if start else " but empty; fetch it again"


def _start(archive: Path) -> bytes:
    with archive.open("rb") as opened:
        return opened.read(512)


def fits(name: str, pattern: str) -> bool:
    """Whether a path inside a data set is one of its HR pictures."""
    path = PurePosixPath(name)
    if path.suffix.lower() not in SUFFIXES or "__MACOSX" in path.parts:
        return False
    return pattern == "**/*" or fnmatch.fnmatchcase(name, pattern)


def _unpack(
    members: Iterator[_Member],
    open_member: Callable[[str], IO[bytes]],
    archive: Path,
    pattern: str,
    folder: Path,
) -> int:
    wanted: dict[str, _Member] = {}
    seen: dict[str, str] = {}
    total, packed = 0, archive.stat().st_size
    for count, member in enumerate(members, start=1):
        total += member.num_bytes
        _check(member, archive)
        _check_size(member, total, packed, count, archive)
        if not member.is_folder and fits(member.name, pattern):
            file_name = PurePosixPath(member.name).name
            _check_name(file_name, seen, archive)
            wanted[file_name] = member
    for file_name, member in wanted.items():
        with open_member(member.name) as source, (folder / file_name).open("wb") as target:
            _copy_bounded(source, target, member, archive)
    return len(wanted)


def _check(member: _Member, archive: Path) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member.name.split("/")[0]:
        raise ArchiveError(
            f"{archive}: member {member.name!r} would leave the target folder; do not use this"
            " archive"
        )
    if not (member.is_folder or member.is_plain):
        raise ArchiveError(
            f"{archive}: member {member.name!r} is a link, a device or sparse; pack plain files"
        )


def _check_size(
    member: _Member, total_bytes: int, packed_bytes: int, num_members: int, archive: Path
) -> None:
    said = f"{archive}: member {member.name!r} brings it to {total_bytes} unpacked bytes"
    way_out = "unpack it yourself and name the folder as `url`, if you trust it"
    if member.num_bytes > MAX_MEMBER_BYTES or total_bytes > MAX_UNPACKED_BYTES:
        raise ArchiveError(
            f"{said}; the limits are {MAX_MEMBER_BYTES} a member and {MAX_UNPACKED_BYTES} in all;"
            f" {way_out}"
        )
    if total_bytes > max(_RATIO_FREE_BYTES, MAX_RATIO * packed_bytes):
        raise ArchiveError(
            f"{said} from {packed_bytes}; the limit is {MAX_RATIO} times as many; {way_out}"
        )
    if member.num_bytes < 0:  # the reader would go back to where it was, for ever
        raise ArchiveError(f"{said}, which is no size; {_WAY_OUT}")
    if num_members > MAX_MEMBERS:
        raise ArchiveError(f"{archive} has more than {MAX_MEMBERS} members; {way_out}")


def _check_name(name: str, seen: dict[str, str], source: Path) -> None:
    """Refuse names that some file system takes for one, or that are no text."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise ArchiveError(f"{source}: the name {name!r} is not UTF-8; rename it") from None
    # Letter case and the two ways to write `ö` are all one to macOS and Windows.
    key = unicodedata.normalize("NFC", name).casefold()
    if key not in seen:
        seen[key] = name
        return
    same = "two pictures named" if seen[key] == name else f"{seen[key]!r} and, the same to many,"
    raise ArchiveError(f"{source} holds {same} {name!r}; rename one or narrow `images`")


def _copy_bounded(source: IO[bytes], target: IO[bytes], member: _Member, archive: Path) -> None:
    """Copy no more than the member declared: a bomb may lie about its size."""
    left = member.num_bytes
    while chunk := source.read(min(_COPY_BYTES, left + 1)):
        left -= len(chunk)
        if left < 0:
            raise ArchiveError(f"{archive}: member {member.name!r} is larger than it declares")
        target.write(chunk)


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for info in archive.infolist():
        # Archives of other systems say 0 for the kind.
        is_plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
        yield _Member(info.filename, info.file_size, info.is_dir(), is_plain)


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        yield _Member(info.name, info.size, info.isdir(), info.isfile() and not info.issparse())


def _tar_open(archive: tarfile.TarFile) -> Callable[[str], IO[bytes]]:
    def open_member(name: str) -> IO[bytes]:
        member = archive.extractfile(name)
        assert member is not None, "only plain files are opened"
        return member

    return open_member


def copy_images(source: Path, pattern: str, folder: Path) -> int:
    """Copy the pictures of a folder that fit `pattern` flat into another.

    Returns the number of pictures.

    Raises:
        ArchiveError: two pictures of one name, or one that cannot be read.
    """
    seen: dict[str, str] = {}
    for path in source.rglob("*"):
        if path.is_symlink() and path.is_dir() and _would_give(path, source, pattern):
            raise ArchiveError(f"{path} is a link to a folder, which is not followed; take it out")
    for path in find_images(source, pattern):
        if not path.is_file():
            raise ArchiveError(f"{path} is a broken link or no file; mend it or take it out")
        _check_name(path.name, seen, source)
        try:
            shutil.copyfile(path, folder / path.name)
        except PermissionError as error:
            raise ArchiveError(f"{path} cannot be read: {error.strerror}; `chmod` it") from error
        about = path.stat()
        # The same time says later, unread, that nothing has changed; not all disks take it.
        with contextlib.suppress(OSError):
            os.utime(folder / path.name, ns=(about.st_atime_ns, about.st_mtime_ns))
    return len(seen)


def _would_give(link: Path, source: Path, pattern: str) -> bool:
    """Whether pictures that fit lie behind a linked folder."""
    relative = link.relative_to(source)
    return any(
        fits((relative / path.relative_to(link.resolve())).as_posix(), pattern)
        for path in link.resolve().rglob("*")
    )


def find_images(source: Path, pattern: str) -> list[Path]:
    """What lies anywhere below a folder, is called like a picture and fits `pattern`."""
    return sorted(
        path
        for path in source.rglob("*")
        if not path.is_dir() and fits(path.relative_to(source).as_posix(), pattern)
    )
