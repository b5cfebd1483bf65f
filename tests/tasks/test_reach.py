import pytest
import torch

import models
from tasks.reach import reach_lr_px


def test_srcnn_looks_six_pixels_away() -> None:
    """Dong et al. 2016, 9-1-5: (9 - 1)/2 + 0 + (5 - 1)/2 pixels of the enlarged input."""
    network, about = models.create("srcnn", 2), models.get("srcnn")
    assert [reach_lr_px(network, about, scale) for scale in (2, 3, 4)] == [3, 2, 2]


def test_layers_of_three_pixels_look_one_pixel_further_each() -> None:
    """VDSR-5 has five of them; EDSR 1 + 33 before its upsampler, that one, and the last."""
    vdsr, edsr = (models.create(name, 2) for name in ("vdsr_5", "edsr_baseline"))
    assert reach_lr_px(vdsr, models.get("vdsr_5"), 2) == 3  # five pixels of the enlarged picture
    assert reach_lr_px(edsr, models.get("edsr_baseline"), 2) == 36


@pytest.mark.parametrize("name", ["cnn_small", "srcnn", "vdsr_5", "lesrcnn", "wdsr_a"])
def test_no_network_looks_further(name: str) -> None:
    """The gradient of one SR pixel is zero beyond the reach."""
    scale, about = 2, models.get(name)
    torch.manual_seed(0)
    network = models.create(name, scale).eval()
    reach = reach_lr_px(network, about, scale) * (scale if about.enlarged else 1)
    side = 2 * reach + 41
    x = torch.rand(1, about.num_channels, side, side, requires_grad=True)
    sr = network(x)
    middle = sr.shape[-1] // 2
    sr[0, 0, middle, middle].backward()
    assert x.grad is not None
    touched = x.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
    here = middle if about.enlarged else middle // scale
    assert here - reach <= touched.min()
    assert touched.max() <= here + reach
