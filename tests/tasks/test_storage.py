"""Stores on a folder and on S3, and what happens while S3 is away."""

import re
import socket
import threading
import time
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tasks.errors import ParamsError, StoreError
from tasks.storage import FolderStore, S3Store, open_store

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(port: int) -> ThreadedMotoServer:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
    server.start()
    boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket="sisr")
    return server


def test_a_url_or_a_path_names_a_store(tmp_path: Path) -> None:
    assert isinstance(open_store("s3://bucket/prefix", None), S3Store)
    assert isinstance(open_store(str(tmp_path), None), FolderStore)
    for wrong in ("", "s3://", "gs://bucket", "https://host/x"):
        with pytest.raises(ParamsError, match="write s3://bucket/prefix or a folder"):
            open_store(wrong, None)
    with pytest.raises(ParamsError, match="SISR_S3_ENDPOINT_URL is wrong"):
        open_store("s3://bucket", "not a url")


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"no folder")
    store = FolderStore(file)  # where a network folder was

    for use in (
        lambda: store.put("a/b", file),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StoreError, match=rf"the folder {re.escape(str(file))} cannot be used"):
            use()


def test_a_storage_that_comes_back_is_waited_for(tmp_path: Path) -> None:
    file, port = tmp_path / "file", _free_port()
    file.write_bytes(b"kept")
    store = S3Store("s3://sisr/here", f"http://127.0.0.1:{port}", patience_s=60)
    servers: list[ThreadedMotoServer] = []

    def come_back() -> None:
        time.sleep(2)
        servers.append(_serve(port))

    late = threading.Thread(target=come_back)
    late.start()
    try:
        # Refused until the server is there; the bucket may appear a moment after it.
        while True:
            try:
                store.put("a key/ü", file)
                break
            except StoreError as error:
                assert "NoSuchBucket" in str(error)
        assert store.get("a key/ü", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == b"kept"
    finally:
        late.join()
        servers[0].stop()


def test_patience_ends(tmp_path: Path) -> None:
    store = S3Store("s3://sisr/here", f"http://127.0.0.1:{_free_port()}", patience_s=0)
    with pytest.raises(StoreError, match=r"cannot look for x in s3://sisr/here at http://127"):
        store.has("x")


def test_a_refusal_is_told_at_once(tmp_path: Path) -> None:
    server = _serve(port := _free_port())
    store = S3Store("s3://no-such-bucket", f"http://127.0.0.1:{port}", patience_s=600)
    (tmp_path / "file").touch()
    try:
        start_s = time.monotonic()
        with pytest.raises(StoreError, match="NoSuchBucket"):
            store.put("x", tmp_path / "file")
        assert time.monotonic() - start_s < 30
    finally:
        server.stop()


def test_a_missing_object_is_no_error_and_leaves_no_file(tmp_path: Path) -> None:
    server = _serve(port := _free_port())
    try:
        for store in (
            S3Store("s3://sisr", f"http://127.0.0.1:{port}", patience_s=0),
            FolderStore(tmp_path / "store"),
        ):
            assert not store.has("nothing")
            assert not store.get("nothing", tmp_path / "back")
            store.delete("nothing")
            assert not (tmp_path / "back").exists()
    finally:
        server.stop()
