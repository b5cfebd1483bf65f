"""Places for files that several machines reach: S3-compatible storage, or a folder.

The only file that knows boto3. Credentials come from the usual AWS environment
or profile; `SISR_S3_ENDPOINT_URL` names any other endpoint. An object is whole
or not there: S3 takes it at once, a folder by rename. A storage that is away for
a while is waited for.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from tasks.atomic import NO_ROOM, replacing_file
from tasks.errors import DownloadError, ParamsError, StoreError
from tasks.patience import patiently
from tasks.urls import masked

# How long a storage may be away before that is an error.
PATIENCE_S = 300.0
# Short, because our own waiting is around them.
_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S = 10, 60
_MISSING = ("404", "NoSuchKey")
_FIRST_SERVER_ERROR = 500

_Answer = TypeVar("_Answer")


class Store(Protocol):
    """Files by key; `url` says where."""

    url: str

    def put(self, key: str, file: Path) -> None:
        """Keep a copy of a file, in place of what was there."""

    def get(self, key: str, target: Path) -> bool:
        """Copy an object into a file; False if there is none."""

    def has(self, key: str) -> bool:
        """Whether there is an object."""

    def delete(self, key: str) -> None:
        """Forget an object; nothing happens if there is none."""


class FolderStore:
    """A folder that all who use it see. Each method raises StoreError if it cannot be used."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder.absolute())
        self._folder = folder.absolute()

    def put(self, key: str, file: Path) -> None:
        """See Store."""
        with self._usable(), replacing_file(self._folder / key) as temporary:
            shutil.copyfile(file, temporary)

    def get(self, key: str, target: Path) -> bool:
        """See Store."""
        if not self.has(key):
            return False
        with replacing_file(target) as temporary, self._usable():
            shutil.copyfile(self._folder / key, temporary)
        return True

    def has(self, key: str) -> bool:
        """See Store."""
        with self._usable():
            return (self._folder / key).is_file()

    def delete(self, key: str) -> None:
        """See Store."""
        with self._usable():
            (self._folder / key).unlink(missing_ok=True)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """A network folder that is away, or that refuses us, is a storage that cannot be used."""
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise  # told by whoever writes
            raise StoreError(f"the folder {self.url} cannot be used: {error}") from error


class S3Store:
    """`s3://bucket/prefix` at AWS or at any S3-compatible endpoint.

    Each method raises StoreError: refused, or away for longer than `patience_s` seconds.
    """

    def __init__(
        self, url: str, endpoint_url: str | None, *, patience_s: float = PATIENCE_S
    ) -> None:
        parts = urlsplit(url)
        self.url = url.rstrip("/")
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        self._where = _place(endpoint_url)
        self._client = _client(endpoint_url)
        self._patience_s = patience_s

    def put(self, key: str, file: Path) -> None:
        """See Store."""
        self._patiently(
            f"write {key} to",
            lambda: self._client.upload_file(str(file), self._bucket, self._name(key)),
        )

    def get(self, key: str, target: Path) -> bool:
        """See Store."""

        def fetch() -> None:
            with replacing_file(target) as temporary:
                self._client.download_file(self._bucket, self._name(key), str(temporary))

        return self._unless_missing(f"read {key} from", fetch)

    def has(self, key: str) -> bool:
        """See Store."""
        return self._unless_missing(
            f"look for {key} in",
            lambda: self._client.head_object(Bucket=self._bucket, Key=self._name(key)),
        )

    def delete(self, key: str) -> None:
        """See Store."""
        self._patiently(
            f"delete {key} from",
            lambda: self._client.delete_object(Bucket=self._bucket, Key=self._name(key)),
        )

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key

    def _unless_missing(self, what: str, action: Callable[[], object]) -> bool:
        from botocore.exceptions import ClientError

        def attempt() -> bool:
            try:
                action()
            except ClientError as error:
                if error.response["Error"]["Code"] in _MISSING:
                    return False
                raise
            return True

        return self._patiently(what, attempt)

    def _patiently(self, what: str, action: Callable[[], _Answer]) -> _Answer:
        """Try until it works, fails for a reason that time does not mend, or patience ends."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"{self.url} at {self._where}"
        try:
            return patiently(action, s3_may_mend, self._patience_s, place)
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise StoreError(f"cannot {what} {place}: {error}") from error


def open_store(url: str, endpoint_url: str | None) -> Store:
    """The place that a URL or a path names.

    Raises:
        ParamsError: neither `s3://bucket/prefix` nor a folder.
    """
    if url.startswith("s3://") and urlsplit(url).netloc:
        return S3Store(url, endpoint_url)
    if "://" in url or not url:
        raise ParamsError(f"SISR_STORAGE is {url!r}; write s3://bucket/prefix or a folder")
    return FolderStore(Path(url))


def download_s3(url: str, target: Path, endpoint_url: str | None) -> None:
    """Copy `s3://bucket/key` into a file.

    Raises:
        DownloadError: no such object, no credentials, endpoint out of reach.
        ParamsError: the endpoint is no URL.
    """
    parts = urlsplit(url)
    with _readable(url, endpoint_url):
        _client(endpoint_url).download_file(parts.netloc, parts.path.lstrip("/"), str(target))


def s3_num_bytes(url: str, endpoint_url: str | None) -> int:
    """The size of `s3://bucket/key`.

    Raises:
        DownloadError: no such object, no credentials, endpoint out of reach.
        ParamsError: the endpoint is no URL.
    """
    parts = urlsplit(url)
    with _readable(url, endpoint_url):
        about = _client(endpoint_url).head_object(Bucket=parts.netloc, Key=parts.path.lstrip("/"))
    return int(about["ContentLength"])


@contextmanager
def _readable(url: str, endpoint_url: str | None) -> Iterator[None]:
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise DownloadError(
            f"cannot read {masked(url)} at {_place(endpoint_url)}: {error}"
        ) from error


def _place(endpoint_url: str | None) -> str:
    return masked(endpoint_url) if endpoint_url else "AWS"


def s3_may_mend(error: BaseException) -> bool:
    """Out of reach, or the server's own trouble; never a refusal."""
    from boto3.exceptions import S3UploadFailedError
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    if isinstance(error, S3UploadFailedError):
        # boto3 wraps what happened; a refusal keeps its code in the text.
        cause = error.__context__
        return cause is not None and s3_may_mend(cause)
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return bool(status >= _FIRST_SERVER_ERROR)
    return isinstance(error, ConnectionError | HTTPClientError)


def _client(endpoint_url: str | None) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        retries={"mode": "standard", "max_attempts": 3},
    )
    try:
        return boto3.client("s3", endpoint_url=endpoint_url, config=config)
    except ValueError as error:
        raise ParamsError(f"SISR_S3_ENDPOINT_URL is wrong: {error}") from error
