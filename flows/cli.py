"""The command line: `sisr --help`. Engines are imported inside the commands that need them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.environment import make_prefect_home, prepare

if TYPE_CHECKING:
    from tasks.importing import Result
    from tasks.model_list import ListedModel

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
    if not pipeline.stale_stages():
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
def table(
    dataset: Annotated[str | None, typer.Option(help="Only this data set.")] = None,
    scale: Annotated[int | None, typer.Option(help="Only this scale.")] = None,
    form: Annotated[
        Literal["md", "csv", "latex", "json"] | None,
        typer.Option("--format", help="For a page or a program instead of the terminal."),
    ] = None,
) -> None:
    """Print the tables of the last run.

    Example: `sisr table --dataset Set5 --scale 2 --format csv`
    """
    if form is None:
        _print_tables(dataset, scale)
        return
    from tasks.report import formatted, read_summary

    typer.echo(formatted(read_summary(dataset, scale), form), nl=False)


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


@app.command("import")
def import_(
    architecture: Annotated[str, typer.Argument(help="Whose weights they are; see `sisr models`.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE-OR-URL", help="A path, or https://, http://, s3:// or file://."
        ),
    ],
    sha256: Annotated[str | None, typer.Option(help="Refuse any other file.")] = None,
    scale: Annotated[
        list[int] | None,
        typer.Option(help="The scale they were trained for, if they fit several; repeatable."),
    ] = None,
) -> None:
    """Put an author's weights into the tables and the registry, beside ours.

    The file is read, never executed. Example: `sisr import vdsr vdsr_model_epoch_50.pth`
    """
    from tasks import pipeline
    from tasks.config import Settings, load_params
    from tasks.importing import import_weights
    from tasks.tracking import register_imported

    params, settings = load_params(), Settings()
    with pipeline.workspace_lock():
        results = import_weights(
            params,
            settings,
            architecture,
            source,
            sha256=sha256,
            scales=scale or [],
            say=lambda text: typer.echo(text, err=True),
        )
        _print_results(results)
        for each in register_imported(params, settings, architecture):
            crown = " – champion" if each.is_champion else ""
            typer.echo(f"{each.model} version {each.version}, source=published{crown}", err=True)
    typer.echo("`sisr run` puts these rows into the tables", err=True)


@app.command("models")
def models_(
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """List every architecture: parameters beside the published count, input, versions."""
    import dataclasses
    import json

    from tasks.config import Settings
    from tasks.model_list import list_models
    from tasks.tracking import registered_versions

    listed = list_models(registered_versions(Settings()))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in listed], indent=1))
    else:
        _print_models(listed)


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
    port: Annotated[int, typer.Option(help="Port of the Prefect server that schedules.")] = 4200,
) -> None:
    """Run the benchmark on a schedule until Ctrl-C; Prefect's pages are on 127.0.0.1 meanwhile.

    Example: `sisr serve --cron "0 3 * * *"`
    """
    make_prefect_home()
    from flows.pages import prefect_server

    with prefect_server(port):
        from flows.benchmark import benchmark

        benchmark.serve(name="benchmark", cron=cron, limit=1)


def _print_tables(dataset: str | None = None, scale: int | None = None) -> None:
    from rich.console import Console
    from rich.table import Table

    from tasks.report import read_summary

    summary = read_summary(dataset, scale)
    console = Console(width=None if sys.stdout.isatty() else 110)
    for (name, factor), rows in summary.groupby(["dataset", "scale"], sort=False):
        printed = Table(title=f"{name} ×{factor}", title_justify="left")
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


def _print_results(results: "list[Result]") -> None:
    import pandas as pd

    from tasks.importing import row_name

    images = pd.DataFrame([row for result in results for row in result["images"]])
    means = images.groupby(["architecture", "dataset", "scale"], sort=False)[["psnr_db", "ssim"]]
    for row in means.mean().reset_index().to_dict("records"):
        where = f"{row_name(row['architecture'])}  {row['dataset']} ×{row['scale']}"
        typer.echo(f"{where}  {row['psnr_db']:.3f} dB  {row['ssim']:.4f}")


def _print_models(listed: "list[ListedModel]") -> None:
    from rich.console import Console
    from rich.table import Table

    printed = Table("architecture", "takes", title="parameters", title_justify="left")
    for column in ("×2", "×3", "×4", "paper's way"):
        printed.add_column(column, justify="right")
    for column in ("published", "registered"):
        printed.add_column(column)
    for each in listed:
        counts = [f"{count:,}" for count in each.num_parameters.values()]
        way = "" if each.paper_num_parameters is None else f"{each.paper_num_parameters:,}"
        versions = "\n".join(map(str, each.registered))
        published = "\n".join(map(str, each.published))
        printed.add_row(each.name, each.takes, *counts, way, published, versions)
    Console(width=None if sys.stdout.isatty() else 160).print(printed)


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
