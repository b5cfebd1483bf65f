"""Against real servers on this machine that break off, change, lie, drip and never end."""

import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks import http_file
from tasks.errors import ArchiveError, DownloadError
from tasks.http_file import fetch_http

WHOLE = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(200))  # 6,400 bytes
LIMIT = 10**6
Answer = Callable[[http.server.BaseHTTPRequestHandler, int], None]


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that gives `answer(handler, number of the request)`, and the headers it was sent."""
    asked: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            answer(self, len(asked))

        def log_message(self, *_: Any) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/a.zip", asked
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def send(
    handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, **headers: str
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def honest(etag: str = '"v1"') -> Answer:
    """Breaks off after 1,000 bytes the first time, and can go on from any place."""

    def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        place = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        start = int(place) if handler.headers.get("If-Range") == etag else 0
        rest = WHOLE[start:]
        headers = {"Content_Length": str(len(rest)), "ETag": etag}
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(WHOLE) - 1}/{len(WHOLE)}"
        send(handler, 206 if start else 200, rest[:1000] if number == 1 else rest, **headers)

    return answer


def test_a_broken_download_goes_on_where_it_broke(tmp_path: Path) -> None:
    with serving(honest()) as (url, asked):
        fetch_http("mine", url, tmp_path / "a", LIMIT)

    assert (tmp_path / "a").read_bytes() == WHOLE
    assert [each.get("Range") for each in asked] == [None, "bytes=1000-"]
    assert asked[1]["If-Range"] == '"v1"'


def test_a_weak_name_of_a_version_promises_nothing(tmp_path: Path) -> None:
    with serving(honest(etag='W/"v1"')) as (url, asked):
        fetch_http("mine", url, tmp_path / "a", LIMIT)

    assert (tmp_path / "a").read_bytes() == WHOLE
    assert [each.get("Range") for each in asked] == [None, None]


def test_a_file_that_changed_meanwhile_is_fetched_whole(tmp_path: Path) -> None:
    new = WHOLE[::-1]

    def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        body, etag = (WHOLE[:1000], '"v1"') if number == 1 else (new, '"v2"')
        send(handler, 200, body, Content_Length=str(len(new)), ETag=etag)

    with serving(answer) as (url, _):
        fetch_http("mine", url, tmp_path / "a", LIMIT)

    assert (tmp_path / "a").read_bytes() == new


def test_a_server_that_goes_on_elsewhere_is_not_believed(tmp_path: Path) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        if number == 1:
            send(handler, 200, WHOLE[:1000], Content_Length=str(len(WHOLE)), ETag='"v1"')
        else:
            send(handler, 206, b"x", Content_Length="1", Content_Range="bytes 7-7/8")

    with serving(answer) as (url, _), pytest.raises(DownloadError, match=r"'bytes 7-7/8' for the"):
        fetch_http("mine", url, tmp_path / "a", LIMIT)


def test_a_server_that_always_breaks_off_is_given_up(tmp_path: Path) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
        send(handler, 200, WHOLE[:1000], Content_Length=str(len(WHOLE)))

    with serving(answer) as (url, asked), pytest.raises(DownloadError, match="peer closed"):
        fetch_http("mine", url, tmp_path / "a", LIMIT)
    # It cannot be taken up, and the second attempt got no further than the first.
    assert len(asked) == 2


def test_a_download_is_taken_up_three_times_and_no_more(tmp_path: Path) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
        place = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-")
        rest = WHOLE[int(place) :]
        headers = {"Content_Length": str(len(rest)), "ETag": '"v1"'}
        if place != "0":
            headers["Content_Range"] = f"bytes {place}-{len(WHOLE) - 1}/{len(WHOLE)}"
        send(handler, 200 if place == "0" else 206, rest[:1000], **headers)

    with serving(answer) as (url, asked), pytest.raises(DownloadError, match="peer closed"):
        fetch_http("mine", url, tmp_path / "a", LIMIT)
    ranges = [each.get("Range") for each in asked]
    assert ranges == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_has_a_limit(announced: bool, tmp_path: Path) -> None:
    def answer(handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
        headers = {"Content_Length": "20000"} if announced else {}
        send(handler, 200, b"", **headers)
        try:
            for _ in range(20_000):
                handler.wfile.write(WHOLE)
        except OSError:  # they hung up
            pass

    with (
        serving(answer) as (url, _),
        pytest.raises(ArchiveError, match=r"sends \d+ bytes or more; the limit is 10000"),
    ):
        fetch_http("mine", url, tmp_path / "a", 10_000)
    # No more was written than had come in one piece with the limit's last byte.
    size = (tmp_path / "a").stat().st_size if (tmp_path / "a").exists() else 0
    assert size < 10_000 + 2**17


def test_a_server_that_drips_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_file, "_WINDOW_S", 0.3)
    stop = threading.Event()

    def answer(handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
        send(handler, 200, b"", Content_Length="100000")
        try:
            while not stop.wait(0.05):
                handler.wfile.write(b"x")
        except OSError:  # they hung up
            pass

    with (
        serving(answer) as (url, _),
        pytest.raises(DownloadError, match=r"it sent \d+ bytes in 0 s"),
    ):
        fetch_http("mine", url, tmp_path / "a", LIMIT)
    stop.set()


def test_a_server_that_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_file, "_TIMEOUT_S", 0.3)
    done = threading.Event()

    def silent(handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
        done.wait(10)

    with (
        serving(silent) as (url, _),
        pytest.raises(DownloadError, match="timed out"),
    ):
        try:
            fetch_http("mine", url, tmp_path / "a", LIMIT)
        finally:
            done.set()


def test_a_password_goes_into_a_header_and_not_to_another_host(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with serving(honest()) as (other, asked_there):

        def answer(handler: http.server.BaseHTTPRequestHandler, _: int) -> None:
            send(handler, 302, b"", Location=other, Content_Length="0")

        with serving(answer) as (url, asked):
            signed = url.replace("http://", "http://user:se%40cret@")
            fetch_http("mine", signed, tmp_path / "a", LIMIT)

    assert asked[0]["Authorization"] == "Basic dXNlcjpzZUBjcmV0"  # user:se@cret
    assert "Authorization" not in asked_there[0]
    assert "cret" not in caplog.text
    assert (tmp_path / "a").read_bytes() == WHOLE


@pytest.mark.parametrize(
    ("url", "first", "allowed"),
    [
        ("https://b/x", "https://a/x", True),
        ("http://b/x", "https://a/x", False),
        ("https://b/x", "http://a/x", True),
        ("http://b/x", "http://a/x", True),
        ("ftp://b/x", "http://a/x", False),
    ],
)
def test_where_a_redirection_may_lead(url: str, first: str, allowed: bool) -> None:
    import httpx

    check = http_file._same_safety(first)
    if allowed:
        check(httpx.Request("GET", url))
    else:
        with pytest.raises(DownloadError, match=r"it redirects to .* which is refused"):
            check(httpx.Request("GET", url))
