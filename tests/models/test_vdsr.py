import pytest
import torch
from torch import nn

import models
from models.blocks import num_weights


@pytest.mark.parametrize(
    ("name", "depth"),
    [("vdsr", 20), ("vdsr_plain", 20), ("vdsr_5", 5), ("vdsr_10", 10), ("vdsr_15", 15)],
)
def test_depth_and_number_of_weights(name: str, depth: int) -> None:
    network = models.create(name, 2)

    assert sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == depth
    assert num_weights(network) == 2 * 9 * 64 + (depth - 2) * 9 * 64 * 64


def test_released_number_of_weights() -> None:
    assert num_weights(models.create("vdsr", 2)) == 664_704  # the paper: 665K


@pytest.mark.parametrize(("name", "field"), [("vdsr_5", 11), ("vdsr", 41)])
def test_receptive_field_is_the_published_one(name: str, field: int) -> None:
    """2·depth + 1 wide, 41×41 at 20 layers (Kim et al. 2016, section 3.1)."""
    network = models.create(name, 2).double()
    with torch.no_grad():
        for weight in network.parameters():  # positive weights: nothing cancels, no ReLU closes
            weight.fill_(0.01)
    size = field + 6
    x = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)

    network(x)[0, 0, size // 2, size // 2].backward()

    assert x.grad is not None
    rows, columns = torch.nonzero(x.grad[0, 0], as_tuple=True)
    expected = (size // 2 - field // 2, size // 2 + field // 2)
    assert (int(rows.min()), int(rows.max())) == expected
    assert (int(columns.min()), int(columns.max())) == expected
    assert len(rows) == field**2


def test_the_residual_is_the_only_difference_to_plain() -> None:
    residual, plain = models.create("vdsr", 2), models.create("vdsr_plain", 2)
    plain.load_state_dict(residual.state_dict())
    x = torch.rand(1, 1, 6, 7)

    torch.testing.assert_close(residual(x), x + plain(x))


def test_weights_have_hes_variance() -> None:
    torch.manual_seed(0)
    weights = list(models.create("vdsr", 2).parameters())

    for weight in weights[1:-1]:  # He et al. 2015, eq. 10: 2/(9·64); 36,864 samples each
        torch.testing.assert_close(weight.var(), torch.tensor(2 / 576), rtol=0.05, atol=0)
