"""Cells on Ray Train; the only file that imports ray.

One Ray for a run: an existing cluster if its address is given, else a local one
that ends with the run. Starting a `TorchTrainer` costs some twenty seconds of
imports, so there is one for every lane and not for every cell: its workers fetch
one cell after the other from a desk, an actor, and tell it what becomes of them.
A lane whose worker dies starts again and resumes the cell from its checkpoint.
"""

import logging
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
import ray.train
import ray.train.collective
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group_table,
    remove_placement_group,
)

from tasks.config import Cell, Params, Settings
from tasks.cores import num_usable_cores
from tasks.desk import Desk, Done, Event, Placed, Warned
from tasks.errors import ParamsError, SisrError, StoreError, TrainingError
from tasks.exchange import (
    Job,
    checkpoint_key,
    fetch_inputs,
    forget_result,
    has_result,
    keep_result,
    node_cache,
    offer_inputs,
    take_result,
)
from tasks.fingerprint import cell_fingerprint
from tasks.lanes import (
    Lane,
    largest_first,
    may_share,
    measure_work,
    plan_lanes,
    waiting_line,
)
from tasks.layout import CELL_FOLDER, EXCHANGE_FOLDER, RAY_FOLDER, TRAINED_FOLDER
from tasks.sending import CheckpointSender
from tasks.storage import FolderStore, Store, open_store
from tasks.train import Progress, checkpoint_file, is_finished, train_cell

# Ray's own store holds no data of ours but progress lines.
_OBJECT_STORE_BYTES = 100 * 2**20
_POLL_S = 0.5
_KNOCK_S = 10.0
_LOG = logging.getLogger(__name__)
_PACKAGES = ("models", "tasks", "flows")
# A lane that breaks as often has no workers to be had.
_MAX_STARTS = 3
# Ray Train gives up a group whose workers have not started in 60 s.
_WORKERS_START_S = 120.0
# When a person who sees nothing begin wants to know why; then after twice as long, and so on.
_FIRST_WORD_S = 60.0

_Answer = TypeVar("_Answer")
OnProgress = Callable[[Progress], None]
Say = Callable[[str], None]


class Cluster:
    """A Ray on which the given cells train; `train` waits for one of them, from any thread."""

    def __init__(
        self, params: Params, settings: Settings, cells: Sequence[Cell], say: Say, *, anew: bool
    ) -> None:
        self._settings = settings
        self._store = _store(settings)
        self._say = say
        self._work = {cell: measure_work(params, cell) for cell in cells}
        self._jobs = {job.cell: job for job in self._make_jobs(params)}
        if anew:
            for cell in cells:
                checkpoint_file(params, cell).unlink(missing_ok=True)
                shutil.rmtree(TRAINED_FOLDER / self._jobs[cell.name].name, ignore_errors=True)
                self._store.delete(checkpoint_key(self._jobs[cell.name].name))
                forget_result(self._store, self._jobs[cell.name].name)
        self._desk = ray.remote(num_cpus=0)(Desk).remote(list(self._jobs.values()))
        self._ends = {name: _End() for name in self._jobs}
        self._listeners: dict[str, OnProgress] = {}
        self._num_workers = params.training.num_workers
        # Lanes at work, by the task that runs each, and how often each was started.
        self._running: dict[Any, Lane] = {}
        self._starts: Counter[str] = Counter()
        # What each lane's workers run in.
        self._groups: dict[str, str] = {}
        # Groups that no lane has named, and since when.
        self._unknown_s: dict[str, float] = {}
        # Since when no lane has workers, and after how long that is said next.
        self._opened_s = time.monotonic()
        self._waiting_since_s, self._word_after_s = self._opened_s, _FIRST_WORD_S
        # Lanes on parts of GPUs, until the others have their whole ones.
        self._later: list[Lane] = []
        for lane in self._plan(params):
            if lane.takes_large:
                self._start(lane)
            else:
                self._later.append(lane)
        self._start_parts()
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._read, name="desk", daemon=True)
        self._reader.start()

    def train(self, cell: Cell, on_progress: OnProgress) -> None:
        """Wait until a cell is trained and put its result into `cells/<cell>`.

        Raises:
            TrainingError: the training failed; the message says why.
            StoreError: the result is lost.
        """
        self._listeners[cell.name] = on_progress
        reason = self._ends[cell.name].wait()
        if reason is not None:
            raise TrainingError(reason)
        job = self._jobs[cell.name]
        if not take_result(self._store, job.name, CELL_FOLDER / cell.name):
            raise StoreError(f"{cell.name}: its result is not in {self._store.url}; run again")
        self._tidy(cell, lambda: self._store.delete(checkpoint_key(job.name)))

    def forget(self, cell: Cell) -> None:
        """Delete a result that the workspace has recorded."""
        self._tidy(cell, lambda: forget_result(self._store, self._jobs[cell.name].name))

    def _tidy(self, cell: Cell, delete: Callable[[], None]) -> None:
        """Delete what nobody needs any more; where that fails, nothing else does."""
        try:
            delete()
        except StoreError as error:
            self._say(f"{cell.name}: left in the storage: {error}")

    def close(self) -> None:
        """Stop listening; whoever still waits for a cell is told that the run was stopped."""
        self._closed.set()
        self._end_all("the run was stopped")
        # Nothing of this process may touch Ray once it is shut down.
        self._reader.join()

    def _make_jobs(self, params: Params) -> list[Job]:
        """The jobs, largest first, their inputs in the storage if there is one."""
        ordered = largest_first(self._work)
        inputs: dict[str, dict[str, str]] = {cell.name: {} for cell in ordered}
        if self._settings.storage is not None:
            self._say(f"inputs to {self._store.url} …")
            inputs = offer_inputs(self._store, ordered)
        return [
            Job(
                name=f"{cell.name}-{cell_fingerprint(params, cell)[:16]}",
                cell=cell.name,
                params=params.model_dump_json(),
                inputs=inputs[cell.name],
                is_large=self._work[cell].is_large,
            )
            for cell in ordered
        ]

    def _plan(self, params: Params) -> list[Lane]:
        resources = ray.cluster_resources()
        if self._settings.ray_address is None:
            _check_room(params, resources.get("CPU", 0), resources.get("GPU", 0))
        return plan_lanes(
            self._work,
            num_cpus=resources.get("CPU", 0),
            num_gpus=resources.get("GPU", 0),
            num_threads=params.training.num_threads,
            num_workers=self._num_workers,
        )

    def _start(self, lane: Lane) -> None:
        """Run a lane's TorchTrainer in a task of its own, which can be left alone at any moment."""
        self._starts[lane.name] += 1
        task = ray.remote(num_cpus=0, max_retries=0)(_fit_lane).remote(
            lane, self._num_workers, self._desk, self._settings, str(Path.cwd())
        )
        self._running[task] = lane

    def _read(self) -> None:
        """Pass on what happens at the desk and in the lanes, until the run or its cells end."""
        try:
            while self._running and not self._closed.wait(_POLL_S):
                self._look_at_lanes()
                self._pass_on_events()
                self._start_parts()
                self._free_lost_groups()
                self._tell_if_waiting()
            if not self._closed.is_set():
                self._end_all("no lane is left to train it")
        except ray.exceptions.RayError as error:
            self._end_all(f"the cluster is gone: {error}")
        except BaseException as error:
            self._end_all(f"the run cannot listen any more: {error!r}")  # nobody waits for ever
            raise

    def _look_at_lanes(self) -> None:
        """A lane ends when there is no cell left for it; one that broke starts again."""
        tasks = list(self._running)
        ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0)
        if ended:
            self._pass_on_events()  # what the lanes last said of themselves
        for task in ended:
            lane = self._running.pop(task)
            group = self._groups.pop(lane.name, None)
            try:
                ray.get(task)
            except ray.exceptions.RayError as error:
                self._tell(f"lane {lane.name} broke: {str(error).strip().splitlines()[-1]}")
                self._free(group)
                if self._starts[lane.name] < _MAX_STARTS:
                    self._start(lane)
                else:
                    ray.get(self._desk.lose.remote(lane.name))

    def _start_parts(self) -> None:
        """Share out GPUs once the cells that need a whole one have theirs.

        Ray gives to whoever fits first: a large cell would wait until all parts of a GPU are free,
        and train alone at the end.
        """
        opened_s = time.monotonic() - self._opened_s
        if may_share(self._running.values(), self._groups, opened_s):
            for lane in self._later:
                self._start(lane)
            self._later = []

    def _free(self, group: str | None) -> None:
        """Take back what a lane that broke goes on holding of our own Ray.

        On a cluster Ray Train does it itself: it asks the dashboard, which ours is without.
        """
        if group is not None and self._settings.ray_address is None:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))

    def _free_lost_groups(self) -> None:
        """The same where the lane broke before its workers could say what they run in."""
        if self._starts.total() == len(self._starts) or self._settings.ray_address is not None:
            return  # no lane has broken
        known, now_s = set(self._groups.values()), time.monotonic()
        unknown = {
            group
            for group, about in placement_group_table().items()
            if about["state"] == "CREATED" and group not in known
        }
        self._unknown_s = {group: self._unknown_s.get(group, now_s) for group in unknown}
        for group, since_s in self._unknown_s.items():
            if now_s - since_s > _WORKERS_START_S:
                self._free(group)

    def _tell_if_waiting(self) -> None:
        """Where a shared cluster has no room for any lane yet, say what is waited for."""
        now_s = time.monotonic()
        waited_s = now_s - self._waiting_since_s
        if self._groups:
            self._waiting_since_s, self._word_after_s = now_s, _FIRST_WORD_S
        elif waited_s > self._word_after_s and self._running and self._settings.ray_address:
            self._word_after_s *= 2
            smallest = min(self._running.values(), key=lambda lane: (lane.num_gpus, lane.num_cpus))
            free, total = ray.available_resources(), ray.cluster_resources()
            self._tell(waiting_line(smallest, self._num_workers, free, total, waited_s))

    def _pass_on_events(self) -> None:
        for event in ray.get(self._desk.events.remote()):
            self._pass_on(event)

    def _pass_on(self, event: Event) -> None:
        match event:
            case Done(cell, reason):
                self._ends[cell].set(reason)
            case Warned(_, text):
                self._tell(text)
            case Placed(lane, group):
                self._groups[lane] = group
            case Progress() if event.cell in self._listeners:
                _attempt(self._listeners[event.cell], event)

    def _tell(self, text: str) -> None:
        _attempt(self._say, text)

    def _end_all(self, reason: str) -> None:
        """Whatever has not ended yet ends for this reason."""
        for name, end in self._ends.items():
            end.set(f"{name}: {reason}; run again to resume")


def _attempt(show: Callable[[Any], None], what: object) -> None:
    """Show it if that can be done; no line on a terminal or a page is worth a training."""
    try:
        show(what)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a closed pipe is rich's SystemExit
        _LOG.warning("not shown: %s: %r", what, error)


class _End:
    """How a cell ended; the first word counts."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._reason: str | None = None

    def set(self, reason: str | None) -> None:
        """Say how it ended, unless that is known."""
        if not self._event.is_set():
            self._reason = reason
            self._event.set()

    def wait(self) -> str | None:
        """Wait for the end; returns why it failed, or None."""
        self._event.wait()
        return self._reason


@contextmanager
def cluster(
    params: Params, settings: Settings, cells: Sequence[Cell], say: Say, *, anew: bool = False
) -> Iterator[Cluster]:
    """Start or join Ray for the time of a run, with these cells to train.

    With `anew`, nothing that an earlier run left of them is used.

    Raises:
        StoreError: the cluster or the storage does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray Train's helpers are processes too; a small machine need not be warned of eight of them.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    if settings.ray_address is None:
        # This machine is not taken away with notice; a watcher per lane costs seconds of imports.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        _knock(settings.ray_address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **_address(settings))
    except Exception as error:  # Ray's own are of every kind, bare ones too
        raise StoreError(
            f"Ray at {settings.ray_address or 'this machine'} cannot be used:"
            f" {error}{_token_hint(settings.ray_address)}"
        ) from error
    try:
        opened = Cluster(params, settings, cells, say, anew=anew)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        ray.shutdown()


def _check_room(params: Params, num_cpus: float, num_gpus: float) -> None:
    """Raise if no lane can ever start here; on a cluster that grows, one may."""
    training = params.training
    need = training.num_threads * training.num_workers
    if need > num_cpus:
        raise ParamsError(
            f"training.num_threads × training.num_workers is {need}; this machine has"
            f" {num_cpus:.0f} cores: lower one of them"
        )
    if 0 < num_gpus < training.num_workers:
        raise ParamsError(
            f"training.num_workers is {training.num_workers}; this machine has {num_gpus:.0f} GPUs:"
            " lower it"
        )


def _num_cpus() -> int | None:
    """The cores we may use if these are some of the machine's; else Ray counts them itself."""
    mine = num_usable_cores()
    return mine if mine < (os.cpu_count() or 1) else None


def _address(settings: Settings) -> dict[str, Any]:
    """A Ray of our own, or somebody's, to whose workers our code is shipped."""
    if settings.ray_address is None:
        return {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "num_cpus": _num_cpus(),
            # Ray asks the driver; a torch without CUDA, or too new for it, trains on the CPU.
            "num_gpus": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        }
    home = Path(__file__).resolve().parent.parent
    return {
        "address": settings.ray_address,
        "runtime_env": {"py_modules": [str(home / name) for name in _PACKAGES]},
    }


def _knock(address: str | None) -> None:
    """Raise OSError if nobody listens at `host:port`; Ray itself would try for many minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _token_hint(address: str | None) -> str:
    """Ray shows its token to nobody whom it is only given an address of, unless it is told to."""
    if address is None or os.environ.get("RAY_AUTH_MODE") == "token":
        return ""
    return "; if its nodes share a token, set RAY_AUTH_MODE=token here too"


def _store(settings: Settings) -> Store:
    if settings.storage is None:
        return FolderStore(EXCHANGE_FOLDER)
    return open_store(settings.storage, settings.s3_endpoint_url)


def _fit_lane(lane: Lane, num_workers: int, desk: Any, settings: Settings, workspace: str) -> None:
    """Train in a lane for as long as there are cells for it."""
    resources: dict[str, float] = {"CPU": lane.num_cpus}
    if lane.num_gpus:
        resources["GPU"] = lane.num_gpus
    trainer = TorchTrainer(
        _work_in_lane,
        train_loop_config={
            "desk": desk,
            "lane": lane.name,
            "takes_large": lane.takes_large,
            "takes_small": lane.takes_small,
            "workspace": workspace if settings.storage is None else None,
            "storage": settings.storage,
            "s3_endpoint_url": settings.s3_endpoint_url,
        },
        scaling_config=ScalingConfig(
            num_workers=num_workers, use_gpu=bool(lane.num_gpus), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=f"{lane.name}-{uuid.uuid4().hex[:8]}",
            # The desk decides how often a cell is tried, whatever its lane's workers die of.
            failure_config=FailureConfig(max_failures=-1),
            **_ray_storage(settings, workspace),
        ),
    )
    trainer.fit()


def _ray_storage(settings: Settings, workspace: str) -> dict[str, Any]:
    """Where Ray keeps a lane's own state: here, unless its workers are elsewhere."""
    if settings.storage is None or settings.ray_address is None:
        return {"storage_path": str(Path(workspace) / RAY_FOLDER)}
    if not settings.storage.startswith("s3://"):
        return {"storage_path": str((Path(settings.storage) / "ray").absolute())}
    from pyarrow.fs import S3FileSystem

    options = {}
    if settings.s3_endpoint_url:
        scheme, _, host = settings.s3_endpoint_url.partition("://")
        options = {"endpoint_override": host, "scheme": scheme}
    return {
        "storage_path": f"{settings.storage.removeprefix('s3://').rstrip('/')}/ray",
        "storage_filesystem": S3FileSystem(**options),
    }


def _work_in_lane(config: dict[str, Any]) -> None:
    """What runs in each worker of a lane: one cell after the other, until the desk has no more."""
    desk, lane = config["desk"], config["lane"]
    is_alone = ray.train.get_context().get_world_size() == 1
    group = get_current_placement_group()
    if group is not None and _is_first():
        ray.get(desk.report.remote(Placed(lane, group.id.hex())))
    sizes = config["takes_large"], config["takes_small"]
    while True:
        job = _as_first(lambda: ray.get(desk.next.remote(lane, *sizes)))
        if job is None:
            return
        reason = _train(job, config)
        if reason is not None or _is_first():
            ray.get(desk.end.remote(lane, job.cell, reason))
        if reason is not None and not is_alone:
            # The others may wait for this one's gradients: all start anew, with the next cell.
            raise TrainingError(reason)


def _is_first() -> bool:
    return bool(ray.train.get_context().get_world_rank() == 0)


def _as_first(ask: Callable[[], _Answer]) -> _Answer:
    """What the first worker gets as an answer, at every worker."""
    answer = ask() if _is_first() else None
    if ray.train.get_context().get_world_size() > 1:
        answer = ray.train.collective.broadcast_from_rank_zero(answer)
    return cast(_Answer, answer)


def _train(job: Job, config: dict[str, Any]) -> str | None:
    """One cell; returns why it failed, or None."""
    try:
        if config["workspace"] is not None:
            os.chdir(config["workspace"])
            _train_here(job, config["desk"], FolderStore(EXCHANGE_FOLDER), shared=True)
        else:
            store = open_store(config["storage"], config["s3_endpoint_url"])
            with tempfile.TemporaryDirectory(prefix="sisr-") as temporary:
                os.chdir(temporary)
                try:
                    fetch_inputs(store, job.inputs, node_cache(), Path(temporary))
                    _train_here(job, config["desk"], store, shared=False)
                finally:
                    os.chdir("/")
    except SisrError as error:
        return str(error)
    except Exception:  # noqa: BLE001 - the reason goes to the desk; a retry would not help
        return f"{job.cell} failed:\n{traceback.format_exc()}"
    return None


def _train_here(job: Job, desk: Any, store: Store, *, shared: bool) -> None:
    """Train in the current folder and keep the result; checkpoints too, unless the folder lasts."""
    params = Params.model_validate_json(job.params)
    cell = params.cell(job.cell)
    # A training that ends deletes its checkpoint, so its folder must outlast this process, and a
    # storage that refuses it.
    folder = (TRAINED_FOLDER if shared else node_cache() / "trained") / job.name
    is_kept, is_trained = _as_first(
        lambda: (has_result(store, job.name), is_finished(params, cell, folder))
    )
    if is_kept:
        return
    if not shared:
        store.get(checkpoint_key(job.name), checkpoint_file(params, cell))

    def upload(path: Path) -> None:
        try:
            store.put(checkpoint_key(job.name), path)
        except Exception as error:  # noqa: BLE001 - in a thread of its own; told below
            # The training is worth more than its checkpoint; the result is waited for.
            desk.report.remote(Warned(cell.name, f"{cell.name}: checkpoint not kept: {error}"))

    if not is_trained:
        with CheckpointSender(upload) as sender:
            train_cell(
                params,
                cell,
                folder,
                desk.report.remote,
                on_checkpoint=None if shared else sender.take,
            )
    if _is_first():
        keep_result(store, job.name, folder)
        shutil.rmtree(folder)
