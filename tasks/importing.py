"""Other people's weights beside ours: fetch, verify, read, rename, measure.

Data in: a checkpoint (file or URL), the test pictures. Data out, for the weights `vdsr-published`:
`cells/vdsr-published/` with `weights.safetensors` and `import.json` (whose they are, their
checksum, when they came), and `results/vdsr-published-x<scale>.json`, what our ruler says of them.

No stage makes these files, so each result notes what it was measured with. One whose pictures,
weights or code have changed since is not shown; the reason is.
"""

import json
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import models
from models.registry import Architecture
from tasks.atomic import replacing_folder, room_for, write_text
from tasks.checksums import file_sha256
from tasks.config import Params, Settings
from tasks.download import fetch_file
from tasks.errors import ArchiveError, DataError, ParamsError, WeightsError
from tasks.evaluate import data_sha256, evaluate_network
from tasks.fingerprint import network_code
from tasks.foreign_weights import MAX_FILE_BYTES, convert, read_tensors
from tasks.layout import (
    CELL_FOLDER,
    HR_FOLDER,
    RESULT_FOLDER,
    lr_folder,
    result_file,
    weights_file,
)
from tasks.shards import METADATA_KEY
from tasks.urls import masked

IMPORT_FILE = "import.json"
SUFFIX = "-published"
# What turns a network's answer into numbers, besides the network.
_RULER = (
    "tasks.evaluate",
    "tasks.precision",
    "tasks.protocol",
    "tasks.metrics",
    "tasks.color",
    "tasks.bicubic",
)

State = dict[str, Tensor]
Result = dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where imported weights come from; the contents of `import.json`."""

    architecture: str
    scales: tuple[int, ...]
    source: str
    sha256: str
    imported_at: str

    @property
    def name(self) -> str:
        """`vdsr-published`, or `lesrcnn-x2-published` for weights that serve one scale."""
        if models.get(self.architecture).multi_scale:
            return f"{self.architecture}{SUFFIX}"
        return f"{self.architecture}-x{self.scales[0]}{SUFFIX}"

    @property
    def command(self) -> str:
        """What imports the same weights again; what stood behind a `?` is to be put back."""
        scales = "".join(f" --scale {scale}" for scale in self.scales)
        source = shlex.quote(self.source)
        return f"sisr import {self.architecture} {source} --sha256 {self.sha256}{scales}"


def row_name(architecture: str) -> str:
    """What imported weights are called in the tables, beside our own of that architecture."""
    return f"{architecture}{SUFFIX}"


def import_weights(
    params: Params,
    settings: Settings,
    architecture: str,
    source: str,
    *,
    sha256: str | None,
    scales: Sequence[int],
    say: Callable[[str], None],
) -> list[Result]:
    """Take an author's checkpoint in, measured at each of its scales that `params` has.

    `scales` are those that the weights were made for; empty for all that they fit. Whatever goes
    wrong, an earlier import stays as it was.

    Raises:
        ParamsError: unknown architecture, scale or scheme, no such file.
        DataError: there are no test pictures yet.
        DownloadError: out of reach.
        WeightsError: wrong checksum, refused, damaged, of another network, or they give no numbers.
    """
    about = _importable(architecture, scales)
    _check_pictures(HR_FOLDER / "test", params.data.test)
    with tempfile.TemporaryDirectory(prefix="sisr-") as folder:
        file = Path(folder) / "checkpoint"
        digest = _fetch(architecture, source, file, sha256, settings)
        states = _states(about, _read(source, file), scales)
    results = {}
    for scale in _measured_scales(architecture, states, params):
        say(f"measure {row_name(architecture)} ×{scale} on {', '.join(params.data.test)} …")
        results[scale] = _measure(about, scale, states[scale], params.data.test)
    for served in _servings(about, states):
        if not results.keys().isdisjoint(served):
            origin = Origin(architecture, served, masked(source), digest, _now())
            _write_weights(origin, states[served[0]])
            _write_results(origin, results, params.data.test)
    return [json.loads(result_file(row_name(architecture), scale).read_text()) for scale in results]


def published_results(params: Params) -> tuple[list[Result], list[str]]:
    """The results of imported weights at the scales of `params`, and why others are not shown."""
    results, reasons = [], []
    for scale in params.scales:
        for path in sorted(RESULT_FOLDER.glob(f"*{SUFFIX}-x{scale}.json")):
            result = json.loads(path.read_text("utf-8"))
            reason = _why_stale(result, params.data.test)
            if reason is None:
                results.append(result)
            else:
                reasons.append(f"{path} is not shown: {reason}")
    return results, reasons


def _importable(architecture: str, scales: Iterable[int]) -> Architecture:
    try:
        about = models.get(architecture)
    except ValueError as error:
        raise ParamsError(f"{error}; `sisr models` lists them") from None
    if not about.trainable:
        raise ParamsError(f"{architecture!r} has no weights")
    for scale in scales:
        if scale not in models.SCALES:
            raise ParamsError(f"scale {scale} is not one of {list(models.SCALES)}")
    return about


def _check_pictures(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if not (folder / name).is_dir():
            raise DataError(f"there are no test pictures in {folder / name}; run `sisr run` first")


def _fetch(name: str, source: str, file: Path, sha256: str | None, settings: Settings) -> str:
    """Copy the checkpoint into `file`; returns its checksum."""
    try:
        with room_for(file):
            digest = fetch_file(name, source, file, settings, MAX_FILE_BYTES)
    except ArchiveError as error:
        raise WeightsError(str(error)) from error
    if sha256 is not None and digest != sha256.lower():
        raise WeightsError(
            f"{masked(source)} has sha256 {digest}, not {sha256.lower()}; it changed or was"
            " damaged: fetch it again, or correct --sha256"
        )
    return digest


def _read(source: str, file: Path) -> State:
    try:
        return read_tensors(file)
    except WeightsError as error:  # which names the copy
        raise WeightsError(str(error).replace(str(file), masked(source))) from error


def _states(
    about: Architecture, tensors: Mapping[str, Tensor], scales: Sequence[int]
) -> dict[int, State]:
    """The weights by the scales that they serve.

    Raises:
        WeightsError: they fit no scale, or several where the network is made for one.
    """
    states, refusals = {}, []
    for scale in scales or models.SCALES:
        try:
            states[scale] = convert(about.name, scale, tensors)
        except WeightsError as error:
            refusals.append(str(error))
    if not states or (scales and refusals):
        # the scales of a network with one set of weights all say the same
        raise WeightsError("\n".join(refusals[:1] if about.multi_scale else refusals))
    if len(states) > 1 and not (scales or about.multi_scale):
        fitting = ", ".join(f"×{scale}" for scale in states)
        raise WeightsError(
            f"{about.name}'s weights fit {fitting}, whatever they were trained for: say for which"
            " with --scale"
        )
    return states


def _measured_scales(architecture: str, states: Iterable[int], params: Params) -> list[int]:
    served = list(states)
    measured = [scale for scale in served if scale in params.scales]
    if not measured:
        raise ParamsError(
            f"the weights serve {architecture} at scales {served}, params.yaml has"
            f" {list(params.scales)}; add one of theirs to `scales` and run `sisr run`"
        )
    for scale in measured:
        _check_pictures(lr_folder(scale) / "test", params.data.test)
    return measured


def _servings(about: Architecture, states: Iterable[int]) -> list[tuple[int, ...]]:
    """The scales that share weights: all of them, or each its own."""
    return [tuple(states)] if about.multi_scale else [(scale,) for scale in states]


def _measure(about: Architecture, scale: int, state: State, datasets: Sequence[str]) -> Result:
    network = models.create(about.name, scale)
    network.load_state_dict(state)
    return evaluate_network(network, about.name, scale, datasets)


def _write_weights(origin: Origin, state: State) -> None:
    from safetensors.torch import save_file

    header = json.dumps({"architecture": origin.architecture, "scales": origin.scales})
    with replacing_folder(CELL_FOLDER / origin.name) as folder:
        save_file(state, folder / "weights.safetensors", {METADATA_KEY: header})
        write_text(folder / IMPORT_FILE, json.dumps(asdict(origin), indent=1) + "\n")
    about = models.get(origin.architecture)
    for scale in models.SCALES if about.multi_scale else origin.scales:
        # what was measured of the weights that were there before
        result_file(row_name(about.name), scale).unlink(missing_ok=True)


def _write_results(origin: Origin, results: Mapping[int, Result], datasets: Sequence[str]) -> None:
    about = {
        "source": "published",
        "cell": origin.name,
        "measured_with": _measured_with(origin.architecture, origin.name, datasets),
    }
    for scale in results.keys() & set(origin.scales):
        path = result_file(row_name(origin.architecture), scale)
        write_text(path, json.dumps(results[scale] | about, indent=1) + "\n")


def read_origin(cell: str) -> Origin:
    """Where the weights in `cells/<cell>` come from.

    Raises:
        WeightsError: no such import.
    """
    path = CELL_FOLDER / cell / IMPORT_FILE
    try:
        values = json.loads(path.read_text("utf-8"))
        return Origin(**values | {"scales": tuple(values["scales"])})
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} cannot be read: {error}; import the weights again") from error


def _why_stale(result: Result, datasets: Sequence[str]) -> str | None:
    """What has changed since these numbers were measured."""
    try:
        origin = read_origin(result["cell"])
        now = _measured_with(result["architecture"], result["cell"], datasets)
    except (OSError, ValueError, WeightsError) as error:
        return str(error)
    before = result["measured_with"]
    changed = [name for name in before | now if before.get(name) != now.get(name)]
    if not changed:
        return None
    return f"changed since it was measured: {', '.join(changed)}; run `{origin.command}`"


def _measured_with(architecture: str, cell: str, datasets: Sequence[str]) -> dict[str, str]:
    """The checksum of everything that decides the numbers."""
    here = Path(__file__).parent
    ruler = {name: here / f"{name.removeprefix('tasks.')}.py" for name in _RULER}
    return {
        # In whatever order they are named, they are the same pictures.
        "test pictures": data_sha256(sorted(datasets)),
        "weights": file_sha256(weights_file(cell)),
        **network_code(architecture),
        **{name: file_sha256(path) for name, path in ruler.items()},
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
