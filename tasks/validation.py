"""The ruler's PSNR where the network computes: pictures stay on the device, two waits for all.

`tasks.protocol` and `tasks.metrics` say how a picture is measured; here the same whole numbers are
added up by torch, so the figure is the ruler's to the last bit (for the same answer of the
network). Only for the curves of a training: tables are measured by the ruler itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.luminance import BLACK, BLUE, GREEN, RED
from models.registry import Architecture
from tasks.color import is_grey
from tasks.metrics import psnr_db, psnr_of_sum_db
from tasks.protocol import Picture, levels

# Beyond this the pictures wait in main memory and travel at each validation.
_KEPT_ON_DEVICE_BYTES = 2**30
# A GPU takes pictures of one size together, up to so many output pixels.
_GROUP_PX = 2**21
_Y_THOUSANDTHS = tuple(round(1000 * weight) for weight in (RED, GREEN, BLUE))


@dataclass(frozen=True)
class _Group:
    """Pictures of one size: inputs N×C×h×w, HR luminance N×H×W (uint8), and which they are."""

    x: Tensor
    hr_y: Tensor
    grey: bool
    numbers: tuple[int, ...]


class ValidationSet:
    """The validation pictures of one scale, ready for the device."""

    def __init__(
        self,
        architecture: Architecture,
        pictures: Sequence[Picture],
        scale: int,
        device: torch.device,
    ) -> None:
        """Move the pictures to the device, where they fit.

        Raises:
            ImageError: nothing is left of a picture after the ruler's crop.
        """
        for picture in pictures:
            psnr_db(picture.hr_y, picture.hr_y, scale)  # the ruler refuses one that is too small
        self.first = pictures[0]
        self._architecture = architecture
        self._scale = scale
        self._device = device
        num_bytes = sum(each.x.nbytes + each.hr_y.nbytes for each in pictures)
        home = device if num_bytes <= _KEPT_ON_DEVICE_BYTES else torch.device("cpu")
        # On a CPU pictures go one by one: together they are no faster, and a convolution's last
        # bits may depend on how many there are.
        group_px = _GROUP_PX if device.type == "cuda" else 1
        is_copied = device.type == "cuda" and home.type == "cpu"
        self._groups = _groups(pictures, group_px, home, pinned=is_copied)

    def measure(self, network: nn.Module) -> tuple[float, NDArray[np.uint8]]:
        """The mean PSNR in dB, and the 8-bit answer to the first picture, C×H×W."""
        errors: list[Tensor] = []
        first: Tensor | None = None
        network.eval()
        with torch.inference_mode():
            for group in self._groups:
                # What a network computes in is torch's default, as in training.
                x = group.x.to(
                    self._device,
                    torch.get_default_dtype(),
                    non_blocking=True,
                    memory_format=torch.channels_last,
                )
                answer = levels(network(x))
                if group.numbers[0] == 0:
                    first = answer[0]
                errors.append(self._squared_errors(answer, group))
        network.train()
        assert first is not None
        sums = torch.cat(errors).tolist()  # here the CPU waits for the device
        sizes = [hr_y[0].numel() for hr_y in self._cropped_hr() for _ in hr_y]
        psnrs = [psnr_of_sum_db(*pair) for pair in zip(sums, sizes, strict=True)]
        return math.fsum(psnrs) / len(psnrs), first.cpu().numpy()  # ... and here

    def _squared_errors(self, answer: Tensor, group: _Group) -> Tensor:
        """Of N answers N×C×H×W, their N sums of squared errors of luminance."""
        sr_y = answer[:, 0]
        if self._architecture.channels == "rgb":
            sr_y = luminance_levels(answer, grey=group.grey)
        hr_y = group.hr_y.to(self._device, non_blocking=True)
        sr_y, hr_y = (_cropped(plane, self._scale) for plane in (sr_y, hr_y))
        difference = sr_y.int() - hr_y.int()
        return (difference * difference).sum((1, 2), dtype=torch.int64)

    def _cropped_hr(self) -> list[Tensor]:
        return [_cropped(group.hr_y, self._scale) for group in self._groups]


def luminance_levels(rgb: Tensor, *, grey: bool) -> Tensor:
    """`tasks.color.luminance`, or `grey_of_rgb`: N×3×H×W to N×H×W, uint8."""
    planes = rgb.to(torch.int32)
    red, green, blue = _Y_THOUSANDTHS
    thousandths = red * planes[:, 0] + green * planes[:, 1] + blue * planes[:, 2]
    divisor, black = (sum(_Y_THOUSANDTHS), 0) if grey else (255_000, round(BLACK))
    return ((thousandths + divisor // 2) // divisor + black).to(torch.uint8)


def _groups(
    pictures: Sequence[Picture], group_px: int, home: torch.device, *, pinned: bool
) -> list[_Group]:
    """Pictures of one size together; `pinned` in memory that a GPU can fetch by itself."""
    alike: dict[tuple[tuple[int, ...], bool], list[int]] = {}
    for number, picture in enumerate(pictures):
        alike.setdefault((tuple(picture.x.shape), is_grey(picture.hr)), []).append(number)
    groups = []
    for (_, grey), numbers in alike.items():
        together = max(1, group_px // pictures[numbers[0]].hr_y.size)
        waiting = iter(numbers)
        while part := tuple(islice(waiting, together)):
            x = torch.cat([pictures[number].x for number in part])
            hr_y = torch.from_numpy(np.stack([pictures[number].hr_y for number in part]))
            x, hr_y = x.to(home, memory_format=torch.channels_last), hr_y.to(home)
            if pinned:
                x, hr_y = x.pin_memory(), hr_y.pin_memory()
            groups.append(_Group(x, hr_y, grey, part))
    return groups


def _cropped(planes: Tensor, scale: int) -> Tensor:
    return planes[:, scale:-scale, scale:-scale]
