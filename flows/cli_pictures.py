"""`sisr upscale` and `sisr compare`: pictures through registered networks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows import completion
from flows.printing import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.comparison import Sheet
    from tasks.config import Settings
    from tasks.network_choice import Choice

app = typer.Typer()

ScaleOption = Annotated[
    int | None, typer.Option(help="2, 3 or 4; default: the one in the model's name, or 2.")
]


@app.command(rich_help_panel="Pictures")
def upscale(
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE…", help="Pictures to enlarge, or a folder.")
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="The enlarged picture (.png is safe); a folder for several pictures.",
        ),
    ],
    scale: ScaleOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A registered network (vdsr-x2, vdsr-x2@champion, vdsr-x2/3), its architecture"
            " (vdsr) or an interpolation (bicubic). Default: the champion with the highest PSNR.",
            autocompletion=completion.networks,
        ),
    ] = None,
    repeat: Annotated[
        int, typer.Option(min=1, max=4, help="Apply the network to its own answer, this often.")
    ] = 1,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="bf16: quicker on recent GPUs, less exact.")
    ] = "fp32",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the network first; pays for many pictures.")
    ] = False,
) -> None:
    """Enlarge pictures with a registered network, on the GPU if there is one.

    Grey stays grey, 16-bit grey stays 16 bits, transparency is kept. Memory is bounded: large
    pictures go through in tiles.

    Examples:

        sisr upscale photo.jpg -o photo-x2.png
        sisr upscale photo.jpg -o photo-x3.png --model vdsr-x3
        sisr upscale photo.jpg -o zoom-x4.png --scale 2 --repeat 2
        sisr upscale holiday/ -o enlarged/ --model bicubic --scale 4
    """
    from tasks.allocator import keep_freed_memory
    from tasks.config import Settings
    from tasks.errors import ImageError, SisrError
    from tasks.network_choice import choose
    from tasks.super_resolve import best_device, format_of, use_all_cores

    use_all_cores()
    keep_freed_memory()
    plan = _plan(pictures, output)
    if output.suffix and not output.is_dir() and len(plan) == 1:
        format_of(output)
    choice = choose(model, scale, Settings())
    choice.served.network.to(best_device())
    if compiled:
        choice.served.network.compile()
    failures = []
    for source, name in plan:
        target = _target(output, name, choice.served.scale**repeat, is_single=len(plan) == 1)
        try:
            _upscale_one(source, target, choice, repeat, precision)
        except ImageError as error:
            failures.append(str(error))
    if failures and len(plan) == 1:
        raise ImageError(failures[0])
    if failures:
        reasons = "\n".join(f"  {reason}" for reason in failures)
        raise SisrError(f"{len(failures)} of {len(plan)} pictures failed:\n{reasons}")


@app.command(rich_help_panel="Pictures")
def compare(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="The picture to enlarge.")],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="The sheet; default: PICTURE's name-compared.png, here."
        ),
    ] = None,
    scale: Annotated[int, typer.Option(help="2, 3 or 4.")] = 2,
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H",
            help="The detail, in pixels of PICTURE. Default: where there is the most structure.",
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="PICTURE's HR original; adds it, PSNR and SSIM.")
    ] = None,
    degrade: Annotated[
        bool,
        typer.Option(
            "--degrade",
            help="PICTURE is the HR original: shrink it first, as the benchmark does; adds it,"
            " PSNR and SSIM.",
        ),
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these, beside bicubic; repeatable. Default: every registered champion.",
            autocompletion=completion.networks,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print the box, in pixels of the SR picture, and the figures for a program.",
        ),
    ] = False,
) -> None:
    """Put every registered champion's answer to a picture on one sheet, beside bicubic.

    Examples:

        sisr compare photo.jpg -o sheet.png
        sisr compare original.png -o sheet.png --degrade --scale 3
        sisr compare small.png --reference original.png --box 40,60,32,32
        sisr compare photo.jpg --model vdsr-x2/1 --model vdsr-x2/2
    """
    from flows.picture_progress import progress_of
    from tasks.allocator import keep_freed_memory
    from tasks.comparison import compare as compare_networks
    from tasks.comparison import parse_box
    from tasks.super_resolve import format_of, read_picture, use_all_cores, write_picture

    use_all_cores()
    keep_freed_memory()
    output = output or Path(f"{picture.stem}-compared.png")
    format_of(output)
    marked = parse_box(box) if box else None
    image = read_picture(picture)
    original = read_picture(reference) if reference else None
    choices = _to_compare(model or [], scale)
    with progress_of("compare") as show:
        done: list[str] = []

        def say(name: str) -> None:
            show(len(done) / len(choices))
            done.append(name)

        sheet = compare_networks(
            image, choices, scale, box=marked, reference=original, degrade=degrade, say=say
        )
    write_picture(output, sheet.image)
    if as_json:
        print_json(_described(sheet, output))
    else:
        _print_sheet(sheet)
        typer.echo(f"{output}: box {sheet.box} of the enlarged picture", err=True)


def _plan(pictures: list[Path], output: Path) -> list[tuple[Path, str]]:
    """Every picture and what its answer is called in a folder."""
    from tasks.errors import ImageError
    from tasks.images import list_images

    sources = [
        file for path in pictures for file in (list_images(path) if path.is_dir() else [path])
    ]
    names = [source.stem for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ImageError(f"two of the pictures are called {twice[0]!r}; enlarge them apart")
    several = len(sources) > 1 or any(path.is_dir() for path in pictures)
    if several and not output.is_dir() and (output.exists() or output.suffix):
        raise ImageError(f"several pictures need a folder: -o {output.with_suffix('')}/")
    return list(zip(sources, names, strict=True))


def _target(output: Path, name: str, factor: int, *, is_single: bool) -> Path:
    if is_single and output.suffix and not output.is_dir():
        return output
    return output / f"{name}-x{factor}.png"


def _upscale_one(
    source: Path, target: Path, choice: "Choice", repeat: int, precision: Literal["fp32", "bf16"]
) -> None:
    from flows.picture_progress import progress_of
    from tasks.super_resolve import read_picture, upscale, write_picture

    image = read_picture(source)
    with progress_of(source.name) as show:
        enlarged = upscale(
            image,
            choice.served.network,
            choice.served.architecture,
            choice.served.scale,
            repeat=repeat,
            precision=precision,
            on_progress=show,
        )
    write_picture(target, enlarged)
    typer.echo(f"{target}: {enlarged.width}×{enlarged.height}, by {choice.name}", err=True)


def _to_compare(models: list[str], scale: int) -> "list[Choice]":
    """Bicubic, then the chosen networks, or every champion of that scale."""
    from tasks.config import Settings
    from tasks.network_choice import choose
    from tasks.tracking import registered_versions

    settings = Settings()
    if not models:
        models = [
            each.model
            for each in registered_versions(settings)
            if each.is_champion and each.model.endswith(f"-x{scale}")
        ]
        return [choose("bicubic", scale, settings), *_loadable(models, scale, settings)]
    names = ["bicubic", *(name for name in models if name != "bicubic")]
    return [choose(name, scale, settings) for name in names]


def _loadable(champions: list[str], scale: int, settings: "Settings") -> "Iterator[Choice]":
    """Those that this code can load; the others are told."""
    from tasks.errors import WeightsError
    from tasks.network_choice import choose

    for name in champions:
        try:
            yield choose(name, scale, settings)
        except WeightsError as error:
            typer.echo(f"{name} is left out: {error}", err=True)


def _print_sheet(sheet: "Sheet") -> None:
    for entry in sheet.entries:
        quality = entry.quality
        figures = "" if quality is None else f"  {quality.psnr_db:6.2f} dB  {quality.ssim:.4f}"
        typer.echo(f"{entry.name:<28}{figures}".rstrip())


def _described(sheet: "Sheet", output: Path) -> dict[str, object]:
    """For a program."""
    import dataclasses

    entries: list[dict[str, object]] = []
    for each in sheet.entries:
        entry: dict[str, object] = {"name": each.name}
        if each.quality is not None:
            entry["psnr_db"] = each.quality.psnr_db
            entry["ssim"] = each.quality.ssim
        entries.append(entry)
    return {"sheet": str(output), "box": dataclasses.asdict(sheet.box), "entries": entries}
