"""Checkpoints in their authors' names become rows; none that is wrong or out of date does."""

import base64
import hashlib
import json
import os
import pickle
import shlex
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import models
from models.registry import Architecture
from tasks import evaluate
from tasks.config import Params, Settings, load_catalogue
from tasks.degrade import degrade
from tasks.download import download
from tasks.errors import DataError, DownloadError, ParamsError, SisrError, WeightsError
from tasks.importing import Origin, Result, import_weights, published_results
from tasks.layout import CELL_FOLDER, HR_FOLDER, RESULT_FOLDER, result_file
from tasks.report import build_report, write_report
from tasks.timing import Latency
from tests.conftest import Workspace


@pytest.fixture(autouse=True)
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "OUTPUT_SIZES_PX", (12,))


@pytest.fixture
def params(workspace: Workspace) -> Params:
    """Pictures at ×2 and ×3, and a bicubic row at both."""
    params = workspace.write_params(scales=[2, 3], interpolations=["bicubic"], trained={})
    download(params, load_catalogue(), Settings())
    for scale in params.scales:
        degrade(scale)
        evaluate.evaluate(params, "bicubic", scale)
    return params


def vdsr_of_its_author(last: float) -> dict[str, torch.Tensor]:
    """The names of github.com/twtygqyy/pytorch-vdsr; all weights of the last layer alike."""
    draw = torch.Generator().manual_seed(0)
    names = ["input", *(f"residual_layer.{i}.conv" for i in range(18)), "output"]
    shapes = [(64, 1, 3, 3), *[(64, 64, 3, 3)] * 18, (1, 64, 3, 3)]
    state = OrderedDict(
        (f"{name}.weight", torch.randn(shape, generator=draw) * 0.05)
        for name, shape in zip(names, shapes, strict=True)
    )
    state["output.weight"].fill_(last)
    return state


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def import_(
    params: Params, architecture: str, source: Path | str, sha256: str | None = None, *scales: int
) -> list[Result]:
    settings = Settings()
    return import_weights(
        params, settings, architecture, str(source), sha256=sha256, scales=scales, say=print
    )


def psnrs(params: Params, architecture: str) -> list[float]:
    summary = build_report(params, {}).summary
    return list(summary.loc[summary["architecture"] == architecture, "psnr_db"])


def files() -> set[str]:
    """What lies in the folders that an import writes to."""
    folders = (CELL_FOLDER, RESULT_FOLDER)
    return {str(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_one_file_serves_every_scale_of_the_parameters(params: Params, tmp_path: Path) -> None:
    """With a last layer of zeros VDSR adds nothing to the bicubic picture."""
    state = vdsr_of_its_author(last=0.0)
    path = saved(state, tmp_path / "vdsr.pth")

    results = import_(params, "vdsr", path)

    assert [(each["scale"], each["source"]) for each in results] == [
        (2, "published"),
        (3, "published"),
    ]
    assert psnrs(params, "vdsr-published") == pytest.approx(psnrs(params, "bicubic"), abs=0.01)
    written = load_file(CELL_FOLDER / "vdsr-published" / "weights.safetensors")
    assert written.keys() == models.create("vdsr", 2).state_dict().keys()
    assert torch.equal(written["layers.2.weight"], state["residual_layer.0.conv.weight"])
    about = json.loads((CELL_FOLDER / "vdsr-published" / "import.json").read_text())
    assert about["source"] == str(path)
    assert about["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert about["scales"] == [2, 3, 4]


def test_its_rows_stand_in_the_tables_beside_the_others(params: Params, tmp_path: Path) -> None:
    import_(params, "vdsr", saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth"))

    write_report(params, {})

    summary = pd.read_csv("report/summary.csv")
    assert list(zip(summary["architecture"], summary["scale"], summary["source"], strict=True)) == [
        ("bicubic", 2, "interpolation"),
        ("bicubic", 3, "interpolation"),
        ("vdsr-published", 2, "published"),
        ("vdsr-published", 3, "published"),
    ]
    assert list(summary["num_parameters"]) == [0, 0, 664_704, 664_704]
    metrics = json.loads(Path("metrics.json").read_text())
    assert metrics["tiny_test"]["x2"].keys() == {"bicubic", "vdsr-published"}


def test_the_papers_figures_stand_beside_imported_weights(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kim et al. 2016, Table 3: VDSR on Set5 ×2 has 37.53 dB."""
    for folder in (HR_FOLDER / "test", Path("data/lr/x2/test"), Path("data/lr/x3/test")):
        (folder / "tiny_test").rename(folder / "set5")
    data = params.data.model_copy(update={"test": ("set5",)})
    params = params.model_copy(update={"data": data})
    evaluate.evaluate(params, "bicubic", 2)
    evaluate.evaluate(params, "bicubic", 3)
    import_(params, "vdsr", saved(vdsr_of_its_author(0.0), tmp_path / "vdsr.pth"))

    summary = build_report(params, {}).summary.set_index(["architecture", "scale"])

    assert summary.loc[("vdsr-published", 2), "published_psnr_db"] == 37.53
    assert summary.loc[("bicubic", 2), "published_psnr_db"] == 33.66


def test_a_size_that_takes_too_long_says_that_it_was_not_timed(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "OUTPUT_SIZES_PX", (12, 24))
    monkeypatch.setattr(evaluate, "MAX_TIMING_S", 1e-9)

    (result,) = import_(
        params, "vdsr", saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth"), None, 2
    )

    timed, skipped = result["latency"]
    assert (timed["output_px"], timed["latency_ms"] > 0) == (12, True)
    assert skipped.keys() == {"output_px", "skipped"}
    assert skipped["skipped"].startswith("would take ")
    latency = build_report(params, {}).latency
    assert list(latency.loc[latency["architecture"] == "vdsr-published", "output_px"]) == [12]


def test_the_time_of_a_size_is_judged_by_its_area(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(_: nn.Module, about: Architecture, scale: int, px: int, __: torch.device) -> Latency:
        return Latency(2000 * (px / 256) ** 2, 0, 0, 3, 0, px, "Abacus", 1, "fp32")

    monkeypatch.setattr(evaluate, "measure_latency", fake)
    monkeypatch.setattr(evaluate, "OUTPUT_SIZES_PX", (256, 512, 1024))

    rows = evaluate._latency(nn.Identity(), models.get("vdsr"), 2, torch.device("cpu"))

    assert [row.get("latency_ms") for row in rows] == [2000, 8000, None]
    # four calls of 32 s
    assert rows[2]["skipped"] == "would take 128 s, more than 60 s"


def test_the_order_of_the_test_sets_is_no_other_pictures(params: Params, tmp_path: Path) -> None:
    for folder in (HR_FOLDER / "test", Path("data/lr/x2/test"), Path("data/lr/x3/test")):
        shutil.copytree(folder / "tiny_test", folder / "again")
    names = ("tiny_test", "again")
    there, back = (
        params.model_copy(update={"data": params.data.model_copy(update={"test": order})})
        for order in (names, names[::-1])
    )
    import_(there, "vdsr", saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth"))

    shown, reasons = published_results(back)

    assert reasons == []
    assert [result["scale"] for result in shown] == [2, 3]


def test_a_row_of_other_test_pictures_is_not_shown(
    params: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth")
    import_(params, "vdsr", path)
    picture = HR_FOLDER / "test" / "tiny_test" / "clock.png"
    Image.fromarray(255 - np.asarray(Image.open(picture))).save(picture)

    assert psnrs(params, "vdsr-published") == []

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    again = f"sisr import vdsr {path} --sha256 {digest} --scale 2 --scale 3 --scale 4"
    reason = f"changed since it was measured: test pictures; run `{again}`"
    assert capsys.readouterr().err.splitlines() == [
        f"results/vdsr-published-x2.json is not shown: {reason}",
        f"results/vdsr-published-x3.json is not shown: {reason}",
    ]
    for scale in (2, 3):
        degrade(scale)
    import_(params, "vdsr", path, digest, 2, 3, 4)
    assert len(psnrs(params, "vdsr-published")) == 2


def test_a_row_whose_weights_were_replaced_is_not_shown(params: Params, tmp_path: Path) -> None:
    import_(params, "vdsr", saved(vdsr_of_its_author(0.001), tmp_path / "a.pth"))
    before = result_file("vdsr-published", 3).read_bytes()

    import_(params, "vdsr", saved(vdsr_of_its_author(0.002), tmp_path / "b.pth"), None, 2)
    assert not result_file("vdsr-published", 3).exists()
    result_file("vdsr-published", 3).write_bytes(before)

    results, reasons = published_results(params)
    assert [each["scale"] for each in results] == [2]
    assert "changed since it was measured: weights" in reasons[0]


def test_a_row_measured_by_other_code_is_not_shown(params: Params, tmp_path: Path) -> None:
    import_(params, "vdsr", saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth"))
    file = result_file("vdsr-published", 2)
    result = json.loads(file.read_text())
    result["measured_with"] |= {"tasks.metrics": "0" * 64, "models.vdsr": "0" * 64}
    file.write_text(json.dumps(result))

    results, reasons = published_results(params)

    assert [each["scale"] for each in results] == [3]
    assert "changed since it was measured: models.vdsr, tasks.metrics; run" in reasons[0]


def test_weights_of_one_scale_find_it_themselves(params: Params, tmp_path: Path) -> None:
    path = saved(models.create("lesrcnn", 3).state_dict(), tmp_path / "lesrcnn.pth")

    results = import_(params, "lesrcnn", path)

    assert [each["scale"] for each in results] == [3]
    assert (CELL_FOLDER / "lesrcnn-x3-published" / "import.json").exists()
    assert [path.name for path in RESULT_FOLDER.glob("lesrcnn*")] == ["lesrcnn-published-x3.json"]


def test_weights_that_fit_several_scales_ask_for_one(params: Params, tmp_path: Path) -> None:
    path = saved(models.create("srcnn", 2).state_dict(), tmp_path / "srcnn.pth")

    with pytest.raises(WeightsError, match=r"fit ×2, ×3, ×4.* say for which with --scale"):
        import_(params, "srcnn", path)
    assert [each["scale"] for each in import_(params, "srcnn", path, None, 3)] == [3]


def test_a_checksum_is_kept(params: Params, tmp_path: Path) -> None:
    path = saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()

    with pytest.raises(WeightsError, match=f"sha256 {digest}, not {'0' * 64}; .* --sha256"):
        import_(params, "vdsr", path, "0" * 64)
    assert import_(params, "vdsr", path, digest.upper())


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("form", ["a pickle", "torch's zip"])
def test_a_malicious_file_is_refused_and_the_import_before_it_stays(
    params: Params, tmp_path: Path, form: str
) -> None:
    import_(params, "vdsr", saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth"))
    before = {name: Path(name).read_bytes() for name in files()}
    victim, path = tmp_path / "executed", tmp_path / "evil.pth"
    if form == "a pickle":
        path.write_bytes(pickle.dumps({"input.weight": Touch(victim)}))
    else:
        saved({"input.weight": Touch(victim)}, path)

    refusal = f"{path}: refused.*'posix.system'.*nothing was executed"
    with pytest.raises(WeightsError, match=refusal):
        import_(params, "vdsr", path)

    assert not victim.exists()
    assert {name: Path(name).read_bytes() for name in files()} == before


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        (("vdrs", "vdsr.pth"), ParamsError, "unknown architecture 'vdrs'.*sisr models"),
        (("bicubic", "vdsr.pth"), ParamsError, "'bicubic' has no weights"),
        (("vdsr", "vdsr.pth", 5), ParamsError, "scale 5 is not one of"),
        (("vdsr", "nowhere.pth"), ParamsError, "there is no file or folder"),
        (("vdsr", "ftp://example.org/x"), ParamsError, "unknown scheme"),
        (("vdsr", "http://127.0.0.1:9/x"), DownloadError, "cannot fetch"),
        (("lesrcnn", "vdsr.pth"), WeightsError, "'input.weight', which lesrcnn ×2 has not"),
        (("vdsr", "vdsr.pth", 4), ParamsError, r"scales \[4\], params.yaml has \[2, 3\]"),
    ],
)
def test_what_cannot_be_imported_is_said(
    params: Params, tmp_path: Path, what: tuple[Any, ...], error: type[SisrError], message: str
) -> None:
    architecture, file, *scales = what
    saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth")
    before = files()

    with pytest.raises(error, match=message):
        import_(params, architecture, file if "://" in file else tmp_path / file, None, *scales)

    assert files() == before


def test_without_test_pictures_it_says_what_makes_them(
    workspace: Workspace, tmp_path: Path
) -> None:
    params = workspace.write_params()
    path = saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth")

    with pytest.raises(DataError, match=r"no test pictures in data/hr.*run `sisr run` first"):
        import_(params, "vdsr", path)
    download(params, load_catalogue(), Settings())
    with pytest.raises(DataError, match=r"no test pictures in data/lr/x2.*run `sisr run` first"):
        import_(params, "vdsr", path)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """`host:port` of a web server on `tmp_path`, and the passwords that it was told."""
    told: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            told.append(self.headers.get("Authorization", ""))

    server = HTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", told
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_url_is_fetched_and_its_secrets_are_written_nowhere(
    params: Params, tmp_path: Path, site: tuple[str, list[str]]
) -> None:
    host, told = site
    saved(vdsr_of_its_author(0.001), tmp_path / "vdsr.pth")

    import_(params, "vdsr", f"http://me:secret@{host}/vdsr.pth?signature=hidden")

    assert told == [f"Basic {base64.b64encode(b'me:secret').decode()}"]
    about = json.loads((CELL_FOLDER / "vdsr-published" / "import.json").read_text())
    assert about["source"] == f"http://{host}/vdsr.pth?…"


def test_the_command_that_imports_again_can_be_typed() -> None:
    source = "my weights/vdsr (1).pth"
    origin = Origin("vdsr", (2, 3), source, "0" * 64, "2026-01-01T00:00:00Z")
    assert shlex.split(origin.command) == [
        *("sisr", "import", "vdsr", source, "--sha256", "0" * 64, "--scale", "2", "--scale", "3"),
    ]
