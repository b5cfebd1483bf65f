"""Read a network's weights; safetensors only, so nothing in the file is executed."""

from pathlib import Path

from torch import nn

from tasks.errors import WeightsError


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a safetensors file into a network.

    Raises:
        WeightsError: no such file, not safetensors, or names or shapes that do not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise WeightsError(f"{path} cannot be loaded: {error}; train the cell again") from error
