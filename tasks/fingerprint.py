"""Which code and data a result comes from.

The stage writes `data/code/<architecture>.json`, the checksums of the files
that make that network. A training depends on its own network's file alone, so
a new architecture makes no other cell stale, and an edited one its own cells.
"""

import argparse
import ast
import hashlib
import inspect
import json
import pkgutil
import sys
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import models
from tasks.atomic import replacing_folder, write_text
from tasks.checksums import folder_sha256
from tasks.config import Cell, Params
from tasks.layout import CODE_FOLDER, HR_FOLDER, shard_folder
from tasks.shards import shard_checksums

# What turns shards and a recipe into weights and their curve, besides the network.
TRAINING_MODULES = (
    "tasks.train",
    "tasks.training_step",
    "tasks.precision",
    "tasks.workers",
    "tasks.draws",
    "tasks.batches",
    "tasks.device_patches",
    "tasks.shards",
    "tasks.validation",
    "tasks.snapshots",
    "tasks.window",
)


def write_fingerprints() -> None:
    """Write one file for every architecture under `data/code`."""
    with replacing_folder(CODE_FOLDER) as folder:
        for name in models.names():
            write_text(folder / f"{name}.json", json.dumps(network_code(name), indent=2) + "\n")


def network_code(architecture: str) -> dict[str, str]:
    """The checksum of every file of `models/` that makes a network, by file name."""
    home = inspect.getmodule(models.get(architecture).build)
    assert home is not None
    names: set[str] = set()
    # What makes its input belongs to it: enlargement and luminance are done while training.
    waiting = [home.__name__, *_imports_from_models("tasks.batches")]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += _imports_from_models(name)
    return {name: _module_sha256(name) for name in sorted(names)}


def cell_fingerprint(params: Params, cell: Cell) -> str:
    """One checksum of everything that decides a cell's weights and how they were watched.

    Raises:
        ShardError: no shards, or damaged ones.
    """
    decisive = {
        "recipe": params.recipe(cell.architecture).model_dump(mode="json"),
        "cell": cell.model_dump(mode="json"),
        "seed": params.seed,
        "settings": params.training.model_dump(mode="json"),
        # Not of the weights, but of the curve and the snapshots that belong to them.
        "validation": validation_sums(params),
        "shards": {scale: shard_checksums(shard_folder(scale)) for scale in cell.scales},
        "network": network_code(cell.architecture),
        "training": {name: _module_sha256(name) for name in TRAINING_MODULES},
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def validation_sums(params: Params) -> dict[str, str]:
    """The pictures that the history's PSNRs were measured on."""
    return {name: folder_sha256(HR_FOLDER / "validation" / name) for name in params.data.validation}


def _imports_from_models(name: str) -> list[str]:
    """The modules of `models/` that a module imports, but for the list of all of them."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(Path(_file(name)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), name.rpartition(".")[0])
            # `from models import blocks` names a module, `from models.blocks import damp` does not.
            imported |= {home, *(f"{home}.{alias.name}" for alias in node.names)}
    return sorted(other for other in imported if _is_in_models(other))


def _is_in_models(name: str) -> bool:
    package, _, module = name.partition(".")
    return package == "models" and any(
        each.name == module for each in pkgutil.iter_modules(models.__path__)
    )


@cache
def _module_sha256(name: str) -> str:
    return hashlib.sha256(Path(_file(name)).read_bytes()).hexdigest()


def _file(name: str) -> str:
    from importlib.util import find_spec

    found = sys.modules[name].__file__ if name in sys.modules else None
    if found is None:
        spec = find_spec(name)
        found = spec.origin if spec else None
    assert found is not None, f"{name} has no source file"
    return found


def main() -> None:
    """The stage's command."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_fingerprints()


if __name__ == "__main__":
    main()
