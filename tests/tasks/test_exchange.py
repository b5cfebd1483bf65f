"""Inputs, results and checkpoints between a flow and workers that share only a storage."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import StoreError
from tasks.exchange import (
    fetch_inputs,
    forget_result,
    has_result,
    keep_result,
    node_cache,
    offer_inputs,
    take_result,
)
from tasks.shards import ShardSet, shard
from tasks.storage import FolderStore, S3Store, Store
from tests.conftest import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    endpoint: str = request.getfixturevalue("endpoint")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="sisr")
    return S3Store(f"s3://sisr/{os.urandom(4).hex()}", endpoint, patience_s=0)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    (folder / "snapshots").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(range(256)))
    (folder / "snapshots" / "step 1.png").write_bytes(b"picture")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_node_keeps_its_inputs_where_its_own_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert node_cache() == Path.home() / ".cache/sisr"
    monkeypatch.setenv("SISR_NODE_CACHE", "near")
    # a link to a relative path would lead elsewhere
    assert node_cache() == tmp_path / "near"


def test_a_result_comes_back_as_it_was(store: Store, result: Path, tmp_path: Path) -> None:
    assert not has_result(store, "srcnn-x2-abc")
    assert not take_result(store, "srcnn-x2-abc", tmp_path / "back")

    keep_result(store, "srcnn-x2-abc", result)

    assert has_result(store, "srcnn-x2-abc")
    assert take_result(store, "srcnn-x2-abc", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(result)
    forget_result(store, "srcnn-x2-abc")
    assert not has_result(store, "srcnn-x2-abc")
    assert not store.has("results/srcnn-x2-abc/weights.safetensors")


def test_half_a_result_is_none(store: Store, result: Path, tmp_path: Path) -> None:
    keep_result(store, "cell", result)
    store.delete("results/cell/files.json")
    assert not take_result(store, "cell", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_damaged_result_is_refused_and_what_was_there_stays(
    store: Store, result: Path, tmp_path: Path
) -> None:
    keep_result(store, "cell", result)
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"other bytes")
    store.put("results/cell/weights.safetensors", damaged)
    target = tmp_path / "cells" / "srcnn-x2"
    target.mkdir(parents=True)
    (target / "earlier").touch()

    with pytest.raises(StoreError, match="was damaged; run again to train it anew"):
        take_result(store, "cell", target)

    assert contents(target) == {"earlier": b""}
    assert not has_result(store, "cell")


def test_inputs_reach_another_folder_and_are_fetched_once(
    store: Store,
    workspace: Workspace,
    make_params: Callable[..., Params],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = make_params()
    download(params, load_catalogue(), Settings())
    degrade(scale=2)
    shard(params.data.train, scale=2, shape=params.shards)
    cell, cache, elsewhere = params.cell("srcnn-x2"), tmp_path / "cache", tmp_path / "node"

    inputs = offer_inputs(store, [cell])[cell.name]
    fetch_inputs(store, inputs, cache, elsewhere)

    patches = np.arange(3)
    here = ShardSet(workspace.path / "data/shards/x2").gather(patches)
    there = ShardSet(elsewhere / "data/shards/x2").gather(patches)
    assert all((ours == theirs).all() for ours, theirs in zip(here, there, strict=True))
    # The node's cache serves the next cell, though the storage is gone.
    for sha256 in set(inputs.values()):
        store.delete(f"inputs/{sha256}")
    fetch_inputs(store, inputs, cache, tmp_path / "second")
    # A damaged copy in the cache is not believed.
    (cache / "inputs" / next(iter(inputs.values()))).write_bytes(b"")
    with pytest.raises(StoreError, match="is missing; run again to offer it anew"):
        fetch_inputs(store, inputs, cache, tmp_path / "third")


def test_an_input_damaged_in_the_storage_is_deleted_so_that_the_next_run_offers_it(
    store: Store, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text(json.dumps("not what its name says"))
    store.put("inputs/0123", wrong)
    with pytest.raises(StoreError, match="was damaged and is deleted; run again"):
        fetch_inputs(store, {"data/a": "0123"}, tmp_path / "cache", tmp_path / "node")
    assert not store.has("inputs/0123")
