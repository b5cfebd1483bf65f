"""A GPU for machines without one: what goes on it can be tested there, how fast it goes cannot.

Its tensors say `cuda` and compute on the CPU. As on a real one, an operation on tensors of both
devices is an error, and whatever makes the CPU wait for the device is written down, but for uploads
that block: memory is pinned in name only. Autograd would ask for a driver, so gradients are small
numbers of our own; bf16 autocast would, too, and nothing here may use it. What torch's C++ side
remembers of all this stays until the process ends.
"""

import functools
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "Stand-in GPU"
_GPU, _CPU = torch.device("cuda", 0), torch.device("cpu")
_MOVES = ("_to_copy", "copy_")
# Methods that ask for a driver although no operation of theirs needs one.
_GUARDED = (Tensor.__getitem__, Tensor.contiguous)
# What the CPU must know before it can go on: a number, or the size of a result.
_READS = ("_local_scalar_dense", "equal")
_GRADIENT = 1e-3


class OnGpu(Tensor):
    """A tensor on the stand-in; `held` is where its numbers are."""

    alive: ClassVar["weakref.WeakSet[OnGpu]"] = weakref.WeakSet()
    held: Tensor

    @staticmethod
    def __new__(cls: type, held: Tensor) -> "OnGpu":
        return Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_GPU,
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held
        OnGpu.alive.add(self)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own declaration is no class method
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        # What a file holds does not depend on the device.
        return self.held.detach().clone().__reduce_ex__(protocol)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.held})"

    def tolist(self) -> Any:
        _note_wait()
        return self.held.tolist()


_waits: list[str] = []


@contextmanager
def stand_in_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """One GPU, as torch sees it; gives the list of the waits so far, by their places in tasks/."""
    _waits.clear()
    with torch.device("cpu"):
        torch.empty(0)  # here torch notes, for good, what takes a device: it must be the real one
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": NAME,
        "get_device_capability": (9, 0),
        "max_memory_allocated": 2**30,
        "mem_get_info": (2**30, 2**30),
        "empty_cache": None,
        "reset_peak_memory_stats": None,
        "_lazy_init": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, functools.partial(_answer, value))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: _note_wait())
    monkeypatch.setattr(torch, "empty", functools.partial(_empty, torch.empty))
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Tensor, "backward", _backward)
    # Tensors of our own kind cannot be viewed in inference mode.
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Operations(), _Calls(), torch.no_grad():
            yield _waits
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _answer(value: Any, *_: Any) -> Any:
    return value


def _empty(original: Any, *size: Any, pin_memory: bool = False, **options: Any) -> Tensor:
    return original(*size, **options)


def _backward(loss: Tensor) -> None:
    assert loss.device == _GPU, f"a loss on {loss.device}"
    for each in list(OnGpu.alive):
        if each.requires_grad:
            each.grad = torch.full_like(each.detach(), _GRADIENT)


class _Calls(TorchFunctionMode):
    """What torch without CUDA refuses before any operation runs: `.to("cuda")`, say."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _GUARDED and isinstance(args[0], OnGpu):
            return OnGpu(func(args[0].held, *args[1:], **kwargs))
        if func is Tensor.copy_ and isinstance(args[0], OnGpu):
            args[0].held.copy_(_held(args[1]), **kwargs)
            return args[0]
        if func is Tensor.to and not any(isinstance(each, Tensor) for each in args[1:]):
            known = {name: value for name, value in kwargs.items() if name != "copy"}
            device, dtype, _, layout = torch._C._nn._parse_to(*args[1:], **known)
            if device is not None and device.type == "cuda":
                wanted: dict[str, Any] = {"dtype": dtype, "memory_format": layout}
                wanted = {name: value for name, value in wanted.items() if value is not None}
                moved = func(args[0], **wanted) if wanted else args[0]
                return moved if isinstance(moved, OnGpu) else OnGpu(moved.detach())
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """What makes a tensor on a device out of nothing, or of tensors on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation, on the CPU, with the errors and the result of a GPU."""
    operation = func._schema.name.removeprefix("aten::")
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    of_gpu = any(isinstance(each, OnGpu) for each in tensors)
    strays = [each for each in tensors if not isinstance(each, OnGpu) and each.dim()]
    if of_gpu and strays and operation not in _MOVES:
        raise RuntimeError(f"{operation} of tensors on cuda and cpu: {_place()}")
    asked = kwargs.get("device")
    to_gpu = of_gpu if asked is None else asked.type == "cuda"
    if operation == "copy_":
        to_gpu = isinstance(args[0], OnGpu)
    is_read = operation in _READS or torch.Tag.dynamic_output_shape in func.tags
    if of_gpu and (is_read or not to_gpu):
        _note_wait()
    held_args, held_kwargs = tree_map(_held, (args, dict(kwargs)))
    if to_gpu and asked is not None:
        held_kwargs["device"] = _CPU
    result = func(*held_args, **held_kwargs)
    if not to_gpu:
        return args[0] if operation == "copy_" else result
    wrapped = tree_map(_wrapped, result)
    return return_and_correct_aliasing(func, args, kwargs, wrapped) if of_gpu else wrapped


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnGpu) else value


def _wrapped(value: Any) -> Any:
    return OnGpu(value) if isinstance(value, Tensor) else value


def _note_wait() -> None:
    _waits.append(_place())


def _place() -> str:
    """The line of the project that is running."""
    for frame in reversed(traceback.extract_stack()):
        if "/tasks/" in frame.filename and "/tests/" not in frame.filename:
            return f"{frame.filename.rpartition('/')[2]}:{frame.name}"
    return "a test"
