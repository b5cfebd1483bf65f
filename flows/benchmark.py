"""The flow: what is stale -> data stages -> cells on Ray -> tables -> registry.

It walks the DAG of dvc.yaml. DVC says what is stale; the flow runs the stage's
own function and lets DVC record it, so afterwards `dvc repro` has nothing to do.
"""

import base64
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.progress import Board
from flows.reaper import guard
from flows.selection import EVALUATE_STAGES, TRAIN_STAGES, Selection, cell_of, made_by, split
from flows.stages import Stages
from tasks import pipeline
from tasks.checks import check_inputs
from tasks.config import (
    CATALOGUE_FILE,
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
from tasks.errors import CellsFailed, DownloadError, SisrError, StoreError
from tasks.evaluate import evaluate
from tasks.fingerprint import write_fingerprints
from tasks.illustrations import FIGURES
from tasks.joint_data import write_joint_data
from tasks.layout import CELL_FOLDER, REPORT_FOLDER
from tasks.mlflow_store import check_artifacts_stay
from tasks.parameter_sets import adopt
from tasks.report import Report, markdown, write_report
from tasks.shards import shard
from tasks.tracking import log_benchmark
from tasks.train import Progress, is_finished

DATA_STAGES = ("code", "download", "degrade", "shard", "joint_data")
_MAX_CELLS_AT_ONCE = 256


def _is_unreachable(_task: Task[..., Any], _run: object, state: State) -> bool:
    """Only what time can mend is tried again: no checksum gets right by waiting."""
    return isinstance(state.result(raise_on_failure=False), DownloadError)


def _may_come_back(_task: Task[..., Any], _run: object, state: State) -> bool:
    """Only a store's own failure: what sisr refuses, it refuses again."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StoreError) and error.__cause__ is not None


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
joint_data_task = task(name="joint_data", cache_policy=NO_CACHE)(write_joint_data)
evaluate_task = task(
    name="evaluate", task_run_name="evaluate-{architecture}-x{scale}", cache_policy=NO_CACHE
)(evaluate)
report_task = task(name="report", cache_policy=NO_CACHE)(write_report)
register_task = task(
    name="register",
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=_may_come_back,
    cache_policy=NO_CACHE,
)(log_benchmark)


@task(name="train", task_run_name="train-{name}", cache_policy=NO_CACHE)
def train_task(name: str, cell: Cell, ray: Cluster, board: Board) -> None:
    """Train one cell on Ray; its progress goes to the terminal and to Prefect's page."""
    artifact = None
    try:
        artifact = create_progress_artifact(0.0, key=f"train-{_key(name)}", description=name)
    except Exception as error:  # noqa: BLE001 - a page is no reason not to train
        board.say(f"{name}: no progress on Prefect's page: {error!r}")

    def on_progress(progress: Progress) -> None:
        board.show(progress)
        if progress.psnr_db and artifact is not None:
            percent = 100 * progress.step / progress.num_steps
            update_progress_artifact(artifact, percent, description=str(progress))  # type: ignore[arg-type]

    ray.train(cell, on_progress)


@dataclass(frozen=True)
class _Run:
    """What every part of a run needs to know."""

    params: Params
    settings: Settings
    selection: Selection
    stages: Stages
    board: Board


@flow(
    name="benchmark",
    task_runner=ThreadPoolTaskRunner(max_workers=_MAX_CELLS_AT_ONCE),  # type: ignore[arg-type]
)
def benchmark(
    parameter_set: str | None = None,
    architectures: list[str] | None = None,
    scales: list[int] | None = None,
    force: bool = False,
) -> None:
    """Make everything that params.yaml asks for and that is not made yet.

    Args:
        parameter_set: make this file the workspace's params.yaml first (`sets/full.yaml`).
        architectures: only these; the tables say which rows were left out.
        scales: only these; a training that serves all scales serves them all.
        force: train and measure again what is up to date.

    Raises:
        CellsFailed: some cells failed; the others are in the tables.
        SisrError: bad input, or a stage that all others need failed.
    """
    guard()
    with ExitStack() as stack:
        stack.enter_context(pipeline.workspace_lock())
        if parameter_set is not None:
            adopt(Path(parameter_set))
        check_inputs()
        selection = Selection(_tuple(architectures), _tuple(scales), force)
        selection.check(load_params())
        stack.enter_context(pipeline.unchanged(PARAMS_FILE))
        board = stack.enter_context(Board(get_run_logger().info))
        params = load_params()
        _make(_Run(params, Settings(), selection, Stages(params, selection), board))


def _make(run: _Run) -> None:
    if run.selection.force or run.stages.stale():
        check_artifacts_stay(run.settings)
    _look_into_remote(run)
    _run_data_stages(run)
    failures = _train(run)
    failures |= _evaluate(run, failures)
    left_out = run.selection.left_out(run.stages.stale())
    report = _report(run, failures, left_out)
    _register(run, is_whole=not failures and not left_out)
    if pipeline.has_remote() and not failures:
        run.board.say("push to DVC's remote …")
        pipeline.push()
    if report is not None:
        _publish(report)
    if failures:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        raise CellsFailed(f"{len(failures)} of the cells failed:\n{reasons}")


def _look_into_remote(run: _Run) -> None:
    """What another machine has made with these inputs is not made again."""
    if not pipeline.has_remote() or not run.stages.stale():
        return
    try:
        pipeline.fetch_records()
    except StoreError as error:
        run.board.say(f"{error}; what others have made is not looked for")
    run.stages.ask_again()  # that may have taken minutes


def _run_data_stages(run: _Run) -> None:
    params = run.params
    for kind in DATA_STAGES:
        for stage in run.stages.stale_of((kind,)):
            run.board.say(f"{stage} …")
            item = stage.partition("@")[2]
            match kind:
                case "code":
                    code_task()
                case "download":
                    with pipeline.unchanged(CATALOGUE_FILE):
                        download_task(params, load_catalogue(), run.settings)
                case "degrade":
                    degrade_task(scale=int(item))
                case "shard":
                    shard_task(
                        params.data.train, scale=int(item), shape=params.shards, say=run.board.say
                    )
                case "joint_data":
                    joint_data_task(params, item)
            run.stages.record(stage)


def _train(run: _Run) -> dict[str, str]:
    """Train every stale cell of the run, all at once; returns why which ones failed."""
    stages = {_cell(run.params, stage): stage for stage in run.stages.to_make(TRAIN_STAGES)}
    _take_finished(run, stages)
    if not stages:
        return {}
    failures: dict[str, str] = {}
    board = run.board
    board.say(f"train {', '.join(cell.name for cell in stages)}: starting Ray …")
    with cluster(
        run.params, run.settings, list(stages), board.say, anew=run.selection.force
    ) as ray:
        futures = {train_task.submit(cell.name, cell, ray, board): cell for cell in stages}
        for future in as_completed(list(futures)):
            cell = futures[future]
            future.wait()
            reason = _failure(future.state)
            if reason is None:
                run.stages.record(stages[cell])
                ray.forget(cell)
                board.finish(cell.name, "trained")
            else:
                failures[cell.name] = reason
                board.finish(cell.name, f"failed: {reason}")
    return failures


def _take_finished(run: _Run, stages: dict[Cell, str]) -> None:
    """Record, and take from `stages`, what `python -m tasks.train` made here or elsewhere."""
    for cell in [] if run.selection.force else list(stages):
        folder = CELL_FOLDER / cell.name
        if is_finished(run.params, cell, folder):
            run.board.say(f"{cell.name}: {folder} holds this very training's result")
            run.stages.record(stages.pop(cell))


def _evaluate(run: _Run, failures: dict[str, str]) -> dict[str, str]:
    """Measure every stale row whose cell did not fail, one by one, so that times are true."""
    failed: dict[str, str] = {}
    for stage in run.stages.to_make(EVALUATE_STAGES):
        cell = cell_of(run.params, stage)
        if cell is not None and cell.name in failures:
            continue
        run.board.say(f"{stage} …")
        architecture, scale = split(stage.partition("@")[2])
        assert scale is not None
        state = evaluate_task(run.params, architecture=architecture, scale=scale, return_state=True)
        reason = _failure(state)
        if reason is None:
            run.stages.record(stage)
        else:
            failed[made_by(stage)] = reason
    return failed


def _report(run: _Run, failures: dict[str, str], left_out: set[str]) -> Report | None:
    is_whole = not failures and not left_out
    if is_whole and not run.stages.stale_of(("report",)):
        return None
    run.board.say("report …")
    report: Report = report_task(run.params, failures, left_out)
    if is_whole:
        # Else the tables have every row, but not what params.yaml asks for.
        run.stages.record("report")
    return report


def _register(run: _Run, is_whole: bool) -> None:
    if is_whole and not run.stages.stale_of(("register",)):
        return
    run.board.say("register …")
    for each in register_task(run.params, run.settings):
        crown = " – champion" if each.is_champion else ""
        run.board.say(f"  {each.model} version {each.version}: {each.psnr_db:.2f} dB{crown}")
    if is_whole:
        run.stages.record("register")


def _publish(report: Report) -> None:
    """The final table on Prefect's page."""
    columns = ["dataset", "scale", "architecture", "status", "psnr_db", "ssim", "latency_ms"]
    rows = report.summary[columns].astype(object)
    table = rows.where(rows.notna(), None).to_dict("records")
    create_table_artifact(table, key="results", description="PSNR, SSIM and time")  # type: ignore[arg-type]
    create_markdown_artifact(markdown(report.summary), key="tables")
    figures = REPORT_FOLDER / FIGURES
    for figure in sorted([*figures.glob("comparison-*.png"), *figures.glob("tradeoff-*.png")]):
        # Prefect's pages cannot read our files, so the picture is its own address.
        picture = base64.b64encode(figure.read_bytes()).decode()
        create_image_artifact(
            f"data:image/png;base64,{picture}", key=_key(figure.stem), description=figure.stem
        )


def _cell(params: Params, stage: str) -> Cell:
    cell = cell_of(params, stage)
    assert cell is not None, f"{stage} trains nothing"
    return cell


def _tuple(values: list[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)


def _failure(state: State[Any]) -> str | None:
    if state.is_completed():
        return None
    error = state.result(raise_on_failure=False)
    return str(error) if isinstance(error, SisrError) else repr(error)


def _key(name: str) -> str:
    """Prefect's artifact keys hold lower-case letters, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
