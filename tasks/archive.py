"""Unpack the pictures of an archive that may be hostile."""

import errno
import fnmatch
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tasks.errors import ArchiveError
from tasks.images import SUFFIXES

# DIV2K, the largest set of the catalogue, unpacks to 3.6 GiB in 800 files.
MAX_UNPACKED_BYTES = 64 * 2**30
MAX_MEMBER_BYTES = 2**30
MAX_MEMBERS = 200_000
_COPY_BYTES = 2**20
# What the readers say of a damaged archive; ValueError is a name that is no name.
_CORRUPT = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    ValueError,
)
# gzip and bz2 raise an OSError without a number, a false offset or name gives one of these;
# a full disk is another matter.
_CORRUPT_ERRNOS = (None, errno.EINVAL, errno.ENAMETOOLONG)


@dataclass(frozen=True)
class _Member:
    name: str
    num_bytes: int
    is_link: bool


def unpack_images(archive: Path, pattern: str, folder: Path) -> int:
    """Write the pictures whose path in the archive fits `pattern` flat into `folder`.

    The archive is a zip or a tar. Every member is checked, also those that do
    not fit the pattern. Returns the number of pictures.

    Raises:
        ArchiveError: neither zip nor tar, corrupt, a member that would leave
            the folder, a link, two pictures of one name, or too large.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                return _unpack(_zip_members(opened), opened.open, archive, pattern, folder)
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened_tar:
                return _unpack(
                    _tar_members(opened_tar), _tar_open(opened_tar), archive, pattern, folder
                )
    except _CORRUPT as error:
        raise ArchiveError(f"{archive} is corrupt: {error}") from error
    except RuntimeError as error:  # zipfile's word for an encrypted member
        raise ArchiveError(f"{archive} cannot be read: {error}") from error
    except OSError as error:
        if error.errno not in _CORRUPT_ERRNOS:
            raise
        raise ArchiveError(f"{archive} is corrupt: {error}") from error
    raise ArchiveError(f"{archive} is neither a zip nor a tar archive")


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
    total = 0
    for count, member in enumerate(members, start=1):
        total += member.num_bytes
        _check(member, total, count, archive)
        if fits(member.name, pattern):
            file_name = PurePosixPath(member.name).name
            if file_name in wanted:
                raise ArchiveError(f"{archive} holds two pictures named {file_name!r}")
            wanted[file_name] = member
    for file_name, member in wanted.items():
        with open_member(member.name) as source, (folder / file_name).open("wb") as target:
            _copy_bounded(source, target, member, archive)
    return len(wanted)


def _check(member: _Member, total_bytes: int, num_members: int, archive: Path) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in member.name.split("/")[0]:
        raise ArchiveError(f"{archive}: member {member.name!r} would leave the target folder")
    if member.is_link:
        raise ArchiveError(f"{archive}: member {member.name!r} is a link or a device; refused")
    if member.num_bytes > MAX_MEMBER_BYTES or total_bytes > MAX_UNPACKED_BYTES:
        raise ArchiveError(
            f"{archive}: member {member.name!r} brings it to {total_bytes} unpacked bytes;"
            f" the limits are {MAX_MEMBER_BYTES} a member and {MAX_UNPACKED_BYTES} in all"
        )
    if num_members > MAX_MEMBERS:
        raise ArchiveError(f"{archive} has more than {MAX_MEMBERS} members")


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
        if not info.is_dir():
            is_link = stat.S_ISLNK(info.external_attr >> 16)
            yield _Member(info.filename, info.file_size, is_link)


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for info in archive:
        if not info.isdir():
            yield _Member(info.name, info.size, not info.isfile())


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
        ArchiveError: two pictures of one name.
    """
    count = 0
    for path in sorted(source.rglob("*")):
        if path.is_file() and fits(path.relative_to(source).as_posix(), pattern):
            target = folder / path.name
            if target.exists():
                raise ArchiveError(f"{source} holds two pictures named {path.name!r}")
            shutil.copyfile(path, target)
            count += 1
    return count
