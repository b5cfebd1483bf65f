from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import models
from tasks import network_choice
from tasks.config import Settings
from tasks.errors import ParamsError, WeightsError
from tasks.network_choice import choose
from tasks.served import load, save
from tasks.tracking import Version


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A registry that holds srcnn-x2 and vdsr-x3, and notes what it is asked for."""
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, int]] = []
    versions = [Version(name, "1", "trained", 30.0, True) for name in ("srcnn-x2", "vdsr-x3")]

    def load_registered(reference: str, scale: int, _settings: Settings) -> object:
        asked.append((reference, scale))
        torch.manual_seed(0)
        save_file(models.create("srcnn", scale).state_dict(), tmp_path / "srcnn.safetensors")
        save(tmp_path / "srcnn", "srcnn", scale, tmp_path / "srcnn.safetensors")
        return load(tmp_path / "srcnn")

    monkeypatch.setattr(network_choice, "registered_versions", lambda _: versions)
    monkeypatch.setattr(network_choice, "best_registered", lambda scale, _: f"best-x{scale}")
    monkeypatch.setattr(network_choice, "load_registered", load_registered)
    return asked


@pytest.mark.parametrize(
    ("model", "scale", "expected"),
    [
        ("vdsr-x3", None, ("vdsr-x3", 3)),
        ("vdsr-x3@champion", None, ("vdsr-x3@champion", 3)),
        ("vdsr-x3/12", None, ("vdsr-x3/12", 3)),
        ("vdsr-x3", 2, ("vdsr-x3", 2)),  # the registry refuses it, and says why
        ("vdsr", 3, ("vdsr-x3", 3)),
        ("srcnn", None, ("srcnn-x2", 2)),
        (None, 4, ("best-x4", 4)),
        (None, None, ("best-x2", 2)),
    ],
)
def test_the_scale_is_the_one_given_or_the_name_s_or_two(
    registry: list[tuple[str, int]],
    model: str | None,
    scale: int | None,
    expected: tuple[str, int],
) -> None:
    assert choose(model, scale, Settings()).name == expected[0]
    assert registry == [expected]


def test_an_interpolation_is_no_business_of_the_registry(
    registry: list[tuple[str, int]],
) -> None:
    chosen = choose("bicubic", 3, Settings())

    assert (chosen.name, chosen.served.scale, registry) == ("bicubic-x3", 3, [])
    assert choose("bicubic-x3", None, Settings()).name == "bicubic-x3"


def test_an_unknown_scale_is_refused(registry: list[tuple[str, int]]) -> None:
    with pytest.raises(ParamsError, match=r"scale 0 is not one of \[2, 3, 4\]"):
        choose("bicubic", 0, Settings())
    with pytest.raises(ParamsError, match=r"scale 5 is not one of \[2, 3, 4\]"):
        choose("vdsr-x5", None, Settings())


def test_without_a_store_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    for model in ("vdsr-x2", None):
        with pytest.raises(WeightsError, match="registered: none; run `sisr run` first"):
            choose(model, None, Settings())
    assert not list(tmp_path.iterdir())
