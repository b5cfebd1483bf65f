"""S3-compatible storage; the only file that knows boto3."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks.errors import DownloadError, ParamsError


def download_s3(url: str, target: Path, endpoint_url: str | None) -> None:
    """Copy `s3://bucket/key` into a file.

    Credentials come from the usual AWS environment or profile.

    Raises:
        DownloadError: no such object, no credentials, endpoint out of reach.
        ParamsError: the endpoint is no URL.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    parts = urlsplit(url)
    try:
        _client(endpoint_url).download_file(parts.netloc, parts.path.lstrip("/"), str(target))
    except (BotoCoreError, ClientError, Boto3Error) as error:
        raise DownloadError(f"cannot read {url} at {endpoint_url or 'AWS'}: {error}") from error
    except ValueError as error:
        raise ParamsError(f"SISR_S3_ENDPOINT_URL is wrong: {error}") from error


def _client(endpoint_url: str | None) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=endpoint_url)
