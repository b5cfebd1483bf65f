"""What the shell completes: names read from small files, because importing torch takes seconds."""

import json
import re
from pathlib import Path

# The same as in tasks/config.py and tasks/tracking.py, which would import torch.
_CATALOGUE = Path("datasets.yaml")
_RECEIPT = Path("registry/receipt.json")
_MODELS = Path(__file__).parent.parent / "models"
_REGISTERED = re.compile(r"^@register\((?P<about>[^)]*)\)\ndef (?P<name>\w+)\(", re.MULTILINE)


def architectures(incomplete: str) -> list[str]:
    """The architectures that can be trained."""
    return _starting(incomplete, [name for name, about in _builders() if _trains(about)])


def networks(incomplete: str) -> list[str]:
    """What `--model` takes: registered models, then interpolations."""
    interpolations = [name for name, about in _builders() if not _trains(about)]
    return _starting(incomplete, [*_registered(), *interpolations])


def registered_networks(incomplete: str) -> list[str]:
    """The registered models, as of the last run."""
    return _starting(incomplete, _registered())


def datasets(incomplete: str) -> list[str]:
    """The catalogue's data sets."""
    if not _CATALOGUE.is_file():
        return []
    names = re.findall(r"^([\w.-]+):", _CATALOGUE.read_text("utf-8"), re.MULTILINE)
    return _starting(incomplete, names)


def _starting(incomplete: str, names: list[str]) -> list[str]:
    # Data set names match in any case.
    return [name for name in names if name.lower().startswith(incomplete.lower())]


def _builders() -> list[tuple[str, str]]:
    """Every architecture's name and the arguments of its `@register`."""
    found = [
        (match["name"], match["about"])
        for path in _MODELS.glob("*.py")
        for match in _REGISTERED.finditer(path.read_text("utf-8"))
    ]
    return sorted(found)


def _trains(about: str) -> bool:
    return "trainable=False" not in about


def _registered() -> list[str]:
    if not _RECEIPT.is_file():
        return []
    models = json.loads(_RECEIPT.read_text("utf-8"))["models"]
    return sorted({each["model"] for each in models})
