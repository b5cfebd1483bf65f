"""Everything that can be known to be wrong before work starts."""

import os
from pathlib import Path

from tasks.config import ROLES, dataset, load_catalogue, load_params
from tasks.errors import ParamsError, StoreError

_OURS = ("flows", "tasks", "models")


def check_inputs() -> None:
    """Check parameters, data set names, the workspace and that our packages are ours.

    Raises:
        ParamsError: a parameter or data set name is wrong.
        StoreError: the workspace cannot be written, or other packages hide ours.
    """
    _check_not_shadowed()
    params, catalogue = load_params(), load_catalogue()
    for role in ROLES:
        for name in params.data.of(role):
            dataset(name, catalogue)
    if not os.access(Path.cwd(), os.W_OK):
        raise StoreError(f"{Path.cwd()} cannot be written; choose another folder")
    if not Path("dvc.yaml").exists():
        raise ParamsError(f"there is no dvc.yaml in {Path.cwd()}; run sisr where it lies")


def _check_not_shadowed() -> None:
    """A folder named `models` where sisr runs hides ours from workers, which look there first."""
    home = Path(__file__).resolve().parent.parent
    for name in _OURS:
        for found in (Path.cwd() / name, Path.cwd() / f"{name}.py"):
            if found.exists() and found.resolve() != home / name:
                raise StoreError(f"{found} hides sisr's own `{name}`; rename it or move away")
