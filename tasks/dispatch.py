"""Cells on Ray Train; the only file that imports ray.

One Ray for a run: an existing cluster if its address is given, else a local
one that ends with the run. Every cell is one `TorchTrainer`; they all start at
once and Ray gives each its share of the machine.
"""

import logging
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue

from tasks.atomic import replacing_folder
from tasks.config import Cell, Params, Settings
from tasks.errors import SisrError, StoreError, TrainingError
from tasks.fingerprint import cell_fingerprint
from tasks.layout import CELL_FOLDER, RAY_FOLDER
from tasks.train import Progress, train_cell

# Ray's own store holds no data of ours but progress lines.
_OBJECT_STORE_BYTES = 100 * 2**20
_POLL_S = 0.5

OnProgress = Callable[[Progress], None]


class Cluster:
    """A Ray that cells can be trained on, from any thread."""

    def __init__(self, params: Params) -> None:
        self._params = params
        self._gpus = ray.cluster_resources().get("GPU", 0)
        self._queue = Queue(actor_options={"num_cpus": 0})
        self._listeners: dict[str, OnProgress] = {}
        self._done = threading.Event()
        self._reader = threading.Thread(target=self._read, name="progress", daemon=True)
        self._reader.start()

    def train(self, cell: Cell, on_progress: OnProgress) -> None:
        """Train one cell and put its result into `cells/<cell>`.

        Raises:
            TrainingError: the training failed; the message says why.
        """
        self._listeners[cell.name] = on_progress
        name = f"{cell.name}-{cell_fingerprint(self._params, cell)[:16]}"
        storage = RAY_FOLDER.absolute()
        # A finished run of that name would be handed back instead of a new one.
        shutil.rmtree(storage / name, ignore_errors=True)
        trainer = TorchTrainer(
            _worker_loop,
            train_loop_config={
                "params": self._params.model_dump_json(),
                "cell": cell.name,
                "workspace": str(Path.cwd()),
                "queue": self._queue,
            },
            scaling_config=self._share(),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage),
                # A dead worker is replaced; the training resumes from its own checkpoint.
                failure_config=FailureConfig(max_failures=3),
            ),
        )
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise TrainingError(f"{cell.name}: Ray gave up on it: {error}") from error
        self._collect(cell, result)
        shutil.rmtree(storage / name, ignore_errors=True)

    def close(self) -> None:
        """Stop listening to the cells."""
        self._done.set()
        self._reader.join()
        self._queue.shutdown(force=True)

    def _share(self) -> ScalingConfig:
        """One worker: a core for each of the cell's threads, and a GPU where there is one."""
        resources: dict[str, float] = {"CPU": self._params.training.num_threads}
        if self._gpus:
            resources["GPU"] = 1
        return ScalingConfig(
            num_workers=1, use_gpu=bool(self._gpus), resources_per_worker=resources
        )

    def _collect(self, cell: Cell, result: ray.train.Result) -> None:
        if result.checkpoint is None:
            raise TrainingError(f"{cell.name}: the worker ended without a result")
        with result.checkpoint.as_directory() as folder:
            failure = Path(folder) / "failure.txt"
            if failure.exists():
                raise TrainingError(failure.read_text(encoding="utf-8"))
            with replacing_folder(CELL_FOLDER / cell.name) as target:
                shutil.copytree(folder, target, dirs_exist_ok=True)

    def _read(self) -> None:
        while not self._done.is_set():
            try:
                progress: Progress = self._queue.get(timeout=_POLL_S)
            except Empty:
                continue
            self._listeners[progress.cell](progress)


@contextmanager
def cluster(params: Params, settings: Settings) -> Iterator[Cluster]:
    """Start or join Ray for the time of a run.

    Raises:
        StoreError: the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {}
    if settings.ray_address is None:
        local = {
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "num_cpus": os.cpu_count(),
        }
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        ray.init(
            address=settings.ray_address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **local,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StoreError(
            f"Ray at {settings.ray_address or 'this machine'} cannot be used: {error}"
        ) from error
    opened = Cluster(params)
    try:
        yield opened
    finally:
        opened.close()
        ray.shutdown()


def _worker_loop(config: dict[str, Any]) -> None:
    """What runs in the worker: the plain training, its progress sent to the driver."""
    os.chdir(config["workspace"])
    params = Params.model_validate_json(config["params"])
    cell = params.cell(config["cell"])
    with tempfile.TemporaryDirectory(prefix="sisr-") as temporary:
        folder = Path(temporary) / cell.name
        try:
            train_cell(params, cell, folder, config["queue"].put)
        except SisrError as error:
            _write_failure(folder, str(error))
        except Exception:  # noqa: BLE001 - the reason goes to the driver; a retry would not help
            _write_failure(folder, f"{cell.name} failed:\n{traceback.format_exc()}")
        ray.train.report({}, checkpoint=Checkpoint.from_directory(str(folder)))


def _write_failure(folder: Path, message: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.txt").write_text(message, encoding="utf-8")
