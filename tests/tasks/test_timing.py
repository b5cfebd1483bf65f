import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tasks.evaluate
import tasks.timing
from models.registry import create, get
from tasks.timing import (
    MAX_REPEATS,
    MAX_WARM_UPS,
    MIN_REPEATS,
    device_name,
    measure_latency,
)

CPU = torch.device("cpu")
MIB = 2**20


class Clock:
    """Stands in for the machine's: time passes only where a network says so."""

    now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tasks.timing, "time", clock)
    return clock


class Network(nn.Module):
    """Each call takes the next of these seconds on the clock, and the last ones the last."""

    def __init__(self, clock: Clock, *calls_s: float) -> None:
        super().__init__()
        self.clock, self.calls_s = clock, calls_s
        self.shapes: list[tuple[int, ...]] = []
        self.was_training = False

    def forward(self, x: Tensor) -> Tensor:
        self.clock.now_s += self.calls_s[min(len(self.shapes), len(self.calls_s) - 1)]
        self.shapes.append(tuple(x.shape))
        self.was_training |= self.training
        return x


def test_median_and_quartiles(clock: Clock) -> None:
    # one call for memory, five to warm up, then 1 s to 5 s until 15 s are over
    network = Network(clock, *[0.0] * 6, 3, 1, 5, 2, 4)
    latency = measure_latency(network, get("vdsr"), 2, 16, CPU, budget_s=15)
    assert latency.num_repeats == 5
    quartiles = (latency.latency_p25_ms, latency.latency_ms, latency.latency_p75_ms)
    assert quartiles == pytest.approx((2000, 3000, 4000))


def test_slow_first_calls_are_not_measured(clock: Clock) -> None:
    network = Network(clock, 0.3, 0.3, 0.1, 0.001)
    latency = measure_latency(network, get("vdsr"), 2, 16, CPU, budget_s=5)
    assert latency.latency_p75_ms == pytest.approx(1)
    assert latency.num_repeats == MAX_REPEATS
    assert len(network.shapes) == 1 + MAX_WARM_UPS + MAX_REPEATS


def test_a_slow_network_is_called_four_times(clock: Clock) -> None:
    network = Network(clock, 60)
    latency = measure_latency(network, get("lesrcnn"), 3, 256, CPU, budget_s=5)
    assert latency.num_repeats == MIN_REPEATS == 3
    assert network.shapes == [(1, 3, 86, 86)] * 4
    assert latency.input_px == 86
    assert latency.latency_ms == pytest.approx(60_000)


def test_the_budget_is_kept(clock: Clock) -> None:
    measure_latency(Network(clock, 0.4), get("vdsr"), 2, 16, CPU, budget_s=5)
    assert 5 <= clock.now_s < 5.4 + 1e-9


def test_the_real_clock() -> None:
    class Sleeper(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.02)
            return x

    # sleep never returns early
    assert measure_latency(Sleeper(), get("vdsr"), 2, 16, CPU, budget_s=0.2).latency_ms >= 20


def test_the_network_is_set_to_evaluation(clock: Clock) -> None:
    network = Network(clock, 1).train()
    measure_latency(network, get("vdsr"), 2, 8, CPU, budget_s=0.01)
    assert not network.was_training


def test_a_pictures_time_is_the_median_of_three_calls_after_a_first(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.evaluate, "time", clock)
    network = Network(clock, 9, 1, 5, 2)
    _, latency_ms = tasks.evaluate._timed(network, torch.zeros(1, 1, 4, 4))
    assert latency_ms == pytest.approx(2000)
    assert len(network.shapes) == 4


def test_a_picture_that_takes_long_is_computed_once(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.evaluate, "time", clock)
    for seconds, num_calls in ((15, 4), (16, 1)):  # four calls of 15 s are the most, 60 s
        network = Network(clock, seconds)
        _, latency_ms = tasks.evaluate._timed(network, torch.zeros(1, 1, 4, 4))
        assert (latency_ms, len(network.shapes)) == (pytest.approx(1000 * seconds), num_calls)


def test_the_matrix_rate_in_closed_form(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    # Products of 2 s, the fourth of 0.5 s: 1024³ multiplications and as many additions.
    times_s = iter([9, 2, 2, 2, 0.5, 2])

    def mm(a: Tensor, b: Tensor) -> Tensor:
        assert a.shape == b.shape == (1024, 1024)
        clock.now_s += next(times_s)
        return a

    monkeypatch.setattr(torch, "mm", mm)
    tasks.timing.matrix_gflops.cache_clear()
    try:
        assert tasks.timing.matrix_gflops(CPU, "fp32") == pytest.approx(2 * 1024**3 / 0.5 / 1e9)
    finally:
        tasks.timing.matrix_gflops.cache_clear()


def test_without_memory_no_matrix_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    def mm(*_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "mm", mm)
    tasks.timing.matrix_gflops.cache_clear()
    try:
        assert tasks.timing.matrix_gflops(CPU, "fp32") is None
    finally:
        tasks.timing.matrix_gflops.cache_clear()


def test_random_numbers_stay_as_they_were() -> None:
    state = torch.get_rng_state()
    measure_latency(nn.Identity(), get("vdsr"), 2, 8, CPU, budget_s=0.01)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_the_number_depends_on_stands_beside_it() -> None:
    latency = measure_latency(nn.Identity(), get("vdsr"), 2, 8, CPU, budget_s=0.01)
    assert latency.num_threads == torch.get_num_threads()
    assert latency.precision == "fp32"
    assert latency.device == device_name(CPU) != ""


def test_the_processor_is_called_what_linux_calls_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 3000\n")
    monkeypatch.setattr(tasks.timing, "Path", lambda _: tmp_path / "cpuinfo")
    assert device_name(CPU) == "Abacus 3000"


@pytest.mark.parametrize(("is_allowed", "precision"), [(True, "tf32"), (False, "fp32")])
def test_rounding_to_tf32_is_said(
    is_allowed: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=is_allowed):
        assert tasks.timing._precision(torch.device("cuda")) == precision
        assert tasks.timing._precision(CPU) == "fp32"


def test_peak_memory_in_closed_form() -> None:
    # 1→64→1 channels on 256×256: while the ReLU runs, the input and two pictures of 64 channels
    network = nn.Sequential(
        nn.Conv2d(1, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 1, 3, padding=1)
    )
    latency = measure_latency(network, get("vdsr"), 2, 256, CPU, budget_s=0.01)
    num_weights = sum(parameter.numel() for parameter in network.parameters())
    expected = 4 * (num_weights + (1 + 2 * 64) * 256**2) / MIB
    assert latency.peak_memory_mib == pytest.approx(expected, rel=1e-12)


def test_views_and_in_place_results_take_no_memory() -> None:
    network = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Flatten(1, 2), nn.ReLU(inplace=True))
    latency = measure_latency(network, get("vdsr"), 2, 64, CPU, budget_s=0.01)
    assert latency.peak_memory_mib == 4 * 64**2 / MIB


@pytest.mark.parametrize("name", ["vdsr_5", "wdsr_a", "bicubic"])
def test_real_networks(name: str) -> None:
    network = create(name, 2)
    latency = measure_latency(network, get(name), 2, 32, CPU, budget_s=0.05)
    assert latency.latency_ms > 0
    num_bytes = 4 * sum(parameter.numel() for parameter in network.parameters())
    assert latency.peak_memory_mib > num_bytes / MIB


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu() -> None:
    device = torch.device("cuda")
    network = create("vdsr_5", 2)
    latency = measure_latency(network, get("vdsr_5"), 2, 256, device, budget_s=1)
    assert latency.device == torch.cuda.get_device_name(device)
    assert latency.peak_memory_mib > 64 * 256**2 * 4 / MIB
    assert latency.precision == tasks.timing._precision(device)
