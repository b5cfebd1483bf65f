"""Where everything lies in a workspace; the same paths that dvc.yaml names."""

from pathlib import Path

from tasks.config import Role
from tasks.images import list_images

HR_FOLDER = Path("data/hr")
LR_FOLDER = Path("data/lr")
SHARD_FOLDER = Path("data/shards")
CODE_FOLDER = Path("data/code")
JOINT_DATA_FOLDER = Path("data/joint")
CELL_FOLDER = Path("cells")
RESULT_FOLDER = Path("results")
REPORT_FOLDER = Path("report")
REGISTRY_FOLDER = Path("registry")
METRICS_FILE = Path("metrics.json")
# What a run needs while it works and nobody else does.
SCRATCH_FOLDER = Path(".sisr")
CHECKPOINT_FOLDER = SCRATCH_FOLDER / "checkpoints"
RAY_FOLDER = SCRATCH_FOLDER / "ray"
# Where workers on a shared file system leave their results.
EXCHANGE_FOLDER = SCRATCH_FOLDER / "exchange"
TRAINED_FOLDER = SCRATCH_FOLDER / "trained"


def lr_folder(scale: int) -> Path:
    """The LR pictures of a scale."""
    return LR_FOLDER / f"x{scale}"


def lr_name(hr: Path) -> str:
    """The file name of the LR picture of an HR picture."""
    return f"{hr.stem}.png"


def picture_pairs(role: Role, name: str, scale: int) -> list[tuple[Path, Path]]:
    """The (HR, LR) files of one data set.

    Raises:
        ImageError: no pictures.
    """
    lr = lr_folder(scale) / role / name
    return [(hr, lr / lr_name(hr)) for hr in list_images(HR_FOLDER / role / name)]


def shard_folder(scale: int) -> Path:
    """The shards of a scale."""
    return SHARD_FOLDER / f"x{scale}"


def joint_data_file(architecture: str) -> Path:
    """What a joint training sees of the data."""
    return JOINT_DATA_FOLDER / f"{architecture}.json"


def weights_file(cell: str) -> Path:
    """The weights of a trained cell."""
    return CELL_FOLDER / cell / "weights.safetensors"


def result_name(architecture: str, scale: int) -> str:
    """`srcnn-x2`: what one row of the tables is called."""
    return f"{architecture}-x{scale}"


def result_file(architecture: str, scale: int) -> Path:
    """The numbers of one row of the tables."""
    return RESULT_FOLDER / f"{result_name(architecture, scale)}.json"
