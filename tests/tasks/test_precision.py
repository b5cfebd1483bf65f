"""What may be rounded when, and what is said of it. The flags exist without a GPU, too."""

from collections.abc import Callable, Iterator

import pytest
import torch

import models
from tasks import evaluate
from tasks.precision import allow_tf32, exact_fp32, used_precision


def flags() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = flags()
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("before", [(True, True), (False, True), (False, False)])
def test_exact_within_and_as_before_after_it(before: tuple[bool, bool]) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

    with pytest.raises(ZeroDivisionError), exact_fp32():
        assert flags() == (False, False)
        assert torch.backends.cudnn.enabled  # not turned off along with TF32
        raise ZeroDivisionError

    assert flags() == before


def test_both_are_allowed_or_neither() -> None:
    allow_tf32(True)
    assert flags() == (True, True)
    allow_tf32(False)
    assert flags() == (False, False)


@pytest.mark.parametrize(
    ("asked", "device", "capability", "used"),
    [
        ("tf32", "cpu", None, "fp32"),
        ("bf16", "cpu", None, "bf16"),
        ("fp32", "cuda", (9, 0), "fp32"),
        ("tf32", "cuda", (7, 5), "fp32"),  # Turing: tensor cores for half precision alone
        ("tf32", "cuda", (8, 0), "tf32"),  # Ampere
        ("tf32", "cuda", (9, 0), "tf32"),
    ],
)
def test_what_a_device_makes_of_it(
    asked: str,
    device: str,
    capability: tuple[int, int] | None,
    used: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert used_precision(asked, torch.device(device)) == used


def test_tables_are_measured_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[bool, bool]] = {}

    def look(what: str) -> Callable[..., list[object]]:
        return lambda *_: seen.update({what: flags()}) or []

    monkeypatch.setattr(evaluate, "_evaluate_dataset", look("quality"))
    monkeypatch.setattr(evaluate, "_latency", look("time"))
    monkeypatch.setattr(evaluate, "data_sha256", lambda _: "")
    allow_tf32(True)

    evaluate.evaluate_network(models.create("cnn_small", 2), "cnn_small", 2, ["set5"])

    assert seen == {"quality": (False, False), "time": (False, False)}
