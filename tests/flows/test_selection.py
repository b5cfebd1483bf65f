"""Which stages a run with chosen architectures and scales makes."""

from collections.abc import Callable

import pytest

from flows.selection import Selection, cell_of, made_by, split
from tasks.config import Params
from tasks.errors import ParamsError


def test_a_stage_name_is_an_architecture_and_perhaps_a_scale() -> None:
    assert split("cnn_small-2") == ("cnn_small", 2)
    assert split("vdsr") == ("vdsr", None)


def test_everything_is_taken_unless_something_is_chosen() -> None:
    stages = ["download", "shard@3", "train@srcnn-2", "train_joint@vdsr", "evaluate@srcnn-2"]
    assert all(Selection().takes(stage) for stage in stages)

    chosen = Selection(architectures=("vdsr",), scales=(3,))
    assert [chosen.takes(stage) for stage in stages] == [True, True, False, True, False]
    assert chosen.takes("evaluate_joint@vdsr-3")
    assert not chosen.takes("evaluate_joint@vdsr-2")
    assert not chosen.takes("evaluate_interpolation@bicubic-3")
    assert Selection(scales=(2,)).takes("evaluate_interpolation@bicubic-2")


def test_a_stage_makes_a_training_or_a_row(make_params: Callable[..., Params]) -> None:
    params = make_params(scales=[2, 3])
    assert made_by("train@srcnn-3") == params.cell("srcnn-x3").name
    assert made_by("train_joint@vdsr") == "vdsr"
    assert made_by("evaluate_joint@vdsr-3") == "vdsr-x3"


def test_what_is_stale_and_not_chosen_is_left_out_at_its_own_scale() -> None:
    stale = [
        "shard@3",
        "train@srcnn-2",
        "train_joint@vdsr",
        "evaluate_joint@vdsr-2",
        "evaluate_joint@vdsr-3",
        "evaluate_interpolation@bicubic-3",
        "report",
    ]
    assert Selection().left_out(stale) == set()
    assert Selection(architectures=("srcnn",)).left_out(stale) == {
        *("vdsr", "vdsr-x2", "vdsr-x3", "bicubic-x3"),
    }
    assert Selection(scales=(2,)).left_out(stale) == {"vdsr-x3", "bicubic-x3"}


def test_a_stage_belongs_to_its_cell(make_params: Callable[..., Params]) -> None:
    params = make_params(scales=[2, 3])
    assert cell_of(params, "train@srcnn-3") == params.cell("srcnn-x3")
    assert cell_of(params, "evaluate@cnn_small-2") == params.cell("cnn_small-x2")
    assert cell_of(params, "evaluate_interpolation@bicubic-2") is None


def test_what_params_yaml_does_not_have_is_refused(make_params: Callable[..., Params]) -> None:
    params = make_params()
    Selection(("srcnn", "bicubic"), (2,)).check(params)
    with pytest.raises(ParamsError, match=r"'edrs' is not in params\.yaml; it has: nearest, bicu"):
        Selection(architectures=("edrs",)).check(params)
    with pytest.raises(ParamsError, match=r"scale 4 is not in params\.yaml: \[2\]"):
        Selection(scales=(4,)).check(params)
