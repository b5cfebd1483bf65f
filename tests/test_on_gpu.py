"""What only a GPU runs, on a stand-in: where tensors lie, and when the CPU waits for the device."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import models
import tasks.batches
import tasks.train
from tasks.batches import Batches
from tasks.config import Cell, Params, Recipe, Settings, Shards, load_catalogue
from tasks.degrade import degrade
from tasks.device_patches import fit_in_memory
from tasks.download import download
from tasks.evaluate import evaluate_network
from tasks.images import write_png
from tasks.metrics import psnr_db
from tasks.precision import exact_fp32
from tasks.protocol import Picture, load_pictures, prepare, sr_luminance, sr_picture
from tasks.shards import ShardSet, shard, write_shards
from tasks.super_resolve import best_device, super_resolve
from tasks.train import train_cell
from tasks.training_step import Learner
from tasks.validation import ValidationSet
from tasks.weights import load_weights
from tasks.workers import current_workers
from tests.conftest import Workspace
from tests.stand_in_gpu import NAME, OnGpu, stand_in_gpu

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TRAINABLE = [name for name in models.names() if models.get(name).trainable]
# Operations whose gradients a GPU adds up in any order, of those that torch's page on
# `use_deterministic_algorithms` names (2.13); convolutions are told not to elsewhere.
ANY_ORDER = {
    *(f"{kind}_pad{num}d" for kind in ("replication", "reflection") for num in (1, 2, 3)),
    *(f"upsample_{kind}" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler_2d", "grid_sampler_3d"),
    *("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "avg_pool3d", "adaptive_max_pool2d"),
    *("max_pool3d_with_indices", "max_unpool2d", "max_unpool3d", "fractional_max_pool2d"),
    *("index_add", "index_copy", "index_put", "index_select", "gather", "put", "cumsum"),
    *("scatter", "scatter_add", "scatter_reduce", "repeat_interleave", "embedding", "bincount"),
}

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a stand-in, for where there is none"
)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A GPU; the places where the CPU has waited for it."""
    with stand_in_gpu(monkeypatch) as waited:
        yield waited


@pytest.fixture
def shards(tmp_path: Path) -> dict[int, ShardSet]:
    """Four patches of 36 pixels at ×2 and ×3."""
    draw = np.random.default_rng(0)
    made = {}
    for scale in (2, 3):
        folder = tmp_path / f"x{scale}"
        folder.mkdir()
        pair = (folder / "hr.png", folder / "lr.png")
        for file, side in zip(pair, (72, 72 // scale), strict=True):
            write_png(file, draw.integers(0, 256, (side, side, 3), dtype=np.uint8))
        write_shards([pair], folder, scale, Shards(patch_px=36, stride_px=36, shard_mib=1))
        made[scale] = ShardSet(folder)
    return made


def _recipe(**changes: object) -> Recipe:
    base = {
        "optimizer": "adam",
        "learning_rate": 0.001,
        "loss": "l1",
        "batch_size": 4,
        "patch_px": 12,
        "train_for": "1 step",
        "validate_every": "1 step",
    }
    return Recipe.model_validate_json(json.dumps(base | changes))


def _batches(shards: dict[int, ShardSet], name: str, device: torch.device) -> Batches:
    windows = dict.fromkeys(shards, 12)
    return Batches(shards, models.get(name), 4, windows, seed=1, device=device)


def _pictures(name: str) -> list[Picture]:
    """Two colour pictures of one size and a grey one, ×2."""
    draw = np.random.default_rng(2)
    made = []
    for number, shape in enumerate([(40, 32, 3), (28, 34), (40, 32, 3)]):
        hr = draw.integers(0, 256, shape, dtype=np.uint8)
        made.append(prepare(models.get(name), str(number), hr, hr[::2, ::2], 2))
    return made


def test_the_stand_in_refuses_tensors_of_both_devices(waits: list[str]) -> None:
    here, there = torch.ones(2), torch.ones(2, device=GPU)

    assert (there.device.type, there.to("cpu").device.type) == ("cuda", "cpu")
    assert waits == ["a test"]
    torch.testing.assert_close((there + here.to(GPU)).cpu(), torch.full((2,), 2.0))
    with pytest.raises(RuntimeError, match="add of tensors on cuda and cpu"):
        there + here
    with pytest.raises(RuntimeError, match="add_ of tensors on cuda and cpu"):
        here.add_(there)
    del waits[:]
    reads = (there[0].item, lambda: bool(there.all()), there.tolist, there.cpu)
    picks = (lambda: torch.equal(there, there), lambda: there.masked_select(there > 0))
    for wait in (*reads, *picks):
        wait()
    assert len(waits) == 6


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_step_stays_on_the_device_and_waits_for_nothing(
    waits: list[str], shards: dict[int, ShardSet], name: str
) -> None:
    # Networks on enlarged input have the same weights at all scales.
    scales = (2, 3) if models.get(name).enlarged else (2,)
    cell = Cell(architecture=name, scales=scales, joint=len(scales) > 1)
    shards = {scale: shards[scale] for scale in scales}
    changes = {"optimizer": "sgd", "momentum": 0.9, "gradient_clip_theta": 0.01}
    for recipe in (_recipe(precision="tf32"), _recipe(**changes, last_layer_learning_rate=1e-4)):
        with exact_fp32():  # restores what a recipe allows
            learner = Learner(cell, recipe, 1, current_workers(), compiled=False)
            before = [each.cpu().clone() for each in learner.parameters]
            del waits[:]
            for batch in _batches(shards, name, GPU).from_step(0, 3):
                assert {part.x.device.type for part in batch} == {"cuda"}
                loss = learner.step(batch, 1.0)
            assert waits == []
        assert loss.device.type == "cuda"
        assert math.isfinite(loss.item())
        assert all(isinstance(each, OnGpu) for each in learner.parameters)
        for old, new in zip(before, learner.parameters, strict=True):
            assert not torch.equal(old, new.cpu())


class _Named(TorchDispatchMode):
    """Writes down the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func._schema.name.removeprefix("aten::").removesuffix("_"))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TRAINABLE)
def test_no_gradient_is_added_up_in_any_order(waits: list[str], name: str) -> None:
    about, network = models.get(name), models.create(name, 2).to(GPU)
    x = torch.rand(2, about.num_channels, 12, 12).to(GPU)

    with _Named() as called:
        network(x)

    assert "convolution" in called.names
    assert not called.names & ANY_ORDER


# Free memory for all patches, and for none: then a thread gathers what is needed.
@pytest.mark.parametrize("free_bytes", [2**30, 0])
@pytest.mark.parametrize("name", ["srcnn", "cnn_small", "edsr_baseline"])
def test_batches_are_those_of_a_cpu(
    waits: list[str],
    shards: dict[int, ShardSet],
    name: str,
    free_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_bytes, 2**30))
    monkeypatch.setitem(tasks.batches._MAX_BURST, "cuda", 4)
    # 5 pairs of two scales, 3 and 2 in turns, of odd sizes.
    odd = {2: 14, 3: 15} if name == "edsr_baseline" else {2: 13, 3: 13}
    on_gpu, on_cpu = (
        replace(_batches(shards, name, device), batch_size=5, window_px=odd).from_step(250, 263)
        for device in (GPU, CPU)
    )

    num = 0
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.scale == other.scale
            assert torch.equal(mine.target.cpu(), other.target)
            # By another order of the same sums.
            torch.testing.assert_close(mine.x.cpu(), other.x, atol=1e-6, rtol=0)
            # As cuDNN wants them, wherever they lie in their burst.
            for tensor in (mine.x, mine.target):
                assert tensor.storage_offset() * tensor.element_size() % 32 == 0
            num += 1
    assert num == 26


@pytest.mark.parametrize(("batch_size", "num_workers"), [(5, 2), (2, 2)])
def test_workers_share_the_batch_of_a_single_one(
    waits: list[str], shards: dict[int, ShardSet], batch_size: int, num_workers: int
) -> None:
    alone = replace(_batches(shards, "vdsr", GPU), batch_size=batch_size)
    together = [
        list(replace(alone, rank=rank, num_workers=num_workers).from_step(0, 5))
        for rank in range(num_workers)
    ]

    # Also a worker that has nothing to do takes all steps.
    assert [len(each) for each in together] == [5] * num_workers
    for step, whole in enumerate(alone.from_step(0, 5)):
        for part in whole:
            for rank, steps in enumerate(together):
                own = [each for each in steps[step] if each.scale == part.scale]
                assert len(own) == (rank < len(part.x))
                for each in own:
                    assert torch.equal(each.x.cpu(), part.x.cpu()[rank::num_workers])
                    assert torch.equal(each.target.cpu(), part.target.cpu()[rank::num_workers])


class _Launches(TorchDispatchMode):
    """Counts the operations that compute something on the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, Tensor) else None
        self.num += isinstance(made, OnGpu) and not func.is_view
        return result


@pytest.mark.parametrize("name", ["srcnn", "cnn_small", "edsr_baseline"])
def test_more_batches_take_no_more_launches(
    waits: list[str], shards: dict[int, ShardSet], name: str
) -> None:
    counts = []
    for num_steps in (2, 100):
        batches = _batches(shards, name, GPU)
        batches.upload()
        with _Launches() as launches:
            assert len(list(batches.from_step(0, num_steps))) == num_steps
        counts.append(launches.num)

    assert counts[0] == counts[1]
    assert 20 < counts[0] < 300


@pytest.mark.parametrize("name", ["vdsr", "cnn_small"])
def test_a_batch_depends_neither_on_its_burst_nor_on_where_patches_lie(
    waits: list[str], shards: dict[int, ShardSet], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(_batches(shards, name, GPU).from_step(0, 9))[6:]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 2**30))
    monkeypatch.setitem(tasks.batches._MAX_BURST, "cuda", 2)

    resumed = list(_batches(shards, name, GPU).from_step(6, 9))

    for ours, theirs in zip(resumed, expected, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.equal(mine.x.cpu(), other.x.cpu())
            assert torch.equal(mine.target.cpu(), other.target.cpu())


def test_a_batch_of_fewer_pairs_than_scales_leaves_some_out(
    waits: list[str], shards: dict[int, ShardSet]
) -> None:
    steps = list(replace(_batches(shards, "vdsr", GPU), batch_size=1).from_step(0, 4))

    assert [[part.scale for part in parts] for parts in steps] == [[2], [3], [2], [3]]
    assert all(len(part.x) == len(part.target) == 1 for parts in steps for part in parts)


def test_patches_stay_on_the_gpu_if_they_take_an_eighth_of_what_is_free(
    waits: list[str], shards: dict[int, ShardSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four pairs of 36 and 18 pixels, and of 36 and 12.
    num_bytes = 4 * 3 * (36**2 + 18**2 + 36**2 + 12**2)
    found = []
    for free_bytes in (8 * num_bytes, 8 * num_bytes - 8):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free_bytes: (free, 2**30))
        found.append(fit_in_memory(list(shards.values()), GPU))

    assert found == [True, False]


class _Stretch(nn.Module):
    """Leaves 0–1 at both ends, pixel by pixel, so that nothing depends on how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same."""
        return 1.4 * x - 0.2


@pytest.mark.parametrize("name", ["srcnn", "cnn_small"])
def test_validation_waits_once_for_all_pictures_and_once_for_the_snapshot(
    waits: list[str], name: str
) -> None:
    network, pictures = _Stretch(), _pictures(name)
    expected_db, expected = ValidationSet(models.get(name), pictures, 2, CPU).measure(network)
    validation = ValidationSet(models.get(name), pictures, 2, GPU)
    del waits[:]

    mean_db, first = validation.measure(network)

    assert waits == ["validation.py:measure", "validation.py:measure"]
    assert mean_db == expected_db
    np.testing.assert_array_equal(first, expected)


@pytest.mark.parametrize(
    "name", ["bicubic", "srcnn", "cnn_small", "edsr_baseline", "lesrcnn", "wdsr_a"]
)
@pytest.mark.parametrize("num_channels", [1, 3])
def test_a_picture_in_tiles_is_that_of_a_cpu(
    waits: list[str], name: str, num_channels: int
) -> None:
    picture = torch.rand(1, num_channels, 20, 26, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network = models.create(name, 2)
    expected = super_resolve(picture, network, models.get(name), 2, tile_px=12)

    answer = super_resolve(
        picture, network.to(best_device()), models.get(name), 2, tile_px=12, batch=4
    )

    assert type(answer) is Tensor
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=0)


@pytest.fixture
def params(workspace: Workspace) -> Params:
    params = workspace.write_params()
    download(params, load_catalogue(), Settings())
    degrade(2)
    shard(params.data.train, 2, params.shards)
    return params


# `params` before `waits`: the data are made before there is a GPU.
def test_a_whole_training_and_its_evaluation(
    params: Params, tmp_path: Path, waits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # These compute gradients and time a device; a stand-in has neither.
    monkeypatch.setattr(tasks.train, "matrix_gflops", lambda *_: 1000.0)
    monkeypatch.setattr(tasks.train, "measure_step_flops", lambda *_: 1e6)
    monkeypatch.setattr("tasks.evaluate.OUTPUT_SIZES_PX", (32,))

    cell, recipe = params.cell("cnn_small-x2"), params.trained["cnn_small"]
    recipe = recipe.model_copy(update={"precision": "tf32"})
    params = params.model_copy(update={"trained": {"cnn_small": recipe}})
    with exact_fp32():  # restores what the recipe allows
        assert train_cell(params, cell, tmp_path / "cell", print)
    network = models.create("cnn_small", 2)
    load_weights(network, tmp_path / "cell" / "weights.safetensors")
    about = models.get("cnn_small")
    expected = []
    for name in params.data.test:
        for picture in load_pictures(about, "test", name, 2):
            answer = sr_picture(about, network(picture.x))
            expected.append(psnr_db(sr_luminance(about, picture, answer), picture.hr_y, 2))

    result = evaluate_network(network, "cnn_small", 2, params.data.test)

    record = json.loads((tmp_path / "cell" / "training.json").read_text())
    assert (record["device"], record["precision"]) == (NAME, "tf32")
    assert record["peak_memory_mib"] == 1024
    assert [row["psnr_db"] for row in result["images"]] == pytest.approx(expected, abs=1e-3)
    (latency,) = result["latency"]
    assert (latency["device"], latency["precision"]) == (NAME, "fp32")
