"""The list of architectures: what each takes, how large it is, beside what was published.

A paper's count may leave out what we have: biases, the upsampler. So the LESRCNN family is counted
our way, every number of the network, and its paper's way.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

import models
from models.lesrcnn import paper_num_parameters
from models.registry import Architecture
from tasks.published_tables import SOURCES
from tasks.tracking import Version

_LESRCNN = SOURCES["lesrcnn_complexity"]
_RELEASED_LESRCNN = "released weights, github.com/hellloxiaotian/LESRCNN"
_RELEASED_EDSR = "released weights, Lim et al. 2017"
_SRCNN = "Dong et al. 2016, without biases"


@dataclass(frozen=True)
class PublishedCount:
    """A number of parameters as printed by its source; `scale` is missing where it says none."""

    architecture: str
    scale: int | None
    printed: str
    source: str

    def __str__(self) -> str:
        scale = "" if self.scale is None else f"×{self.scale}: "
        return f"{scale}{self.printed} ({self.source})"


@dataclass(frozen=True)
class ListedModel:
    """One architecture. `num_parameters` counts all that we hold, by scale, frozen ones too.

    `paper_num_parameters` counts as the LESRCNN paper does, for that family only.
    """

    name: str
    takes: str
    trainable: bool
    multi_scale: bool
    num_parameters: dict[int, int]
    paper_num_parameters: int | None
    published: tuple[PublishedCount, ...]
    registered: tuple[Version, ...]


PUBLISHED_COUNTS = (
    PublishedCount("srcnn", None, "8,032", _SRCNN),
    PublishedCount("srcnn_955", None, "57,184", _SRCNN),
    PublishedCount("vdsr", None, "665K", _LESRCNN),
    PublishedCount("lesrcnn", None, "516K", _LESRCNN),
    PublishedCount("lesrcnn", 2, "626,328", _RELEASED_LESRCNN),
    PublishedCount("lesrcnn", 3, "810,968", _RELEASED_LESRCNN),
    PublishedCount("lesrcnn", 4, "774,040", _RELEASED_LESRCNN),
    PublishedCount("lesrcnn_hn", None, "368K", _LESRCNN),
    PublishedCount("lesrcnn_sn", None, "630K", _LESRCNN),
    PublishedCount("lesrcnn_enlarged", None, "707K", SOURCES["lesrcnn_enlarged_urban100"]),
    PublishedCount("cnn_small", None, "1,683", SOURCES["four_cnns"]),
    PublishedCount("cnn_medium", None, "42,627", SOURCES["four_cnns"]),
    PublishedCount("cnn_deep", None, "333,379", SOURCES["four_cnns"]),
    PublishedCount("waifu2x", None, "289,891", SOURCES["four_cnns"]),
    PublishedCount("edsr_baseline", 2, "1.37M", _RELEASED_EDSR),
    PublishedCount("edsr_baseline", 3, "1.55M", _RELEASED_EDSR),
    PublishedCount("edsr_baseline", 4, "1.52M", _RELEASED_EDSR),
    PublishedCount("edsr", 2, "40.7M", _RELEASED_EDSR),
    PublishedCount("edsr", None, "43M", "Lim et al. 2017, Table 1"),
)


def list_models(versions: Iterable[Version]) -> list[ListedModel]:
    """Every architecture with its share of the registered `versions`."""
    found = tuple(versions)
    return [_listed(models.get(name), found) for name in models.names()]


def _listed(about: Architecture, versions: tuple[Version, ...]) -> ListedModel:
    registered_as = {f"{about.name}-x{scale}" for scale in models.SCALES}
    return ListedModel(
        name=about.name,
        takes=takes(about),
        trainable=about.trainable,
        multi_scale=about.multi_scale,
        num_parameters={scale: _num_parameters(about, scale) for scale in models.SCALES},
        paper_num_parameters=_paper_num_parameters(about),
        published=tuple(each for each in PUBLISHED_COUNTS if each.architecture == about.name),
        registered=tuple(each for each in versions if each.model in registered_as),
    )


def takes(about: Architecture) -> str:
    """What the network is given: `luminance, enlarged` or `RGB, LR`."""
    channels = "luminance" if about.channels == "y" else "RGB"
    return f"{channels}, {'enlarged' if about.enlarged else 'LR'}"


def _num_parameters(about: Architecture, scale: int) -> int:
    with torch.device("meta"):  # shapes only: no memory, no random numbers
        return sum(parameter.numel() for parameter in about.build(scale).parameters())


def _paper_num_parameters(about: Architecture) -> int | None:
    with torch.device("meta"):
        network = about.build(models.SCALES[0])
    try:
        return paper_num_parameters(network)
    except TypeError:  # not a LESRCNN
        return None
