from pathlib import Path

import pytest

from tasks.errors import ParamsError
from tasks.urls import local_path, masked, split, without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a.zip", "https://host/a.zip"),
        ("https://user:secret@host:8080/a.zip", "https://host:8080/a.zip"),
        ("https://user@host/a.zip", "https://host/a.zip"),
        ("https://host/a.zip?signature=secret&x=1", "https://host/a.zip?…"),
        ("https://host?token=secret", "https://host?…"),
        ("https://user:se@cret@host/a.zip", "https://host/a.zip"),
        ("https://user:se/cret@host/a.zip", "https://…"),
        ("https://user:se?cret@host/a.zip", "https://…"),
        ("https://user:se#cret@host/a.zip", "https://…"),
        ("https://host/photo@2x.zip", "https://host/photo@2x.zip"),
        ("https://[::1]:80/a@b.zip", "https://[::1]:80/a@b.zip"),
        ("s3://bucket/a key@1.zip", "s3://bucket/a key@1.zip"),
        ("/my/folder@home?", "/my/folder@home?"),
    ],
)
def test_what_is_shown_of_an_address_holds_no_secret(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://user:secret@host/a.zip?b=1", "https://host/a.zip?b=1"),
        ("https://host/a@b.zip", "https://host/a@b.zip"),
        ("/my/folder@home", "/my/folder@home"),
    ],
)
def test_an_address_without_its_password_still_works(url: str, bare: str) -> None:
    assert without_password(url) == bare


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/my/Größe #1?.zip", Path("/my/Größe #1?.zip")),
        ("relative/a.zip", Path("relative/a.zip")),
        ("line\nbreak", Path("line\nbreak")),
        ("-rf", Path("-rf")),
        ("~/a.zip", Path.home() / "a.zip"),
        ("file:///my/two%20words.zip", Path("/my/two words.zip")),
        ("file://localhost/a.zip", Path("/a.zip")),
        ("https://host/a.zip", None),
        ("s3://bucket/a.zip", None),
    ],
)
def test_a_path_or_a_file_address_names_a_file_of_this_machine(url: str, path: Path | None) -> None:
    assert local_path(url) == path


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://host/a", "unknown scheme in 'ftp://host/a'; known: https, http, s3, file"),
        ("file://host/a", "names a file of the host 'host'"),
        ("file:a", "write file:///<path>"),
        ("https:///a", "names no host"),
        ("http://ho\nst/a", "unprintable characters"),
        ("http://user:se/cret@host/a", "in user and password write / # \\? @ as %2F %23 %3F %40"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("a\0b", "is no path"),
    ],
)
def test_what_is_no_address_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ParamsError, match=reason):
        local_path(url)


def test_a_mirror_of_any_known_scheme_is_taken() -> None:
    assert [split(f"{scheme}://host/x").scheme for scheme in ("https", "http", "s3")] == [
        "https", "http", "s3",
    ]  # fmt: skip
