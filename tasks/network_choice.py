"""Which network a person means: `vdsr-x2`, `vdsr-x2@champion`, `vdsr-x2/3`, `vdsr` or `bicubic`."""

import re
from dataclasses import dataclass

import models
from tasks.config import Settings
from tasks.errors import ParamsError, WeightsError
from tasks.served import ServedNetwork
from tasks.tracking import best_registered, load_registered, registered_versions

DEFAULT_SCALE = 2


@dataclass(frozen=True)
class Choice:
    """A network and what messages call it."""

    name: str
    served: ServedNetwork


def choose(model: str | None, scale: int | None, settings: Settings) -> Choice:
    """The network of a name; without one the registered champion with the highest PSNR.

    An interpolation needs no registry. A bare architecture (`vdsr`) is its champion of that scale.
    The scale is `scale`, or the one in the name, or 2.

    Raises:
        ParamsError: a scale other than 2, 3 or 4.
        WeightsError: no such network, or one of another scale.
        StoreError: MLflow's store cannot be used.
    """
    if scale is None:
        scale = _scale_in(model) or DEFAULT_SCALE
    if scale not in models.SCALES:
        raise ParamsError(f"scale {scale} is not one of {list(models.SCALES)}")
    interpolation = (model or "").removesuffix(f"-x{scale}")
    if interpolation in models.names() and not models.get(interpolation).trainable:
        model = interpolation  # as messages call it
    if model in models.names():
        about = models.get(model)
        if not about.trainable:
            network = models.create(model, scale).eval()
            return Choice(f"{model}-x{scale}", ServedNetwork(about, scale, network))
        model = f"{model}-x{scale}"
    if not registered_versions(settings):
        asked = f"×{scale}" if model is None else repr(model)
        raise WeightsError(
            f"no registered model {asked}; registered: none; run `sisr run` first,"
            " or choose --model bicubic"
        )
    model = model or best_registered(scale, settings)
    return Choice(model, load_registered(model, scale, settings))


def _scale_in(model: str | None) -> int | None:
    found = re.search(r"-x(\d+)(?:[@/]|$)", model or "")
    return int(found[1]) if found else None
