"""Exported files against the networks, by engines that know nothing of our code."""

import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
import torch
from torch import Tensor, nn

import models
from models.interpolation import enlarge
from models.registry import Architecture
from tasks import export as export_module
from tasks.errors import ParamsError, WeightsError
from tasks.export import Enlargement, export, format_of, read_about
from tasks.served import ServedNetwork
from tests.conftest import REPOSITORY

# The exporters' own, on themselves.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]


def served(name: str, scale: int = 2) -> ServedNetwork:
    torch.manual_seed(0)
    return ServedNetwork(models.get(name), scale, models.create(name, scale).eval())


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("kernel", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_the_enlargement_in_the_graph_is_ours_to_the_last_bit(kernel: str, scale: int) -> None:
    for size in ((1, 1), (1, 2), (2, 3), (9, 7)):
        x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))

        assert torch.equal(Enlargement(scale, kernel)(x), enlarge(x, scale, kernel))


def test_onnx_takes_any_number_of_pictures_of_any_size(tmp_path: Path) -> None:
    """A luminance network on enlarged input: the LR luminance goes in."""
    srcnn, path = served("srcnn", 3), tmp_path / "srcnn.onnx"

    exported = export("srcnn-x3/1", srcnn, path, "onnx")

    assert [each.name for each in tmp_path.iterdir()] == ["srcnn.onnx"]
    assert max(check.largest_difference for check in exported.checks) < 1e-5
    assert read_about(path) == exported.about
    assert (exported.about.model, exported.about.channels) == ("srcnn-x3/1", "y")
    assert "bicubic" in exported.about.enlargement
    graph = onnx.load(path).graph
    shape = [dim.dim_param or dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 1, "height", "width"]
    lr = np.random.default_rng(0).random((4, 1, 11, 29), np.float32)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (sr,) = session.run(["sr"], {"lr": lr})
    with torch.no_grad():
        expected = srcnn.network(enlarge(torch.from_numpy(lr), 3)).numpy()
    assert sr.shape == (4, 1, 33, 87)
    assert str(REPOSITORY).encode() not in path.read_bytes()
    np.testing.assert_allclose(sr, expected, atol=1e-5)


def test_pt2_runs_without_the_code(tmp_path: Path) -> None:
    network, path = served("cnn_small"), tmp_path / "cnn.pt2"

    exported = export("cnn_small-x2", network, path, "pt2")

    lr = torch.rand(3, 3, 8, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        sr = torch.export.load(path).module()(lr)
        torch.testing.assert_close(sr, network.network(enlarge(lr, 2)), atol=1e-6, rtol=0)
    assert read_about(path) == exported.about
    assert exported.num_bytes == path.stat().st_size
    with zipfile.ZipFile(path) as archive:  # which stores without compressing
        held = b"".join(archive.read(name) for name in archive.namelist())
    assert str(REPOSITORY).encode() not in held


def test_a_file_that_answers_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "_pt2_runner", lambda _: lambda lr: lr + 1e-3)
    path = tmp_path / "same.pt2"
    path.write_text("what was there")
    architecture = Architecture("same", lambda _: nn.Identity(), "y", False, True, False)

    with pytest.raises(WeightsError, match=r"differs from the network by 0\.001 .*nothing was"):
        export("same", ServedNetwork(architecture, 2, nn.Identity()), path, "pt2")

    assert path.read_text() == "what was there"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_answers_nan_at_some_size_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = lambda lr: lr if len(lr) == 1 else lr * torch.nan  # noqa: E731
    monkeypatch.setattr(export_module, "_pt2_runner", lambda _: answer)
    architecture = Architecture("same", lambda _: nn.Identity(), "y", False, True, False)

    with pytest.raises(WeightsError, match=r"differs from the network by nan .*nothing was"):
        export("same", ServedNetwork(architecture, 2, nn.Identity()), tmp_path / "same.pt2", "pt2")

    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0.5 else -x


def test_a_network_that_cannot_be_exported_says_why(tmp_path: Path) -> None:
    architecture = Architecture("branching", lambda _: Branching(), "y", False, True, False)

    with pytest.raises(WeightsError, match=r"branching-x2 cannot be exported: .*branches"):
        export(
            "branching-x2", ServedNetwork(architecture, 2, Branching()), tmp_path / "b.pt2", "pt2"
        )

    assert not list(tmp_path.iterdir())


def test_the_format_is_the_suffix_or_said() -> None:
    assert format_of(Path("a.onnx"), None) == "onnx"
    assert format_of(Path("a.PT2"), None) == "pt2"
    assert format_of(Path("a.onnx"), "pt2") == "pt2"
    with pytest.raises(ParamsError, match=r"'a\.bin': end it in \.onnx or \.pt2"):
        format_of(Path("a.bin"), None)


def test_a_foreign_file_has_no_metadata(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "foreign.onnx")

    with pytest.raises(WeightsError, match="was not written by `sisr export`"):
        read_about(tmp_path / "foreign.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
@pytest.mark.parametrize("name", [name for name in models.names() if name != "edsr"])
def test_every_architecture_is_exported(name: str, form: str, tmp_path: Path) -> None:
    exported = export(name, served(name), tmp_path / f"{name}.{form}", form)  # type: ignore[arg-type]

    assert max(check.largest_difference for check in exported.checks) <= 1e-4
