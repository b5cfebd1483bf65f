"""One optimizer step: networks that share their weights, their loss, their optimizer, their rate.

What a recipe says becomes torch objects here; when to stop, validate or write is the loop's.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from tasks.batches import Batch
from tasks.config import Cell, Recipe
from tasks.precision import allow_tf32
from tasks.workers import Workers


class Learner:
    """The networks of one cell, one for each scale and all with the same weights."""

    def __init__(
        self, cell: Cell, recipe: Recipe, seed: int, workers: Workers, *, compiled: bool
    ) -> None:
        self.recipe = recipe
        self.workers = workers
        set_precision(recipe)
        self.networks = _networks(cell, seed, workers.device)
        if compiled:
            # torch compiles one piece of code for eight shapes at most and says nothing when it
            # stops; what this process trained before counts, unless it is forgotten.
            torch.compiler.reset()
        # Compiled for the batches' few shapes; pictures of any size go to the plain ones.
        self._forward = {
            scale: torch.compile(network, dynamic=False) if compiled else network
            for scale, network in self.networks.items()
        }
        self.network = self.networks[cell.scales[0]]
        self.parameters = _trained(self.network)
        self.optimizer = _optimizer(self.network, recipe)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]

    def step(self, batch: tuple[Batch, ...], rate_factor: float) -> Tensor:
        """One step with this worker's part of a batch; the whole batch's loss, on the device."""
        rate = self._set_rate(rate_factor)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.workers.device)
        with torch.autocast(
            self.workers.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"
        ):
            for part in batch:
                x = part.x.contiguous(memory_format=torch.channels_last)
                sr = self._forward[part.scale](x)
                share = len(part.x) / self.recipe.batch_size
                loss = loss + _loss(self.recipe, sr.to(part.target.dtype), part.target) * share
        if batch:
            loss.backward()  # type: ignore[no-untyped-call]
        loss = self._sum_over_workers(loss.detach())
        if self.recipe.gradient_clip_theta is not None:
            nn.utils.clip_grad_value_(self.parameters, self.recipe.gradient_clip_theta / rate)
        self.optimizer.step()
        return loss

    def _sum_over_workers(self, loss: Tensor) -> Tensor:
        """Give every worker the gradients and the loss of the whole batch.

        A worker without a sample in this batch adds zeros.
        """
        if self.workers.num == 1:
            return loss
        gradients = [
            torch.zeros_like(each) if each.grad is None else each.grad for each in self.parameters
        ]
        loss, *summed = self.workers.sum_all([loss, *gradients])
        for parameter, gradient, total in zip(self.parameters, gradients, summed, strict=True):
            parameter.grad = gradient.copy_(total)
        return loss

    @property
    def rate(self) -> float:
        """The learning rate of the last step (of the first group of parameters)."""
        return float(self.optimizer.param_groups[0]["lr"])

    def is_finite(self) -> bool:
        """Whether every weight is a number."""
        return all(bool(tensor.isfinite().all()) for tensor in self.network.state_dict().values())

    def state_dict(self) -> dict[str, Any]:
        """Weights and the optimizer's memory."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the weights and the memory of `state_dict`."""
        for network in self.networks.values():
            network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _set_rate(self, factor: float) -> float:
        for group, base in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor
        return self.rate


def rate_factor(recipe: Recipe, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied with at a step (counted from 0), from the step alone."""
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / num_steps))
    if recipe.schedule == "step":
        assert recipe.decay_every is not None
        assert recipe.decay_factor is not None
        return recipe.decay_factor ** (step // recipe.decay_every.num_steps(steps_per_epoch))
    return 1.0


def set_precision(recipe: Recipe) -> None:
    """Single precision as it stands, or rounded to TF32 where tensor cores multiply."""
    allow_tf32(recipe.precision != "fp32")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _networks(cell: Cell, seed: int, device: torch.device) -> dict[int, nn.Module]:
    """The network at each scale, all with the same weights at the start."""
    networks = {}
    for scale in cell.scales:
        torch.manual_seed(seed)
        network = models.create(cell.architecture, scale)
        # Twice as fast as the default layout for SRCNN on a CPU, and what tensor cores want.
        networks[scale] = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    first = networks[cell.scales[0]]
    for network in networks.values():
        # One set of weights: the others hold the first one's parameters themselves.
        for name, parameter in first.named_parameters():
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, parameter)
    return networks


def _trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn; frozen ones must not even decay."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": _trained(network)}]
    if recipe.last_layer_learning_rate is not None:
        last = [module for module in network.modules() if list(module.parameters(recurse=False))]
        tail = _trained(last[-1])
        ids = {id(parameter) for parameter in tail}
        body = [parameter for parameter in _trained(network) if id(parameter) not in ids]
        groups = [{"params": body}, {"params": tail, "lr": recipe.last_layer_learning_rate}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
    return torch.optim.Adam(
        groups,
        lr=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        # All weights in one loop: an eighth of the time for a small network on a CPU.
        fused=True,
    )


def _loss(recipe: Recipe, sr: Tensor, hr: Tensor) -> Tensor:
    function = functional.mse_loss if recipe.loss == "mse" else functional.l1_loss
    if recipe.loss_reduction == "sum":
        return function(sr, hr, reduction="sum") / len(sr)
    return function(sr, hr)
