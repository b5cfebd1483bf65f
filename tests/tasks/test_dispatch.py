"""A Ray that cannot be joined, and one whose processes die."""

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.dispatch import cluster
from tasks.download import download
from tasks.errors import StoreError
from tasks.layout import weights_file
from tasks.shards import shard
from tasks.train import Progress, train_cell
from tests.conftest import Workspace, params_values_with

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:ray")


def join(params: Params, address: str) -> None:
    with cluster(params, Settings(ray_address=address), [], print):
        raise AssertionError("nothing is there to be joined")


def test_an_address_where_nobody_listens_is_told_within_seconds(
    make_params: Callable[..., Params],
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"  # bound, but nobody listens

        start_s = time.monotonic()
        with pytest.raises(StoreError, match=f"Ray at {address} cannot be used: .*refused"):
            join(make_params(), address)

    assert time.monotonic() - start_s < 15


@pytest.mark.parametrize(("mode", "is_told"), [(None, True), ("token", False)])
def test_a_ray_that_refuses_us_is_told_with_the_token_it_may_want(
    make_params: Callable[..., Params],
    monkeypatch: pytest.MonkeyPatch,
    mode: str | None,
    is_told: bool,
) -> None:
    def refuse(**_: Any) -> None:
        # What `ray.init` raises where the head wants a token and gets none.
        raise ConnectionError("Failed to connect to Ray cluster at first:6379")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)

    with pytest.raises(StoreError, match="Failed to connect") as caught:
        join(make_params(), "ray://first:10001")

    assert ("set RAY_AUTH_MODE=token" in str(caught.value)) == is_told


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_lane_whose_trainer_is_killed_starts_again_and_changes_no_weight(
    workspace: Workspace, tmp_path: Path
) -> None:
    recipe = params_values_with({})["trained"]["cnn_small"]
    # One lane with all cores: what a dead one goes on holding, no other can have.
    params = workspace.write_params(
        training={"num_threads": os.cpu_count()},
        trained={"cnn_small": recipe | {"train_for": "2000 steps", "validate_every": "100 steps"}},
    )
    download(params, load_catalogue(), Settings())
    degrade(2)
    shard(params.data.train, 2, params.shards)
    (cell,) = params.cells
    said: list[str] = []
    num_killed = 0

    def kill_at_first(progress: Progress) -> None:
        nonlocal num_killed
        if num_killed == 0 and progress.step >= 100:
            family = psutil.Process().children(recursive=True)
            (trainer,) = [each for each in family if "ray::_fit_lane" in " ".join(each.cmdline())]
            trainer.kill()
            num_killed += 1

    with (
        cluster(params, Settings(), [cell], said.append) as ray,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            pool.submit(ray.train, cell, kill_at_first).result(timeout=240)
        finally:
            ray.close()

    assert num_killed == 1
    assert any("lane cpu-0 broke" in line for line in said)
    plain = tmp_path / "plain"
    assert train_cell(params, cell, plain, lambda progress: None)
    trained = weights_file(cell.name).read_bytes()
    assert trained == (plain / "weights.safetensors").read_bytes()
