"""The addresses of files: what kind they are, and how they are shown without their secrets."""

import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from tasks.errors import ParamsError

SCHEMES = ("https", "http", "s3", "file")


def split(url: str) -> SplitResult:
    """The parts of an address.

    Raises:
        ParamsError: no address, or of a scheme that is not in `SCHEMES`.
    """
    if "://" in url and not url.isprintable():  # urlsplit drops newlines and tabs
        raise ParamsError(f"{masked(url)!r} is no URL: it holds unprintable characters; correct it")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        # The error's words may hold a piece of the password.
        reason = "in user and password write / # ? @ as %2F %23 %3F %40" if "@" in url else error
        raise ParamsError(f"{masked(url)!r} is no URL: {reason}; correct it") from None
    if parts.scheme and parts.scheme not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise ParamsError(f"unknown scheme in {masked(url)!r}; known: {known}, or give a path")
    if parts.scheme in ("http", "https", "s3") and not parts.netloc:
        raise ParamsError(f"{masked(url)!r} names no host; write {parts.scheme}://<host>/<path>")
    return parts


def local_path(url: str) -> Path | None:
    """The path that a file:// URL or a plain path names; None for the other schemes.

    Raises:
        ParamsError: as `split`, or a file:// URL of another machine.
    """
    parts = split(url)
    if not parts.scheme:
        if "\0" in url:
            raise ParamsError(f"{url!r} is no path; correct it")
        return Path(url).expanduser()
    if parts.scheme != "file":
        return None
    if parts.netloc not in ("", "localhost"):
        raise ParamsError(
            f"{masked(url)!r} names a file of the host {parts.hostname!r}; write"
            " file:///<path> for one of this machine"
        )
    path = unquote(parts.path)
    if not path.startswith("/") or "\0" in path:
        raise ParamsError(f"{url!r} is no path; write file:///<path>")
    return Path(path)


def masked(url: str) -> str:
    """An address for people to read: without `user:password@`, and without what a query holds.

    Signed URLs carry their secret in the query.
    """
    start, separator, rest = url.partition("://")
    if not separator:
        return url
    host, slash, path = re.split("[?#]", rest)[0].partition("/")
    host = host.rpartition("@")[2]
    if "@" in rest and not re.fullmatch(r"[^:]*(:\d*)?|\[[^]]*\](:\d*)?", host):
        return f"{start}://…"  # a password with a sign in it that ends the host
    return f"{start}://{host}{slash}{path}{'?…' if '?' in rest else ''}"


def without_password(url: str) -> str:
    """An address that still works for whoever may use it: without `user:password@`."""
    start, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{start}{separator}{host.rpartition('@')[2]}{slash}{path}" if separator else url
