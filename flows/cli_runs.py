"""`sisr run`, `status`, `serve` and `ui`: the commands that walk the DAG or serve pages."""

from pathlib import Path
from typing import Annotated

import typer

from flows.environment import make_prefect_home
from flows.prefect_server import begin_own_server
from flows.printing import print_json, print_tables
from flows.reaper import guard

app = typer.Typer()
# 128 + SIGINT, as shells have it.
_EXIT_STOPPED = 130

ParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params",
        help="Make this parameter set the workspace's params.yaml first (e.g. sets/full.yaml).",
    ),
]


@app.command(rich_help_panel="The benchmark")
def run(
    params: ParamsOption = None,
    architecture: Annotated[
        list[str] | None, typer.Option(help="Only this architecture; repeatable.")
    ] = None,
    scale: Annotated[list[int] | None, typer.Option(help="Only this scale; repeatable.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train and measure again what is up to date.")
    ] = False,
) -> None:
    """Make everything that params.yaml asks for and that is not made yet.

    Ctrl-C stops it; the next run goes on where this one was.

    Examples:

        sisr run
        sisr run --params sets/full.yaml
        sisr run --architecture srcnn --scale 2 --force
    """
    from flows.selection import Selection
    from tasks import pipeline
    from tasks.checks import check_inputs
    from tasks.config import load_params
    from tasks.parameter_sets import adopt
    from tasks.staleness import stale_stages

    if params is not None:
        with pipeline.workspace_lock():  # not under the feet of a run that is going on
            adopt(params)
    check_inputs()
    Selection(tuple(architecture or ()), tuple(scale or ())).check(load_params())
    if not force and not stale_stages():
        typer.echo("nothing to do: every stage is up to date", err=True)
        if pipeline.has_unpushed():  # the remote was away, or the run was ended before
            typer.echo("push to DVC's remote …", err=True)
            pipeline.push()
    else:
        # It is seconds until the run itself has something to say, many if there is no database yet.
        typer.echo("starting Prefect …", err=True)
        make_prefect_home()
        guard()
        try:
            wait_for_server = begin_own_server()
            from flows.benchmark import benchmark

            wait_for_server()
            benchmark(architectures=architecture or None, scales=scale or None, force=force)
        except KeyboardInterrupt:
            typer.echo("sisr: stopped; `sisr run` goes on where this was", err=True)
            raise typer.Exit(_EXIT_STOPPED) from None
    print_tables()


@app.command(rich_help_panel="The benchmark")
def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="For a program: stage -> reason; {} when nothing is.")
    ] = False,
) -> None:
    """Say what is stale and why, and which rows the last run was not asked to make.

    Examples:

        sisr status
        sisr status --json
    """
    from tasks.checks import check_inputs
    from tasks.last_report import rows_left_out
    from tasks.row_status import LEFT_OUT
    from tasks.staleness import stale_stages

    check_inputs()
    stale = stale_stages()
    if as_json:
        print_json(stale)
        return
    for stage, reason in stale.items():
        typer.echo(f"{stage}: {reason}")
    for row in rows_left_out() if stale else ():
        typer.echo(f"{row}: {LEFT_OUT} of the last run")
    if not stale:
        typer.echo("every stage is up to date")


@app.command(rich_help_panel="The benchmark")
def serve(
    cron: Annotated[str, typer.Option(help="When to run, e.g. '0 3 * * *'.")],
    port: Annotated[int, typer.Option(help="Port of the Prefect server that schedules.")] = 4200,
) -> None:
    """Run the benchmark on a schedule until Ctrl-C; Prefect's pages are on 127.0.0.1 meanwhile.

    One run at a time: the next one waits for it. `prefect deployment run benchmark/scheduled -p
    scales='[2]' -p force=true` starts one by hand; prefect.yaml is for a work pool.

    Examples:

        sisr serve --cron "0 3 * * *"
        sisr serve --cron "@hourly" --port 4300
    """
    make_prefect_home()
    from flows.scheduled import serve_on_schedule

    serve_on_schedule(cron, port)


@app.command(rich_help_panel="The benchmark")
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's pages.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's pages.")] = 4200,
) -> None:
    """Serve MLflow's and Prefect's pages of this workspace on 127.0.0.1 until Ctrl-C.

    Examples:

        sisr ui
        sisr ui --mlflow-port 5001 --prefect-port 4201
    """
    make_prefect_home()
    from flows.pages import serve_pages

    serve_pages(mlflow_port, prefect_port)
