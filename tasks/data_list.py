"""The list of data sets: what the catalogue offers, what of it is used, and what lies on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tasks.config import ROLES, Dataset, Params, Settings
from tasks.download import source_url
from tasks.errors import ImageError, ParamsError
from tasks.images import FORMATS, list_images
from tasks.layout import HR_FOLDER
from tasks.urls import masked

_MIB = 1024 * 1024


@dataclass(frozen=True)
class ListedDataset:
    """One data set. Numbers and sizes are of the pictures on disk, None where there are none.

    `roles` are those of params.yaml, `fetched_roles` those it lies under `data/hr` for. `source`
    is where it comes from with today's settings, "" if that needs a mirror. `smallest_px` and
    `largest_px` are width and height of the pictures with the fewest and the most pixels.
    """

    name: str
    roles: tuple[str, ...]
    fetched_roles: tuple[str, ...]
    num_images: int | None
    size_mib: float | None
    smallest_px: tuple[int, int] | None
    largest_px: tuple[int, int] | None
    is_pinned: bool
    sha256: str | None
    source: str
    note: str

    @property
    def is_on_disk(self) -> bool:
        """Whether its pictures lie in the workspace, for every role it plays or for any at all."""
        return bool(self.fetched_roles) and set(self.roles) <= set(self.fetched_roles)


def list_datasets(
    params: Params, catalogue: Mapping[str, Dataset], settings: Settings
) -> list[ListedDataset]:
    """Every data set of the catalogue, in its order.

    Raises:
        ParamsError: params.yaml names a data set that the catalogue lacks.
        ImageError: a picture on disk that is corrupt.
    """
    used = {name for role in ROLES for name in params.data.of(role)}
    missing = sorted(used - catalogue.keys())
    if missing:
        raise ParamsError(f"unknown data set {missing[0]!r}; known: {', '.join(catalogue)}")
    return [_listed(name, entry, params, settings) for name, entry in catalogue.items()]


def _listed(name: str, entry: Dataset, params: Params, settings: Settings) -> ListedDataset:
    folders = {role: HR_FOLDER / role / name for role in ROLES}
    # DVC leaves an empty folder of a data set that it takes away.
    fetched = tuple(role for role, folder in folders.items() if any(folder.glob("*")))
    files = list_images(folders[fetched[0]]) if fetched else []
    sizes = sorted((_size_px(file) for file in files), key=lambda size: size[0] * size[1])
    return ListedDataset(
        name=name,
        roles=tuple(role for role in ROLES if name in params.data.of(role)),
        fetched_roles=fetched,
        num_images=len(files) if files else _promised(entry),
        size_mib=round(sum(file.stat().st_size for file in files) / _MIB, 2) if files else None,
        smallest_px=sizes[0] if sizes else None,
        largest_px=sizes[-1] if sizes else None,
        is_pinned=entry.sha256 is not None,
        sha256=entry.sha256,
        source=_source(name, entry, settings),
        note=entry.note,
    )


def _promised(entry: Dataset) -> int | None:
    """How many pictures the catalogue names one by one."""
    return sum(map(len, entry.installed.values())) if entry.installed else None


def _source(name: str, entry: Dataset, settings: Settings) -> str:
    if entry.installed is not None:
        return f"installed with {', '.join(entry.installed)}"
    try:
        return masked(source_url(name, entry, settings))
    except ParamsError:
        return ""  # only behind a mirror, and none is set


def _size_px(file: Path) -> tuple[int, int]:
    """Width and height, from the file's head."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            return image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{file} is corrupt or no picture: {error}") from error
