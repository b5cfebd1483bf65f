"""Weights into networks, and what unfit files are told."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import models
from tasks.errors import WeightsError
from tasks.weights import load_weights


def test_weights_are_loaded_bit_for_bit(tmp_path: Path) -> None:
    state = models.create("cnn_small", 2).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    network = models.create("cnn_small", 2)

    load_weights(network, tmp_path / "weights.safetensors")

    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_unfit_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"no tensors")
    save_file(models.create("srcnn", 2).state_dict(), tmp_path / "other")

    for name in ("missing", "noise", "other"):
        with pytest.raises(
            WeightsError, match=rf"(?s){name} cannot be loaded: .*train the cell again"
        ):
            load_weights(models.create("cnn_small", 2), tmp_path / name)
