"""Read other people's checkpoints without trusting them, and fit them to our networks.

A PyTorch checkpoint is a pickle: a program that may call any function of any installed module.
`read_tensors` never runs it. The standard library's `pickletools.genops` splits the pickle into
its instructions, and `_Reader` interprets the few that a checkpoint needs. To it a global is only
a name: it imports nothing, looks up no attribute, and calls nothing but the functions of `_CALLS`
below, each of which builds a container or notes where a tensor's numbers lie. Classes of layers
become `_Stub`, a name with a state. Every other name is refused.

What a file claims is checked against its own bytes before any memory is taken: a tensor may not
be larger than the numbers that the file holds for it.
"""

import io
import itertools
import math
import pickletools
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

import models
from tasks.errors import WeightsError

MAX_FILE_BYTES = 2 * 2**30  # the full EDSR has 0.16 GiB
MAX_INSTRUCTIONS = 1_000_000  # the released VDSR, a whole module, has 5,400
# A call may be given again and again the one long list that the pickle keeps: so its items count.
MAX_ITEMS = 1_000_000
MAX_INTEGER_BITS = 256  # the legacy format's magic number has 77
MAX_DEPTH = 32
MAX_NAME = 200
MAX_DIMENSIONS = 8

_WAY_OUT = (
    "If you trust the file, load it with torch where it was made and save the bare weights: "
    "torch.save(model.state_dict(), ...) or safetensors."
)

# The pickled number and the protocol with which every legacy checkpoint begins
# (torch/serialization.py: MAGIC_NUMBER, PROTOCOL_VERSION).
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_ZIP_START = b"PK\x03\x04"
# A pickle's first instruction: its protocol, or in old protocols a global or a mark. A legacy
# checkpoint is several pickles; one that is something else deserves to hear what it asks for.
_PICKLE_STARTS = (b"\x80", b"c", b"(")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the author's names, on the CPU. Runs nothing of the file.

    Reads torch's zip format, its legacy format (before 1.6) and safetensors, up to 2 GiB, told
    apart by their first bytes. A pickle may hold a state dict, a whole pickled module, or a dict
    with one of them under a usual key (`state_dict`, `model`, …). Values are as stored, whatever
    the dtype.

    Raises:
        WeightsError: unreadable, damaged or of another format; or the file asks for anything but
            tensors and containers, in which case the message names it.
    """
    try:
        return _read(_bytes(path))
    except WeightsError as error:
        has_way_out = "; " in str(error) or _WAY_OUT in str(error)
        raise WeightsError(f"{path}: {error}{'' if has_way_out else '. ' + _WAY_OUT}") from error
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error}") from error
    except _DAMAGE as error:
        raise WeightsError(
            f"{path} is damaged: {type(error).__name__}: {str(error)[:200]}; fetch it again"
        ) from error


# What parsing hostile or truncated bytes may raise, here and in the standard library.
_DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,  # includes RecursionError and zipfile's NotImplementedError
    SafetensorError,
    TypeError,
    ValueError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise WeightsError("not a file; give a .pth, .pt or .safetensors file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise WeightsError(f"larger than {MAX_FILE_BYTES} bytes. {_WAY_OUT}")
    return path.read_bytes()


def _read(data: bytes) -> dict[str, Tensor]:
    if data.startswith(_ZIP_START):
        return _collect(*_read_zip(data))
    if data[5:9] == b"\0\0\0{":  # 8 bytes with the length, far below 2^40, of the JSON behind
        tensors: dict[str, Tensor] = load_safetensors(data)
        return tensors
    if data.startswith(_PICKLE_STARTS):
        return _collect(*_read_legacy(data))
    raise WeightsError(
        "not a checkpoint that sisr reads; it reads torch's zip and legacy formats (.pth, .pt) "
        "and .safetensors"
    )


# --- the pickle ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions. Never looked up."""

    text: str


@dataclass
class _Stub:
    """What would have been an object of a layer's class."""

    name: str
    state: dict[object, object] = field(default_factory=dict)


@dataclass(frozen=True)
class _Storage:
    """A run of `numel` numbers that the file holds under `key`."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class _View:
    """A tensor to be: a strided view of a storage, known to lie inside it."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    """Stands on the stack where the pickle put a mark."""


_MARK = _Mark()

_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
}


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(_is_index(item) for item in value):
        raise WeightsError("a tensor's size or stride is not a tuple of plain integers")
    return value


def _is_index(value: object) -> bool:
    # a pickle's integers have no largest; their product would never be finished
    return type(value) is int and 0 <= value <= MAX_FILE_BYTES


def _rebuild_tensor(
    storage: object, offset: object, size: object, stride: object, *_: object
) -> _View:
    """Note a view; what follows the stride (requires_grad, hooks) is no part of the numbers."""
    if not isinstance(storage, _Storage) or not isinstance(offset, int) or not _is_index(offset):
        raise WeightsError("a tensor is not built from a storage and an offset")
    sizes, strides = _integers(size), _integers(stride)
    if not len(sizes) == len(strides) <= MAX_DIMENSIONS:
        raise WeightsError(f"a tensor has {len(sizes)} sizes and {len(strides)} strides")
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    numel = math.prod(sizes)
    if numel > storage.numel or (numel > 0 and last >= storage.numel):
        raise WeightsError(
            f"a tensor of size {sizes} does not fit its storage of {storage.numel} numbers"
        )
    return _View(storage, offset, sizes, strides)


def _ordered_dict(pairs: object = ()) -> dict[object, object]:
    if not isinstance(pairs, list | tuple):
        raise WeightsError("an OrderedDict is not built from a list of pairs")
    return _fill({}, itertools.chain.from_iterable(_pair(pair) for pair in pairs))


def _pair(pair: object) -> tuple[object, object]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:  # noqa: PLR2004
        raise WeightsError("an OrderedDict is not built from a list of pairs")
    return pair[0], pair[1]


def _fill(target: dict[object, object], items: Iterator[object]) -> dict[object, object]:
    """Put key, value, key, value, … into `target`. Only plain keys: hashing runs no deep tuples."""
    for key, value in zip(items, items, strict=True):
        if not isinstance(key, str | int | float | None):
            raise WeightsError(f"a dict has a key of type {type(key).__name__}")
        target[key] = value
    return target


def _parameter(data: object, *_: object) -> object:
    return data


def _size(items: object = ()) -> tuple[int, ...]:
    return _integers(items)


def _nothing(*_: object) -> None:
    """For what a pickled module carries and no tensor needs."""


# All that a pickle can call, by the name that it must use.
_CALLS: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": _size,
    "torch.nn.backends.thnn._get_thnn_function_backend": _nothing,
    "__builtin__.set": _nothing,
    "builtins.set": _nothing,
}

# A class whose package is one of these is never somebody's own network. (A stub would do no harm;
# such a name says what the file was made for.)
_NOT_A_NETWORK = sys.stdlib_module_names | {
    "__builtin__", "builtins", "cPickle", "commands", "copy_reg", "numpy", "popen2", "torch",
}  # fmt: skip


def _refuse(name: object) -> WeightsError:
    return WeightsError(
        f"refused: the checkpoint asks for {str(name)[:200]!r}, which is neither a tensor nor a "
        f"container; nothing was executed. {_WAY_OUT}"
    )


def _global(name: str) -> _Name:
    known = name in _CALLS or name in _DTYPES or name.startswith("torch.nn.modules.")
    if not known and name.partition(".")[0] in _NOT_A_NETWORK:
        raise _refuse(name)
    return _Name(name)


class _Reader:
    """Interprets one pickle. Afterwards `storages` holds every storage that it mentioned."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}
        self._stack: list[object] = []
        self._memo: dict[object, object] = {}
        self._num_items = 0

    def read(self, file: io.BytesIO) -> object:
        """The value of the pickle at the file's position, which moves behind it."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_INSTRUCTIONS:
                raise WeightsError(f"the pickle has more than {MAX_INSTRUCTIONS} instructions")
            if opcode.name == "STOP":
                break
            if opcode.name in _CONSTANTS:
                self._push(_short_integer(argument))
            elif opcode.name in _HANDLERS:
                _HANDLERS[opcode.name](self, argument)
            else:
                what = "" if argument is None else str(argument).replace(" ", ".")
                raise _refuse(f"pickle instruction {opcode.name} {what[:100]}".strip())
        return self._stack.pop()

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _count(self, *values: object) -> None:
        """Refuse a pickle whose few instructions would take for ever, or all memory."""
        self._num_items += sum(len(v) for v in values if isinstance(v, list | tuple | dict))
        if self._num_items > MAX_ITEMS:
            raise WeightsError(f"the pickle's calls take more than {MAX_ITEMS} items. {_WAY_OUT}")

    def _pop_to_mark(self) -> list[object]:
        items = []
        while not isinstance(item := self._stack.pop(), _Mark):
            items.append(item)
        return items[::-1]

    def _tuple(self, length: int) -> None:
        if length > len(self._stack):
            raise WeightsError("the pickle takes more from its stack than there is")
        self._stack[-length:] = [tuple(self._stack[-length:])]

    def _append(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise WeightsError(f"the pickle appends to a {type(target).__name__}")
        target.extend(items)

    def _set(self, items: list[object]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise WeightsError(f"the pickle sets items of a {type(target).__name__}")
        _fill(target, iter(items))

    def _put(self, index: object) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: object) -> None:
        self._push(self._memo[index])

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push(_global(f"{module}.{name}"))

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        name = function.text if isinstance(function, _Name) else f"a {type(function).__name__}"
        if name not in _CALLS:
            raise _refuse(name)
        if not isinstance(arguments, tuple):
            raise WeightsError(f"{name} is called with a {type(arguments).__name__}")
        self._count(arguments, *arguments)
        self._push(_CALLS[name](*arguments))

    def _new_object(self) -> None:
        arguments, cls = self._stack.pop(), self._stack.pop()
        name = cls.text if isinstance(cls, _Name) else f"a {type(cls).__name__}"
        if not isinstance(cls, _Name) or name in _CALLS or name in _DTYPES or arguments != ():
            raise _refuse(name)
        self._push(_Stub(name))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        self._count(state)
        if isinstance(target, _Stub) and isinstance(state, dict):
            target.state = state
        elif isinstance(target, _View) and isinstance(state, tuple):
            # A parameter of torch before 0.4: (requires_grad, volatile, hooks), no numbers.
            if not all(item is None or isinstance(item, bool | dict) for item in state):
                raise WeightsError("a parameter carries a state that sisr does not know")
        elif not (isinstance(target, dict) and isinstance(state, dict)):
            # A dict's state is a state dict's `_metadata`, which holds no tensors.
            raise _refuse(f"a state for a {type(target).__name__}")

    def _persistent(self) -> None:
        found = self._stack.pop()
        self._count(found)
        match found:
            case ("module", _Name() as cls, *_):
                self._push(cls)  # legacy files keep the class's source beside it
            case ("storage", _Name() as kind, str() as key, str(), int() as numel, *views) if (
                _is_index(numel)
            ):
                self._push(self._storage(kind, key, numel, views))
            case other:
                raise WeightsError(f"unknown persistent id, a {type(other).__name__}. {_WAY_OUT}")

    def _storage(self, kind: _Name, key: str, numel: int, views: list[object]) -> _Storage:
        if kind.text not in _DTYPES:
            raise _refuse(kind.text)
        if views not in ([], [None]):
            raise WeightsError(f"storage {key[:100]!r} is a view of another. {_WAY_OUT}")
        storage = _Storage(key, _DTYPES[kind.text], numel)
        if self.storages.setdefault(key, storage) != storage:
            raise WeightsError(f"storage {key[:100]!r} has two descriptions")
        return storage


def _short_integer(value: object) -> object:
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise WeightsError(f"the pickle holds an integer of {value.bit_length()} bits")
    return value


_CONSTANTS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip

_HANDLERS: dict[str, Callable[[_Reader, object], None]] = {
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "MARK": lambda reader, _: reader._push(_MARK),
    "NONE": lambda reader, _: reader._push(None),
    "NEWTRUE": lambda reader, _: reader._push(True),
    "NEWFALSE": lambda reader, _: reader._push(False),
    "EMPTY_DICT": lambda reader, _: reader._push({}),
    "EMPTY_LIST": lambda reader, _: reader._push([]),
    "EMPTY_TUPLE": lambda reader, _: reader._push(()),
    "TUPLE": lambda reader, _: reader._push(tuple(reader._pop_to_mark())),
    "TUPLE1": lambda reader, _: reader._tuple(1),
    "TUPLE2": lambda reader, _: reader._tuple(2),
    "TUPLE3": lambda reader, _: reader._tuple(3),
    "LIST": lambda reader, _: reader._push(reader._pop_to_mark()),
    "DICT": lambda reader, _: reader._push(_fill({}, iter(reader._pop_to_mark()))),
    "APPEND": lambda reader, _: reader._append([reader._stack.pop()]),
    "APPENDS": lambda reader, _: reader._append(reader._pop_to_mark()),
    "SETITEM": lambda reader, _: reader._set([reader._stack.pop(-2), reader._stack.pop()]),
    "SETITEMS": lambda reader, _: reader._set(reader._pop_to_mark()),
    "PUT": _Reader._put,
    "BINPUT": _Reader._put,
    "LONG_BINPUT": _Reader._put,
    "MEMOIZE": lambda reader, _: reader._put(len(reader._memo)),
    "GET": _Reader._get,
    "BINGET": _Reader._get,
    "LONG_BINGET": _Reader._get,
    "GLOBAL": lambda reader, name: reader._push(_global(str(name).replace(" ", "."))),
    "STACK_GLOBAL": lambda reader, _: reader._stack_global(),
    "REDUCE": lambda reader, _: reader._reduce(),
    "NEWOBJ": lambda reader, _: reader._new_object(),
    "BUILD": lambda reader, _: reader._build(),
    "BINPERSID": lambda reader, _: reader._persistent(),
}


# --- the numbers -----------------------------------------------------------------------------


def _read_zip(data: bytes) -> tuple[object, dict[str, Tensor]]:
    """The value of a zip checkpoint's pickle and its storages by key.

    `<folder>/data.pkl` is the pickle, `<folder>/data/<key>` a storage, nothing is compressed.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        sizes = sum(info.file_size for info in archive.infolist())
        stored = all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        if not stored or sizes > len(data):
            raise WeightsError("the archive is compressed or claims more bytes than it has")
        folder = _folder(list(entries))
        order = f"{folder}byteorder"
        if order in entries and archive.read(order) != b"little":
            raise WeightsError(f"the numbers are not little-endian. {_WAY_OUT}")
        reader = _Reader()
        root = reader.read(io.BytesIO(archive.read(f"{folder}data.pkl")))
        numbers = {}
        for key, storage in reader.storages.items():
            name = f"{folder}data/{key}"
            if name not in entries:
                raise WeightsError(f"storage {key[:100]!r} is missing from the archive")
            numbers[key] = _numbers(storage, archive.read(name))
    return root, numbers


def _folder(names: list[str]) -> str:
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise WeightsError("a zip archive, but not a checkpoint: it needs one data.pkl")
    return pickles[0].removesuffix("data.pkl")


def _read_legacy(data: bytes) -> tuple[object, dict[str, Tensor]]:
    """The value of a legacy checkpoint and its storages by key.

    Five pickles (magic number, protocol, system, value, list of keys), then for each key 8 bytes
    with the number of numbers, and the numbers.
    """
    file = io.BytesIO(data)
    for expected in (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        if _Reader().read(file) != expected:
            raise WeightsError(f"a pickle, but not of torch's legacy format. {_WAY_OUT}")
    system = _Reader().read(file)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise WeightsError(f"the numbers are not little-endian. {_WAY_OUT}")
    reader = _Reader()
    root = reader.read(file)
    keys = _Reader().read(file)
    if not isinstance(keys, list) or sorted(keys) != sorted(reader.storages):
        raise WeightsError("the list of storages does not name those that the tensors use")
    numbers = {}
    for key in keys:
        storage = reader.storages[key]
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storage.numel:
            raise WeightsError(f"storage {key[:100]!r} holds {numel} numbers, not {storage.numel}")
        numbers[key] = _numbers(storage, file.read(numel * storage.dtype.itemsize))
    return root, numbers


def _numbers(storage: _Storage, data: bytes) -> Tensor:
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise WeightsError(
            f"storage {storage.key[:100]!r} claims {storage.numel} numbers of "
            f"{storage.dtype.itemsize} bytes and has {len(data)} bytes"
        )
    if not data:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(data), dtype=storage.dtype)


# --- the names -------------------------------------------------------------------------------

# Where trainers put the weights beside epochs and optimisers; the first that is there is taken.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "params_ema", "params", "net")


def _collect(root: object, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a state dict or of a pickled module, as views of the storages."""
    root = _unwrap(root)
    named = _walk(root, "", 0, set()) if isinstance(root, _Stub) else _views(root, "")
    tensors = {
        name: torch.as_strided(numbers[view.storage.key], view.size, view.stride, view.offset)
        for name, view in named
    }
    if not tensors:
        raise WeightsError("the checkpoint holds no tensors")
    if all(name.startswith("module.") for name in tensors):  # nn.DataParallel's prefix
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _unwrap(root: object) -> object:
    for _ in range(MAX_DEPTH):
        if not isinstance(root, dict):
            return root
        # Before tensors beside it: a best PSNR may be one.
        wrapper = next((key for key in _WRAPPERS if isinstance(root.get(key), dict | _Stub)), None)
        if wrapper is None and any(isinstance(value, _View) for value in root.values()):
            return root
        if wrapper is None:
            found = ", ".join(ascii(key)[:30] for key in itertools.islice(root, 10))
            raise WeightsError(
                f"no weights found; looked for {', '.join(_WRAPPERS)} among: {found}. {_WAY_OUT}"
            )
        root = root[wrapper]
    raise WeightsError("the weights are wrapped too deeply")


def _walk(module: _Stub, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, _View]]:
    """Names and views of a pickled module's parameters and buffers, as its `state_dict` has them.

    Each dict counts once: a file may put a module into itself, or two of two of two of … So what
    two modules share has only its first name.
    """
    if depth > MAX_DEPTH:
        raise WeightsError(f"the pickled module has more than {MAX_DEPTH} layers inside layers")
    groups = {key: module.state.get(key) for key in ("_parameters", "_buffers", "_modules")}
    for group in groups.values():
        if isinstance(group, dict) and id(group) not in seen:
            seen.add(id(group))
            yield from _views(group, prefix)
            for name, child in group.items():
                if isinstance(child, _Stub):
                    yield from _walk(child, f"{prefix}{_checked(name)}.", depth + 1, seen)


def _views(state: object, prefix: str) -> Iterator[tuple[str, _View]]:
    if not isinstance(state, dict):
        raise WeightsError(f"the checkpoint holds a {type(state).__name__}, not weights")
    for name, value in state.items():
        if isinstance(value, _View):
            yield prefix + _checked(name), value


def _checked(name: object) -> str:
    text = str(name)
    if len(text) > MAX_NAME:
        raise WeightsError(f"a name has {len(text)} characters: {text[:30]!a}…")
    return text


# Layer names, the author's to ours. A new architecture needs one function like these.


def _vdsr(scale: int) -> dict[str, str]:
    """github.com/twtygqyy/pytorch-vdsr; ours has a ReLU between any two layers."""
    hidden = {f"residual_layer.{i}.conv": f"layers.{2 * i + 2}" for i in range(18)}
    return {"input": "layers.0", **hidden, "output": "layers.38"}


def _lesrcnn(scale: int) -> dict[str, str]:
    """github.com/hellloxiaotian/LESRCNN, one scale."""
    return _lesrcnn_body() | _lesrcnn_upsampler("upsample.up", scale)


def _lesrcnn_s(scale: int) -> dict[str, str]:
    """github.com/hellloxiaotian/LESRCNN, three scales in one."""
    names = _lesrcnn_body()
    for held in models.SCALES:
        names |= _lesrcnn_upsampler(f"upsample.up{held}", held)
    return names


def _lesrcnn_body() -> dict[str, str]:
    names = {"conv1.0": "first", "conv18.0": "last"}
    names |= {f"{shift}.shifter": shift for shift in ("sub_mean", "add_mean")}
    for i in range(8):
        names[f"conv{2 * i + 2}.0"] = f"pairs.{i}.wide"
        names[f"conv{2 * i + 3}.0"] = f"pairs.{i}.narrow"
    return names | {f"conv17_{i + 1}.0": f"refinements.{i}" for i in range(4)}


def _lesrcnn_upsampler(theirs: str, scale: int) -> dict[str, str]:
    steps = (0, 2) if scale == 4 else (0,)  # noqa: PLR2004
    return {f"{theirs}.body.{i}": f"upsamplers.{scale}.{i}" for i in steps}


LAYER_NAMES: dict[str, Callable[[int], dict[str, str]]] = {
    "vdsr": _vdsr,
    "lesrcnn": _lesrcnn,
    "lesrcnn_s": _lesrcnn_s,
}


def convert(architecture: str, scale: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An author's tensors as a state dict for `models.create(architecture, scale)`.

    Tensors that already have our names are taken as they are. Values are cast to the network's
    dtype and copied; nothing is scaled or reordered.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape (the first is named), or
            no mapping of names is known for the architecture.
        ValueError: unknown architecture or scale.
    """
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        expected = models.create(architecture, scale).state_dict()
    renamed = dict(tensors)
    if not tensors.keys() <= expected.keys():
        renamed = _rename(architecture, scale, tensors)
    for name, tensor in expected.items():
        if name not in renamed:
            raise WeightsError(f"{architecture} ×{scale} needs {name!r}, which the file lacks")
        if renamed[name].shape != tensor.shape:
            raise WeightsError(
                f"{architecture} ×{scale} needs {name!r} of shape {tuple(tensor.shape)}; "
                f"the file has {tuple(renamed[name].shape)}"
            )
    return {
        name: renamed[name].to(tensor.dtype, copy=True).contiguous()
        for name, tensor in expected.items()
    }


def _rename(architecture: str, scale: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if architecture not in LAYER_NAMES:
        raise WeightsError(
            f"no author's names are known for {architecture!r}, only for "
            f"{', '.join(LAYER_NAMES)}; add a mapping to LAYER_NAMES in {__name__}"
        )
    layers = LAYER_NAMES[architecture](scale)
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.rpartition(".")
        if layer not in layers:
            raise WeightsError(
                f"the file has {name[:100]!r}, which {architecture} ×{scale} has not"
            )
        renamed[f"{layers[layer]}.{kind}"] = tensor
    return renamed
