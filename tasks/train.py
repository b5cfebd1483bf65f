"""One cell's training: torch, numpy and the parameters, nothing that schedules.

Data in: `data/shards/x<scale>`, validation pictures. Data out, in `cells/<cell>`:
`weights.safetensors`, `history.csv` (loss and validation PSNR by step) and
`training.json` (how long it took, on what). With a checkpoint file, an
interrupted training goes on where it was and ends with the same weights.
"""

import argparse
import csv
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import models
from tasks.atomic import replacing_file, replacing_folder, write_text
from tasks.batches import Batch, Batches
from tasks.config import Cell, Params, Recipe, load_params
from tasks.errors import TrainingError
from tasks.fingerprint import cell_fingerprint
from tasks.layout import CELL_FOLDER, CHECKPOINT_FOLDER, shard_folder
from tasks.protocol import load_pictures, mean_psnr_db
from tasks.shards import METADATA_KEY, ShardSet

# Loss points of a whole training; each costs the loop its only wait for the device.
_NUM_LOSS_POINTS = 100

Row = dict[str, float | int]


@dataclass(frozen=True)
class Progress:
    """Where a training is; what its progress line says."""

    cell: str
    step: int
    num_steps: int
    loss: float
    psnr_db: dict[int, float]
    steps_per_s: float

    def __str__(self) -> str:
        psnrs = " ".join(f"×{scale} {value:.2f} dB" for scale, value in self.psnr_db.items())
        return (
            f"{self.cell}: step {self.step}/{self.num_steps}  loss {self.loss:.3g}"
            f"  validation {psnrs or '–'}  {self.steps_per_s:.1f} steps/s"
        )


@dataclass(frozen=True)
class Workplace:
    """Where a cell trains: the device, its threads and the checkpoint to resume from."""

    device: torch.device
    num_threads: int
    checkpoint: Path


def train_cell(
    params: Params, cell: Cell, folder: Path, report: Callable[[Progress], None]
) -> None:
    """Train one cell and put its weights, history and record into `folder`.

    Raises:
        TrainingError: the loss is not a number any more.
        ShardError: no shards, or damaged ones.
    """
    torch.set_num_threads(params.training.num_threads)
    checkpoint = CHECKPOINT_FOLDER / f"{cell.name}-{cell_fingerprint(params, cell)[:16]}.pt"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = _Training(params, cell, Workplace(device, params.training.num_threads, checkpoint))
    training.run(report)
    with replacing_folder(folder) as temporary:
        training.save(temporary)
    checkpoint.unlink(missing_ok=True)


def cell_seed(seed: int, cell: Cell) -> int:
    """The seed of one cell, so that no two cells share their draws."""
    return int(np.random.SeedSequence([seed, *cell.name.encode()]).generate_state(1)[0])


class _Training:
    """The state of one cell's training, and the loop over it."""

    def __init__(self, params: Params, cell: Cell, workplace: Workplace) -> None:
        self.cell = cell
        self.recipe = params.recipe(cell.architecture)
        self.workplace = workplace
        self.seed = cell_seed(params.seed, cell)
        self.architecture = models.get(cell.architecture)
        _set_precision(self.recipe)
        self.networks = _networks(cell, self.seed, workplace.device)
        self.optimizer = _optimizer(self.networks[cell.scales[0]], self.recipe)
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.batches = Batches(
            shards={scale: ShardSet(shard_folder(scale)) for scale in cell.scales},
            architecture=self.architecture,
            batch_size=self.recipe.batch_size,
            window_px={scale: self.recipe.window_px(scale) for scale in cell.scales},
            seed=self.seed,
            device=workplace.device,
        )
        per_epoch = self.batches.steps_per_epoch
        self.num_steps = self.recipe.train_for.num_steps(per_epoch)
        self.validate_every = self.recipe.validate_every.num_steps(per_epoch)
        self.pictures = {
            scale: [
                picture
                for name in params.data.validation
                for picture in load_pictures(self.architecture, "validation", name, scale)
            ]
            for scale in cell.scales
        }
        self.step = 0
        self.seconds = 0.0
        self.history: list[Row] = []
        self.clocks = (time.perf_counter(), time.process_time())
        self._resume()

    def run(self, report: Callable[[Progress], None]) -> None:
        """Train from the current step to the last one."""
        every = max(1, self.num_steps // _NUM_LOSS_POINTS)
        loss_sum = torch.zeros((), device=self.workplace.device)
        num_losses, start, start_step = 0, time.perf_counter(), self.step
        seconds_before = self.seconds
        for batch in self.batches.from_step(self.step, self.num_steps):
            rate = self._set_learning_rate()
            loss_sum += self._optimize(batch, rate)
            num_losses += 1
            self.step += 1
            last = self.step == self.num_steps
            validate = last or self.step % self.validate_every == 0
            if not (validate or self.step % every == 0):
                continue
            loss = self._checked(loss_sum.item() / num_losses)
            loss_sum.zero_()
            num_losses = 0
            psnrs = self._validate() if validate else {}
            elapsed = time.perf_counter() - start
            self.seconds = seconds_before + elapsed
            self._record(loss, rate, psnrs)
            report(
                Progress(
                    self.cell.name,
                    self.step,
                    self.num_steps,
                    loss,
                    psnrs,
                    (self.step - start_step) / elapsed,
                )
            )
            if validate and not last:
                self._checkpoint()

    def save(self, folder: Path) -> None:
        """Write weights, history and record into a folder."""
        from safetensors.torch import save_file

        state = self.networks[self.cell.scales[0]].state_dict()
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            raise TrainingError(f"{self.cell.name}: weights are not finite; lower learning_rate")
        about = {"architecture": self.cell.architecture, "scales": self.cell.scales}
        tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        # One entry: safetensors writes several in an order that differs from run to run.
        save_file(tensors, folder / "weights.safetensors", {METADATA_KEY: json.dumps(about)})
        _write_csv(folder / "history.csv", self.history, self.cell.scales)
        write_text(folder / "training.json", json.dumps(self._about_training(), indent=2))

    def _optimize(self, batch: tuple[Batch, ...], rate: float) -> Tensor:
        """One step; the loss stays on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        num = sum(len(part.x) for part in batch)
        loss = torch.zeros((), device=self.workplace.device)
        with torch.autocast(
            self.workplace.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"
        ):
            for part in batch:
                x = part.x.contiguous(memory_format=torch.channels_last)
                sr = self.networks[part.scale](x)
                loss = loss + _loss(self.recipe, sr.float(), part.target) * (len(part.x) / num)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.gradient_clip_theta is not None:
            nn.utils.clip_grad_value_(
                self.networks[self.cell.scales[0]].parameters(),
                self.recipe.gradient_clip_theta / rate,
            )
        self.optimizer.step()
        return loss.detach()

    def _set_learning_rate(self) -> float:
        """The rate of this step, a function of the step alone; returns the first group's."""
        factor = _rate_factor(self.recipe, self.step, self.num_steps, self.batches.steps_per_epoch)
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def _validate(self) -> dict[int, float]:
        return {
            scale: mean_psnr_db(self.networks[scale], self.architecture, pictures, scale)
            for scale, pictures in self.pictures.items()
        }

    def _checked(self, loss: float) -> float:
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.cell.name} diverged: loss {loss} at step {self.step};"
                " lower learning_rate or set gradient_clip_theta"
            )
        return loss

    def _record(self, loss: float, rate: float, psnrs: dict[int, float]) -> None:
        row: Row = {
            "step": self.step,
            "epoch": self.step / self.batches.steps_per_epoch,
            "seconds": round(self.seconds, 3),
            "learning_rate": rate,
            "loss": loss,
            **self._load(),
        }
        self.history.append(row | {f"psnr_db_x{scale}": value for scale, value in psnrs.items()})

    def _load(self) -> Row:
        """What the process took since the last row."""
        before, self.clocks = self.clocks, (time.perf_counter(), time.process_time())
        wall_s, cpu_s = (after - start for after, start in zip(self.clocks, before, strict=True))
        cuda = self.workplace.device.type == "cuda"
        return {
            "cpu_percent": round(100 * cpu_s / wall_s, 1),
            "memory_mib": round(_peak_memory_mib(cuda), 1),
        }

    def _checkpoint(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "network": self.networks[self.cell.scales[0]].state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with replacing_file(self.workplace.checkpoint) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        path = self.workplace.checkpoint
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(
            path, map_location=self.workplace.device, weights_only=True
        )
        for network in self.networks.values():
            network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]

    def _about_training(self) -> dict[str, Any]:
        cuda = self.workplace.device.type == "cuda"
        return {
            "cell": self.cell.name,
            "seed": self.seed,
            "num_steps": self.num_steps,
            "num_epochs": self.num_steps / self.batches.steps_per_epoch,
            "num_patches": {scale: len(each) for scale, each in self.batches.shards.items()},
            "seconds": round(self.seconds, 3),
            "precision": self.recipe.precision,
            "device": torch.cuda.get_device_name() if cuda else platform.machine() + " CPU",
            "num_threads": self.workplace.num_threads,
            "torch": torch.__version__,
            "peak_memory_mib": _peak_memory_mib(cuda),
        }


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


def _optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [{"params": list(network.parameters())}]
    if recipe.last_layer_learning_rate is not None:
        last = [module for module in network.modules() if list(module.parameters(recurse=False))]
        tail = list(last[-1].parameters())
        ids = {id(parameter) for parameter in tail}
        body = [parameter for parameter in network.parameters() if id(parameter) not in ids]
        groups = [{"params": body}, {"params": tail, "lr": recipe.last_layer_learning_rate}]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
    return torch.optim.Adam(
        groups, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )


def _rate_factor(recipe: Recipe, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """What the learning rate is multiplied with at a step (counted from 0)."""
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / num_steps))
    if recipe.schedule == "step":
        assert recipe.decay_every is not None
        assert recipe.decay_factor is not None
        return recipe.decay_factor ** (step // recipe.decay_every.num_steps(steps_per_epoch))
    return 1.0


def _loss(recipe: Recipe, sr: Tensor, hr: Tensor) -> Tensor:
    function = functional.mse_loss if recipe.loss == "mse" else functional.l1_loss
    if recipe.loss_reduction == "sum":
        return function(sr, hr, reduction="sum") / len(sr)
    return function(sr, hr)


def _set_precision(recipe: Recipe) -> None:
    tf32 = recipe.precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _peak_memory_mib(cuda: bool) -> float:
    if cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _write_csv(path: Path, history: list[Row], scales: tuple[int, ...]) -> None:
    columns = ["step", "epoch", "seconds", "learning_rate", "loss", "cpu_percent", "memory_mib"]
    columns += [f"psnr_db_x{scale}" for scale in scales]
    with path.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, columns)
        writer.writeheader()
        writer.writerows(history)


def main() -> None:
    """The stage's command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cell", required=True, help="srcnn-x2, or vdsr for a joint training")
    params = load_params()
    cell = params.cell(parser.parse_args().cell)
    train_cell(params, cell, CELL_FOLDER / cell.name, lambda progress: print(progress, flush=True))


if __name__ == "__main__":
    main()
