"""params.yaml -> one frozen `Params` object; a typo fails before the first second of compute.

`params.yaml` says what is made (every number that decides a result), and
`datasets.yaml` where pictures come from. `Settings` says where and how it is
made on this machine (mirror, stores, cluster): environment variables that
start with `SISR_`, because they must not make a result stale.
"""

import json
import re
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import models
from tasks.errors import ParamsError

PARAMS_FILE = Path("params.yaml")
CATALOGUE_FILE = Path("datasets.yaml")
Role = Literal["train", "validation", "test"]
ROLES: tuple[Role, ...] = ("train", "validation", "test")

# A parameter file is a few pages; one that is more is no parameter file, or a bomb.
_MAX_YAML_BYTES = 2**20
_MAX_YAML_VALUES = 100_000
_MAX_YAML_DEPTH = 50
_MAX_YAML_BRACKETS = 200
# Data sets become folders, rows of tables and MLflow's metrics: letters and digits of any
# language, then also spaces and . _ -
_DATASET_NAME = re.compile(r"\w(?:[\w .-]*\w)?")
_MAX_NAME_BYTES = 100

# Every scale divides it, so one HR patch side serves all of them.
PATCH_MULTIPLE_PX = 12


_Model = TypeVar("_Model", bound=BaseModel)


class _Section(BaseModel):
    """Frozen, and a key nobody reads is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Duration(_Section):
    """A length of training: `80 epochs` or `600000 steps`."""

    count: Annotated[int, Field(gt=0)]
    unit: Literal["steps", "epochs"]

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        match = re.fullmatch(r"(\d+) (step|epoch)s?", value) if isinstance(value, str) else None
        if not match:
            raise ValueError(f"write {value!r} as '80 epochs' or '5000 steps'")
        return {"count": int(match[1]), "unit": match[2] + "s"}

    def num_steps(self, steps_per_epoch: int) -> int:
        """This length in optimizer steps."""
        return self.count * (steps_per_epoch if self.unit == "epochs" else 1)

    @model_serializer
    def __str__(self) -> str:
        return f"{self.count} {self.unit}"


_Beta = Annotated[float, Field(ge=0, lt=1)]


class Recipe(_Section):
    """How one architecture is trained, as its paper has it."""

    optimizer: Literal["adam", "sgd"]
    learning_rate: Annotated[float, Field(gt=0)]
    last_layer_learning_rate: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "step", "cosine"] = "constant"
    decay_every: Duration | None = None
    decay_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    # θ of the VDSR paper: every gradient is clipped to ±θ/γ, γ the current learning rate.
    gradient_clip_theta: Annotated[float, Field(gt=0)] | None = None
    loss: Literal["mse", "l1"]
    # `sum` adds up a picture's pixels (and averages over the batch).
    loss_reduction: Literal["mean", "sum"] = "mean"
    batch_size: Annotated[int, Field(gt=0)]
    # Side of the window that the network sees, a random one of each stored patch: of the HR window,
    # the same at every scale, or of the LR window, `scale` times as large in the HR patch.
    patch_px: Annotated[int, Field(gt=0)] | None = None
    lr_patch_px: Annotated[int, Field(gt=0)] | None = None
    train_for: Duration
    validate_every: Duration
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Self:
        given = (self.decay_every is not None, self.decay_factor is not None)
        if given != ((self.schedule == "step"),) * 2:
            raise ValueError("decay_every and decay_factor belong to `schedule: step`, both")
        if self.optimizer == "adam" and self.momentum:
            raise ValueError("momentum belongs to `optimizer: sgd`; adam has betas")
        return self

    @model_validator(mode="after")
    def _one_window(self) -> Self:
        if (self.patch_px is None) == (self.lr_patch_px is None):
            raise ValueError("give patch_px (of the HR window) or lr_patch_px, and not both")
        return self

    def window_px(self, scale: int) -> int:
        """Side of the HR window at a scale, in pixels."""
        if self.lr_patch_px is not None:
            return self.lr_patch_px * scale
        assert self.patch_px is not None
        return self.patch_px


class Shards(_Section):
    """How training patches are cut and packed."""

    patch_px: Annotated[int, Field(gt=0, multiple_of=PATCH_MULTIPLE_PX)]
    stride_px: Annotated[int, Field(gt=0, multiple_of=PATCH_MULTIPLE_PX)]
    shard_mib: Annotated[int, Field(gt=0, le=4096)]


def _refuse_twice(names: tuple[str, ...]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{twice} stands here twice")


def _plain_name(name: str) -> str:
    if not _DATASET_NAME.fullmatch(name) or len(name.encode()) > _MAX_NAME_BYTES:
        raise ValueError(
            f"{name!r} cannot name a data set, whose folder is called so: use letters and digits,"
            f" and between them also spaces and . _ -, at most {_MAX_NAME_BYTES} bytes"
        )
    return name


DatasetName = Annotated[str, AfterValidator(_plain_name)]


class Data(_Section):
    """Which data sets play which role."""

    train: tuple[DatasetName, ...]
    validation: tuple[DatasetName, ...]
    test: tuple[DatasetName, ...]

    @model_validator(mode="after")
    def _no_leak(self) -> Self:
        for role in ROLES:
            if not self.of(role):
                raise ValueError(f"data.{role} names no data set")
            _refuse_twice(self.of(role))
        leaked = set(self.train) & (set(self.validation) | set(self.test))
        if leaked:
            raise ValueError(f"{sorted(leaked)} would be trained on and tested on")
        return self

    def of(self, role: Role) -> tuple[str, ...]:
        """The data sets of one role."""
        named: tuple[str, ...] = getattr(self, role)
        return named


class Training(_Section):
    """What all cells share."""

    # Part of the numbers: how a sum is split over threads decides its last bits.
    num_threads: Annotated[int, Field(gt=0)]
    # Workers of one training, each on a device of its own: how a batch is split decides the same.
    num_workers: Annotated[int, Field(gt=0)] = 1
    # torch.compile of the network: other kernels, so other last bits.
    compile: bool = False


class Cell(_Section):
    """One training: an architecture and the scale, or scales, that it serves."""

    architecture: str
    scales: tuple[int, ...]
    joint: bool

    @property
    def name(self) -> str:
        """`srcnn-x2`, or `vdsr` for one training that serves several scales."""
        return self.architecture if self.joint else f"{self.architecture}-x{self.scales[0]}"


def _check_window(name: str, recipe: Recipe, scale: int, stored_px: int) -> None:
    window_px = recipe.window_px(scale)
    said = f"{name}.patch_px {window_px}"
    if recipe.lr_patch_px is not None:
        said = f"{name}.lr_patch_px {recipe.lr_patch_px}, ×{scale} = {window_px} HR pixels,"
    if window_px > stored_px:
        raise ValueError(f"{said} exceeds shards.patch_px {stored_px}")
    if not models.get(name).enlarged and window_px % scale:
        raise ValueError(f"{said} is no multiple of the scale {scale}")


def _known(name: str) -> str:
    models.get(name)
    return name


ArchitectureName = Annotated[str, AfterValidator(_known)]


class Params(_Section):
    """All of params.yaml."""

    # Engines take seeds of 64 bits with a sign.
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    scales: tuple[int, ...]
    data: Data
    shards: Shards
    training: Training
    interpolations: tuple[ArchitectureName, ...]
    trained: dict[ArchitectureName, Recipe]
    joint: dict[ArchitectureName, Recipe]

    @field_validator("scales")
    @classmethod
    def _known_scales(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        if not scales or len(set(scales)) != len(scales):
            raise ValueError(f"{list(scales)}: name each scale once, and at least one")
        for scale in scales:
            if scale not in models.SCALES:
                raise ValueError(f"scale {scale} is not one of {list(models.SCALES)}")
        return scales

    @field_validator("interpolations", "trained", "joint")
    @classmethod
    def _right_place(cls, named: Any, info: ValidationInfo) -> Any:
        _refuse_twice(tuple(named))
        for name in named:
            architecture = models.get(name)
            if architecture.trainable != (info.field_name != "interpolations"):
                what, where = ("nothing", "interpolations")
                if architecture.trainable:
                    what, where = ("weights", "trained")
                raise ValueError(f"{name!r} has {what} to train: list it under `{where}`")
            if info.field_name == "joint" and not architecture.multi_scale:
                raise ValueError(f"{name!r} serves one scale: list it under `trained`")
        return named

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        twice = set(self.trained) & set(self.joint)
        if twice:
            raise ValueError(f"{sorted(twice)} stands under `trained` and under `joint`")
        for name, recipe in (self.trained | self.joint).items():
            for scale in self.scales:
                _check_window(name, recipe, scale, self.shards.patch_px)
        return self

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every training of this benchmark."""
        single = (
            Cell(architecture=name, scales=(scale,), joint=False)
            for name in self.trained
            for scale in self.scales
        )
        joint = (Cell(architecture=name, scales=self.scales, joint=True) for name in self.joint)
        return (*single, *joint)

    @property
    def architectures(self) -> tuple[str, ...]:
        """Every architecture of the tables, interpolations first."""
        return (*self.interpolations, *self.trained, *self.joint)

    def cell(self, name: str) -> Cell:
        """The training of that name.

        Raises:
            ParamsError: there is none.
        """
        for cell in self.cells:
            if cell.name == name:
                return cell
        known = ", ".join(cell.name for cell in self.cells)
        raise ParamsError(f"unknown cell {name!r}; params.yaml has: {known}")

    def recipe(self, architecture: str) -> Recipe:
        """How that architecture is trained."""
        return (self.trained | self.joint)[architecture]

    def cell_for(self, architecture: str, scale: int) -> Cell | None:
        """The training that serves this row of the table; none for interpolations."""
        for cell in self.cells:
            if cell.architecture == architecture and scale in cell.scales:
                return cell
        return None


class Dataset(_Section):
    """A catalogue entry: where pictures come from and where the HR ones lie.

    Either `installed` (pictures that installed packages ship: package ->
    files), or an archive or folder at `url` (https, http, s3, file, or a
    plain path). With a mirror, an archive is `<mirror>/<archive>`.
    """

    url: str | None = None
    archive: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    images: str = "**/*"
    installed: dict[str, tuple[str, ...]] | None = None
    note: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.installed is not None and (self.url or self.archive):
            raise ValueError("give `installed`, or `url` and `archive`, not both")
        if self.installed is None and not (self.url or self.archive):
            raise ValueError("give `url`, `archive` (for a mirror) or `installed`")
        return self

    @field_validator("archive")
    @classmethod
    def _archive_is_a_file_name(cls, archive: str | None) -> str | None:
        if archive is not None and not _stays_inside(archive):
            raise ValueError(f"{archive!r} must be a file name or a path below the mirror")
        return archive

    @field_validator("installed")
    @classmethod
    def _installed_are_files_of_packages(
        cls, installed: dict[str, tuple[str, ...]] | None
    ) -> dict[str, tuple[str, ...]] | None:
        for package, files in (installed or {}).items():
            # Of `a.b`, looking for `b` would import, that is run, `a`.
            if not package.isidentifier():
                raise ValueError(f"{package!r} is not the name of a package, like skimage")
            for file in files:
                if not _stays_inside(file):
                    raise ValueError(f"{file!r} must be a path below the package's folder")
        return installed


def _stays_inside(path: str) -> bool:
    """Whether a relative path stays below the folder that it starts from."""
    parts = PurePosixPath(path).parts
    return bool(parts) and path.isprintable() and parts[0] != "/" and ".." not in parts


class Settings(BaseSettings):
    """Where and how things are made here: `SISR_…` in the environment.

    None of these changes a result, so none makes a stage stale.
    """

    model_config = SettingsConfigDict(
        env_prefix="SISR_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    # s3://bucket/prefix that everything shared lives under: archives, DVC's remote, checkpoints,
    # MLflow's artifacts. Without it, all of that stays in the workspace.
    storage: str | None = None
    # https://, http://, s3:// or file:// folder that holds the archives.
    mirror: str | None = None
    # MLflow's store; the default is a SQLite file and a folder in the workspace.
    tracking_uri: str | None = None
    # An existing Ray cluster; without one a local Ray starts and ends with the run.
    ray_address: str | None = None
    # Any S3-compatible endpoint; credentials come from the usual AWS environment.
    s3_endpoint_url: str | None = None
    # Where fetched archives are kept between runs.
    archive_cache: Path = Path(".sisr/archives")
    # Where a node of a cluster keeps the inputs it has fetched; each node asks its own environment.
    node_cache: Path = Field(default_factory=lambda: Path.home() / ".cache" / "sisr")

    @field_validator("archive_cache", "node_cache")
    @classmethod
    def _of_this_user(cls, folder: Path) -> Path:
        try:
            return folder.expanduser()
        except RuntimeError as error:
            raise ValueError(f"there is no home folder for {str(folder)!r}") from error

    @field_validator("storage")
    @classmethod
    def _same_folder_from_everywhere(cls, storage: str | None) -> str | None:
        # Workers stand elsewhere.
        if storage is None or "://" in storage:
            return storage
        return str(Path(storage).expanduser().absolute())


def read_yaml(path: Path) -> Any:
    """The contents of a YAML file, read by the same parser as DVC's.

    Raises:
        ParamsError: no such file, not YAML, a tag, a key given twice, too large or too deep.
    """
    text = _text(path)
    if _bracket_depth(text) > _MAX_YAML_BRACKETS:  # the parser's time grows with its square
        raise ParamsError(_too_deep(path))
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, ArithmeticError, LookupError, TypeError) as error:
        raise ParamsError(
            f"{path} is not valid YAML: {error}; write plain values, each key once"
        ) from error
    except RecursionError as error:
        raise ParamsError(_too_deep(path)) from error
    _check_extent(value, path)
    return value


def _text(path: Path) -> str:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would keep us waiting
            raise ParamsError(f"{path} is no file; give a file")
        if path.is_file() and path.stat().st_size > _MAX_YAML_BYTES:
            raise ParamsError(
                f"{path} has {path.stat().st_size} bytes; parameters need fewer than"
                f" {_MAX_YAML_BYTES}: give another file"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"there is no {path} in {Path.cwd()}; run sisr where it lies") from None
    except OSError as error:
        raise ParamsError(f"{path} cannot be read: {error.strerror}; give a file") from error
    except ValueError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}; save it as UTF-8") from error


def _bracket_depth(text: str) -> int:
    """The deepest nesting of brackets, were all of them YAML's and none in a comment."""
    depth = deepest = 0
    for character in re.findall(r"[][{}]", text):
        depth = depth + 1 if character in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _check_extent(value: Any, path: Path) -> None:
    """Refuse what an alias repeats a thousandfold, or puts into itself, before it is written out.

    Counts as one who writes all aliases out would.
    """
    num_values, waiting = 0, [(value, 0)]
    while waiting:
        inner, depth = waiting.pop()
        num_values += 1
        if depth > _MAX_YAML_DEPTH:
            raise ParamsError(_too_deep(path))
        if num_values > _MAX_YAML_VALUES:
            raise ParamsError(
                f"{path} means more than {_MAX_YAML_VALUES} values once its aliases (*name) are"
                " written out; write out what you mean"
            )
        if isinstance(inner, dict):
            waiting += [(each, depth + 1) for pair in inner.items() for each in pair]
        elif isinstance(inner, list | tuple):
            waiting += [(each, depth + 1) for each in inner]


def _too_deep(path: Path) -> str:
    return f"{path} is nested more than {_MAX_YAML_DEPTH} levels deep; no parameter needs that"


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and check a parameter file.

    Raises:
        ParamsError: unknown key or architecture, wrong type, value out of range.
    """
    return _validated(Params, read_yaml(path), path)


def load_catalogue(path: Path = CATALOGUE_FILE) -> dict[str, Dataset]:
    """Read and check the data sets that can be named in params.yaml.

    Raises:
        ParamsError: unknown key, wrong type.
    """
    entries = read_yaml(path)
    if not isinstance(entries, dict):
        raise ParamsError(f"{path} must map names to data sets")
    catalogue: dict[str, Dataset] = {}
    for key, entry in entries.items():
        # `291: …` is a name as well, though YAML reads a number.
        name = str(key) if type(key) in (int, float) else key
        if not isinstance(name, str):
            raise ParamsError(f"{path}: {key!r} is not a name; quote it")
        if name in catalogue:
            raise ParamsError(f"{path}: {name!r} stands there twice; rename one")
        try:
            _plain_name(name)
        except ValueError as error:
            raise ParamsError(f"{path}: {error}") from None
        catalogue[name] = _validated(Dataset, entry, path, name)
    return catalogue


def dataset(name: str, catalogue: dict[str, Dataset]) -> Dataset:
    """One catalogue entry.

    Raises:
        ParamsError: there is none of that name.
    """
    if name not in catalogue:
        known = ", ".join(catalogue)
        raise ParamsError(f"unknown data set {name!r}; {CATALOGUE_FILE} has: {known}")
    return catalogue[name]


def _validated(kind: type[_Model], value: Any, path: Path, name: str = "") -> _Model:
    """`value` as a `kind`, strictly: JSON mode lets a list be a tuple and nothing else."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError) as error:  # ValueError: an integer of thousands of digits
        reason = "a number is too large" if isinstance(error, ValueError) else error
        raise ParamsError(f"{path}: {reason}; quote dates and other special values") from error
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        problems = (_problem(path, name, detail) for detail in error.errors())
        raise ParamsError("\n".join(problems)) from error


def _problem(path: Path, name: str, detail: Any) -> str:
    where = ".".join(str(part) for part in (name, *detail["loc"]) if part not in ("", "[key]"))
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "unknown key; check its spelling"
    elif "input" in detail and not isinstance(detail["input"], dict):
        message += f" (got {_short(repr(detail['input']))})"
    return f"{path}: {where or 'whole file'}: {message}"


def _short(text: str) -> str:
    most = 200
    return text if len(text) <= most else f"{text[:most]}…"
