"""One name, one builder: the list of architectures.

A file in `models/` registers its builders with `@register`; the builder's
function name is the architecture's name everywhere (params key, run name,
registry name). The files are found by looking into the package, so a new
architecture is one new file.
"""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

SCALES = (2, 3, 4)

Channels = Literal["y", "rgb"]
Builder = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Architecture:
    """What a caller must know about a network before it calls it.

    Every network maps a float tensor in 0–1, N×C×h×w, to the same kind of
    tensor N×C×H×W (not clamped). `channels` says what C is: luminance
    (`y`, 1) or `rgb` (3). With `enlarged`, the input is already
    bicubic-enlarged (h=H); otherwise it is the LR image (H = scale·h).
    `trainable` is false for interpolations. With `multi_scale`, one set of
    weights serves every scale: `state_dict` has the same keys and shapes
    whatever the scale, and one training may mix scales.
    """

    name: str
    build: Builder
    channels: Channels
    enlarged: bool
    trainable: bool
    multi_scale: bool

    @property
    def num_channels(self) -> int:
        """1 for luminance, 3 for RGB."""
        return 1 if self.channels == "y" else 3


_ARCHITECTURES: dict[str, Architecture] = {}


def register(
    *,
    channels: Channels,
    enlarged: bool,
    trainable: bool = True,
    multi_scale: bool = False,
) -> Callable[[Builder], Builder]:
    """Register the decorated builder under its own name.

    Raises:
        ValueError: another builder has that name already.
    """

    def add(build: Builder) -> Builder:
        name = build.__name__
        if name in _ARCHITECTURES:
            raise ValueError(f"architecture {name!r} is registered twice")
        _ARCHITECTURES[name] = Architecture(name, build, channels, enlarged, trainable, multi_scale)
        return build

    return add


def names() -> list[str]:
    """The names of all architectures, sorted."""
    _import_all()
    return sorted(_ARCHITECTURES)


def get(name: str) -> Architecture:
    """The architecture of that name.

    Raises:
        ValueError: there is none; the message lists those that there are.
    """
    _import_all()
    try:
        return _ARCHITECTURES[name]
    except KeyError:
        known = ", ".join(names())
        raise ValueError(f"unknown architecture {name!r}; known: {known}") from None


def create(name: str, scale: int) -> nn.Module:
    """Build an untrained network, its initial weights drawn from torch's seed.

    Raises:
        ValueError: unknown name, or a scale other than 2, 3 or 4.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale!r} is not one of {SCALES}")
    return get(name).build(scale)


def _import_all() -> None:
    package = importlib.import_module(__package__ or "models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
