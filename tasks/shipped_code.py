"""The source files that a registered network travels with, so that it runs without sisr.

They are found by following imports: `tasks.served`, the network's own file, and
what these use of `tasks/` and `models/`. Nothing else of sisr is copied: the
copy's `tasks/__init__.py` offers nothing.
"""

import ast
import inspect
import shutil
from importlib.util import find_spec
from pathlib import Path

import models

_OURS = ("tasks", "models")
_ENTRY = "tasks.served"
_EMPTY = '"""What a registered network needs of sisr\'s tasks."""\n'


def copy_code(architecture: str, folder: Path) -> list[Path]:
    """Copy the files into `folder`; returns its packages, `tasks` and `models`."""
    home = inspect.getmodule(models.get(architecture).build)
    assert home is not None
    for name, source in _closure(_ENTRY, home.__name__).items():
        target = folder.joinpath(*name.split("."))
        target = target / "__init__.py" if source.name == "__init__.py" else _py(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    (folder / "tasks" / "__init__.py").write_text(_EMPTY, encoding="utf-8")
    return [folder / package for package in _OURS]


def _py(path: Path) -> Path:
    return path.with_name(f"{path.name}.py")


def _closure(*entries: str) -> dict[str, Path]:
    """Every module of ours that the entries need, with its file."""
    found: dict[str, Path] = {}
    waiting = [*entries, "models"]
    while waiting:
        name = waiting.pop()
        source = None if name in found else _source(name)
        if source is not None:
            found[name] = source
            waiting += _imported(source)
    return found


def _source(name: str) -> Path | None:
    """The file of a module of ours; none for a name inside one."""
    package, _, inside = name.partition(".")
    home = find_spec(package)
    assert home is not None
    assert home.origin is not None
    if not inside:
        return Path(home.origin)
    file = _py(Path(home.origin).parent / inside.replace(".", "/"))
    return file if file.is_file() else None


def _imported(source: Path) -> set[str]:
    """What a file imports of ours; imports inside functions as well."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from models import blocks` names a module, `from models.blocks import damp` does not.
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.partition(".")[0] in _OURS and name != "tasks"}
