"""The flow: what is stale -> data stages -> cells on Ray -> tables -> registry.

It walks the DAG of dvc.yaml. DVC says what is stale; the flow runs the stage's
own function and lets DVC record it, so afterwards `dvc repro` has nothing to do.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.progress import Board
from tasks import pipeline
from tasks.config import (
    PARAMS_FILE,
    Cell,
    Params,
    Settings,
    load_catalogue,
    load_params,
)
from tasks.degrade import degrade
from tasks.dispatch import Cluster, cluster
from tasks.download import download
from tasks.errors import CellsFailed, DownloadError, ParamsError, SisrError
from tasks.evaluate import evaluate
from tasks.fingerprint import write_fingerprints
from tasks.report import Report, markdown, write_report
from tasks.shards import shard
from tasks.tracking import log_benchmark
from tasks.train import Progress

DATA_STAGES = ("code", "download", "degrade", "shard")
TRAIN_STAGES = ("train", "train_joint")
EVALUATE_STAGES = ("evaluate", "evaluate_joint", "evaluate_interpolation")
_MAX_CELLS_AT_ONCE = 256


def _is_unreachable(_task: Task[..., Any], _run: object, state: State) -> bool:
    """Only what time can mend is tried again: no checksum gets right by waiting."""
    return isinstance(state.result(raise_on_failure=False), DownloadError)


download_task = task(
    name="download",
    retries=3,
    retry_delay_seconds=[5, 20, 60],
    retry_condition_fn=_is_unreachable,
    cache_policy=NO_CACHE,
)(download)
code_task = task(name="code", cache_policy=NO_CACHE)(write_fingerprints)
degrade_task = task(name="degrade", task_run_name="degrade-x{scale}", cache_policy=NO_CACHE)(
    degrade
)
shard_task = task(name="shard", task_run_name="shard-x{scale}", cache_policy=NO_CACHE)(shard)
evaluate_task = task(
    name="evaluate", task_run_name="evaluate-{architecture}-x{scale}", cache_policy=NO_CACHE
)(evaluate)
report_task = task(name="report", cache_policy=NO_CACHE)(write_report)
register_task = task(
    name="register", retries=2, retry_delay_seconds=[5, 30], cache_policy=NO_CACHE
)(log_benchmark)


@task(name="train", task_run_name="train-{name}", cache_policy=NO_CACHE)
def train_task(name: str, cell: Cell, ray: Cluster, board: Board) -> None:
    """Train one cell on Ray; its progress goes to the terminal and to Prefect's page."""
    artifact = create_progress_artifact(0.0, key=f"train-{_key(name)}", description=name)

    def on_progress(progress: Progress) -> None:
        board.show(progress)
        if progress.psnr_db:
            percent = 100 * progress.step / progress.num_steps
            update_progress_artifact(artifact, percent, description=str(progress))  # type: ignore[arg-type]

    ray.train(cell, on_progress)


@flow(
    name="benchmark",
    task_runner=ThreadPoolTaskRunner(max_workers=_MAX_CELLS_AT_ONCE),  # type: ignore[arg-type]
    validate_parameters=False,
)
def benchmark() -> None:
    """Make everything that params.yaml asks for and that is not made yet.

    Raises:
        CellsFailed: some cells failed; the others are in the tables.
        SisrError: bad input, or a stage that all others need failed.
    """
    params, settings = load_params(), Settings()
    with ExitStack() as stack:
        stack.enter_context(pipeline.workspace_lock())
        stack.enter_context(pipeline.unchanged(PARAMS_FILE))
        board = stack.enter_context(Board(get_run_logger().info))
        _run_data_stages(params, settings, board)
        failures = _train(params, settings, board)
        failures |= _evaluate(params, failures, board)
        report = _report(params, failures, board)
        _register(params, settings, failures, board)
        if pipeline.has_remote() and not failures:
            pipeline.push()
    if report is not None:
        _publish(report)
    if failures:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        raise CellsFailed(f"{len(failures)} of the cells failed:\n{reasons}")


def _run_data_stages(params: Params, settings: Settings, board: Board) -> None:
    for kind in DATA_STAGES:
        for stage, item in _stale((kind,)):
            board.say(f"{stage} …")
            match kind:
                case "code":
                    code_task()
                case "download":
                    download_task(params, load_catalogue(), settings)
                case "degrade":
                    degrade_task(scale=int(item))
                case "shard":
                    shard_task(params.data.train, scale=int(item), shape=params.shards)
            _record(params, stage)


def _train(params: Params, settings: Settings, board: Board) -> dict[str, str]:
    """Train every stale cell, all at once; returns why which ones failed."""
    stages = {_cell_of(params, item): stage for stage, item in _stale(TRAIN_STAGES)}
    if not stages:
        return {}
    failures: dict[str, str] = {}
    board.say(f"train {', '.join(cell.name for cell in stages)}: starting Ray …")
    with cluster(params, settings) as ray:
        futures = {train_task.submit(cell.name, cell, ray, board): cell for cell in stages}
        for future in as_completed(list(futures)):
            cell = futures[future]
            reason = _failure(future)
            if reason is None:
                _record(params, stages[cell])
                board.finish(cell.name, "trained")
            else:
                failures[cell.name] = reason
                board.finish(cell.name, f"failed: {reason}")
    return failures


def _evaluate(params: Params, failures: dict[str, str], board: Board) -> dict[str, str]:
    """Measure every stale row whose cell did not fail, one by one, so that times are true."""
    failed: dict[str, str] = {}
    for stage, item in _stale(EVALUATE_STAGES):
        architecture, _, scale = item.rpartition("-")
        cell = params.cell_for(architecture, int(scale))
        if cell is not None and cell.name in failures:
            continue
        board.say(f"{stage} …")
        state = evaluate_task(
            params, architecture=architecture, scale=int(scale), return_state=True
        )
        if state.is_completed():
            _record(params, stage)
        else:
            name = cell.name if cell else architecture
            failed[name] = str(state.result(raise_on_failure=False))
    return failed


def _report(params: Params, failures: dict[str, str], board: Board) -> Report | None:
    stale = list(_stale(("report",)))
    if not stale and not failures:
        return None
    board.say("report …")
    report: Report = report_task(params, failures)
    if not failures:
        # With a failed cell the tables are whole, but not what params.yaml asks for.
        _record(params, "report")
    return report


def _register(params: Params, settings: Settings, failures: dict[str, str], board: Board) -> None:
    if not failures and not list(_stale(("register",))):
        return
    board.say("register …")
    for each in register_task(params, settings):
        crown = " – champion" if each.is_champion else ""
        board.say(f"  {each.model} version {each.version}: {each.psnr_db:.2f} dB{crown}")
    if not failures:
        _record(params, "register")


def _publish(report: Report) -> None:
    """The final table on Prefect's page."""
    columns = ["dataset", "scale", "architecture", "status", "psnr_db", "ssim", "latency_ms"]
    rows = report.summary[columns].astype(object)
    table = rows.where(rows.notna(), None).to_dict("records")
    create_table_artifact(table, key="results", description="PSNR, SSIM and time")  # type: ignore[arg-type]
    create_markdown_artifact(markdown(report.summary), key="tables")


def _record(params: Params, stage: str) -> None:
    """Let DVC record a stage, but never under parameters that it was not made with."""
    if load_params() != params:
        raise ParamsError(
            f"{PARAMS_FILE} changed during the run; {stage} is not recorded:"
            " run again to make what it asks for now"
        )
    pipeline.record(stage)


def _stale(kinds: Iterable[str]) -> list[tuple[str, str]]:
    """The stale stages of some kinds as (stage, its matrix item), but for those DVC can restore."""
    stale = []
    for stage in pipeline.stale_stages():
        kind, _, item = stage.partition("@")
        if kind in kinds and not pipeline.restore(stage):
            stale.append((stage, item))
    return stale


def _cell_of(params: Params, item: str) -> Cell:
    """`srcnn-2` is the cell srcnn-x2, `vdsr` the joint cell vdsr."""
    architecture, _, scale = item.rpartition("-")
    return params.cell(f"{architecture}-x{scale}" if architecture else item)


def _failure(future: PrefectFuture[None]) -> str | None:
    future.wait()
    if future.state.is_completed():
        return None
    error = future.result(raise_on_failure=False)
    return str(error) if isinstance(error, SisrError) else repr(error)


def _key(name: str) -> str:
    """Prefect's artifact keys hold lower-case letters, digits and dashes."""
    return name.replace("_", "-")
