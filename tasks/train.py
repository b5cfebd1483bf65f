"""One cell's training: torch, numpy and the parameters, nothing that schedules.

Data in: `data/shards/x<scale>`, validation pictures. Data out, in `cells/<cell>`:
`weights.safetensors`, `history.csv` (loss and validation PSNR by step), `snapshots` (what the
network made of one picture, by step) and `training.json` (how long it took, on what). With its
checkpoint file, an interrupted training goes on where it was and ends with the same weights.
"""

import argparse
import csv
import gc
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import models
from tasks.allocator import keep_freed_memory
from tasks.atomic import replacing_folder, write_text
from tasks.batches import Batches
from tasks.checkpoint import CheckpointWriter, DamagedCheckpoint, read_checkpoint
from tasks.checksums import file_sha256
from tasks.complexity import measure_step_flops
from tasks.config import Cell, Params, load_params
from tasks.errors import SisrError, TrainingError
from tasks.fingerprint import cell_fingerprint, validation_sums
from tasks.layout import CELL_FOLDER, CHECKPOINT_FOLDER, shard_folder
from tasks.precision import used_precision
from tasks.protocol import load_pictures
from tasks.shards import METADATA_KEY, ShardSet
from tasks.snapshots import Snapshots, snapshot_steps
from tasks.timing import device_name, matrix_gflops
from tasks.training_step import Learner, rate_factor
from tasks.validation import ValidationSet
from tasks.workers import Workers, current_workers

# Loss points of a whole training; each costs the loop its only wait for the device.
_NUM_LOSS_POINTS = 100
_RECORD = "training.json"
# Besides those of the validations: what a crash may cost.
_CHECKPOINT_EVERY_S = 60.0
# Several workers end together, so they ask one another whether the time is up.
_STEPS_BETWEEN_VOTES = 20
# EX_TEMPFAIL of sysexits.h: nothing is wrong, try again.
EXIT_OUT_OF_TIME = 75

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
    # What a person should know besides: a damaged checkpoint was found, say.
    note: str = ""

    def __str__(self) -> str:
        psnrs = " ".join(f"×{scale} {value:.2f} dB" for scale, value in self.psnr_db.items())
        note = f"  ({self.note})" if self.note else ""
        return (
            f"{self.cell}: step {self.step}/{self.num_steps}  loss {self.loss:.3g}"
            f"  validation {psnrs or '–'}  {self.steps_per_s:.1f} steps/s{note}"
        )


def train_cell(
    params: Params,
    cell: Cell,
    folder: Path,
    report: Callable[[Progress], None],
    *,
    on_checkpoint: Callable[[Path], None] | None = None,
    deadline_s: float | None = None,
) -> bool:
    """Train one cell and put its weights, history, record and snapshots into `folder`.

    Whether it was finished: with `deadline_s` (seconds from now) the training stops in time, its
    checkpoint written, and the next call goes on. `on_checkpoint` is called, in another thread,
    with the checkpoint's path whenever one was written whole.

    Where `torch.distributed` is initialised, every worker calls this: each takes its part of every
    batch and all end with the same weights. The first alone reports and writes files.

    Raises:
        TrainingError: the loss is not a number any more, the GPU's memory is full, more workers
            than pairs in a batch, or workers with different checkpoints.
        ShardError: no shards, or damaged ones.
    """
    end_s = None if deadline_s is None else time.monotonic() + deadline_s
    keep_freed_memory()
    torch.set_num_threads(params.training.num_threads)
    checkpoint = checkpoint_file(params, cell)
    try:
        workers = current_workers()
        if workers.device.type == "cuda":
            # Another cell may have been trained by this process before; a neighbour on the GPU
            # can use what torch still keeps of it.
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(workers.device)
        training = _Training(params, cell, workers, checkpoint)
        for line in training.notes:
            print(line, file=sys.stderr, flush=True)
        # Now, not at the end: what is on disk may be other data by then.
        fingerprint = cell_fingerprint(params, cell)
        if not training.run(report, on_checkpoint, end_s):
            return False
    except torch.OutOfMemoryError as error:
        raise TrainingError(_memory_message(params, cell)) from error
    if training.workers.is_first:
        with replacing_folder(folder) as temporary:
            training.save(temporary, fingerprint)
    # Workers of one workspace share the checkpoint: it goes when all know that the result is there.
    training.workers.any(False)
    checkpoint.unlink(missing_ok=True)
    return True


def _memory_message(params: Params, cell: Cell) -> str:
    recipe = params.recipe(cell.architecture)
    windows = "/".join(str(recipe.window_px(scale)) for scale in cell.scales)
    return (
        f"{cell.name}: the GPU's memory is full with batch_size {recipe.batch_size} and windows of"
        f" {windows} px; lower batch_size or patch_px, or raise training.num_workers"
    )


def checkpoint_file(params: Params, cell: Cell) -> Path:
    """Where a training keeps what it needs to go on; another recipe or data, another file."""
    return CHECKPOINT_FOLDER / f"{cell.name}-{cell_fingerprint(params, cell)[:16]}.pt"


def is_finished(params: Params, cell: Cell, folder: Path) -> bool:
    """Whether `folder` holds the whole result of just this training, by the sums in its record."""
    try:
        about = json.loads((folder / _RECORD).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    if not isinstance(about, dict) or not isinstance(about.get("files"), dict):
        return False
    # Files besides them are somebody else's.
    is_whole = about["files"].items() <= _sums(folder).items()
    return is_whole and about.get("fingerprint") == cell_fingerprint(params, cell)


def _sums(folder: Path) -> dict[str, str]:
    """The checksum of every file of a result but its record."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / _RECORD)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in sorted(files)}


def cell_seed(seed: int, cell: Cell) -> int:
    """The seed of one cell, so that no two cells share their draws."""
    return int(np.random.SeedSequence([seed, *cell.name.encode()]).generate_state(1)[0])


class _Training:
    """The state of one cell's training, and the loop over it."""

    def __init__(self, params: Params, cell: Cell, workers: Workers, checkpoint: Path) -> None:
        self.cell = cell
        self.recipe = params.recipe(cell.architecture)
        self.params = params
        self.workers = workers
        self.checkpoint = checkpoint
        self.notes: list[str] = []
        if self.recipe.batch_size < workers.num:
            raise TrainingError(
                f"{cell.name}: {workers.num} workers cannot share a batch of"
                f" {self.recipe.batch_size}; use fewer workers or raise batch_size"
            )
        self.seed = cell_seed(params.seed, cell)
        self.learner = Learner(
            cell, self.recipe, self.seed, workers, compiled=params.training.compile
        )
        architecture = models.get(cell.architecture)
        self.batches = Batches(
            shards={scale: ShardSet(shard_folder(scale)) for scale in cell.scales},
            architecture=architecture,
            batch_size=self.recipe.batch_size,
            window_px={scale: self.recipe.window_px(scale) for scale in cell.scales},
            seed=self.seed,
            device=workers.device,
            rank=workers.rank,
            num_workers=workers.num,
        )
        per_epoch = self.batches.steps_per_epoch
        self.num_steps = self.recipe.train_for.num_steps(per_epoch)
        self.validate_every = self.recipe.validate_every.num_steps(per_epoch)
        self.validation: dict[int, ValidationSet] = {}
        self.snapshots = Snapshots()
        if workers.is_first:
            self._load_validation(params.data.validation)
        self.step = 0
        self.clock = _Clock()
        self.history: list[Row] = []
        # What the loss adds up to since the last row of the history, and over how many steps.
        self.loss_sum = torch.zeros((), device=workers.device)
        self.num_losses = 0
        self._resume()
        self.batches.upload()

    def run(
        self,
        report: Callable[[Progress], None],
        on_checkpoint: Callable[[Path], None] | None = None,
        end_s: float | None = None,
    ) -> bool:
        """Train from the current step to the last one, or until `end_s` of the monotonic clock.

        Whether the last step was reached; if not, the checkpoint says where to go on.
        """
        with CheckpointWriter(self.checkpoint, on_checkpoint) as writer:
            finished = self._train(report, writer, end_s)
            if finished and (failure := writer.failure()):
                # Nobody needs it any more, and the result may well be written.
                self.notes.append(
                    f"{self.cell.name}: its last checkpoint was not written: {failure}"
                )
        if not finished:
            # Whoever goes on may read the file: it is there when the last of us leaves.
            self.workers.any(False)
        if finished and not self.learner.is_finite():
            raise TrainingError(f"{self.cell.name}: weights are not finite; lower learning_rate")
        return finished

    def _train(
        self, report: Callable[[Progress], None], writer: CheckpointWriter, end_s: float | None
    ) -> bool:
        every = max(1, self.num_steps // _NUM_LOSS_POINTS)
        first_step, start_s = self.step, time.monotonic()
        saved_s, looked_s, longest_s = start_s, start_s, 0.0
        news = self.notes if first_step == 0 else []
        for batch in self.batches.from_step(self.step, self.num_steps):
            self.loss_sum += self.learner.step(batch, self._rate_factor())
            self.num_losses += 1
            self.step += 1
            last = self.step == self.num_steps
            validate = last or self.step % self.validate_every == 0
            if validate or self.step % every == 0:
                progress = self._look(validate)
                if self.workers.is_first:
                    elapsed_s = time.monotonic() - start_s
                    rate = (self.step - first_step) / elapsed_s
                    report(replace(progress, steps_per_s=rate, note="; ".join(news)))
                    news = []
            now_s = time.monotonic()
            if not last and (validate or now_s - saved_s > _CHECKPOINT_EVERY_S):
                self._save_checkpoint(writer)
                saved_s = now_s = time.monotonic()
            looked_s, longest_s = now_s, max(longest_s, now_s - looked_s)
            needed_s = 2 * (longest_s + writer.longest_s)
            if not last and end_s is not None and self._is_time_up(now_s + needed_s > end_s):
                self._save_checkpoint(writer)
                return False
        return True

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write weights, history, record and snapshots into a folder."""
        from safetensors.torch import save_file

        about = {"architecture": self.cell.architecture, "scales": self.cell.scales}
        state = self.learner.network.state_dict()
        tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        # One entry: safetensors writes several in an order that differs from run to run.
        save_file(tensors, folder / "weights.safetensors", {METADATA_KEY: json.dumps(about)})
        _write_csv(folder / "history.csv", self.history, self.cell.scales)
        self.snapshots.write(folder)
        record = {
            "cell": self.cell.name,
            "fingerprint": fingerprint,
            "files": _sums(folder),
        } | self._about_training()
        write_text(folder / _RECORD, json.dumps(record, indent=2))

    def _load_validation(self, names: tuple[str, ...]) -> None:
        architecture = models.get(self.cell.architecture)
        for scale in self.cell.scales:
            pictures = [
                picture
                for name in names
                for picture in load_pictures(architecture, "validation", name, scale)
            ]
            self.validation[scale] = ValidationSet(
                architecture, pictures, scale, self.workers.device
            )
            self.snapshots.take_references(architecture, pictures[0], scale)
        steps = [*range(self.validate_every, self.num_steps, self.validate_every), self.num_steps]
        self.snapshot_steps = snapshot_steps(steps)

    def _rate_factor(self) -> float:
        return rate_factor(self.recipe, self.step, self.num_steps, self.batches.steps_per_epoch)

    def _look(self, validate: bool) -> Progress:
        """Wait for the device: the loss since the last look, and what validation says."""
        loss = self.loss_sum.item() / self.num_losses
        self.loss_sum.zero_()
        self.num_losses = 0
        # All workers have the same loss, so all of them stop here.
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.cell.name} diverged: loss {loss} at step {self.step};"
                " lower learning_rate or set gradient_clip_theta"
            )
        psnrs = self._validate() if validate else {}
        self._record(loss, psnrs)
        return Progress(self.cell.name, self.step, self.num_steps, loss, psnrs, 0.0)

    def _validate(self) -> dict[int, float]:
        start_s = time.monotonic()
        psnrs = {}
        for scale, pictures in self.validation.items():
            psnrs[scale], first = pictures.measure(self.learner.networks[scale])
            if self.step in self.snapshot_steps:
                self.snapshots.take(self.step, scale, first)
        self.clock.validation_s += time.monotonic() - start_s
        return psnrs

    def _record(self, loss: float, psnrs: dict[int, float]) -> None:
        row: Row = {
            "step": self.step,
            "epoch": self.step / self.batches.steps_per_epoch,
            "seconds": round(self.clock.seconds, 3),
            "learning_rate": self.learner.rate,
            "loss": loss,
            "cpu_percent": round(self.clock.cpu_percent(), 1),
            "memory_mib": round(_peak_memory_mib(self.workers.device), 1),
        }
        self.history.append(row | {f"psnr_db_x{scale}": value for scale, value in psnrs.items()})

    def _is_time_up(self, mine: bool) -> bool:
        """Whether to stop; several workers ask one another, and not at every step."""
        if self.workers.num > 1 and self.step % _STEPS_BETWEEN_VOTES:
            return False
        return self.workers.any(mine)

    def _save_checkpoint(self, writer: CheckpointWriter) -> None:
        if not self.workers.is_first:
            return
        state = {
            "step": self.step,
            "clock": self.clock.state_dict(),
            "history": self.history,
            "notes": self.notes,
            "loss_sum": self.loss_sum,
            "num_losses": self.num_losses,
            "learner": self.learner.state_dict(),
            "snapshots": self.snapshots.state_dict(),
        }
        writer.write(state)

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is one and it is whole at every worker."""
        state: dict[str, Any] | None = None
        damaged = False
        if self.checkpoint.exists():
            try:
                state = read_checkpoint(self.checkpoint, self.workers.device)
            except DamagedCheckpoint as error:
                damaged = True
                self.notes.append(f"{self.cell.name}: {error}; the training starts anew")
        if self.workers.any(damaged):
            return
        if not self.workers.agree(state["step"] if state else 0):
            raise TrainingError(
                f"{self.cell.name}: its workers have different checkpoints (this one's is of step"
                f" {state['step'] if state else 0}); give each a copy of {self.checkpoint}"
            )
        if state:
            self._restore(state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.snapshots.load_state_dict(state["snapshots"])
        self.clock.load_state_dict(state["clock"])
        self.loss_sum.copy_(state["loss_sum"])
        self.step, self.num_losses = state["step"], state["num_losses"]
        self.history, self.notes = state["history"], state["notes"]

    def _about_training(self) -> dict[str, Any]:
        training_s = self.clock.seconds - self.clock.validation_s
        steps_per_s = self.num_steps / training_s
        peak_memory_mib = _peak_memory_mib(self.workers.device)  # before matrices add to it
        precision = used_precision(self.recipe.precision, self.workers.device)
        matrix_rate = matrix_gflops(self.workers.device, precision)
        return {
            "seed": self.seed,
            "validation": validation_sums(self.params),
            "num_steps": self.num_steps,
            "num_epochs": self.num_steps / self.batches.steps_per_epoch,
            "num_patches": {scale: len(each) for scale, each in self.batches.shards.items()},
            "seconds": round(self.clock.seconds, 3),
            "validation_seconds": round(self.clock.validation_s, 3),
            "cpu_seconds": round(self.clock.cpu_s, 3),
            "steps_per_s": round(steps_per_s, 3),
            "gflops": round(self._step_flops() * steps_per_s / 1e9, 3),
            "matrix_gflops": matrix_rate and round(self.workers.num * matrix_rate, 3),
            "precision": precision,
            "compile": self.params.training.compile,
            "device": device_name(self.workers.device),
            "num_workers": self.workers.num,
            "num_threads": self.params.training.num_threads,
            "torch": torch.__version__,
            "peak_memory_mib": peak_memory_mib,
            "notes": self.notes,
        }

    def _step_flops(self) -> float:
        """Floating-point operations of a step of all workers together."""
        per_pair = [
            measure_step_flops(self.cell.architecture, scale, self.batches.window_px[scale])
            for scale in self.cell.scales
        ]
        return self.recipe.batch_size * sum(per_pair) / len(per_pair)


class _Clock:
    """How long a training took, over all its sittings."""

    def __init__(self) -> None:
        self.validation_s = 0.0
        self._before_s, self._cpu_before_s = 0.0, 0.0
        self._start_s, self._cpu_start_s = time.monotonic(), time.process_time()
        self._last = (self._start_s, self._cpu_start_s)

    @property
    def seconds(self) -> float:
        """Wall time since the first step."""
        return self._before_s + time.monotonic() - self._start_s

    @property
    def cpu_s(self) -> float:
        """Processor time of this worker."""
        return self._cpu_before_s + time.process_time() - self._cpu_start_s

    def cpu_percent(self) -> float:
        """Processor time over wall time since the last question."""
        before, self._last = self._last, (time.monotonic(), time.process_time())
        wall_s, cpu_s = (after - start for after, start in zip(self._last, before, strict=True))
        return 100 * cpu_s / wall_s

    def state_dict(self) -> dict[str, float]:
        """The times so far, for a checkpoint."""
        return {"seconds": self.seconds, "cpu_s": self.cpu_s, "validation_s": self.validation_s}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on counting from a checkpoint."""
        self._before_s, self._cpu_before_s = state["seconds"], state["cpu_s"]
        self.validation_s = state["validation_s"]


def _peak_memory_mib(device: torch.device) -> float:
    """Of this training on a GPU; on a CPU of the process, whatever it did before."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _write_csv(path: Path, history: list[Row], scales: tuple[int, ...]) -> None:
    columns = ["step", "epoch", "seconds", "learning_rate", "loss", "cpu_percent", "memory_mib"]
    columns += [f"psnr_db_x{scale}" for scale in scales]
    with path.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, columns)
        writer.writeheader()
        writer.writerows(history)


def main() -> int:
    """The stage's command; its exit code."""
    arguments = _arguments()
    params = load_params()
    cells = list(params.cells) if arguments.all else [params.cell(each) for each in arguments.cell]
    end_s = None if arguments.minutes is None else time.monotonic() + 60 * arguments.minutes
    num_failed = 0
    if params.training.num_workers > 1:
        told = f"training.num_workers is {params.training.num_workers}; here one worker trains, and"
        print(f"{told} the weights' last bits may differ", file=sys.stderr, flush=True)
    for place, cell in enumerate(cells):
        folder = CELL_FOLDER / cell.name
        left_s = None if end_s is None else end_s - time.monotonic()
        try:
            if is_finished(params, cell, folder):
                print(f"{cell.name}: skipped, {folder} holds this very training's result")
                continue
            finished = (left_s is None or left_s > 0) and train_cell(
                params, cell, folder, _print, deadline_s=left_s
            )
        except SisrError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            num_failed += 1
            continue
        if not finished:
            left = [each.name for each in cells[place:]]
            print(f"out of time; left: {', '.join(left)}. Run the same command again to go on.")
            return EXIT_OUT_OF_TIME
    return 1 if num_failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train cells of params.yaml one after the other, each into cells/<cell>.",
        epilog=f"Exit code 0: all trained; 1: one failed, the others were trained;"
        f" {EXIT_OUT_OF_TIME}: out of time, run again to go on.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--cell",
        action="append",
        help="srcnn-x2, or vdsr for a joint training; may be given several times",
    )
    which.add_argument("--all", action="store_true", help="every cell, in the order of params.yaml")
    parser.add_argument(
        "--minutes",
        type=float,
        help="stop before so many minutes are over, with a checkpoint to go on from",
    )
    return parser.parse_args()


def _print(progress: Progress) -> None:
    print(progress, flush=True)


if __name__ == "__main__":
    sys.exit(main())
