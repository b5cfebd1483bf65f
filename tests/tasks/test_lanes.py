"""How many trainings run side by side, and in which order."""

from collections.abc import Callable

import pytest

from tasks.config import Cell, Params
from tasks.download import download
from tasks.lanes import (
    WHOLE_GPU_PATIENCE_S,
    Lane,
    Work,
    largest_first,
    may_share,
    measure_work,
    plan_lanes,
    waiting_line,
)
from tests.conftest import Workspace


def cell(name: str) -> Cell:
    return Cell(architecture=name, scales=(2,), joint=False)


SMALL, LARGE = Work(1e8, 1e12), Work(1e11, 1e16)


def lanes(num_small: int, num_large: int, **resources: float) -> list[Lane]:
    work = {cell(f"s{index}"): SMALL for index in range(num_small)}
    work |= {cell(f"l{index}"): LARGE for index in range(num_large)}
    given = {"num_cpus": 16.0, "num_gpus": 0.0} | resources
    return plan_lanes(
        work,
        num_cpus=given["num_cpus"],
        num_gpus=given["num_gpus"],
        num_threads=int(resources.get("num_threads", 1)),
        num_workers=int(resources.get("num_workers", 1)),
    )


def test_without_gpus_as_many_lanes_as_cores_and_no_more_than_cells() -> None:
    assert [lane.num_cpus for lane in lanes(5, 0, num_cpus=2)] == [1, 1]
    assert len(lanes(1, 1, num_cpus=16)) == 2
    assert len(lanes(5, 0, num_cpus=8, num_threads=4)) == 2
    assert len(lanes(5, 0, num_cpus=8, num_threads=2, num_workers=2)) == 2
    assert len(lanes(5, 0, num_cpus=0)) == 1  # a cluster that grows when asked


def test_large_cells_take_whole_gpus_and_small_ones_share() -> None:
    planned = lanes(num_small=6, num_large=1, num_gpus=1)
    assert [lane.num_gpus for lane in planned] == [1.0, 0.25, 0.25, 0.25, 0.25]
    assert [lane.takes_large for lane in planned] == [True, False, False, False, False]
    # Else small cells would have the whole GPU, one after the other.
    assert [lane.takes_small for lane in planned] == [False, True, True, True, True]
    assert [lane.takes_small for lane in lanes(0, 3, num_gpus=2)] == [True, True]
    assert [lane.takes_small for lane in lanes(2, 2, num_cpus=2)] == [True, True]
    # Nobody to share with: a small cell has the GPU.
    assert [lane.num_gpus for lane in lanes(1, 0, num_gpus=1)] == [1.0]
    assert [lane.num_gpus for lane in lanes(0, 3, num_gpus=2)] == [1.0, 1.0]


def test_lanes_of_small_cells_never_ask_for_more_than_the_gpus_have() -> None:
    for num_small in range(1, 20):
        for num_gpus in (1, 2, 3):
            planned = lanes(num_small, 0, num_gpus=num_gpus)
            assert sum(lane.num_gpus for lane in planned) <= num_gpus + 1e-9 or len(planned) == 1


def test_several_workers_of_a_small_cell_have_a_gpu_each() -> None:
    # With parts of GPUs both may get the same one, and NCCL refuses that.
    planned = lanes(4, 0, num_gpus=2, num_workers=2)
    assert [lane.num_gpus for lane in planned] == [1.0]
    assert [lane.num_gpus for lane in lanes(4, 0, num_gpus=4, num_workers=2)] == [1.0, 1.0]


def test_gpus_are_shared_once_large_cells_have_theirs() -> None:
    whole, other, *_ = lanes(num_small=6, num_large=2, num_gpus=2)
    assert [whole.name, other.name] == ["gpu-0", "gpu-1"]
    assert not may_share([whole, other], {}, 0.0)
    assert not may_share([whole, other], {"gpu-0"}, WHOLE_GPU_PATIENCE_S)
    assert may_share([whole, other], {"gpu-0", "gpu-1"}, 0.0)
    assert may_share([other], {"gpu-1"}, 0.0)  # the first one has ended
    assert may_share([], {}, 0.0)
    # Somebody else's work may hold a part of every GPU for long.
    assert may_share([whole, other], {}, WHOLE_GPU_PATIENCE_S + 1)


def test_the_largest_work_starts_first() -> None:
    work = {cell("b"): SMALL, cell("c"): LARGE, cell("a"): SMALL}
    assert [each.architecture for each in largest_first(work)] == ["c", "a", "b"]


def test_work_is_multiply_adds_of_a_step_times_steps(
    workspace: Workspace, make_params: Callable[..., Params]
) -> None:
    from tasks.config import Settings, load_catalogue
    from tasks.degrade import degrade
    from tasks.shards import shard

    params = make_params()
    download(params, load_catalogue(), Settings())
    degrade(scale=2)
    shard(params.data.train, scale=2, shape=params.shards)

    work = measure_work(params, params.cell("srcnn-x2"))

    # SRCNN 9-1-5 has 8,032 weights, each used once a pixel of the enlarged picture: 4 windows of
    # 24×24, 6 steps (Dong et al. 2016, section 3).
    assert work.step_multiply_adds == 8032 * 24 * 24 * 4
    assert work.multiply_adds == 6 * work.step_multiply_adds
    assert not work.is_large


@pytest.mark.parametrize(("multiply_adds", "is_large"), [(4e9, False), (6e9, True)])
def test_what_counts_as_large(multiply_adds: float, is_large: bool) -> None:
    assert Work(multiply_adds, 1e15).is_large is is_large


def test_what_is_waited_for_is_told_with_what_there_is() -> None:
    part = Lane("gpu-part-0", 4, 0.25, takes_large=False, takes_small=True)

    line = waiting_line(part, 2, {"CPU": 3.0}, {"CPU": 16.0, "GPU": 1.0}, 61.2)

    assert line == (
        "no worker has started for 61 s: 2 × (4 CPU and 0.25 GPU) wanted; free on the cluster,"
        " without what starting workers hold: 3 of 16 CPU, 0 of 1 GPU; still waiting"
    )
    # Without a GPU none is spoken of.
    on_cpu = waiting_line(Lane("cpu-0", 1, 0.0, True, True), 1, {}, {"CPU": 8.0, "GPU": 2.0}, 60)
    assert "GPU" not in on_cpu
    assert "0 of 8 CPU;" in on_cpu
