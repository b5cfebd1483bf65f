"""What a run asks DVC, and when it asks again."""

from collections.abc import Callable

import pytest

from flows import stages
from flows.selection import Selection
from flows.stages import Stages
from tasks import pipeline
from tasks.config import Params, load_params
from tasks.errors import ParamsError
from tests.conftest import Workspace

TRAIN, EVALUATE = ("train",), ("evaluate",)


class Dvc:
    """Stands in for DVC: three stages, each stale until it is recorded or restored."""

    def __init__(self) -> None:
        self.stale = {"download": "new", "train@srcnn-2": "new", "evaluate@srcnn-2": "new"}
        self.names = list(self.stale)
        self.restorable: set[str] = set()
        self.num_asked = 0
        self.recorded_with: dict[str, str] = {}

    def stale_stages(self) -> dict[str, str]:
        self.num_asked += 1
        return dict(self.stale)

    def record(self, stage: str, code: dict[str, str]) -> None:
        self.recorded_with = code
        del self.stale[stage]

    def restore(self, stage: str) -> bool:
        return stage in self.restorable and self.stale.pop(stage) is not None


@pytest.fixture
def dvc(monkeypatch: pytest.MonkeyPatch) -> Dvc:
    dvc = Dvc()
    monkeypatch.setattr(stages, "stale_stages", dvc.stale_stages)
    monkeypatch.setattr(stages, "is_restorable", lambda stage: True)
    monkeypatch.setattr(pipeline, "record", dvc.record)
    monkeypatch.setattr(pipeline, "restore", dvc.restore)
    monkeypatch.setattr(pipeline, "stage_names", lambda: dvc.names)
    return dvc


@pytest.fixture
def make(workspace: Workspace) -> Callable[..., Stages]:
    return lambda *choice: Stages(load_params(), Selection(*choice))


def test_dvc_is_asked_again_only_after_something_was_made(
    dvc: Dvc, make: Callable[..., Stages]
) -> None:
    run = make()

    assert run.stale_of(TRAIN) == ["train@srcnn-2"]
    assert run.to_make(EVALUATE) == ["evaluate@srcnn-2"]
    assert dvc.num_asked == 1

    run.record("train@srcnn-2")

    assert run.stale_of(TRAIN) == []
    assert dvc.num_asked == 2


def test_what_dvc_restores_is_not_made_and_counts_as_made(
    dvc: Dvc, make: Callable[..., Stages]
) -> None:
    dvc.restorable = {"train@srcnn-2"}
    run = make()

    assert run.to_make(TRAIN) == []
    assert list(run.stale()) == ["download", "evaluate@srcnn-2"]


def test_a_forced_run_makes_what_it_was_asked_for_and_restores_nothing(
    dvc: Dvc, make: Callable[..., Stages]
) -> None:
    dvc.restorable = {"train@srcnn-2"}

    assert make(None, None, True).to_make(TRAIN) == ["train@srcnn-2"]
    assert "train@srcnn-2" in dvc.stale
    del dvc.stale["evaluate@srcnn-2"]
    assert make(None, None, True).to_make(EVALUATE) == ["evaluate@srcnn-2"]
    assert make(("vdsr",), None, True).to_make(EVALUATE) == []


def test_nothing_is_recorded_under_other_parameters(
    dvc: Dvc, make: Callable[..., Stages], workspace: Workspace
) -> None:
    run = make()
    changed: Params = workspace.write_params(seed=77)
    assert changed.seed == 77

    with pytest.raises(ParamsError, match=r"train@srcnn-2 is not recorded"):
        run.record("train@srcnn-2")
    assert "train@srcnn-2" in dvc.stale


def test_what_is_recorded_is_the_code_of_the_runs_beginning(
    dvc: Dvc, make: Callable[..., Stages], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "code_sums", lambda: {"tasks/train.py": "at the beginning"})
    run = make()
    monkeypatch.setattr(pipeline, "code_sums", lambda: {"tasks/train.py": "edited"})

    run.record("train@srcnn-2")

    assert dvc.recorded_with == {"tasks/train.py": "at the beginning"}
