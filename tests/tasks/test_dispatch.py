"""A Ray that cannot be joined, and one whose processes die."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tasks import dispatch
from tasks.config import Params, Settings, load_catalogue, load_params
from tasks.degrade import degrade
from tasks.desk import Done, Warned
from tasks.dispatch import cluster
from tasks.download import download
from tasks.errors import ParamsError, StoreError
from tasks.exchange import Job, offer_inputs, take_result
from tasks.lanes import Lane
from tasks.layout import weights_file
from tasks.shards import shard
from tasks.storage import FolderStore
from tasks.train import Progress, train_cell
from tests.cluster.services import HOST, Server, free_port
from tests.conftest import REPOSITORY, Workspace, params_values_with

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:ray")


def join(params: Params, address: str) -> None:
    with cluster(params, Settings(ray_address=address), [], print):
        raise AssertionError("nothing is there to be joined")


def test_a_storage_that_refuses_to_delete_ends_nothing(make_params: Callable[..., Params]) -> None:
    said: list[str] = []
    ours = object.__new__(dispatch.Cluster)
    ours._say = said.append

    def refuse() -> None:
        raise StoreError("AccessDenied")

    ours._tidy(make_params().cell("srcnn-x2"), refuse)

    assert said == ["srcnn-x2: left in the storage: AccessDenied"]


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


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ({"num_threads": 3}, "num_threads × training.num_workers is 3; this machine has 2 cores"),
        ({"num_workers": 2}, "num_workers is 2; this machine has 1 GPUs"),
    ],
)
def test_what_can_never_start_here_is_refused(
    training: dict[str, int], said: str, make_params: Callable[..., Params]
) -> None:
    params = make_params(training={"num_threads": 1} | training)
    with pytest.raises(ParamsError, match=said):
        dispatch._check_room(params, num_cpus=2, num_gpus=1)


def test_a_line_that_cannot_be_shown_ends_nothing_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def closed(_: object) -> None:
        raise SystemExit(1)  # what rich does when its pipe is closed

    listening = object.__new__(dispatch.Cluster)
    listening._say, listening._listeners = closed, {"srcnn-x2": closed}
    listening._ends = {"srcnn-x2": dispatch._End()}

    listening._pass_on(Progress("srcnn-x2", 1, 6, 0.1, {}, 1.0))
    listening._pass_on(Warned("srcnn-x2", "something"))
    listening._pass_on(Done("srcnn-x2"))

    assert listening._ends["srcnn-x2"].wait() is None
    assert len(caplog.records) == 2
    assert "something" in caplog.messages[1]


def test_lanes_on_parts_of_gpus_start_once_and_after_those_on_whole_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = [Lane(f"gpu-{number}", 1, 1.0, True, False) for number in range(2)]
    parts = [Lane(f"gpu-part-{number}", 1, 0.25, False, True) for number in range(4)]
    started: list[str] = []
    opened = object.__new__(dispatch.Cluster)
    monkeypatch.setattr(opened, "_start", lambda lane: started.append(lane.name), raising=False)
    opened._running, opened._later = dict(enumerate(whole)), list(parts)
    opened._groups, opened._opened_s = {"gpu-0": "a group"}, time.monotonic()

    opened._start_parts()
    assert started == []  # gpu-1 still waits for its GPU
    opened._groups["gpu-1"] = "another"
    for _ in range(2):
        opened._start_parts()
    assert started == [lane.name for lane in parts]


@pytest.fixture
def far_job(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Job, dict[str, Any]]:
    """A cell whose inputs are in a storage, and what a worker that shares only that is told."""
    params = workspace.write_params()
    download(params, load_catalogue(), Settings())
    degrade(2)
    shard(params.data.train, 2, params.shards)
    cell = params.cell("srcnn-x2")
    inputs = offer_inputs(FolderStore(tmp_path / "store"), [cell])[cell.name]
    job = Job("srcnn-x2-1", cell.name, params.model_dump_json(), inputs, is_large=False)
    monkeypatch.setenv("SISR_NODE_CACHE", str(tmp_path / "node"))
    monkeypatch.setattr(dispatch, "_is_first", lambda: True)
    monkeypatch.setattr(dispatch, "_as_first", lambda ask: ask())
    desk = SimpleNamespace(report=SimpleNamespace(remote=lambda event: None))
    config = {"workspace": None, "storage": str(tmp_path / "store"), "s3_endpoint_url": None}
    return job, config | {"desk": desk}


def test_a_worker_that_shares_only_the_storage(
    far_job: tuple[Job, dict[str, Any]], workspace: Workspace, tmp_path: Path
) -> None:
    job, config = far_job

    assert dispatch._train(job, config) is None

    os.chdir(workspace.path)
    assert take_result(FolderStore(tmp_path / "store"), job.name, tmp_path / "result")
    params = load_params()
    assert train_cell(params, params.cell("srcnn-x2"), tmp_path / "plain", lambda _: None)
    for name in ("weights.safetensors", "snapshots/hr-x2.png"):
        assert (tmp_path / "result" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert not list((tmp_path / "node" / "trained").iterdir())


def test_a_finished_training_outlasts_a_storage_that_refuses_it(
    far_job: tuple[Job, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, config = far_job

    def refuse(*_: object) -> None:
        raise StoreError("ExpiredToken")

    with monkeypatch.context() as away:
        away.setattr(dispatch, "keep_result", refuse)
        assert dispatch._train(job, config) == "ExpiredToken"
    # The next time it is not trained again.
    monkeypatch.setattr(dispatch, "train_cell", lambda *_, **__: pytest.fail("trained again"))
    assert dispatch._train(job, config) is None


def _trainers() -> list[psutil.Process]:
    """The processes that the lanes' trainers run in."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "ray::_fit_lane" in " ".join(each.cmdline()):
                found.append(each)
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_lane_whose_trainer_is_killed_starts_again_and_disturbs_no_other(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two lanes have all cores of this Ray: what a dead one goes on holding, no other can have.
    monkeypatch.setattr(dispatch, "_num_cpus", lambda: 2)
    recipe = params_values_with({})["trained"]["cnn_small"]
    recipe |= {"train_for": "2000 steps", "validate_every": "100 steps"}
    params = workspace.write_params(trained={"cnn_small": recipe, "srcnn": recipe})
    download(params, load_catalogue(), Settings())
    degrade(2)
    shard(params.data.train, 2, params.shards)
    said: list[str] = []
    started: set[str] = set()
    killed: list[psutil.Process] = []

    def kill_one(progress: Progress) -> None:
        if progress.step >= 100:
            started.add(progress.cell)
        if len(started) == 2 and not killed and len(trainers := _trainers()) == 2:
            killed.append(trainers[0])
            trainers[0].kill()

    with (
        cluster(params, Settings(), params.cells, said.append) as ray,
        ThreadPoolExecutor(2) as pool,
    ):
        try:
            waiting = [pool.submit(ray.train, cell, kill_one) for cell in params.cells]
            for each in waiting:
                each.result(timeout=300)
        finally:
            ray.close()

    assert len(killed) == 1
    assert sum("broke" in line for line in said) == 1
    # The cell of the lane that broke is taken up once; the other one's worker never died.
    assert sum("its worker died" in line for line in said) == 1
    for cell in params.cells:
        plain = tmp_path / cell.name
        assert train_cell(params, cell, plain, lambda progress: None)
        trained = weights_file(cell.name).read_bytes()
        assert trained == (plain / "weights.safetensors").read_bytes()


# A process of its own: a Ray's token is for the whole of one.
WAIT = """
import sys, threading
from tasks import dispatch
from tasks.config import Settings, load_params

dispatch._FIRST_WORD_S = 1.0
told = threading.Event()

def say(line):
    if "no worker has started" in line:
        print(line, flush=True)
        told.set()

params = load_params()
settings = Settings(ray_address=sys.argv[1], storage=sys.argv[2])
with dispatch.cluster(params, settings, params.cells, say):
    assert told.wait(timeout=60)
"""


@pytest.mark.slow
def test_a_cluster_without_room_is_told_while_it_is_waited_for(
    workspace: Workspace, tmp_path: Path
) -> None:
    # The cluster has one core.
    params = workspace.write_params(training={"num_threads": 2})
    download(params, load_catalogue(), Settings())
    degrade(2)
    shard(params.data.train, 2, params.shards)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = _ray_of_one_core(tmp_path, port := free_port(), token)

    head.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", WAIT, f"{HOST}:{port}", str(tmp_path / "storage")],
            env=os.environ | token | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip
    finally:
        head.stop()

    assert done.returncode == 0, done.stderr
    assert "1 × (2 CPU) wanted; free on the cluster, " in done.stdout
    assert "hold: 1 of 1 CPU; still waiting" in done.stdout


def _ray_of_one_core(folder: Path, port: int, token: dict[str, str]) -> Server:
    command = f"start --head --block --port={port} --node-ip-address={HOST} --num-cpus=1"
    return Server(
        "ray",
        [
            str(Path(sys.executable).parent / "ray"),
            *command.split(),
            *("--include-dashboard=false", "--object-store-memory=100000000"),
        ],
        lambda: "will now block" in (folder / "ray.log").read_text(),
        folder,
        env=token,
        num_tries=2,
    )
