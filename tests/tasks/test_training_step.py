"""Steps against plain torch, and weights that several scales share."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from tasks.batches import Batch
from tasks.config import Cell, Recipe
from tasks.precision import exact_fp32
from tasks.training_step import Learner, rate_factor
from tasks.workers import Workers

ALONE = Workers(0, 1, torch.device("cpu"))
SRCNN = Cell(architecture="srcnn", scales=(2,), joint=False)
Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def recipe(**changes: Any) -> Recipe:
    base = {
        "optimizer": "sgd",
        "learning_rate": 0.001,
        "loss": "mse",
        "batch_size": 2,
        "patch_px": 12,
        "train_for": "1 step",
        "validate_every": "1 step",
    }
    return Recipe.model_validate_json(json.dumps(base | changes))


def twins(made: Recipe) -> tuple[Learner, nn.Module]:
    """A learner, and another network with the weights that it starts with."""
    learner = Learner(SRCNN, made, 0, ALONE, compiled=False)
    other = models.create("srcnn", 2)
    other.load_state_dict(learner.network.state_dict())
    return learner, other


def pairs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(2, 1, 12, 12), torch.rand(2, 1, 12, 12)


@pytest.mark.parametrize(
    ("loss", "reduction", "by_hand"),
    [
        ("mse", "mean", lambda error: (error * error).mean()),
        ("l1", "mean", lambda error: error.abs().mean()),
        ("mse", "sum", lambda error: (error * error).sum() / len(error)),
        ("l1", "sum", lambda error: error.abs().sum() / len(error)),
    ],
)
@pytest.mark.parametrize(
    ("changes", "optimizer_of"),
    [
        (
            {"momentum": 0.9, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9, weight_decay=0.01),
        ),
        (
            {"optimizer": "adam", "betas": [0.5, 0.9], "weight_decay": 0.01},
            lambda p: torch.optim.Adam(p, lr=0.001, betas=(0.5, 0.9), weight_decay=0.01),
        ),
    ],
)
def test_steps_are_plain_torchs(
    changes: dict[str, Any],
    optimizer_of: Optimizers,
    loss: str,
    reduction: str,
    by_hand: Callable[[Tensor], Tensor],
) -> None:
    learner, other = twins(recipe(loss=loss, loss_reduction=reduction, **changes))
    optimizer = optimizer_of(other.parameters())
    x, target = pairs()

    for _ in range(3):
        optimizer.zero_grad()
        expected = by_hand(other(x) - target)
        expected.backward()
        optimizer.step()
        assert learner.step((Batch(2, x, target),), 1.0).item() == pytest.approx(
            expected.item(), rel=1e-4
        )

    for ours, theirs in zip(learner.parameters, other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_the_last_layer_may_have_its_own_rate() -> None:
    learner, other = twins(recipe(last_layer_learning_rate=0.0001))
    x, target = pairs()
    nn.functional.mse_loss(other(x), target).backward()

    learner.step((Batch(2, x, target),), 0.5)

    names = [name for name, _ in other.named_parameters()]
    last = {name for name in names if name.rpartition(".")[0] == names[-1].rpartition(".")[0]}
    assert len(last) == 2  # weights and biases of one layer
    trained = dict(learner.network.named_parameters())
    for name, start in other.named_parameters():
        assert start.grad is not None
        rate = 0.0001 if name in last else 0.001
        torch.testing.assert_close(
            trained[name], start - 0.5 * rate * start.grad, rtol=0, atol=1e-7
        )


def test_the_scales_of_a_joint_training_have_one_set_of_weights() -> None:
    cell = Cell(architecture="vdsr_5", scales=(2, 3), joint=True)
    learner = Learner(cell, recipe(), 0, ALONE, compiled=False)
    one, other = (list(learner.networks[scale].parameters()) for scale in (2, 3))
    before = [parameter.detach().clone() for parameter in one]

    learner.step((Batch(3, *pairs()),), 1.0)  # pairs of ×3 alone

    assert all(a is b for a, b in zip(one, other, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(before, one, strict=True))


def test_frozen_parameters_do_not_decay() -> None:
    made = recipe(weight_decay=0.5, learning_rate=0.1)
    learner = Learner(
        Cell(architecture="lesrcnn", scales=(2,), joint=False), made, 0, ALONE, compiled=False
    )
    frozen = {
        name: each for name, each in learner.network.named_parameters() if not each.requires_grad
    }
    before = {name: each.clone() for name, each in frozen.items()}
    for each in frozen.values():  # as a sum over several workers would
        each.grad = torch.zeros_like(each)

    learner.optimizer.step()

    assert frozen
    assert all(torch.equal(frozen[name], before[name]) for name in frozen)
    assert not any(each is other for each in learner.parameters for other in frozen.values())


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True)])
def test_a_recipe_says_whether_a_gpu_may_round(precision: str, allowed: bool) -> None:
    with exact_fp32():  # what was allowed before is allowed again after
        Learner(SRCNN, recipe(precision=precision), 0, ALONE, compiled=False)
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.backends.cudnn.allow_tf32 is allowed


def test_bf16_rounds_the_network_but_neither_its_weights_nor_the_loss() -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        learner = Learner(SRCNN, recipe(precision=precision), 0, ALONE, compiled=False)
        losses[precision] = learner.step((Batch(2, *pairs()),), 1.0)
        assert {each.dtype for each in learner.parameters} == {torch.float32}
    assert losses["bf16"].dtype == torch.float32
    assert losses["bf16"] != losses["fp32"]
    # 8 bits of mantissa: 2⁻⁸ relative
    assert losses["bf16"].item() == pytest.approx(losses["fp32"].item(), rel=2**-7)


def test_a_process_compiles_for_more_trainings_than_torch_does_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(1)
        return graph.forward

    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: plain(*a, **k, backend=backend))
    for side in range(12, 12 + 10):  # torch's limit is eight shapes of one piece of code
        learner = Learner(SRCNN, recipe(), 0, ALONE, compiled=True)
        x = torch.rand(2, 1, side, side)
        learner.step((Batch(2, x, x),), 1.0)
    torch.compiler.reset()

    assert len(compiled) == 10


def test_a_rate_that_falls_in_stairs() -> None:
    made = recipe(schedule="step", decay_every="2 epochs", decay_factor=0.1)
    # an epoch is seven steps
    assert [rate_factor(made, step, 100, 7) for step in (0, 13, 14, 27, 28)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )


def test_a_rate_that_falls_along_a_cosine() -> None:
    made = recipe(schedule="cosine")
    # cos 60° = 1/2
    assert [rate_factor(made, step, 99, 7) for step in (0, 33, 66)] == pytest.approx(
        [1, 0.75, 0.25]
    )
