"""Fetch the data sets that params.yaml names, verify them, unpack their HR pictures.

Data out: `data/hr/<role>/<data set>/<picture>`, the files as their authors
made them. Archives stay in a cache keyed by name, so nothing is fetched twice.
"""

import argparse
import hashlib
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from tasks import urls
from tasks.archive import copy_images, find_images, unpack_images
from tasks.atomic import check_room, replacing_file, replacing_folder
from tasks.checksums import file_sha256
from tasks.config import (
    ROLES,
    Dataset,
    Params,
    Role,
    Settings,
    dataset,
    load_catalogue,
    load_params,
)
from tasks.errors import ArchiveError, ImageError, ParamsError
from tasks.http_file import fetch_http
from tasks.images import SUFFIXES, list_images, read_image
from tasks.layout import HR_FOLDER
from tasks.storage import download_s3, s3_num_bytes

MAX_DOWNLOAD_BYTES = 64 * 2**30


def download(params: Params, catalogue: dict[str, Dataset], settings: Settings) -> None:
    """Put every data set of `params` under `data/hr`.

    Raises:
        ParamsError: a data set that is in no catalogue, unknown scheme, no such file.
        DownloadError: out of reach.
        ArchiveError: wrong checksum, an unsafe or corrupt archive.
        StoreError: the disk is full.
        ImageError: no pictures, or one that is corrupt or too small.
    """
    for role in ROLES:
        with replacing_folder(HR_FOLDER / role) as folder:
            for name in params.data.of(role):
                target = folder / name
                target.mkdir()
                fetch_dataset(name, dataset(name, catalogue), target, settings)
                smallest_px = (
                    params.shards.patch_px if role == "train" else _smallest_test_px(params)
                )
                _check_pictures(role, name, target, smallest_px)
    _check_leaks()


def fetch_dataset(name: str, entry: Dataset, folder: Path, settings: Settings) -> None:
    """Put the HR pictures of one data set into `folder`.

    Raises: as `download`.
    """
    if entry.installed is not None:
        _copy_installed(name, entry, folder)
        return
    url = source_url(name, entry, settings)
    local = urls.local_path(url)
    if local is not None and local.is_dir():
        num_pictures = copy_images(local, entry.images, folder)
    else:
        num_pictures = _unpack(name, url, entry, folder, settings)
    if not num_pictures:
        raise ImageError(
            f"{name}: no images found in {urls.masked(url)} that fit {entry.images!r}; correct"
            f" `images`, or see whether it holds any of {', '.join(sorted(SUFFIXES))}"
        )


def _unpack(name: str, url: str, entry: Dataset, folder: Path, settings: Settings) -> int:
    archive, is_new = _cached_archive(name, url, entry, settings)
    try:
        num_pictures = unpack_images(archive, entry.images, folder)
    except ArchiveError as error:
        if entry.sha256 is None:  # what was cached is not what was meant, so ask again next time
            archive.unlink()
        raise ArchiveError(
            f"{name}: {str(error).replace(str(archive), urls.masked(url))}"
        ) from error
    if entry.sha256 is None and is_new:
        print(
            f"{name}: not verified; to pin it, put this line under `{name}:` in datasets.yaml\n"
            f"  sha256: {file_sha256(archive)}",
            file=sys.stderr,
        )
    return num_pictures


def source_url(name: str, entry: Dataset, settings: Settings) -> str:
    """Where a data set is fetched from: the mirror, if one is set, or its own URL.

    Raises:
        ParamsError: an unknown scheme, or no public URL and no mirror is set.
    """
    try:
        return _source_url(name, entry, settings)
    except ParamsError as error:
        raise ParamsError(f"{name}: {error}") from error


def _source_url(name: str, entry: Dataset, settings: Settings) -> str:
    is_local = entry.url is not None and urls.local_path(entry.url) is not None
    archive = entry.archive or (Path(urls.split(entry.url).path).name if entry.url else name)
    mirror = settings.mirror
    if mirror is None and settings.storage is not None and entry.url is None:
        mirror = f"{settings.storage.rstrip('/')}/archives"
    if mirror and not is_local:
        urls.local_path(mirror)  # refuses what is no address
        return f"{mirror.rstrip('/')}/{archive}"
    if entry.url is None:
        raise ParamsError(
            f"it has no public URL with known contents; put {archive} in a folder and set"
            " SISR_MIRROR to it (https://, s3://, file://; all remote archives are then looked for"
            " there), or under archives/ of SISR_STORAGE"
        )
    return entry.url


def _cached_archive(name: str, url: str, entry: Dataset, settings: Settings) -> tuple[Path, bool]:
    """The verified archive, fetched unless it is in the cache, and whether it was fetched."""
    # The cache key holds the promise: another checksum or place is another file.
    key = hashlib.sha256(f"{url}\n{entry.sha256}".encode()).hexdigest()[:12]
    archive = settings.archive_cache / f"{name}-{entry.sha256 or key}"
    if archive.exists() and _is_current(archive, url, entry.sha256):
        return archive, False
    with replacing_file(archive) as temporary:
        _verify(name, url, fetch_file(name, url, temporary, settings), entry.sha256)
    return archive, True


def _is_current(archive: Path, url: str, expected: str | None) -> bool:
    """Whether a cached archive is still what its URL promises."""
    if expected is not None:
        return file_sha256(archive) == expected
    # A file of this machine may change under its name; a URL is taken at its word.
    return urls.local_path(url) is None


def fetch_file(
    name: str, url: str, target: Path, settings: Settings, max_bytes: int = MAX_DOWNLOAD_BYTES
) -> str:
    """Copy a file from https, http, s3, file or a plain path into `target`; returns its sha256.

    `name` is what messages call it.

    Raises:
        ParamsError: unknown scheme, no such file.
        DownloadError: out of reach.
        ArchiveError: larger than `max_bytes`.
        StoreError: the disk is full.
    """
    local = urls.local_path(url)
    if local is not None:
        if not local.is_file():
            raise ParamsError(f"{name}: there is no file or folder {local}; correct its address")
        _check_size(name, local.stat().st_size, target, max_bytes)
        shutil.copyfile(local, target)
    elif urls.split(url).scheme == "s3":
        num_bytes = s3_num_bytes(url, settings.s3_endpoint_url)
        _check_size(name, num_bytes, target, max_bytes)
        download_s3(url, target, settings.s3_endpoint_url)
    else:
        fetch_http(name, url, target, max_bytes)
    return file_sha256(target)


def _check_size(name: str, num_bytes: int, target: Path, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise ArchiveError(f"{name}: it has {num_bytes} bytes; the limit is {max_bytes}")
    check_room(target.parent, num_bytes)


def _verify(name: str, url: str, actual: str, expected: str | None) -> None:
    if expected not in (None, actual):
        raise ArchiveError(
            f"{name}: {urls.masked(url)} has sha256 {actual}, not {expected};"
            " it changed or was damaged: fetch it again, or correct datasets.yaml"
        )


def _copy_installed(name: str, entry: Dataset, folder: Path) -> None:
    digest = hashlib.sha256()
    for package, files in (entry.installed or {}).items():
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise ParamsError(f"{name}: package {package!r} is not installed; run `make setup`")
        for file in files:
            source = Path(spec.origin).parent / file
            if not source.is_file():
                raise ParamsError(f"{name}: this version of {package!r} ships no {file}")
            if (folder / source.name).exists():
                raise ParamsError(f"{name}: two of its files are named {source.name!r}")
            digest.update(source.read_bytes())
            shutil.copyfile(source, folder / source.name)
    if entry.sha256 not in (None, digest.hexdigest()):
        raise ArchiveError(
            f"{name}: the installed pictures have sha256 {digest.hexdigest()}, not {entry.sha256};"
            " install the versions of requirements.lock"
        )


def _smallest_test_px(params: Params) -> int:
    """SSIM's window is 11 pixels, after `scale` pixels are cropped from every side."""
    return max(11 + 3 * scale for scale in params.scales)


def _check_pictures(role: Role, name: str, folder: Path, smallest_px: int) -> None:
    for path in list_images(folder):
        image = read_image(path)
        height_px, width_px = image.shape[:2]
        if min(height_px, width_px) < smallest_px:
            way_out = "lower shards.patch_px or leave" if role == "train" else "leave"
            raise ImageError(
                f"{name}: {path.name} is {width_px}×{height_px}, smaller than {smallest_px} pixels;"
                f" {way_out} the picture out"
            )
        if role != "train" and (image == image[0, 0]).all():
            raise ImageError(
                f"{name}: {path.name} has one colour, so its PSNR is infinite; leave it out"
            )


def _check_leaks() -> None:
    """No training picture may be, byte for byte, a test or validation picture."""
    seen = {
        hashlib.sha256(path.read_bytes()).digest(): path for path in _files(HR_FOLDER / "train")
    }
    for role in ("validation", "test"):
        for path in _files(HR_FOLDER / role):
            twin = seen.get(hashlib.sha256(path.read_bytes()).digest())
            if twin:
                raise ImageError(f"{path} is also in training, as {twin}; take one of them out")


def changed_folders(params: Params, catalogue: dict[str, Dataset]) -> dict[str, str]:
    """The data sets whose source is a folder that has changed since it was copied, and how.

    DVC knows what was copied, not where from. A picture has changed if its size has, or if it is
    of another time than the copy and holds other bytes. What was never copied has not changed.

    Raises:
        ParamsError: a data set that is in no catalogue, or a wrong address.
    """
    changed = {}
    for role in ROLES:
        for name in params.data.of(role):
            entry, copies = dataset(name, catalogue), HR_FOLDER / role / name
            source = urls.local_path(entry.url) if entry.url else None
            if source is not None and source.is_dir() and copies.is_dir():
                difference = _difference(source, entry.images, copies)
                if difference:
                    changed[name] = f"{source} has changed: {difference}"
    return changed


def has_local_sources(params: Params, catalogue: dict[str, Dataset]) -> bool:
    """Whether a data set is a folder, or an archive without checksum, that is on this machine.

    Raises:
        ParamsError: a data set that is in no catalogue, or a wrong address.
    """
    entries = [dataset(name, catalogue) for role in ROLES for name in params.data.of(role)]
    unpinned = (entry.url for entry in entries if entry.url and entry.sha256 is None)
    paths = (urls.local_path(url) for url in unpinned)
    return any(path is not None and path.exists() for path in paths)


def _difference(source: Path, pattern: str, copies: Path) -> str:
    theirs = {path.name: path for path in find_images(source, pattern)}
    ours = {path.name: path for path in _files(copies)}
    counts = {
        "new": len(theirs.keys() - ours.keys()),
        "gone": len(ours.keys() - theirs.keys()),
        "changed": sum(_is_other(theirs[name], ours[name]) for name in theirs.keys() & ours.keys()),
    }
    return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def _is_other(source: Path, copy: Path) -> bool:
    if not source.is_file():  # a broken link: copying it says so
        return True
    now, then = source.stat(), copy.stat()
    if now.st_size != then.st_size:
        return True
    return now.st_mtime_ns != then.st_mtime_ns and source.read_bytes() != copy.read_bytes()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """The stage's command."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    download(load_params(), load_catalogue(), Settings())


if __name__ == "__main__":
    main()
