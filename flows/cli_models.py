"""`sisr models`, `import`, `export` and `data`: what there is, and weights in and out."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows import completion
from flows.printing import print_datasets, print_json, print_models, print_results

app = typer.Typer()


@app.command("import", rich_help_panel="Networks and data")
def import_(
    architecture: Annotated[
        str,
        typer.Argument(
            help="Whose weights they are; see sisr models.",
            autocompletion=completion.architectures,
        ),
    ],
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
    """Register an author's weights, measured by our ruler; the next run puts them into the tables.

    The file is read, never executed.

    Examples:

        sisr import vdsr vdsr_model_epoch_50.pth
        sisr import lesrcnn lesrcnn_x2.pth --scale 2
        sisr import vdsr https://example.org/vdsr.pth --sha256 0123…
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
        print_results(results)
        for each in register_imported(params, settings, architecture):
            crown = " – champion" if each.is_champion else ""
            typer.echo(f"{each.model} version {each.version}, source=published{crown}", err=True)
    typer.echo("`sisr run` puts these rows into the tables", err=True)


@app.command("models", rich_help_panel="Networks and data")
def models_(
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """List every architecture: parameters beside the published count, input, versions.

    Examples:

        sisr models
        sisr models --json
    """
    import dataclasses

    from tasks.config import Settings
    from tasks.model_list import list_models
    from tasks.tracking import registered_versions

    listed = list_models(registered_versions(Settings()))
    if as_json:
        print_json([dataclasses.asdict(each) for each in listed])
    else:
        print_models(listed)


@app.command(rich_help_panel="Networks and data")
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A registered network (vdsr-x2, vdsr-x2/3), or an interpolation (bicubic).",
            autocompletion=completion.networks,
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write.")],
    form: Annotated[
        Literal["onnx", "pt2"] | None,
        typer.Option("--format", help="ONNX, or torch.export's; default: the file's suffix."),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="2, 3 or 4; default: the one in the model's name, or 2.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Write a network as ONNX or PT2: LR pictures in, SR pictures out, any size and number.

    The file is compared with the network at several sizes before it gets its name. What its
    input and output are stands in its metadata.

    Examples:

        sisr export vdsr-x2 -o vdsr-x2.onnx
        sisr export srcnn-x2/3 -o srcnn.pt2 --json
        sisr export bicubic --scale 4 -o bicubic-x4.onnx
    """
    import dataclasses

    from tasks.config import Settings
    from tasks.export import export as export_network
    from tasks.export import format_of
    from tasks.network_choice import choose

    form = format_of(output, form)
    choice = choose(model, scale, Settings())
    exported = export_network(choice.name, choice.served, output, form)
    if as_json:
        print_json(dataclasses.asdict(exported))
        return
    for check in exported.checks:
        shape = "×".join(map(str, check.input_shape))
        typer.echo(f"{shape}: differs from the network by at most {check.largest_difference:.1e}")
    about = exported.about
    typer.echo(f"in  {about.input}, {about.value_range}\nout {about.output}")
    typer.echo(f"{output}: {exported.num_bytes / 2**20:.2f} MiB, {form}, {choice.name}", err=True)


@app.command(rich_help_panel="Networks and data")
def data(
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """List the data sets: role in params.yaml, whether on disk, pictures, sizes, source.

    Examples:

        sisr data
        sisr data --json
    """
    import dataclasses

    from tasks.config import Settings, load_catalogue, load_params
    from tasks.data_list import list_datasets

    listed = list_datasets(load_params(), load_catalogue(), Settings())
    if as_json:
        rows = [{**dataclasses.asdict(each), "is_on_disk": each.is_on_disk} for each in listed]
        print_json(rows)
    else:
        print_datasets(listed)
