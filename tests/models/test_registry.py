"""What every architecture owes its callers, whichever file it comes from."""

import functools
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import models
from models import registry
from models.interpolation import enlarge

CELLS = [(name, scale) for name in models.names() for scale in models.SCALES]
TRAINABLE = [name for name in models.names() if models.get(name).trainable]
MULTI_SCALE = [name for name in models.names() if models.get(name).multi_scale]

HEIGHT, WIDTH = 7, 5


@functools.lru_cache(maxsize=4)
def network(name: str, scale: int) -> nn.Module:
    torch.manual_seed(0)
    return models.create(name, scale)


def picture(name: str, scale: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A smooth LR picture as the network wants it: two of a batch, values in 0–1."""
    architecture = models.get(name)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, architecture.num_channels, 3, 3, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return enlarge(smooth, scale, "bilinear") if architecture.enlarged else smooth


@pytest.mark.parametrize(("name", "scale"), CELLS)
def test_output_is_the_enlarged_pictures_size_finite_and_in_range(name: str, scale: int) -> None:
    with torch.no_grad():
        out = network(name, scale)(picture(name, scale))

    assert out.shape == (2, models.get(name).num_channels, HEIGHT * scale, WIDTH * scale)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert out.abs().max() < 2  # a picture in 0–1 stays about there before any training


@pytest.mark.parametrize("name", models.names())
def test_one_seed_gives_one_network_and_one_answer(name: str) -> None:
    first = network(name, 2)
    torch.manual_seed(0)
    second = models.create(name, 2)

    for (key, ours), theirs in zip(
        first.state_dict().items(), second.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), key
    with torch.no_grad():
        x = picture(name, 2)
        assert torch.equal(first(x), second(x))


@pytest.mark.parametrize("name", [n for n in TRAINABLE if n != "edsr"])  # 40 million numbers
def test_another_seed_gives_another_network(name: str) -> None:
    torch.manual_seed(1)
    other = models.create(name, 2)

    assert any(
        not torch.equal(a, b)
        for a, b in zip(network(name, 2).parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", models.names())
def test_interpolations_and_only_they_have_nothing_to_train(name: str) -> None:
    trained = [p for p in network(name, 2).parameters() if p.requires_grad]

    assert bool(trained) == models.get(name).trainable


def parameters_with_gradient(name: str, scale: int) -> set[str]:
    net = network(name, scale)
    net(picture(name, scale)).square().sum().backward()
    found = {key for key, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    net.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", [n for n in TRAINABLE if n not in MULTI_SCALE])
def test_every_parameter_receives_a_gradient(name: str) -> None:
    for scale in models.SCALES if name != "edsr" else (2,):
        trained = {key for key, p in network(name, scale).named_parameters() if p.requires_grad}
        assert parameters_with_gradient(name, scale) == trained


@pytest.mark.parametrize("name", MULTI_SCALE)
def test_every_shared_parameter_receives_a_gradient_from_some_scale(name: str) -> None:
    trained = {key for key, p in network(name, 2).named_parameters() if p.requires_grad}
    found = set[str]().union(*(parameters_with_gradient(name, s) for s in models.SCALES))

    assert found == trained


@pytest.mark.parametrize("name", MULTI_SCALE)
def test_one_set_of_weights_serves_every_scale(name: str) -> None:
    shared: dict[str, Tensor] = dict(network(name, 2).named_parameters())

    for scale in models.SCALES:
        other = network(name, scale)
        shapes = {key: value.shape for key, value in other.state_dict().items()}
        assert shapes == {k: v.shape for k, v in network(name, 2).state_dict().items()}
        with torch.no_grad():
            out = torch.func.functional_call(other, shared, (picture(name, scale),))
        assert out.shape[-2:] == (HEIGHT * scale, WIDTH * scale)


@pytest.mark.parametrize("name", models.names())
def test_exports_with_any_height_and_width(name: str) -> None:
    net = network(name, 2).eval()
    any_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(net, (picture(name, 2),), dynamic_shapes=(any_size,))
    larger = picture(name, 2, height=6, width=11)

    with torch.no_grad():
        torch.testing.assert_close(program.module()(larger), net(larger))


def test_unknown_name_lists_the_known_ones() -> None:
    known = ", ".join(models.names())
    expected = f"unknown architecture 'srcn'; known: {known}"
    with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
        models.create("srcn", 2)


@pytest.mark.parametrize("scale", [1, 5, 2.5])
def test_other_scales_are_refused(scale: int) -> None:
    with pytest.raises(ValueError, match=rf"^scale {scale} is not one of \(2, 3, 4\)$"):
        models.create("bicubic", scale)


def test_a_name_is_registered_once() -> None:
    def bicubic(scale: int) -> nn.Module:
        return nn.Identity()

    with pytest.raises(ValueError, match="'bicubic' is registered twice"):
        models.register(channels="y", enlarged=True)(bicubic)


TOY = '''
"""One layer."""

from torch import nn

from models.registry import register


@register(channels="y", enlarged=True)
def toy(scale: int) -> nn.Module:
    """3×3."""
    return nn.Conv2d(1, 1, 3, padding=1)
'''


def test_a_new_architecture_is_one_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_network.py").write_text(TOY)
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_ARCHITECTURES", dict(registry._ARCHITECTURES))
    before = set(models.names()) - {"toy"}
    try:
        assert set(models.names()) == before | {"toy"}
        assert models.create("toy", 3)(torch.zeros(1, 1, 5, 7)).shape == (1, 1, 5, 7)
        assert models.get("toy").enlarged
    finally:
        sys.modules.pop("models.toy_network", None)
        vars(models).pop("toy_network", None)
