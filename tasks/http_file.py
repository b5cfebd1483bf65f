"""One file over http or https: bounded in size and in time, taken up again where it broke off."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from tasks.atomic import check_room
from tasks.errors import ArchiveError, DownloadError
from tasks.urls import masked, without_password

if TYPE_CHECKING:
    import httpx

_TIMEOUT_S = 60
_NUM_ATTEMPTS = 4
# A server that says a little, but never enough, within this time is as good as silent.
_WINDOW_S = 60.0
_WINDOW_MIN_BYTES = 2**16


@dataclass
class _Arrived:
    """What is in the file by now, and the server's name for that version of it."""

    num_bytes: int = 0
    version: str | None = None


def fetch_http(name: str, url: str, target: Path, max_bytes: int) -> None:
    """Write what is at `url` into `target`; `name` is what messages call it.

    A connection that breaks is taken up where it broke, if the server can do
    so and the file is still the same there; otherwise from the start.

    Raises:
        DownloadError: out of reach, too slow, or led to an address that is not http(s).
        ArchiveError: larger than `max_bytes`.
        StoreError: the server announces more than there is room for.
    """
    import httpx

    arrived = _Arrived()
    made = httpx.Client(
        auth=_credentials(url),
        timeout=_TIMEOUT_S,
        follow_redirects=True,
        event_hooks={"request": [_same_safety(url)]},
    )
    with _progress(name) as show, made as client:
        for attempt in range(1, _NUM_ATTEMPTS + 1):
            before = arrived.num_bytes
            try:
                _fetch_rest(client, without_password(url), target, arrived, max_bytes, show)
                return
            except (httpx.HTTPError, httpx.InvalidURL, DownloadError) as error:
                is_broken = isinstance(error, httpx.TransportError) and arrived.num_bytes > before
                if not is_broken or attempt == _NUM_ATTEMPTS:
                    raise DownloadError(
                        f"{name}: cannot fetch {masked(url)}: {_words(error)}; try again later, or"
                        " fetch it by hand and give its path instead of this address"
                    ) from error


def _fetch_rest(
    client: "httpx.Client",
    url: str,
    target: Path,
    arrived: _Arrived,
    max_bytes: int,
    show: Callable[[int, int | None], None],
) -> None:
    headers = {"Accept-Encoding": "identity"}  # the file itself, not a packed form of it
    if arrived.num_bytes and arrived.version:
        headers |= {"Range": f"bytes={arrived.num_bytes}-", "If-Range": arrived.version}
    with client.stream("GET", url, headers=headers) as response:
        response.raise_for_status()
        if not _continues(response, arrived):
            arrived.num_bytes = 0
        arrived.version = _version(response)
        left = int(response.headers.get("content-length", 0))
        _check_size(url, arrived.num_bytes + left, max_bytes)
        check_room(target.parent, left)
        total = arrived.num_bytes + left if left else None
        with target.open("ab" if arrived.num_bytes else "wb") as opened:
            for chunk in _not_too_slow(response.iter_raw()):
                opened.write(chunk)
                arrived.num_bytes += len(chunk)
                _check_size(url, arrived.num_bytes, max_bytes)
                show(arrived.num_bytes, total)


def _continues(response: "httpx.Response", arrived: _Arrived) -> bool:
    """Whether the answer is what is still missing, and not the whole file."""
    partial = 206
    if response.status_code != partial:
        return False
    place = response.headers.get("content-range", "")
    if not place.startswith(f"bytes {arrived.num_bytes}-"):
        raise DownloadError(f"the server sent {place!r} for the bytes from {arrived.num_bytes} on")
    return True


def _version(response: "httpx.Response") -> str | None:
    etag: str = response.headers.get("etag", "")
    if etag and not etag.startswith("W/"):  # a weak one promises no equal bytes
        return etag
    modified: str | None = response.headers.get("last-modified")
    return modified


def _check_size(url: str, num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise ArchiveError(
            f"{masked(url)} sends {num_bytes} bytes or more; the limit is {max_bytes}: correct the"
            " address, or fetch it by hand"
        )


def _not_too_slow(chunks: Iterator[bytes]) -> Iterator[bytes]:
    start, num_bytes = time.monotonic(), 0
    for chunk in chunks:
        num_bytes += len(chunk)
        if time.monotonic() - start > _WINDOW_S:
            if num_bytes < _WINDOW_MIN_BYTES:
                raise DownloadError(f"it sent {num_bytes} bytes in {_WINDOW_S:.0f} s")
            start, num_bytes = time.monotonic(), 0
        yield chunk


def _same_safety(url: str) -> Callable[["httpx.Request"], None]:
    """Refuse to be led from http(s) to other schemes, or from https to http."""
    first = urlsplit(url).scheme
    allowed = ("https",) if first == "https" else ("http", "https")

    def check(request: "httpx.Request") -> None:
        if request.url.scheme not in allowed:
            raise DownloadError(
                f"it redirects to {masked(str(request.url))!r}, from {first} to"
                f" {request.url.scheme}, which is refused"
            )

    return check


def _credentials(url: str) -> tuple[str, str] | None:
    """`user:password@` goes into a header: engines log the addresses they ask for."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    return unquote(parts.username), unquote(parts.password or "")


def _words(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.HTTPStatusError):  # whose own words show the whole address
        return f"{error.response.status_code} {error.response.reason_phrase}"
    return str(error) or repr(error)


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"download {name}", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
