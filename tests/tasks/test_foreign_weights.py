"""Checkpoints are made here with torch and pickle, harmless and hostile, and read without them."""

import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import models
from tasks.errors import WeightsError
from tasks.foreign_weights import LAYER_NAMES, convert, read_tensors

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM: dict[str, object] = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}


def as_zip(pickled: bytes, entries: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in {"data.pkl": pickled, **(entries or {})}.items():
            archive.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def as_legacy(pickled: bytes, storages: bytes = b"", keys: tuple[str, ...] = ()) -> bytes:
    start = b"".join(pickle.dumps(value, protocol=2) for value in (MAGIC, 1001, SYSTEM))
    return start + pickled + pickle.dumps(list(keys), protocol=2) + storages


def write(folder: Path, data: bytes, name: str = "weights.pth") -> Path:
    (folder / name).write_bytes(data)
    return folder / name


# --- harmless files --------------------------------------------------------------------------


def state_dict() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shared = torch.rand(4, 6)
    return OrderedDict(
        {
            "first.weight": torch.randn(3, 2, 3, 3),
            "transposed": shared.T,
            "part": shared[1:3, ::2],
            "double": torch.randn(2, dtype=torch.float64),
            "half": torch.randn(2).half(),
            "brain": torch.randn(2).bfloat16(),
            "whole": torch.arange(3),
            "scalar": torch.tensor(2.5),
            "empty": torch.empty(0, 3),
            "parameter": nn.Parameter(torch.rand(2)),
        }
    )


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor.detach()), name


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_state_dicts_survive(tmp_path: Path, new_format: bool, protocol: int) -> None:
    path = tmp_path / "weights.pth"
    torch.save(
        state_dict(), path, pickle_protocol=protocol, _use_new_zipfile_serialization=new_format
    )

    assert_same(read_tensors(path), state_dict())


@pytest.mark.parametrize("new_format", [True, False])
def test_metadata_of_a_modules_state_dict_is_ignored(tmp_path: Path, new_format: bool) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    path = tmp_path / "weights.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=new_format)

    assert_same(read_tensors(path), network.state_dict())


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "params_ema"])
def test_weights_are_found_beside_the_training_state(tmp_path: Path, wrapper: str) -> None:
    path = tmp_path / "weights.pth"
    best = torch.tensor(36.4)
    torch.save({"epoch": 3, "best": best, "optimizer": {"lr": 0.1}, wrapper: state_dict()}, path)

    assert_same(read_tensors(path), state_dict())


def test_the_prefix_of_data_parallel_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({f"module.{name}": tensor for name, tensor in state_dict().items()}, path)

    assert_same(read_tensors(path), state_dict())


class TheirBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)
        self.relu = nn.ReLU()
        self.register_buffer("mean", torch.rand(2))


class TheirNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Conv2d(1, 2, 3, bias=False)
        self.blocks = nn.Sequential(TheirBlock(), TheirBlock())


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("new_format", [True, False])
def test_whole_modules_give_their_state_dict(
    tmp_path: Path, new_format: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = TheirNet()
    path = tmp_path / "model.pth"
    for cls in (TheirNet, TheirBlock):  # of a module that reading could not import
        monkeypatch.setattr(cls, "__module__", "their_module")
    monkeypatch.setitem(sys.modules, "their_module", sys.modules[__name__])
    torch.save({"epoch": 50, "model": network}, path, _use_new_zipfile_serialization=new_format)
    monkeypatch.undo()

    ours = read_tensors(path)

    assert {name: t.shape for name, t in ours.items()} == {
        name: t.shape for name, t in network.state_dict().items()
    }
    assert all(torch.equal(ours[name], t) for name, t in network.state_dict().items())


def test_safetensors_are_read_whatever_their_name(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(2, 3), "b": torch.arange(4)}
    save_file(tensors, tmp_path / "weights.bin")

    ours = read_tensors(tmp_path / "weights.bin")

    assert set(ours) == {"a", "b"}
    assert all(torch.equal(ours[name], tensor) for name, tensor in tensors.items())


# What torch 0.1 to 0.3 under Python 2 wrote for a module with one parameter of two numbers, in the
# pickle's own instructions: Parameter(_rebuild_tensor(...)), then its (requires_grad, volatile,
# hooks), the class with its source beside it, and a function that returned a table of functions.
OLD_MODULE = b"".join(
    [
        b"\x80\x02(U\x06modulecvdsr\nNet\nU\x07vdsr.pyU\x06sourcetQ)\x81}(",
        b"U\x08_backendctorch.nn.backends.thnn\n_get_thnn_function_backend\n)R",
        b"U\x0b_parametersccollections\nOrderedDict\n](](U\x06weight",
        b"ctorch.nn.parameter\nParameter\nctorch._utils\n_rebuild_tensor\n(",
        b"(U\x07storagectorch\nFloatStorage\nU\x011U\x06cuda:0K\x02NtQ",
        b"K\x00K\x02\x85K\x01\x85tR\x85R\x88\x89N\x87b",
        b"ee\x85Rub.",
    ]
)


def test_modules_of_the_first_torch_versions_are_read(tmp_path: Path) -> None:
    storages = struct.pack("<q2f", 2, 0.25, -4.0)
    path = write(tmp_path, as_legacy(OLD_MODULE, storages, ("1",)))

    assert_same(read_tensors(path), {"weight": torch.tensor([0.25, -4.0])})


# --- hostile files ---------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`: unpickling would run it."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def hostile_values(canary: Path) -> dict[str, tuple[object, str]]:
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w')"
    return {
        "os.system": (Call(os.system, touch), r"posix\.system"),
        "eval": (Call(eval, python), r"builtin.*\.eval"),
        "exec": (Call(exec, python), r"builtin.*\.exec"),
        "open": (Call(open, str(canary), "w"), r"open"),
        "import": (Call(__import__, "os"), r"__import__"),
        "getattr": (Call(getattr, Call(__import__, "os"), "system"), r"getattr"),
        "nested": (
            OrderedDict({"x": [({"y": Call(os.system, touch)},)], "weight": torch.zeros(2)}),
            r"posix\.system",
        ),
        "argument": (OrderedDict([("a", Call(eval, python))]), r"eval"),
        "torch's own": (Call(torch.load, str(canary)), r"torch\.serialization\.load"),
        "hub": (Call(torch.hub.load, "a/b", "c"), r"torch\.hub\.load"),
    }


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("case", hostile_values(Path("x")))
@pytest.mark.parametrize("container", ["zip", "legacy", "bare", "bare 0", "bare 4"])
def test_calls_are_refused_by_name_and_not_made(tmp_path: Path, case: str, container: str) -> None:
    canary = tmp_path / "canary"
    value, name = hostile_values(canary)[case]
    path = tmp_path / "weights.pth"
    if container.startswith("bare"):
        path.write_bytes(pickle.dumps(value, protocol=int(container[5:] or 2)))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=container == "zip")

    with pytest.raises(WeightsError, match=rf"refused.*{name}.*nothing was executed.*torch\.save"):
        read_tensors(path)
    assert not canary.exists()


def test_the_attacks_would_have_worked(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(hostile_values(canary)["os.system"][0]))

    assert canary.exists()


SYSTEM_CALL = b"cposix\nsystem\n"
TOUCH = b"U\x0ctouch canary"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        # a name is refused even if it is never called
        (b"cos\nsystem\n.", r"'os\.system'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"'os\.system'"),
        (b"ctorch.storage\n_load_from_bytes\n.", r"'torch\.storage\._load_from_bytes'"),
        # all the instructions that call
        (b"(" + TOUCH + b"ios\nsystem\n.", r"instruction INST os\.system"),
        (b"(" + SYSTEM_CALL + TOUCH + b"o.", r"posix\.system"),
        (b"(cvdsr\nNet\n" + TOUCH + b"o.", r"instruction OBJ"),
        (b"cvdsr\nNet\n" + TOUCH + b"\x85}\x92.", r"instruction NEWOBJ_EX"),
        (b"\x82\x01.", r"instruction EXT1 1"),
        (b"Psome id\n.", r"instruction PERSID some\.id"),
        # somebody's class may be a stub, never a function to call
        (b"cvdsr\nNet\n" + TOUCH + b"\x85R.", r"'vdsr\.Net'"),
        (b"ctorch.nn.modules.conv\nConv2d\n)R.", r"'torch\.nn\.modules\.conv\.Conv2d'"),
        (b"ctorch.nn.modules.module\ntorch.os.system\n" + TOUCH + b"\x85R.", r"os\.system"),
        (b"cvdsr\nNet\n" + TOUCH + b"\x85\x81.", r"'vdsr\.Net'"),  # arguments for __new__
        # an object to call that no name gave
        (b"cvdsr\nNet\n)\x81)R.", r"a _Stub"),
        (TOUCH + b")R.", r"a str"),
        (TOUCH + b")\x81.", r"a str"),
        # what is known is a function or a storage, not a class to instantiate or to change
        (b"ccollections\nOrderedDict\n)\x81.", r"'collections\.OrderedDict'"),
        (b"ccollections\nOrderedDict\n}U\x0c__setstate__cvdsr\nx\nsb.", r"a state for a _Name"),
        (b"cvdsr\nNet\n}U\x0c__setstate__cvdsr\nx\nsb.", r"a state for a _Name"),
        (b"cvdsr\nNet\n)\x81N}U\x09__class__cvdsr\nx\ns\x86b.", r"a state for a _Stub"),
        (b"]}b.", r"a state for a list"),
        # another pickle opened by a storage's or a module's id
        (b"(U\x07storagecvdsr\nNet\nU\x010U\x03cpuK\x01tQ.", r"'vdsr\.Net'"),
        (b"(U\x05otherU\x010tQ.", r"unknown persistent id"),
        (b"U\x05otherQ.", r"unknown persistent id"),
    ],
)
@pytest.mark.parametrize("wrap", [as_zip, as_legacy])
def test_instructions_by_hand(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pickled: bytes,
    message: str,
    wrap: Callable[[bytes], bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, wrap(pickled))

    with pytest.raises(WeightsError, match=message):
        read_tensors(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights.pth"]


@pytest.mark.parametrize("position", [0, 1, 2, 4])
def test_each_of_the_legacy_pickles_is_read_with_the_same_care(
    tmp_path: Path, position: int
) -> None:
    values: list[object] = [MAGIC, 1001, SYSTEM, {"a": 1}, []]
    values[position] = Call(os.system, f"touch {tmp_path / 'canary'}")
    path = write(tmp_path, b"".join(pickle.dumps(value, protocol=2) for value in values))

    with pytest.raises(WeightsError, match=r"posix\.system"):
        read_tensors(path)
    assert not (tmp_path / "canary").exists()


def test_reading_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil_module.py").write_text("import pathlib; pathlib.Path('canary').touch()")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, as_zip(b"cevil_module\nNet\n)\x81}b."))

    with pytest.raises(WeightsError, match="no tensors"):
        read_tensors(path)
    assert not (tmp_path / "canary").exists()


# --- false claims ----------------------------------------------------------------------------


def claim(
    numel: bytes = b"K\x02",
    offset: bytes = b"K\x00",
    size: bytes = b"K\x02\x85",
    stride: bytes = b"K\x01\x85",
    kind: bytes = b"FloatStorage",
) -> bytes:
    """The pickle of a state dict of one tensor `w` over storage 0."""
    return b"\x80\x02}U\x01w" + view(storage(numel, kind), offset, size, stride) + b"s."


def storage(numel: bytes, kind: bytes) -> bytes:
    return b"(U\x07storagectorch\n" + kind + b"\nU\x010U\x03cpu" + numel + b"tQ"


def view(storage: bytes, offset: bytes, size: bytes, stride: bytes) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + b"\x89}tR"


TWO = struct.pack("<2f", 1.5, -2.0)
HUGE = b"J\x00\x00\x00\x40"  # 2^30


def test_a_true_claim_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, as_zip(claim(), {"data/0": TWO}))

    assert_same(read_tensors(path), {"w": torch.tensor([1.5, -2.0])})


FALSE_CLAIMS = [
    (claim(numel=HUGE), r"1073741824"),
    (claim(numel=HUGE, size=HUGE + b"\x85"), r"1073741824"),
    (claim(numel=b"K\x03"), r"3"),
    (claim(numel=b"J\xff\xff\xff\xff"), r"unknown persistent id"),  # -1
    (claim(size=b"K\x03\x85"), r"size \(3,\) does not fit"),
    (claim(size=HUGE + b"\x85", stride=b"K\x00\x85"), r"does not fit"),  # one number, repeated
    (claim(offset=b"K\x01"), r"does not fit"),
    (claim(offset=b"J\xff\xff\xff\xff"), r"storage and an offset"),
    (claim(stride=b"K\x02\x85"), r"does not fit"),
    (claim(stride=b"J\xff\xff\xff\xff\x85"), r"plain integers"),
    (claim(stride=b")"), r"1 sizes and 0 strides"),
    (claim(size=b"N"), r"plain integers"),
    (claim(size=b"\x88\x85"), r"plain integers"),
    (claim(size=b"\x8a\x7f" + b"\x7f" * 127 + b"\x85"), r"integer of 1015 bits"),
    (claim(size=b"\x8a\x09" + b"\x7f" * 9 + b"\x85"), r"plain integers"),
    (claim(size=b"(" + b"K\x01" * 9 + b"t", stride=b"(" + b"K\x01" * 9 + b"t"), r"9 sizes"),
    (claim(kind=b"QInt8Storage"), r"'torch\.QInt8Storage'"),
    (claim(kind=b"DoubleStorage"), r"8 bytes"),
]


@pytest.mark.parametrize(("pickled", "message"), FALSE_CLAIMS)
def test_false_claims_in_a_zip_file(tmp_path: Path, pickled: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_tensors(write(tmp_path, as_zip(pickled, {"data/0": TWO})))


@pytest.mark.parametrize(("pickled", "message"), FALSE_CLAIMS[:-1])
def test_false_claims_in_a_legacy_file(tmp_path: Path, pickled: bytes, message: str) -> None:
    storages = struct.pack("<q", 2) + TWO

    with pytest.raises(WeightsError, match=message):
        read_tensors(write(tmp_path, as_legacy(pickled, storages, ("0",))))


def test_a_legacy_storage_may_not_be_larger_than_the_file(tmp_path: Path) -> None:
    storages = struct.pack("<q", 2**30) + TWO

    with pytest.raises(WeightsError, match=r"claims 1073741824 numbers .* has 8 bytes"):
        read_tensors(write(tmp_path, as_legacy(claim(numel=HUGE), storages, ("0",))))


def test_storages_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'0' is missing from the archive"):
        read_tensors(write(tmp_path, as_zip(claim())))
    with pytest.raises(WeightsError, match="list of storages"):
        read_tensors(write(tmp_path, as_legacy(claim(), b"", ())))
    with pytest.raises(WeightsError, match="list of storages"):
        read_tensors(write(tmp_path, as_legacy(claim(), b"", ("0", "0"))))


def test_a_storage_has_one_description(tmp_path: Path) -> None:
    two = storage(b"K\x02", b"FloatStorage") + storage(b"K\x01", b"DoubleStorage")
    pickled = b"\x80\x02](" + two + b"e."

    with pytest.raises(WeightsError, match="two descriptions"):
        read_tensors(write(tmp_path, as_zip(pickled, {"data/0": TWO})))


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", claim())
        archive.writestr("archive/data/0", bytes(10_000_000))

    with pytest.raises(WeightsError, match="compressed"):
        read_tensors(path)


def test_big_endian_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, as_zip(claim(), {"data/0": TWO, "byteorder": b"big"}))
    with pytest.raises(WeightsError, match="not little-endian"):
        read_tensors(path)

    monkeypatch.setitem(SYSTEM, "little_endian", False)
    legacy = as_legacy(claim())
    with pytest.raises(WeightsError, match="not little-endian"):
        read_tensors(write(tmp_path, legacy))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02" + b"]" * 2_000_000, "more than 1000000 instructions"),
        (b"\x80\x02}" + b")" + b"\x85" * 500_000 + b"Ns.", "key of type tuple"),  # hash recursion
        (b"\x80\x02}q\x00U\x05modelh\x00s.", "wrapped too deeply"),  # a dict in itself
        (
            b"cvdsr\nNet\n)\x81q\x00}U\x08_modules}U\x01ah\x00ssb.",
            "no tensors",
        ),  # a module in itself
        (b"X\xff\xff\xff\x7fshort.", "damaged"),  # a string of 2 GB
        (b"\x8e" + b"\xff" * 7 + b"\x7f" + b".", "refused|damaged"),
        (b"L" + b"9" * 10_000 + b"L\n.", "damaged"),
        (b"r\xff\xff\xff\xff.", "damaged"),  # a memo index of 2^32
        (b"R.", "damaged"),
        (b"\x85.", "more from its stack"),
        (b"e.", "damaged"),
        (b"N(e.", "appends to a NoneType"),
        (b"N(u.", "sets items of a NoneType"),
        (b"}(Nu.", "damaged"),
        (b"N.", "holds a NoneType"),
        (b"h\x07.", "damaged"),
        (b"", "damaged"),
        (b"N", "damaged"),
        (b"\xff.", "damaged"),
    ],
)
def test_nonsense_is_refused_quickly(tmp_path: Path, pickled: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_tensors(write(tmp_path, as_zip(pickled)))


def test_modules_that_double_at_each_level_are_read_once(tmp_path: Path) -> None:
    pickled = b"cvdsr\nNet\n)\x81q\x00"
    for level in range(1, 30):  # two of two of two of …: 2^30 paths
        inner, outer = bytes([level - 1]), bytes([level])
        children = b"}(U\x01ah" + inner + b"U\x01bh" + inner + b"u"
        pickled += b"cvdsr\nNet\n)\x81q" + outer + b"}U\x08_modules" + children + b"sb"

    with pytest.raises(WeightsError, match="no tensors"):
        read_tensors(write(tmp_path, as_zip(pickled + b".")))


@pytest.mark.parametrize("new_format", [True, False])
def test_every_truncation_is_an_error_of_ours(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.rand(3)}, path, _use_new_zipfile_serialization=new_format)
    whole = path.read_bytes()

    for length in range(0, len(whole), 7):
        with pytest.raises(WeightsError):
            read_tensors(write(tmp_path, whole[:length], "cut.pth"))


@pytest.mark.parametrize("new_format", [True, False])
def test_flipped_bytes_raise_nothing_but_errors_of_ours(tmp_path: Path, new_format: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.rand(3)}, path, _use_new_zipfile_serialization=new_format)
    whole = bytearray(path.read_bytes())

    for position in range(0, len(whole), 3):
        for change in (0x01, 0x80, 0xFF):
            broken = whole.copy()
            broken[position] ^= change
            try:
                read_tensors(write(tmp_path, bytes(broken), "broken.pth"))
            except WeightsError:
                continue


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a checkpoint that sisr reads"),
        (b"<html>not found</html>", "not a checkpoint that sisr reads"),
        (b"\x89PNG\r\n\x1a\n", "not a checkpoint that sisr reads"),
        (pickle.dumps({"w": [1.0]}, protocol=2), "not of torch's legacy format"),
        (struct.pack("<Q", 10**9) + b"{}", "damaged"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_tensors(write(tmp_path, data))


def test_other_archives_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", b"")
    with pytest.raises(WeightsError, match=r"needs one data\.pkl"):
        read_tensors(tmp_path / "pictures.zip")
    with pytest.raises(WeightsError, match="not a file"):
        read_tensors(tmp_path / "missing.pth")
    with pytest.raises(WeightsError, match="not a file"):
        read_tensors(tmp_path)


def test_a_checkpoint_without_weights_says_what_it_has(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "history": [1.0]}, tmp_path / "weights.pth")

    with pytest.raises(WeightsError, match=r"no weights found; looked for state_dict.*'epoch'"):
        read_tensors(tmp_path / "weights.pth")


# --- names -----------------------------------------------------------------------------------


def released_vdsr() -> dict[str, Tensor]:
    """Names and shapes as in the released file."""
    torch.manual_seed(0)
    tensors = {f"residual_layer.{i}.conv.weight": torch.rand(64, 64, 3, 3) for i in range(18)}
    return {
        **tensors,
        "input.weight": torch.rand(64, 1, 3, 3),
        "output.weight": torch.rand(1, 64, 3, 3),
    }


def released_lesrcnn(scale: int) -> dict[str, Tensor]:
    """Names and shapes as in the released files."""
    torch.manual_seed(scale)
    tensors = {
        "conv1.0.weight": torch.rand(64, 3, 3, 3),
        "conv18.0.weight": torch.rand(3, 64, 3, 3),
    }
    for i in range(2, 18):
        size = 3 if i % 2 == 0 else 1
        tensors[f"conv{i}.0.weight"] = torch.rand(64, 64, size, size)
    for i in range(1, 5):
        tensors[f"conv17_{i}.0.weight"] = torch.rand(64, 64, 3, 3)
    for name in ("sub_mean.shifter", "add_mean.shifter"):
        tensors[f"{name}.weight"] = torch.rand(3, 3, 1, 1)
        tensors[f"{name}.bias"] = torch.rand(3)
    for i in (0, 2) if scale == 4 else (0,):
        wide = 64 * (9 if scale == 3 else 4)
        tensors[f"upsample.up.body.{i}.weight"] = torch.rand(wide, 64, 3, 3)
        tensors[f"upsample.up.body.{i}.bias"] = torch.rand(wide)
    return tensors


@pytest.mark.parametrize("scale", models.SCALES)
def test_vdsr_is_its_released_stack_of_layers(scale: int) -> None:
    tensors = released_vdsr()
    network = models.create("vdsr", scale)
    network.load_state_dict(convert("vdsr", scale, tensors), strict=True)

    ours = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    order = ["input", *(f"residual_layer.{i}.conv" for i in range(18)), "output"]
    assert all(torch.equal(a, tensors[f"{b}.weight"]) for a, b in zip(ours, order, strict=True))


@pytest.mark.parametrize("scale", models.SCALES)
def test_lesrcnn_takes_every_released_tensor_once(scale: int) -> None:
    tensors = released_lesrcnn(scale)
    state = convert("lesrcnn", scale, tensors)
    models.create("lesrcnn", scale).load_state_dict(state, strict=True)

    assert len(state) == len(tensors)
    sums = sorted(float(tensor.sum()) for tensor in tensors.values())
    assert sorted(float(tensor.sum()) for tensor in state.values()) == sums
    assert torch.equal(state["pairs.7.narrow.weight"], tensors["conv17.0.weight"])
    assert torch.equal(state["refinements.3.weight"], tensors["conv17_4.0.weight"])


@pytest.mark.parametrize("scale", models.SCALES)
def test_the_released_names_compute_the_released_network(scale: int) -> None:
    """The authors' own forward pass, written with the names of their file."""
    tensors = {name: (tensor - 0.5) * 0.1 for name, tensor in released_lesrcnn(scale).items()}

    def conv(name: str, x: Tensor) -> Tensor:
        weight = tensors[f"{name}.weight"]
        bias = tensors.get(f"{name}.bias")
        return nn.functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def up(x: Tensor) -> Tensor:
        for i in (0, 2) if scale == 4 else (0,):
            x = conv(f"upsample.up.body.{i}", x)
            x = nn.functional.pixel_shuffle(x, 3 if scale == 3 else 2)
        return x

    torch.manual_seed(9)
    x = torch.rand(1, 3, 5, 6)
    first = total = conv("conv1.0", conv("sub_mean.shifter", x)).relu()
    for i in range(2, 18, 2):
        total = (total + conv(f"conv{i + 1}.0", conv(f"conv{i}.0", total).relu())).relu()
    out = (up(total) + up(first)).relu()
    for i in range(1, 5):
        out = conv(f"conv17_{i}.0", out).relu()
    expected = conv("add_mean.shifter", conv("conv18.0", out))

    network = models.create("lesrcnn", scale).eval()
    network.load_state_dict(convert("lesrcnn", scale, tensors))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), expected)


def test_lesrcnn_s_takes_three_upsamplers() -> None:
    tensors = released_lesrcnn(2)
    for scale in models.SCALES:
        for name, tensor in released_lesrcnn(scale).items():
            if name.startswith("upsample"):
                tensors[name.replace("upsample.up.", f"upsample.up{scale}.")] = tensor
    tensors = {name: t for name, t in tensors.items() if not name.startswith("upsample.up.")}

    state = convert("lesrcnn_s", 3, tensors)
    models.create("lesrcnn_s", 3).load_state_dict(state, strict=True)
    for scale, i in ((2, 0), (3, 0), (4, 0), (4, 2)):
        released = tensors[f"upsample.up{scale}.body.{i}.weight"]
        assert torch.equal(state[f"upsamplers.{scale}.{i}.weight"], released)


@pytest.mark.parametrize("architecture", LAYER_NAMES)
@pytest.mark.parametrize("scale", models.SCALES)
def test_mappings_name_existing_layers_once(architecture: str, scale: int) -> None:
    names = list(LAYER_NAMES[architecture](scale).values())
    layers = {key.rpartition(".")[0] for key in models.create(architecture, scale).state_dict()}

    assert len(set(names)) == len(names)
    assert set(names) == layers


def test_our_own_names_need_no_mapping() -> None:
    state = models.create("srcnn", 2).state_dict()

    assert_same(convert("srcnn", 2, state), dict(state))


def test_values_are_copied_in_the_networks_dtype() -> None:
    tensors = {name: tensor.double() for name, tensor in released_vdsr().items()}
    state = convert("vdsr", 2, tensors)

    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    single = released_vdsr()
    state = convert("vdsr", 2, single)
    state["layers.0.weight"].zero_()
    assert single["input.weight"].any()


def test_misfits_are_named() -> None:
    tensors = released_vdsr()
    with pytest.raises(
        WeightsError, match=r"no author's names are known for 'vdsr_5', only for vdsr, lesrcnn"
    ):
        convert("vdsr_5", 2, tensors)
    with pytest.raises(WeightsError, match=r"the file has 'conv1\.0\.weight', which vdsr ×2 has"):
        convert("vdsr", 2, released_lesrcnn(2))
    with pytest.raises(WeightsError, match=r"needs 'layers\.38\.weight', which the file lacks"):
        convert("vdsr", 2, {k: v for k, v in tensors.items() if k != "output.weight"})
    with pytest.raises(
        WeightsError,
        match=r"needs 'layers\.0\.weight' of shape \(64, 1, 3, 3\); the file has \(64, 3, 3, 3\)",
    ):
        convert("vdsr", 2, tensors | {"input.weight": torch.rand(64, 3, 3, 3)})
    with pytest.raises(WeightsError, match=r"needs 'upsamplers\.3\.0\.weight' of shape"):
        convert("lesrcnn", 3, released_lesrcnn(2))
    with pytest.raises(ValueError, match="unknown architecture"):
        convert("vdrs", 2, tensors)


def test_converting_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    tensors = models.create("srcnn", 2).state_dict()

    torch.manual_seed(0)
    convert("srcnn", 2, tensors)
    assert torch.equal(torch.rand(3), expected)
