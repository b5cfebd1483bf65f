import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import models
from tasks.config import (
    Cell,
    Dataset,
    Duration,
    Params,
    Settings,
    dataset,
    load_catalogue,
    load_params,
    read_yaml,
)
from tasks.errors import ParamsError
from tests.conftest import REPOSITORY

MakeParams = Callable[..., Params]
PARAMETER_SETS = [REPOSITORY / "params.yaml", *sorted(REPOSITORY.glob("sets/*.yaml"))]

RECIPE: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 0.001,
    "loss": "mse",
    "batch_size": 4,
    "patch_px": 36,
    "train_for": "6 steps",
    "validate_every": "1 epoch",
}


def written(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return path


def changed(values: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """`values` with the value at a dotted place replaced, or removed by `...`."""
    *parents, last = where.split(".")
    inner = values
    for key in parents:
        inner = inner[key]
    inner[last] = value
    if value is ...:
        del inner[last]
    return values


def refusal(path: Path, values: Any) -> str:
    with pytest.raises(ParamsError) as caught:
        load_params(written(path, values))
    return str(caught.value)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("sed", 1, "sed: unknown key; check its spelling"),
        ("shards.patchpx", 48, "shards.patchpx: unknown key; check its spelling"),
        ("trained.srcnn.lr", 0.1, "trained.srcnn.lr: unknown key; check its spelling"),
        ("seed", ..., "seed: Field required"),
        ("trained.srcnn.loss", ..., "trained.srcnn.loss: Field required"),
        ("seed", "1", "seed: Input should be a valid integer (got '1')"),
        ("seed", True, "seed: Input should be a valid integer (got True)"),
        ("seed", 1.5, "seed: Input should be a valid integer"),
        ("seed", -1, "seed: Input should be greater than or equal to 0 (got -1)"),
        ("scales", 2, "scales: Input should be a valid array (got 2)"),
        ("scales", [5], "scales: scale 5 is not one of [2, 3, 4] (got [5])"),
        ("scales", [2, 2], "scales: [2, 2]: name each scale once, and at least one"),
        ("scales", [], "scales: []: name each scale once, and at least one"),
        ("data.train", [], "data: data.train names no data set"),
        ("data.test", ["a", "a"], "data: ['a'] stands here twice"),
        ("data.test", ["tiny_train"], "data: ['tiny_train'] would be trained on and tested on"),
        (
            "data.validation",
            ["b", "tiny_train"],
            "data: ['tiny_train'] would be trained on and tested on",
        ),
        ("data.train", [291], "data.train.0: Input should be a valid string (got 291)"),
        ("shards.patch_px", 50, "shards.patch_px: Input should be a multiple of 12 (got 50)"),
        ("shards.stride_px", 0, "shards.stride_px: Input should be greater than 0 (got 0)"),
        (
            "shards.shard_mib",
            5000,
            "shards.shard_mib: Input should be less than or equal to 4096 (got 5000)",
        ),
        ("training.num_threads", 0, "training.num_threads: Input should be greater than 0 (got 0)"),
        ("interpolations", ["nearest", "nearest"], "interpolations: ['nearest'] stands here twice"),
        (
            "interpolations",
            ["srcnn"],
            "interpolations: 'srcnn' has weights to train: list it under `trained`",
        ),
        (
            "trained",
            {"bicubic": RECIPE},
            "trained: 'bicubic' has nothing to train: list it under `interpolations`",
        ),
        (
            "joint",
            {"bicubic": RECIPE},
            "joint: 'bicubic' has nothing to train: list it under `interpolations`",
        ),
        ("joint", {"edsr": RECIPE}, "joint: 'edsr' serves one scale: list it under `trained`"),
        ("trained.srcnn", None, "trained.srcnn: Input should be an object (got None)"),
        (
            "trained.srcnn.patch_px",
            49,
            "whole file: srcnn.patch_px 49 exceeds shards.patch_px 48",
        ),
        (
            "trained.srcnn.optimizer",
            "adamw",
            "trained.srcnn.optimizer: Input should be 'adam' or 'sgd' (got 'adamw')",
        ),
        (
            "trained.srcnn.learning_rate",
            0,
            "trained.srcnn.learning_rate: Input should be greater than 0 (got 0)",
        ),
        (
            "trained.srcnn.learning_rate",
            "1e-4",
            "trained.srcnn.learning_rate: Input should be a valid number (got '1e-4')",
        ),
        ("trained.srcnn.betas", [0.9], "trained.srcnn.betas.1: Field required"),
        (
            "trained.srcnn.betas",
            [0.9, 1.5],
            "trained.srcnn.betas.1: Input should be less than 1 (got 1.5)",
        ),
        (
            "trained.srcnn.momentum",
            0.9,
            "trained.srcnn: momentum belongs to `optimizer: sgd`; adam has betas",
        ),
        (
            "trained.srcnn.train_for",
            600,
            "trained.srcnn.train_for: write 600 as '80 epochs' or '5000 steps'",
        ),
        (
            "trained.srcnn.train_for",
            "6 weeks",
            "trained.srcnn.train_for: write '6 weeks' as '80 epochs' or '5000 steps'",
        ),
        (
            "trained.srcnn.validate_every",
            "0 steps",
            "trained.srcnn.validate_every.count: Input should be greater than 0 (got 0)",
        ),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(
    where: str, value: Any, message: str, params_values: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"

    text = refusal(path, changed(params_values, where, value))

    assert text.startswith(f"{path}: {message}")
    assert "\n" not in text


def test_every_problem_of_a_file_is_named_at_once(
    params_values: dict[str, Any], tmp_path: Path
) -> None:
    values = changed(params_values, "seed", "one")
    values = changed(values, "shards.shard_mb", 4)

    lines = refusal(tmp_path / "p.yaml", values).splitlines()

    assert [line.removeprefix(f"{tmp_path}/p.yaml: ") for line in lines] == [
        "seed: Input should be a valid integer (got 'one')",
        "shards.shard_mb: unknown key; check its spelling",
    ]


@pytest.mark.parametrize("where", ["interpolations", "trained", "joint"])
def test_an_unknown_architecture_is_answered_with_the_known_ones(
    where: str, params_values: dict[str, Any], tmp_path: Path
) -> None:
    named = ["srcn"] if where == "interpolations" else {"srcn": RECIPE}

    text = refusal(tmp_path / "p.yaml", changed(params_values, where, named))

    known = ", ".join(models.names())
    place = {"interpolations": "0"}.get(where, "srcn")
    assert text.startswith(
        f"{tmp_path}/p.yaml: {where}.{place}: unknown architecture 'srcn'; known: {known}"
    )


def test_an_architecture_stands_under_trained_or_under_joint(
    params_values: dict[str, Any], tmp_path: Path
) -> None:
    values = changed(params_values, "trained.vdsr", RECIPE)
    values = changed(values, "joint.vdsr", RECIPE)

    expected = "whole file: ['vdsr'] stands under `trained` and under `joint`"
    assert refusal(tmp_path / "p.yaml", values) == f"{tmp_path}/p.yaml: {expected}"


def test_a_window_in_lr_pixels_is_a_multiple_of_every_scale(
    params_values: dict[str, Any], tmp_path: Path
) -> None:
    values = changed(params_values, "scales", [2, 4])
    values = changed(values, "trained", {"edsr": RECIPE | {"patch_px": 42}})

    expected = "whole file: edsr.patch_px 42 is no multiple of the scale 4"
    assert refusal(tmp_path / "p.yaml", values) == f"{tmp_path}/p.yaml: {expected}"
    # A network on the enlarged picture has a window of any size.
    assert load_params(written(tmp_path / "q.yaml", values | {"trained": {"srcnn": RECIPE}}))


def test_a_window_may_be_given_in_lr_pixels(
    params_values: dict[str, Any], tmp_path: Path, make_params: MakeParams
) -> None:
    recipe = {key: value for key, value in RECIPE.items() if key != "patch_px"}
    both, neither = RECIPE | {"lr_patch_px": 12}, recipe
    for wrong in (both, neither):
        expected = "trained.edsr: give patch_px (of the HR window) or lr_patch_px, and not both"
        text = refusal(tmp_path / "p.yaml", changed(params_values, "trained", {"edsr": wrong}))
        assert text == f"{tmp_path}/p.yaml: {expected}"

    values = changed(params_values, "trained", {"edsr": recipe | {"lr_patch_px": 13}})
    expected = "edsr.lr_patch_px 13, ×4 = 52 HR pixels, exceeds shards.patch_px 48"
    text = refusal(tmp_path / "p.yaml", values | {"scales": [2, 3, 4]})
    assert text == f"{tmp_path}/p.yaml: whole file: {expected}"

    params = make_params(scales=[2, 3], trained={"edsr": recipe | {"lr_patch_px": 13}})
    assert [params.recipe("edsr").window_px(scale) for scale in (2, 3)] == [26, 39]
    params = make_params(scales=[2, 3], trained={"edsr": RECIPE})
    assert [params.recipe("edsr").window_px(scale) for scale in (2, 3)] == [36, 36]


@pytest.mark.parametrize(
    ("schedule", "is_valid"),
    [
        ({}, True),
        ({"schedule": "cosine"}, True),
        ({"schedule": "step", "decay_every": "20 epochs", "decay_factor": 0.1}, True),
        ({"schedule": "step"}, False),
        ({"schedule": "step", "decay_every": "20 epochs"}, False),
        ({"schedule": "step", "decay_factor": 0.1}, False),
        ({"schedule": "cosine", "decay_factor": 0.1}, False),
        ({"decay_every": "20 epochs", "decay_factor": 0.1}, False),
    ],
)
def test_a_decay_belongs_to_the_step_schedule_and_is_whole(
    schedule: dict[str, Any], is_valid: bool, params_values: dict[str, Any], tmp_path: Path
) -> None:
    values = changed(params_values, "trained", {"srcnn": RECIPE | schedule})
    if is_valid:
        recipe = load_params(written(tmp_path / "p.yaml", values)).recipe("srcnn")
        assert recipe.schedule == schedule.get("schedule", "constant")
        return
    expected = "trained.srcnn: decay_every and decay_factor belong to `schedule: step`, both"
    assert refusal(tmp_path / "p.yaml", values) == f"{tmp_path}/p.yaml: {expected}"


def test_what_a_recipe_leaves_out_has_the_usual_value(make_params: MakeParams) -> None:
    recipe = make_params(trained={"srcnn": RECIPE}).recipe("srcnn")

    assert recipe.betas == (0.9, 0.999)  # PyTorch's and Adam's paper's
    assert (recipe.momentum, recipe.weight_decay) == (0.0, 0.0)
    assert (recipe.precision, recipe.loss_reduction) == ("fp32", "mean")
    assert recipe.gradient_clip_theta is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("seed: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("seed: !mine 1", "could not determine a constructor"),
        ("seed: 1\nseed: 2", 'found duplicate key "seed"'),
        ("seed: [1", "expected ',' or ']'"),
        ("seed: 2001-02-31", "day is out of range for month"),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ParamsError, match=re.escape(reason)) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path} is not valid YAML: ")


def test_what_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes("seed: 1 # für".encode("latin-1"))

    with pytest.raises(ParamsError, match=r"p\.yaml is not valid YAML: 'utf-8' codec"):
        read_yaml(path)


def test_a_missing_file_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ParamsError) as caught:
        load_params()
    assert str(caught.value) == f"there is no params.yaml in {tmp_path}; run sisr where it lies"


def test_a_folder_is_no_parameter_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"cannot be read: .*Is a directory"):
        load_params(tmp_path)


@pytest.mark.parametrize(("text", "got"), [("", "None"), ("- a", r"\['a'\]")])
def test_a_file_that_is_no_mapping_is_refused(text: str, got: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(ParamsError, match=rf"whole file: Input should be an object \(got {got}\)$"):
        load_params(path)


def test_a_date_must_be_quoted(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("seed: 2024-05-01", encoding="utf-8")

    with pytest.raises(ParamsError, match="date is not JSON serializable; quote dates"):
        load_params(path)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 0.0001), ("1.0e-4", 0.0001), ("2E-3", 0.002), (".5", 0.5)]
)
def test_a_learning_rate_may_be_written_with_an_exponent(
    text: str, value: float, params_values: dict[str, Any], tmp_path: Path
) -> None:
    path = written(tmp_path / "p.yaml", changed(params_values, "trained", {"srcnn": RECIPE}))
    path.write_text(path.read_text().replace("0.001", text), encoding="utf-8")

    assert load_params(path).recipe("srcnn").learning_rate == value


@pytest.mark.parametrize("text", [".inf", ".nan", "-1e-4"])
def test_a_learning_rate_is_finite_and_positive(
    text: str, params_values: dict[str, Any], tmp_path: Path
) -> None:
    path = written(tmp_path / "p.yaml", changed(params_values, "trained", {"srcnn": RECIPE}))
    path.write_text(path.read_text().replace("0.001", text), encoding="utf-8")

    with pytest.raises(ParamsError, match=r"trained\.srcnn\.learning_rate: Input should be"):
        load_params(path)


@pytest.mark.parametrize(
    ("text", "count", "unit", "num_steps"),
    [
        ("80 epochs", 80, "epochs", 560),
        ("1 epoch", 1, "epochs", 7),
        ("5000 steps", 5000, "steps", 5000),
        ("1 step", 1, "steps", 1),
    ],
)
def test_a_duration_reads_and_counts_as_it_is_written(
    text: str, count: int, unit: str, num_steps: int
) -> None:
    duration = Duration.model_validate(text)

    assert (duration.count, duration.unit) == (count, unit)
    assert duration.num_steps(steps_per_epoch=7) == num_steps
    assert str(duration) == f"{count} {unit}"


@pytest.mark.parametrize(
    "text", ["", "80", "epochs", "80epochs", "80  epochs", "-1 steps", "1.5 epochs", "80 epochs "]
)
def test_a_duration_has_one_form(text: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(f"write {text!r} as")):
        Duration.model_validate(text)


@given(count=st.integers(1, 10**12), unit=st.sampled_from(["steps", "epochs"]))
def test_a_duration_survives_json(count: int, unit: str) -> None:
    duration = Duration.model_validate(f"{count} {unit}")

    assert duration.model_dump_json() == f'"{count} {unit}"'
    assert Duration.model_validate_json(duration.model_dump_json()) == duration


def test_parameters_survive_json(make_params: MakeParams) -> None:
    stepped = {"schedule": "step", "decay_every": "20 epochs", "decay_factor": 0.1}
    params = make_params(scales=[4, 2], trained={"srcnn": RECIPE | stepped}, joint={"vdsr": RECIPE})

    again = Params.model_validate_json(params.model_dump_json())

    assert again == params
    decay = again.recipe("srcnn").decay_every
    assert decay is not None
    assert decay.num_steps(10) == 200
    assert json.loads(params.model_dump_json())["trained"]["srcnn"]["train_for"] == "6 steps"


def test_parameters_cannot_be_changed(make_params: MakeParams) -> None:
    params = make_params()

    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 2
    with pytest.raises(ValidationError, match="frozen"):
        params.recipe("srcnn").learning_rate = 1.0
    with pytest.raises(ValidationError, match="frozen"):
        Settings().mirror = "elsewhere"


def test_cells_are_each_architecture_and_scale_and_the_joint_trainings(
    make_params: MakeParams,
) -> None:
    params = make_params(
        scales=[2, 4], trained={"srcnn": RECIPE, "cnn_deep": RECIPE}, joint={"vdsr": RECIPE}
    )

    assert [cell.name for cell in params.cells] == [
        "srcnn-x2",
        "srcnn-x4",
        "cnn_deep-x2",
        "cnn_deep-x4",
        "vdsr",
    ]
    assert params.cells[1] == Cell(architecture="srcnn", scales=(4,), joint=False)
    assert params.cells[4] == Cell(architecture="vdsr", scales=(2, 4), joint=True)
    assert params.architectures == ("nearest", "bicubic", "srcnn", "cnn_deep", "vdsr")


def test_a_row_of_the_table_finds_its_training(make_params: MakeParams) -> None:
    params = make_params(scales=[2, 3], trained={"srcnn": RECIPE}, joint={"vdsr": RECIPE})

    assert params.cell_for("srcnn", 3) == params.cell("srcnn-x3")
    assert params.cell_for("vdsr", 2) == params.cell_for("vdsr", 3) == params.cell("vdsr")
    assert params.cell_for("bicubic", 2) is None
    assert params.cell_for("srcnn", 4) is None


def test_an_unknown_cell_is_answered_with_the_known_ones(make_params: MakeParams) -> None:
    with pytest.raises(ParamsError) as caught:
        make_params().cell("srcnn-x3")
    assert str(caught.value) == "unknown cell 'srcnn-x3'; params.yaml has: cnn_small-x2, srcnn-x2"


@pytest.mark.parametrize("path", PARAMETER_SETS, ids=lambda path: path.name)
def test_committed_parameter_sets_are_valid_and_name_data_sets_of_the_catalogue(
    path: Path,
) -> None:
    params = load_params(path)
    catalogue = load_catalogue(REPOSITORY / "datasets.yaml")

    # Read by another parser: nothing is dropped, changed or read differently.
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(params.scales) == plain["scales"]
    assert set(params.architectures) == {
        *plain["interpolations"],
        *plain["trained"],
        *plain["joint"],
    }
    assert params.cells
    for role in ("train", "validation", "test"):
        for name in plain["data"][role]:
            dataset(name, catalogue)


def test_the_committed_catalogue_holds_the_entries_as_written() -> None:
    catalogue = load_catalogue(REPOSITORY / "datasets.yaml")

    plain = yaml.safe_load((REPOSITORY / "datasets.yaml").read_text(encoding="utf-8"))
    assert {
        name: entry.model_dump(mode="json", exclude_defaults=True)
        for name, entry in catalogue.items()
    } == plain


def catalogue_refusal(tmp_path: Path, entries: Any) -> str:
    with pytest.raises(ParamsError) as caught:
        load_catalogue(written(tmp_path / "d.yaml", entries))
    return str(caught.value).removeprefix(f"{tmp_path}/d.yaml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"urll": "x"}, ": mine.urll: unknown key; check its spelling"),
        ({}, ": mine: give `url`, `archive` (for a mirror) or `installed`"),
        (
            {"installed": {"skimage": ["a.png"]}, "url": "x"},
            ": mine: give `installed`, or `url` and `archive`, not both",
        ),
        ({"url": 3}, ": mine.url: Input should be a valid string (got 3)"),
        ({"url": "x", "sha256": "abc"}, ": mine.sha256: String should match pattern"),
        (None, ": mine: Input should be an object (got None)"),
    ],
)
def test_a_wrong_catalogue_entry_is_refused_with_its_name(
    entry: Any, message: str, tmp_path: Path
) -> None:
    text = catalogue_refusal(tmp_path, {"good": {"url": "x"}, "mine": entry})

    assert message in text
    assert text.startswith(message)


def test_a_catalogue_is_a_mapping(tmp_path: Path) -> None:
    assert catalogue_refusal(tmp_path, ["a"]) == " must map names to data sets"


def test_a_data_set_may_have_a_number_for_a_name(tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text("291: {url: /pictures}\nother: {url: /elsewhere}\n", encoding="utf-8")

    catalogue = load_catalogue(path)

    assert dataset("291", catalogue) == Dataset(url="/pictures")
    with pytest.raises(ParamsError) as caught:
        dataset("set5", catalogue)
    assert str(caught.value) == "unknown data set 'set5'; datasets.yaml has: 291, other"


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings() == Settings(
        mirror=None,
        tracking_uri=None,
        ray_address=None,
        s3_endpoint_url=None,
        archive_cache=Path(".sisr/archives"),
        node_cache=Path.home() / ".cache/sisr",
    )
    monkeypatch.setenv("SISR_MIRROR", "s3://bucket/sets")
    monkeypatch.setenv("SISR_ARCHIVE_CACHE", "/var/cache/sisr")
    monkeypatch.setenv("SISR_SOMETHING_ELSE", "1")

    assert Settings().mirror == "s3://bucket/sets"
    # Set but empty is not set; a folder is the same one from everywhere.
    monkeypatch.setenv("SISR_STORAGE", "")
    assert Settings().storage is None
    monkeypatch.setenv("SISR_STORAGE", "shared")
    assert Settings().storage == str(Path.cwd() / "shared")
    monkeypatch.setenv("SISR_STORAGE", "s3://bucket/lab")
    assert Settings().storage == "s3://bucket/lab"
    assert Settings().archive_cache == Path("/var/cache/sisr")


@pytest.mark.parametrize(
    "name",
    ["set5", "291", "my pictures", "DIV2K v1.0", "Größe-2", "検証", "a", "a_b.c-d", "a" * 100],
)
def test_sensible_names_of_data_sets_are_taken(
    name: str, make_params: MakeParams, tmp_path: Path
) -> None:
    data = {"train": [name], "validation": ["v"], "test": ["t"]}

    assert make_params(data=data).data.train == (name,)
    path = written(tmp_path / "d.yaml", {name: {"url": "/pictures"}})
    assert list(load_catalogue(path)) == [name]


def test_aliases_of_a_usual_size_are_taken(params_values: dict[str, Any], tmp_path: Path) -> None:
    plain = written(tmp_path / "p.yaml", changed(params_values, "trained", {"srcnn": RECIPE}))
    aliased = tmp_path / "q.yaml"
    text = plain.read_text().replace('"seed": 1', '"seed": &one 1')
    aliased.write_text(text.replace('"num_threads": 1', '"num_threads": *one'))

    assert "*one" in aliased.read_text()
    assert load_params(aliased) == load_params(plain)


def test_the_largest_seed_is_one_that_engines_take(make_params: MakeParams) -> None:
    assert make_params(seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(ValidationError, match="less than 9223372036854775808"):
        make_params(seed=2**63)
