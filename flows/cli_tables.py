"""`sisr table` and `sisr report`: the results of the last run."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import completion
from flows.printing import print_tables

app = typer.Typer()


@app.command(rich_help_panel="Results")
def table(
    dataset: Annotated[
        str | None,
        typer.Option(help="Only this data set, in any case.", autocompletion=completion.datasets),
    ] = None,
    scale: Annotated[int | None, typer.Option(help="Only this scale.")] = None,
    form: Annotated[
        Literal["md", "csv", "latex", "json"] | None,
        typer.Option("--format", help="For a page or a program instead of the terminal."),
    ] = None,
) -> None:
    """Print the tables of the last run.

    Examples:

        sisr table
        sisr table --dataset Set5 --scale 2 --format md
        sisr table --format csv > results.csv
    """
    if form is None:
        print_tables(dataset, scale)
        return
    from tasks.last_report import read_summary
    from tasks.report import formatted

    typer.echo(formatted(read_summary(dataset, scale), form), nl=False)


@app.command(rich_help_panel="Results")
def report(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Copy the page there; it is one file.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Say where the last run's report is: one HTML page with tables, figures and pictures.

    Examples:

        sisr report
        sisr report --open
        sisr report -o ~/Desktop/benchmark.html
    """
    import shutil

    from tasks.atomic import replacing_file
    from tasks.errors import DataError
    from tasks.layout import REPORT_FOLDER

    page = REPORT_FOLDER / "report.html"
    if not page.is_file():
        raise DataError(f"there is no {page} yet; run `sisr run` first")
    if output is not None:
        target = output.expanduser()
        target = target / page.name if target.is_dir() else target
        with replacing_file(target) as temporary:
            shutil.copyfile(page, temporary)
        page = target
    typer.echo(page)
    if show:
        typer.launch(page.absolute().as_uri())
