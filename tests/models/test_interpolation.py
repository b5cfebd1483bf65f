from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import models
from models.interpolation import (
    KERNELS,
    box_kernel,
    cubic_kernel,
    enlarge,
    lanczos3_kernel,
    triangle_kernel,
)
from tasks.bicubic import shrink

GOLDEN = Path(__file__).parent.parent / "golden"
PILLOW = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@pytest.mark.parametrize(
    ("kernel", "at", "expected"),
    [
        # Keys 1981: interpolating (1 at 0, 0 at the other whole numbers), a = -1/2
        (cubic_kernel, (0, 1, 2, 3), (1, 0, 0, 0)),
        (cubic_kernel, (0.5, -0.5, 1.5, -1.5), (0.5625, 0.5625, -0.0625, -0.0625)),
        (triangle_kernel, (0, 0.25, -0.75, 1, 5), (1, 0.75, 0.25, 0, 0)),
        (box_kernel, (-0.5, 0, 0.49, 0.5), (1, 1, 1, 0)),
        # sinc(1/2) sinc(1/6) = 2/π · 3/π; sinc(3/2) sinc(1/2) = -2/(3π) · 2/π
        (lanczos3_kernel, (0, 1, 3, 4), (1, 0, 0, 0)),
        (lanczos3_kernel, (0.5, -1.5), (6 / np.pi**2, -4 / (3 * np.pi**2))),
    ],
)
def test_kernels_at_known_points(
    kernel: Callable[[Tensor], Tensor], at: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    values = kernel(torch.tensor(at, dtype=torch.float64))

    np.testing.assert_allclose(values.numpy(), expected, atol=1e-15)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_matlabs(scale: int) -> None:
    golden = np.load(GOLDEN / f"matlab_bicubic_butterfly_x{scale}.npz")
    small = shrink(golden["hr_y"] / 255, scale)

    ours = enlarge(torch.from_numpy(small)[None, None], scale)[0, 0].numpy() * 255

    np.testing.assert_allclose(ours, golden["bicubic_y"], atol=1e-11, rtol=0)


@pytest.mark.parametrize("kernel", PILLOW)
@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_interior_is_pillows(kernel: str, scale: int) -> None:
    x = torch.rand(13, 17, generator=torch.Generator().manual_seed(0))
    theirs = Image.fromarray(x.numpy()).resize((17 * scale, 13 * scale), PILLOW[kernel])

    ours = enlarge(x[None, None], scale, kernel)[0, 0].numpy()

    inside = slice(3 * scale, -3 * scale)  # Pillow cuts the kernel off at the border
    np.testing.assert_allclose(ours[inside, inside], np.asarray(theirs)[inside, inside], atol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_flat_picture_stays_flat_up_to_its_borders(kernel: str, scale: int) -> None:
    flat = torch.full((1, 2, 2, 3), 0.3, dtype=torch.float64)

    torch.testing.assert_close(
        enlarge(flat, scale, kernel),
        torch.full((1, 2, 2 * scale, 3 * scale), 0.3, dtype=torch.float64),
        atol=1e-15,
        rtol=0,
    )


def test_nearest_repeats_pixels() -> None:
    x = torch.rand(2, 3, 4, 5)

    repeated = x.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    assert torch.equal(enlarge(x, 3, "nearest"), repeated)


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 4)])
def test_a_tiny_picture_is_mirrored_as_often_as_needed(kernel: str, size: tuple[int, int]) -> None:
    x = torch.rand(1, 1, *size, dtype=torch.float64)
    height, width = size
    # three mirror images on each side, laid out by hand: … x, flipped x, x, flipped x, x …
    row = torch.cat([x.flip(-1), x, x.flip(-1), x, x.flip(-1), x, x.flip(-1)], dim=-1)
    large = torch.cat([row.flip(-2), row, row.flip(-2), row, row.flip(-2), row, row.flip(-2)], -2)

    around = enlarge(large, 2, kernel)[..., 6 * height : 8 * height, 6 * width : 8 * width]
    torch.testing.assert_close(enlarge(x, 2, kernel), around, atol=1e-15, rtol=0)


def test_float32_is_float64_rounded() -> None:
    x = torch.rand(1, 3, 9, 8, dtype=torch.float64)

    ours = enlarge(x.float(), 3)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), enlarge(x, 3), atol=5e-7, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_registered_network_is_enlarge(kernel: str) -> None:
    x = torch.rand(1, 1, 4, 5)

    assert torch.equal(models.create(kernel, 3)(x), enlarge(x, 3, kernel))


def test_wrong_calls_say_so() -> None:
    with pytest.raises(ValueError, match="unknown kernel 'cubic'; known: nearest, bilinear"):
        enlarge(torch.rand(1, 1, 2, 2), 2, "cubic")
    with pytest.raises(ValueError, match="scale 0 is below 1"):
        enlarge(torch.rand(1, 1, 2, 2), 0)
    with pytest.raises(TypeError, match=r"not torch\.uint8"):
        enlarge(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 2)
