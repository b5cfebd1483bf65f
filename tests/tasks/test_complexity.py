import pytest
import torch

from models.registry import create, get, names
from tasks.complexity import input_shape, measure_complexity, measure_step_flops


@pytest.mark.parametrize("output_px", [128, 256, 1024])
def test_vdsr_in_closed_form(output_px: int) -> None:
    # 20 3×3 layers of 64 channels without biases, every weight used once per pixel
    complexity = measure_complexity("vdsr", 2, output_px)
    assert complexity.num_parameters == 9 * (64 + 18 * 64 * 64 + 64) == 664_704
    assert complexity.num_multiply_adds == 664_704 * output_px**2
    assert complexity.num_flops == 2 * complexity.num_multiply_adds
    assert complexity.input_px == complexity.output_px == output_px


def test_srcnn_in_closed_form() -> None:
    # Dong et al. 2016, section 4.1: 8,032 weights; the 97 biases are not multiplied
    complexity = measure_complexity("srcnn", 3, 256)
    assert complexity.num_parameters == 8_032 + 97
    assert complexity.num_multiply_adds == 8_032 * 256**2


@pytest.mark.parametrize(("name", "published"), [("vdsr", 10.90e9), ("lesrcnn_sn", 3.06e9)])
def test_the_papers_flops_are_our_multiply_adds(name: str, published: float) -> None:
    # Tian et al. 2020, complexity table
    assert measure_complexity(name, 2).num_multiply_adds == pytest.approx(published, rel=0.002)


def test_edsr_in_closed_form() -> None:
    # Lim et al. 2017: 64 + 1 layers of 256 channels, two 256→1024 layers for ×4, 40.7M at ×2
    layer = 9 * 256 * 256
    small, middle, large = 32**2, 64**2, 128**2
    convolutions = (9 * 3 * 256 + 65 * layer) * small + 4 * layer * (small + middle)
    convolutions += 9 * 256 * 3 * large
    complexity = measure_complexity("edsr", 4, 128)
    assert complexity.num_multiply_adds == pytest.approx(convolutions, rel=1e-4)
    assert round(measure_complexity("edsr", 2).num_parameters / 1e6, 1) == 40.7


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_every_architecture_can_be_counted(name: str, scale: int) -> None:
    state = torch.get_rng_state()
    complexity = measure_complexity(name, scale, 64)
    assert torch.equal(torch.get_rng_state(), state)
    num_trained = sum(parameter.numel() for parameter in create(name, scale).parameters())
    assert complexity.num_parameters == num_trained
    assert (complexity.num_multiply_adds > 0) == get(name).trainable
    assert 64 <= complexity.output_px < 64 + scale


def test_input_shape() -> None:
    assert input_shape(get("vdsr"), 3, 256) == (1, 1, 256, 256)
    assert input_shape(get("lesrcnn"), 2, 256) == (1, 3, 128, 128)
    assert input_shape(get("lesrcnn"), 3, 256) == (1, 3, 86, 86)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="unknown architecture 'vdrs'"):
        measure_complexity("vdrs", 2)
    with pytest.raises(ValueError, match="scale 5"):
        measure_complexity("vdsr", 5)
    with pytest.raises(ValueError, match="output_px 0"):
        measure_complexity("vdsr", 2, 0)


def test_a_step_of_srcnn_in_closed_form() -> None:
    # Layers of 9·9·64, 64·32 and 5·5·32 weights, each used once a pixel: forward, for the weights'
    # gradients, and for the gradients of what goes into all layers but the first.
    first, others = 9 * 9 * 64, 64 * 32 + 5 * 5 * 32
    assert measure_step_flops("srcnn", 2, 24) == 2 * 24 * 24 * (2 * first + 3 * others)


@pytest.mark.parametrize("name", [name for name in names() if get(name).trainable])
def test_a_step_is_two_to_three_passes(name: str) -> None:
    forward = measure_complexity(name, 2, 48).num_flops
    assert 2 * forward < measure_step_flops(name, 2, 48) < 3 * forward
