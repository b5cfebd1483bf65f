"""A registered network as MLflow loads it: a description and safetensors, no pickle, no code.

Every one of them takes LR pictures N×3×h×w and gives SR pictures N×3×H×W, RGB
in 0–1, float32, whatever the network inside works on. This file and what it
imports travel with the weights (`tasks/shipped_code.py`): keep its imports few.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import models
from models.registry import Architecture
from tasks.errors import WeightsError
from tasks.super_resolve import super_resolve
from tasks.weights import load_weights

WEIGHTS_FILE = "weights.safetensors"
ABOUT_FILE = "network.json"


@dataclass(frozen=True)
class ServedNetwork:
    """A network with its weights, ready to enlarge pictures."""

    architecture: Architecture
    scale: int
    network: nn.Module

    def predict(self, model_input: NDArray[np.float32], params: None = None) -> NDArray[np.float32]:
        """N×3×h×w in 0–1 to N×3×(scale·h)×(scale·w) in 0–1; MLflow's name for it."""
        rgb = torch.from_numpy(np.asarray(model_input, np.float32))
        sr = super_resolve(rgb, self.network, self.architecture, self.scale)
        clamped: NDArray[np.float32] = sr.clamp(0, 1).numpy()
        return clamped


@dataclass(frozen=True)
class _About:
    architecture: str
    scale: int


def save(folder: Path, architecture: str, scale: int, weights: Path) -> None:
    """Write the description and a copy of the weights into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(weights.read_bytes())
    about = json.dumps(asdict(_About(architecture, scale)))
    (folder / ABOUT_FILE).write_text(about, encoding="utf-8")


def load(folder: Path) -> ServedNetwork:
    """Build the network that a folder describes.

    Raises:
        WeightsError: no description, an unknown architecture, or weights that do not fit.
    """
    try:
        about = _About(**json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8")))
        network = models.create(about.architecture, about.scale)
    except (OSError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder} describes no network: {error}") from error
    load_weights(network, folder / WEIGHTS_FILE)
    return ServedNetwork(models.get(about.architecture), about.scale, network.eval())


def _load_pyfunc(path: str) -> ServedNetwork:
    """The entry point that MLflow calls."""
    return load(Path(path))
