"""Everything that can be known to be wrong before work starts."""

import os
from pathlib import Path

from tasks.config import ROLES, Dataset, Settings, dataset, load_catalogue, load_params
from tasks.download import source_url
from tasks.errors import ParamsError, StoreError

_OURS = ("flows", "tasks", "models")


def check_inputs() -> None:
    """Check parameters, data set names and addresses, the workspace, that our packages are ours.

    Raises:
        ParamsError: a parameter, data set name or address is wrong.
        StoreError: the workspace cannot be written, or other packages hide ours.
    """
    _check_not_shadowed()
    params, catalogue, settings = load_params(), load_catalogue(), Settings()
    for role in ROLES:
        for name in params.data.of(role):
            _check_source(name, dataset(name, catalogue), settings)
    if not os.access(Path.cwd(), os.W_OK):
        raise StoreError(f"{Path.cwd()} cannot be written; choose another folder")
    if not Path("dvc.yaml").exists():
        raise ParamsError(f"there is no dvc.yaml in {Path.cwd()}; run sisr where it lies")


def _check_source(name: str, entry: Dataset, settings: Settings) -> None:
    """Refuse an address that can never be fetched; whether it is there, only fetching tells."""
    if entry.url is not None or (entry.installed is None and settings.mirror is not None):
        source_url(name, entry, settings)


def _check_not_shadowed() -> None:
    """A folder named `models` where sisr runs hides ours from workers, which look there first."""
    home = Path(__file__).resolve().parent.parent
    for name in _OURS:
        for found in (Path.cwd() / name, Path.cwd() / f"{name}.py"):
            if found.exists() and found.resolve() != home / name:
                raise StoreError(f"{found} hides sisr's own `{name}`; rename it or move away")
