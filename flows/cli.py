"""The command line: `sisr --help`. Engines are imported inside the commands that need them."""

import gc
import signal
import sys
from typing import Annotated

import typer

from flows import cli_models, cli_pictures, cli_runs, cli_tables
from flows.environment import prepare

# While the engines are imported, Python would look for garbage among their modules again and again,
# and at the end once more: seconds of every command that imports them.
_GARBAGE_THRESHOLDS = (50_000, 20, 20)

app = typer.Typer(
    name="sisr",
    help="A reproducible benchmark factory for single-image super-resolution.",
    epilog="Exit codes: 0 fine; 1 an error, told on stderr, or a run in which a cell failed; 2 a"
    " mistyped command; 130 stopped by Ctrl-C.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for _commands in (cli_runs, cli_tables, cli_pictures, cli_models):
    app.add_typer(_commands.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"sisr {version('sisr')}")
        raise typer.Exit


@app.callback()
def sisr(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """A reproducible benchmark factory for single-image super-resolution."""


def main() -> None:
    """The console script: errors meant for people come without a traceback, with exit code 1."""
    gc.set_threshold(*_GARBAGE_THRESHOLDS)
    prepare()
    from tasks.errors import SisrError

    # A stop is a stop, whoever asks for it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except SisrError as error:
        typer.echo(f"sisr: {error}", err=True)
        sys.exit(1)
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
