"""Fetch the data sets that params.yaml names, verify them, unpack their HR pictures.

Data out: `data/hr/<role>/<data set>/<picture>`, the files as their authors
made them. Archives stay in a cache keyed by name, so nothing is fetched twice.
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from tasks.archive import copy_images, unpack_images
from tasks.atomic import replacing_file, replacing_folder
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
from tasks.errors import ArchiveError, DownloadError, ImageError, ParamsError
from tasks.images import list_images, read_image
from tasks.layout import HR_FOLDER
from tasks.storage import download_s3

_CHUNK_BYTES = 2**20
_TIMEOUT_S = 60


def download(params: Params, catalogue: dict[str, Dataset], settings: Settings) -> None:
    """Put every data set of `params` under `data/hr`.

    Raises:
        ParamsError: a data set that is in no catalogue, unknown scheme, no such file.
        DownloadError: out of reach.
        ArchiveError: wrong checksum, an unsafe or corrupt archive.
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
    local = _local_path(url)
    if local is not None and local.is_dir():
        num_pictures = copy_images(local, entry.images, folder)
    else:
        archive = _cached_archive(name, url, entry, settings)
        num_pictures = unpack_images(archive, entry.images, folder)
    if not num_pictures:
        raise ImageError(f"{name}: no images found in {url} that fit {entry.images!r}")


def source_url(name: str, entry: Dataset, settings: Settings) -> str:
    """Where a data set is fetched from: the mirror, if one is set, or its own URL.

    Raises:
        ParamsError: the data set has no public URL and no mirror is set.
    """
    archive = entry.archive or (Path(urlsplit(entry.url).path).name if entry.url else name)
    if settings.mirror and not (entry.url and _local_path(entry.url)):
        return f"{settings.mirror.rstrip('/')}/{archive}"
    if entry.url is None:
        raise ParamsError(
            f"{name} has no public URL with known contents; put {archive} in a folder and set"
            " SISR_MIRROR to it (https://, s3://, file://)"
        )
    return entry.url


def _cached_archive(name: str, url: str, entry: Dataset, settings: Settings) -> Path:
    """The verified archive, fetched unless it is in the cache."""
    # The cache key holds the promise: another checksum or place is another file.
    key = hashlib.sha256(f"{url}\n{entry.sha256}".encode()).hexdigest()[:12]
    archive = settings.archive_cache / f"{name}-{entry.sha256 or key}"
    if archive.exists() and _is_current(archive, url, entry.sha256):
        return archive
    with replacing_file(archive) as temporary:
        _verify(name, url, fetch_file(name, url, temporary, settings), entry.sha256)
    return archive


def _is_current(archive: Path, url: str, expected: str | None) -> bool:
    """Whether a cached archive is still what its URL promises."""
    if expected is not None:
        return _sha256(archive) == expected
    # A file of this machine may change under its name; a URL is taken at its word.
    return _local_path(url) is None


def fetch_file(name: str, url: str, target: Path, settings: Settings) -> str:
    """Copy a file from https, http, s3, file or a plain path into `target`; returns its sha256.

    `name` is what messages call it.

    Raises:
        ParamsError: unknown scheme, no such file.
        DownloadError: out of reach.
    """
    _fetch(name, url, target, settings)
    return _sha256(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _verify(name: str, url: str, actual: str, expected: str | None) -> None:
    if expected is None:
        print(f"{name}: not verified; pin it with `sha256: {actual}` in datasets.yaml")
    elif actual != expected:
        raise ArchiveError(
            f"{name}: {url} has sha256 {actual}, not {expected};"
            " it changed or was damaged: fetch it again, or correct datasets.yaml"
        )


def _fetch(name: str, url: str, target: Path, settings: Settings) -> None:
    scheme = urlsplit(url).scheme
    local = _local_path(url)
    if local is not None:
        if not local.is_file():
            raise ParamsError(f"{name}: there is no file or folder {local}")
        shutil.copyfile(local, target)
    elif scheme == "s3":
        download_s3(url, target, settings.s3_endpoint_url)
    elif scheme in ("http", "https"):
        _fetch_http(name, url, target)
    else:
        raise ParamsError(f"{name}: unknown scheme in {url!r}; known: https, http, s3, file")


def _fetch_http(name: str, url: str, target: Path) -> None:
    import httpx

    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=_TIMEOUT_S) as response:
            response.raise_for_status()
            total = int(response.headers.get("content-length", 0)) or None
            with target.open("wb") as opened, _progress(name, total) as advance:
                for chunk in response.iter_bytes(_CHUNK_BYTES):
                    opened.write(chunk)
                    advance(len(chunk))
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadError(f"{name}: cannot fetch {url}: {str(error) or repr(error)}") from error


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"download {name}", total=total)
        yield lambda num_bytes: progress.update(task, advance=num_bytes)


def _local_path(url: str) -> Path | None:
    """The path that a file:// URL or a plain path names; None for the other schemes."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(url).expanduser() if not parts.scheme else None


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
        height_px, width_px = read_image(path).shape[:2]
        if min(height_px, width_px) < smallest_px:
            way_out = "lower shards.patch_px or leave" if role == "train" else "leave"
            raise ImageError(
                f"{name}: {path.name} is {width_px}×{height_px}, smaller than {smallest_px} pixels;"
                f" {way_out} the picture out"
            )


def _check_leaks() -> None:
    """No training picture may be, byte for byte, a test or validation picture."""
    seen = {
        hashlib.sha256(path.read_bytes()).digest(): path
        for path in sorted((HR_FOLDER / "train").rglob("*.*"))
    }
    for role in ("validation", "test"):
        for path in sorted((HR_FOLDER / role).rglob("*.*")):
            twin = seen.get(hashlib.sha256(path.read_bytes()).digest())
            if twin:
                raise ImageError(f"{path} is also in training, as {twin}; take one of them out")


def main() -> None:
    """The stage's command."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    download(load_params(), load_catalogue(), Settings())


if __name__ == "__main__":
    main()
