"""A network as one file that needs none of this code: ONNX, or torch.export's PT2.

Every file takes LR pictures `lr`, N×C×h×w of any N, h and w, and gives SR pictures `sr`,
N×C×(scale·h)×(scale·w): float32 in 0–1, the answer not clamped. C is 3 (RGB) or 1 (luminance, as
the network was trained: 16–235 of 255 for colour pictures). A network on enlarged input gets its
bicubic enlargement in the graph. A file is written only after it gave the network's own answers.
"""

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from models.interpolation import KERNELS, Kernel, enlarge
from tasks.atomic import replacing_file
from tasks.errors import ParamsError, WeightsError
from tasks.served import ServedNetwork

Format = Literal["onnx", "pt2"]
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "pt2"}
# Batch, height and width of the pictures that the file must answer as the network does.
CHECKED_SIZES = ((1, 24, 32), (1, 1, 1), (2, 2, 5), (3, 37, 18))
# Engines sum in another order. Of values in 0–1; a level of 8 bits is 0.004.
TOLERANCE = 1e-4
_TRACED_SIZE = (2, 13, 17)
_METADATA_NAME = "sisr.json"


@dataclass(frozen=True)
class About:
    """What stands in the file's metadata."""

    model: str
    architecture: str
    scale: int
    channels: Literal["y", "rgb"]
    input: str
    output: str
    value_range: str
    enlargement: str


@dataclass(frozen=True)
class Check:
    """The largest difference from the network at one size, in units of the value range 0–1."""

    input_shape: tuple[int, ...]
    largest_difference: float


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was checked."""

    file: str
    format: Format
    about: About
    checks: tuple[Check, ...]
    num_bytes: int


class Enlargement(nn.Module):
    """`models.interpolation.enlarge`, written without what exporters cannot express.

    N×C×h×w to N×C×(scale·h)×(scale·w); the same weights in the same order, as numbers.
    """

    def __init__(self, scale: int, kernel: str) -> None:
        super().__init__()
        self.border = math.ceil(KERNELS[kernel].radius)
        self.phases = [
            _taps(KERNELS[kernel], (p + 0.5) / scale - 0.5, self.border) for p in range(scale)
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Rows, then columns."""
        for axis in (2, 3):
            size = x.shape[axis]
            padded = x.index_select(axis, self._mirrored(size, x.device))
            phases = [
                reduce(
                    torch.add,
                    (padded.narrow(axis, first + k, size) * w for k, w in enumerate(weights)),
                )
                for first, weights in self.phases
            ]
            x = torch.stack(phases, dim=axis + 1).flatten(axis, axis + 1)
        return x

    def _mirrored(self, size: int, device: torch.device) -> Tensor:
        """The pixel for each place of the axis with its borders; the edge is repeated."""
        index = torch.arange(-self.border, size + self.border, device=device)
        for _ in range(2):  # an axis of one pixel is shorter than the border
            index = torch.maximum(index, -1 - index)
            index = torch.minimum(index, 2 * size - 1 - index)
        return index


class LrToSr(nn.Module):
    """A network behind the enlargement that it expects: `lr` in, `sr` out."""

    def __init__(self, served: ServedNetwork) -> None:
        super().__init__()
        about = served.architecture
        self.enlargement: nn.Module = nn.Identity()
        if not about.trainable:
            self.enlargement = Enlargement(served.scale, about.name)
        elif about.enlarged:
            self.enlargement = Enlargement(served.scale, "bicubic")
        self.network = served.network if about.trainable else nn.Identity()

    def forward(self, lr: Tensor) -> Tensor:
        """N×C×h×w to N×C×H×W."""
        sr: Tensor = self.network(self.enlargement(lr))
        return sr


def format_of(path: Path, wanted: Format | None) -> Format:
    """The format of a file name, unless another one is wanted.

    Raises:
        ParamsError: neither says which.
    """
    found = wanted or SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ParamsError(f"{path.name!r}: end it in .onnx or .pt2, or give --format")
    return found


def export(model: str, served: ServedNetwork, path: Path, form: Format) -> Exported:
    """Write a network to `path`, after the file's answers were compared with the network's.

    `model` is what the metadata calls it.

    Raises:
        WeightsError: the network cannot be exported, or the file answers otherwise.
    """
    network = served.network.cpu().eval()
    about = _about(model, served)
    with replacing_file(path) as temporary, torch.no_grad(), _quiet():
        program = _traced(LrToSr(served).eval(), _num_channels(served), model)
        if form == "pt2":
            _write_pt2(program, temporary, about)
            answer = _pt2_runner(temporary)
        else:
            _write_onnx(program, temporary, about, model)
            answer = _onnx_runner(temporary)
        checks = tuple(_checks(served, network, answer))
        for check in checks:
            if not check.largest_difference <= TOLERANCE:  # so that NaN is refused too
                raise WeightsError(
                    f"{model} as {form} differs from the network by {check.largest_difference:.2g}"
                    f" of the value range, more than {TOLERANCE:g}; nothing was written"
                )
    return Exported(str(path), form, about, checks, path.stat().st_size)


def read_about(path: Path) -> About:
    """The metadata of a file that `export` wrote.

    Raises:
        WeightsError: the file has none.
    """
    text = _pt2_metadata(path) if path.suffix.lower() == ".pt2" else _onnx_metadata(path)
    if not text:
        raise WeightsError(f"{path} was not written by `sisr export`")
    return About(**json.loads(text))


def _about(model: str, served: ServedNetwork) -> About:
    architecture, scale = served.architecture, served.scale
    channels = _num_channels(served)
    enlargement = "bicubic, in the graph" if architecture.enlarged else "by the network"
    return About(
        model=model,
        architecture=architecture.name,
        scale=scale,
        channels=architecture.channels,
        input=f"lr: N×{channels}×h×w, float32",
        output=f"sr: N×{channels}×{scale}h×{scale}w, float32, not clamped",
        value_range="0–1" if architecture.channels == "rgb" else "0–1; Y of colour 16/255–235/255",
        enlargement=enlargement,
    )


def _num_channels(served: ServedNetwork) -> int:
    return served.architecture.num_channels


def _taps(kernel: Kernel, d: float, border: int) -> tuple[int, list[float]]:
    """Where the weights of a new pixel at old pixel + `d` begin in the padded axis, and they."""
    first, last = math.ceil(d - kernel.radius), math.floor(d + kernel.radius)
    weights = kernel.function(d - torch.arange(first, last + 1, dtype=torch.float64))
    return border + first, (weights / weights.sum()).tolist()


def _traced(network: nn.Module, channels: int, model: str) -> ExportedProgram:
    number, height, width = _TRACED_SIZE
    dynamic = {"lr": {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}}
    example = torch.rand(number, channels, height, width)
    try:
        program = torch.export.export(network, (example,), dynamic_shapes=dynamic)
    except Exception as error:  # whatever the tracer meets in a network's code
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{model} cannot be exported: {reason}; its forward must be free of Python branches"
            " on a picture's values and size"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # this machine's paths are nobody's business
    return program


def _write_pt2(program: ExportedProgram, path: Path, about: About) -> None:
    # Opened here: torch wants its own suffix, and the file is not whole yet.
    with path.open("wb") as opened:
        torch.export.save(program, opened, extra_files={_METADATA_NAME: _json(about)})


def _write_onnx(program: ExportedProgram, path: Path, about: About, model: str) -> None:
    import onnx
    from torch.onnx import OnnxExporterError

    try:
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=["lr"], output_names=["sr"]
        )
    except OnnxExporterError as error:
        reason = str(error).strip().splitlines()[-1]
        raise WeightsError(f"{model} cannot be exported to ONNX: {reason}; try pt2") from error
    assert exported is not None
    proto = exported.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = _METADATA_NAME, _json(about)
    _name_axes(proto.graph, about.scale)
    for node in proto.graph.node:
        node.ClearField("metadata_props")  # stack traces, with this machine's paths in them
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _name_axes(graph: object, scale: int) -> None:
    """Call the free axes by what they are, instead of by the tracer's symbols."""
    names = {0: "batch", 2: "height", 3: "width"}
    for value, factor in ((graph.input[0], ""), (graph.output[0], f"{scale}*")):  # type: ignore[attr-defined]
        for axis, name in names.items():
            value.type.tensor_type.shape.dim[axis].dim_param = (factor if axis else "") + name


def _json(about: About) -> str:
    return json.dumps(asdict(about), ensure_ascii=False)


def _checks(
    served: ServedNetwork, network: nn.Module, answer: Callable[[Tensor], Tensor]
) -> Iterator[Check]:
    """The file's answers to noise of several sizes, against those of the network itself."""
    generator = torch.Generator().manual_seed(0)
    for number, height, width in CHECKED_SIZES:
        lr = torch.rand(number, _num_channels(served), height, width, generator=generator)
        expected = network(enlarge(lr, served.scale) if served.architecture.enlarged else lr)
        given = answer(lr)
        if given.shape != expected.shape:
            raise WeightsError(f"the file gives {tuple(given.shape)}, not {tuple(expected.shape)}")
        yield Check(tuple(lr.shape), float((given - expected).abs().max()))


def _onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime  # type: ignore[import-untyped]

    onnxruntime.disable_telemetry_events()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda lr: torch.from_numpy(session.run(["sr"], {"lr": lr.numpy()})[0])


def _pt2_runner(path: Path) -> Callable[[Tensor], Tensor]:
    with path.open("rb") as opened:
        module = torch.export.load(opened).module()

    def answer(lr: Tensor) -> Tensor:
        sr: Tensor = module(lr)
        return sr

    return answer


def _onnx_metadata(path: Path) -> str:
    import onnx

    props = onnx.load(path, load_external_data=False).metadata_props
    return next((str(each.value) for each in props if each.key == _METADATA_NAME), "")


def _pt2_metadata(path: Path) -> str:
    extra = {_METADATA_NAME: ""}
    torch.export.load(path, extra_files=extra)
    return extra[_METADATA_NAME]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' advice to their programmers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
