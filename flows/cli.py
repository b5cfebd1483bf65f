"""The command line: `sisr --help`. Engines are imported inside the commands that need them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.environment import make_prefect_home, prepare

app = typer.Typer(
    name="sisr",
    help="A reproducible benchmark factory for single-image super-resolution.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

ParamsOption = Annotated[
    Path | None,
    typer.Option(
        "--params",
        help="Make this parameter set the workspace's params.yaml first (e.g. `sets/full.yaml`).",
    ),
]


@app.command()
def run(
    params: ParamsOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Report and register even if nothing is stale.")
    ] = False,
) -> None:
    """Make everything that params.yaml asks for and that is not made yet.

    Example: `sisr run`, or `sisr run --params sets/full.yaml`
    """
    from tasks import pipeline
    from tasks.checks import check_inputs
    from tasks.parameter_sets import adopt

    if params is not None:
        adopt(params)
    check_inputs()
    if not force and not pipeline.stale_stages():
        typer.echo("nothing to do: every stage is up to date", err=True)
    else:
        make_prefect_home()
        from flows.benchmark import benchmark

        benchmark()
    _print_tables()


@app.command()
def status() -> None:
    """Say what is stale and why."""
    from tasks import pipeline

    stale = pipeline.stale_stages()
    for stage, reason in stale.items():
        typer.echo(f"{stage}: {reason}")
    if not stale:
        typer.echo("every stage is up to date")


@app.command()
def table() -> None:
    """Print the tables of the last run."""
    _print_tables()


@app.command()
def upscale(
    picture: Annotated[Path, typer.Argument(help="The picture to enlarge.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to write; .png is safe.")],
    scale: Annotated[int, typer.Option(help="2, 3 or 4.")] = 2,
    model: Annotated[
        str | None,
        typer.Option(
            help="A registered network (`vdsr-x2@champion`, `vdsr-x2/3`) or an interpolation"
            " (`bicubic`). Default: the registered champion with the highest PSNR."
        ),
    ] = None,
) -> None:
    """Enlarge a picture with a registered network.

    Example: `sisr upscale photo.jpg -o photo-x2.png --scale 2`
    """
    import models
    from tasks.config import Settings
    from tasks.errors import ParamsError
    from tasks.tracking import best_registered, load_registered
    from tasks.upscale import read_picture, write_picture
    from tasks.upscale import upscale as enlarge_picture

    if scale not in models.SCALES:
        raise ParamsError(f"scale {scale} is not one of {list(models.SCALES)}")
    image = read_picture(picture)
    settings = Settings()
    if model in models.names() and not models.get(model).trainable:
        network, architecture = models.create(model, scale), models.get(model)
    else:
        model = model or best_registered(scale, settings)
        served = load_registered(model, scale, settings)
        network, architecture = served.network, served.architecture
    write_picture(output, enlarge_picture(image, network, architecture, scale))
    typer.echo(f"{output}: {image.width * scale}×{image.height * scale}, by {model}", err=True)


@app.command()
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's pages.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's pages.")] = 4200,
) -> None:
    """Serve MLflow's and Prefect's pages of this workspace on 127.0.0.1 until Ctrl-C."""
    make_prefect_home()
    from flows.pages import serve_pages

    serve_pages(mlflow_port, prefect_port)


@app.command()
def serve(
    cron: Annotated[str, typer.Option(help="When to run, e.g. '0 3 * * *'.")],
) -> None:
    """Run the benchmark on a schedule until Ctrl-C.

    Example: `sisr serve --cron "0 3 * * *"`
    """
    make_prefect_home()
    from flows.benchmark import benchmark

    benchmark.serve(name="benchmark", cron=cron, limit=1)


def _print_tables() -> None:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from tasks.errors import DataError
    from tasks.layout import REPORT_FOLDER

    file = REPORT_FOLDER / "summary.parquet"
    if not file.exists():
        raise DataError("there are no tables yet; run `sisr run` first")
    summary = pd.read_parquet(file)
    console = Console(width=None if sys.stdout.isatty() else 110)
    for (dataset, scale), rows in summary.groupby(["dataset", "scale"], sort=False):
        printed = Table(title=f"{dataset} ×{scale}", title_justify="left")
        printed.add_column("architecture")
        for column in ("PSNR (dB)", "SSIM", "latency (ms)", "parameters", "trained (s)"):
            printed.add_column(column, justify="right")
        for row in rows.to_dict("records"):
            if row["status"] != "ok":
                printed.add_row(row["architecture"], f"failed: {row['error']}")
                continue
            printed.add_row(
                row["architecture"],
                f"{row['psnr_db']:.2f}",
                f"{row['ssim']:.4f}",
                f"{row['latency_ms']:.1f}",
                f"{row['num_parameters']:,.0f}",
                f"{row['train_s']:.0f}" if row["train_s"] else "",
            )
        console.print(printed)


def main() -> None:
    """The console script: errors meant for people come as one line and exit code 1."""
    prepare()
    from tasks.errors import SisrError

    try:
        app()
    except SisrError as error:
        typer.echo(f"sisr: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
