import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.config import ROLES, Dataset, Settings, load_catalogue, load_params
from tasks.download import changed_folders, download, fetch_dataset, fetch_file, source_url
from tasks.errors import ArchiveError, DownloadError, ImageError, ParamsError
from tests.conftest import REPOSITORY, Workspace, dump_yaml


def png(height: int = 20, width: int = 30, grey: int = 100) -> bytes:
    buffer = io.BytesIO()
    picture = np.full((height, width), grey, np.uint8)
    picture[0, 0] = 0  # one of one colour is refused in test and validation
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return buffer.getvalue()


PNG = png()
ZIP = zipped({"Set/a.png": PNG, "Set/readme.txt": b"hello"})
ZIP_SHA256 = hashlib.sha256(ZIP).hexdigest()


@dataclass
class Server:
    """A real HTTP server on this machine, and what it was asked for."""

    url: str
    files: dict[str, bytes]
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append(self.path)
            if self.path == "/moved.zip":
                self.send_response(302)
                self.send_header("Location", "/a.zip")
                self.end_headers()
                return
            data = made.files.get(self.path)
            self.send_response(404 if data is None else 200)
            # Less than promised: what a broken connection looks like.
            extra = 1000 if self.path == "/cut.zip" else 0
            self.send_header("Content-Length", str(len(data or b"") + extra))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *_: Any) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Server(f"http://127.0.0.1:{listening.server_port}", {"/a.zip": ZIP, "/cut.zip": ZIP})
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    listening.shutdown()
    thread.join()
    listening.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(archive_cache=tmp_path / "cache")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def refusal(
    kind: type[Exception], entry: Dataset, target: Path, settings: Settings, name: str = "mine"
) -> str:
    with pytest.raises(kind) as caught:
        fetch_dataset(name, entry, target, settings)
    return str(caught.value)


def test_an_archive_is_fetched_over_http_and_unpacked(
    server: Server, target: Path, settings: Settings
) -> None:
    entry = Dataset(url=f"{server.url}/a.zip", sha256=ZIP_SHA256)

    fetch_dataset("mine", entry, target, settings)

    assert contents(target) == {"a.png": PNG}
    assert server.asked == ["/a.zip"]
    assert contents(settings.archive_cache) == {f"mine-{ZIP_SHA256}": ZIP}


def test_what_is_in_the_cache_is_not_fetched_again(
    server: Server, tmp_path: Path, settings: Settings
) -> None:
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        pinned = Dataset(url=f"{server.url}/a.zip", sha256=ZIP_SHA256)
        fetch_dataset("mine", pinned, tmp_path / str(number), settings)
        assert contents(tmp_path / str(number)) == {"a.png": PNG}
    assert server.asked == ["/a.zip"]

    # The same archive behind another address has the same checksum: it is there already.
    (tmp_path / "moved").mkdir()
    moved = Dataset(url=f"{server.url}/moved.zip", sha256=ZIP_SHA256)
    fetch_dataset("mine", moved, tmp_path / "moved", settings)
    assert server.asked == ["/a.zip"]


def test_an_unpinned_archive_is_cached_by_its_address_and_says_its_checksum(
    server: Server, tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/b.zip"] = zipped({"b.png": PNG})
    for number, name in enumerate(("a", "a", "b")):
        (tmp_path / str(number)).mkdir()
        entry = Dataset(url=f"{server.url}/{name}.zip")
        fetch_dataset("mine", entry, tmp_path / str(number), settings)
        assert contents(tmp_path / str(number)) == {f"{name}.png": PNG}

    assert server.asked == ["/a.zip", "/b.zip"]
    first, pin, _, other_pin = capsys.readouterr().err.splitlines()
    assert first == ("mine: not verified; to pin it, put this line under `mine:` in datasets.yaml")
    assert pin == f"  sha256: {ZIP_SHA256}"
    assert hashlib.sha256(server.files["/b.zip"]).hexdigest() in other_pin


def test_a_redirection_is_followed(server: Server, target: Path, settings: Settings) -> None:
    entry = Dataset(url=f"{server.url}/moved.zip", sha256=ZIP_SHA256)

    fetch_dataset("mine", entry, target, settings)

    assert server.asked == ["/moved.zip", "/a.zip"]
    assert contents(target) == {"a.png": PNG}


def test_a_wrong_checksum_is_refused_and_the_cache_is_not_poisoned(
    server: Server, target: Path, settings: Settings
) -> None:
    server.files["/a.zip"] = bad = zipped({"Set/a.png": PNG, "more.png": PNG})
    entry = Dataset(url=f"{server.url}/a.zip", sha256=ZIP_SHA256)

    text = refusal(ArchiveError, entry, target, settings)

    actual = hashlib.sha256(bad).hexdigest()
    assert text.startswith(f"mine: {server.url}/a.zip has sha256 {actual}, not {ZIP_SHA256}; ")
    assert contents(target) == {}
    assert contents(settings.archive_cache) == {}

    # Once the mirror is mended, the same call succeeds.
    server.files["/a.zip"] = ZIP
    fetch_dataset("mine", entry, target, settings)
    assert contents(target) == {"a.png": PNG}
    assert server.asked == ["/a.zip", "/a.zip"]


def test_another_promise_is_another_archive(
    server: Server, target: Path, settings: Settings
) -> None:
    entry = Dataset(url=f"{server.url}/a.zip")
    fetch_dataset("mine", entry, target, settings)

    pinned = entry.model_copy(update={"sha256": "0" * 64})
    assert "has sha256" in refusal(ArchiveError, pinned, target, settings)


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/nothing.zip", "404 Not Found"), ("/cut.zip", "peer closed connection")],
)
def test_what_cannot_be_fetched_is_a_download_error_and_leaves_nothing(
    path: str, reason: str, server: Server, target: Path, settings: Settings
) -> None:
    url = f"{server.url}{path}"

    text = refusal(DownloadError, Dataset(url=url), target, settings)

    assert text.startswith(f"mine: cannot fetch {url}: ")
    assert reason in text
    assert contents(target) == contents(settings.archive_cache) == {}


def test_a_server_that_is_not_there_is_a_download_error(target: Path, settings: Settings) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.zip"
        text = refusal(DownloadError, Dataset(url=url), target, settings)

    assert text.startswith(f"mine: cannot fetch {url}: ")
    assert "refused" in text


@pytest.mark.parametrize("url", ["ftp://host/a.zip", "htp://host/a.zip"])
def test_an_unknown_scheme_is_refused(url: str, target: Path, settings: Settings) -> None:
    expected = f"mine: unknown scheme in {url!r}; known: https, http, s3, file, or give a path"
    assert refusal(ParamsError, Dataset(url=url), target, settings) == expected


@pytest.mark.parametrize("form", ["plain", "file"])
def test_an_archive_on_this_machine_is_taken_as_it_is(
    form: str, tmp_path: Path, target: Path, settings: Settings
) -> None:
    path = tmp_path / "my sets #1" / "Größe.zip"
    path.parent.mkdir()
    path.write_bytes(ZIP)
    url = str(path) if form == "plain" else path.as_uri()

    fetch_dataset("mine", Dataset(url=url, sha256=ZIP_SHA256), target, settings)

    assert contents(target) == {"a.png": PNG}


@pytest.mark.parametrize("form", ["plain", "file"])
def test_a_folder_on_this_machine_is_copied(
    form: str, tmp_path: Path, target: Path, settings: Settings
) -> None:
    folder = tmp_path / "my pictures"
    (folder / "HR").mkdir(parents=True)
    (folder / "HR" / "a.png").write_bytes(PNG)
    (folder / "b.png").write_bytes(PNG)
    url = str(folder) if form == "plain" else folder.as_uri()

    fetch_dataset("mine", Dataset(url=url, images="HR/*"), target, settings)

    assert contents(target) == {"a.png": PNG}
    assert contents(settings.archive_cache) == {}


def test_a_file_that_is_not_there_is_refused(
    tmp_path: Path, target: Path, settings: Settings
) -> None:
    path = tmp_path / "nothing.zip"

    text = refusal(ParamsError, Dataset(url=str(path)), target, settings)

    assert text == f"mine: there is no file or folder {path}; correct its address"


def test_an_archive_without_fitting_pictures_is_refused(
    server: Server, target: Path, settings: Settings
) -> None:
    entry = Dataset(url=f"{server.url}/a.zip", sha256=ZIP_SHA256, images="HR/*")

    text = refusal(ImageError, entry, target, settings)

    assert text.startswith(f"mine: no images found in {server.url}/a.zip that fit 'HR/*'; ")


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_mirror_stands_in_for_every_public_address(
    slash: str, server: Server, target: Path, tmp_path: Path
) -> None:
    server.files["/sets/T91.zip"] = ZIP
    settings = Settings(mirror=f"{server.url}/sets{slash}", archive_cache=tmp_path / "cache")

    fetch_dataset("t91", Dataset(archive="T91.zip", sha256=ZIP_SHA256), target, settings)

    assert server.asked == ["/sets/T91.zip"]
    assert contents(target) == {"a.png": PNG}


def test_where_a_data_set_comes_from() -> None:
    public = Dataset(url="https://example.org/x/DIV2K.zip?download=1")
    renamed = Dataset(url="https://example.org/4711", archive="Set5.zip")
    local = Dataset(url="/my/own.zip")
    plain, mirrored = Settings(), Settings(mirror="s3://bucket/sets/")

    assert source_url("a", public, plain) == "https://example.org/x/DIV2K.zip?download=1"
    assert source_url("a", public, mirrored) == "s3://bucket/sets/DIV2K.zip"
    assert source_url("a", renamed, plain) == "https://example.org/4711"
    assert source_url("a", renamed, mirrored) == "s3://bucket/sets/Set5.zip"
    assert source_url("a", local, mirrored) == "/my/own.zip"
    assert source_url("a", Dataset(archive="T91.zip"), mirrored) == "s3://bucket/sets/T91.zip"
    shared = Settings(storage="s3://bucket/lab/")
    assert source_url("a", Dataset(archive="T91.zip"), shared) == "s3://bucket/lab/archives/T91.zip"
    assert source_url("a", renamed, shared) == "https://example.org/4711"


def test_without_a_mirror_an_archive_alone_has_no_source(target: Path, settings: Settings) -> None:
    text = refusal(ParamsError, Dataset(archive="T91.zip"), target, settings, name="t91")

    assert text.startswith("t91: it has no public URL with known contents; put T91.zip in a")
    assert "SISR_MIRROR" in text


def test_a_folder_is_a_mirror(tmp_path: Path, target: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "T91.zip").write_bytes(ZIP)
    settings = Settings(mirror=str(tmp_path / "mirror"), archive_cache=tmp_path / "cache")

    fetch_dataset("t91", Dataset(archive="T91.zip", sha256=ZIP_SHA256), target, settings)

    assert contents(target) == {"a.png": PNG}


@pytest.fixture
def s3_url(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real S3 API on this machine with a bucket `sets` that holds `x2/T91.zip`."""
    import boto3

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="sets")
    client.put_object(Bucket="sets", Key="x2/T91.zip", Body=ZIP)
    client.close()
    return s3_server


def test_an_s3_bucket_is_a_mirror(s3_url: str, tmp_path: Path, target: Path) -> None:
    settings = Settings(
        mirror="s3://sets/x2", s3_endpoint_url=s3_url, archive_cache=tmp_path / "cache"
    )

    fetch_dataset("t91", Dataset(archive="T91.zip", sha256=ZIP_SHA256), target, settings)
    assert contents(target) == {"a.png": PNG}

    text = refusal(DownloadError, Dataset(archive="T92.zip"), target, settings)
    assert text.startswith(f"cannot read s3://sets/x2/T92.zip at {s3_url}: ")
    assert "404" in text

    elsewhere = settings.model_copy(update={"mirror": "s3://other"})
    text = refusal(DownloadError, Dataset(archive="T91.zip"), target, elsewhere)
    assert text.startswith(f"cannot read s3://other/T91.zip at {s3_url}: ")
    assert list(contents(settings.archive_cache)) == [f"t91-{ZIP_SHA256}"]


def test_what_is_too_large_is_not_even_begun(
    s3_url: str, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tasks.download

    local = tmp_path / "T91.zip"
    local.write_bytes(ZIP)
    settings = Settings(s3_endpoint_url=s3_url)
    monkeypatch.setattr(tasks.download, "download_s3", lambda *_: pytest.fail("begun"))
    monkeypatch.setattr(shutil, "copyfile", lambda *_: pytest.fail("begun"))

    for url in ("s3://sets/x2/T91.zip", str(local)):
        with pytest.raises(ArchiveError) as caught:
            fetch_file("mine", url, target, settings, len(ZIP) - 1)
        assert str(caught.value) == (f"mine: it has {len(ZIP)} bytes; the limit is {len(ZIP) - 1}")


def test_an_endpoint_that_is_no_url_is_refused(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    settings = Settings(
        mirror="s3://sets", s3_endpoint_url="localhost:9000", archive_cache=tmp_path / "cache"
    )

    text = refusal(ParamsError, Dataset(archive="T91.zip"), target, settings)

    assert text == "SISR_S3_ENDPOINT_URL is wrong: Invalid endpoint: localhost:9000"


def test_installed_pictures_are_the_packages_own(target: Path, settings: Settings) -> None:
    import skimage.data

    entry = Dataset(installed={"skimage": ("data/astronaut.png", "data/camera.png")})
    fetch_dataset("mine", entry, target, settings)

    assert sorted(contents(target)) == ["astronaut.png", "camera.png"]
    with Image.open(target / "astronaut.png") as image:
        np.testing.assert_array_equal(np.asarray(image), skimage.data.astronaut())
    with Image.open(target / "camera.png") as image:
        np.testing.assert_array_equal(np.asarray(image), skimage.data.camera())


def test_every_sample_set_of_the_catalogue_is_installed(tmp_path: Path, settings: Settings) -> None:
    catalogue = load_catalogue(REPOSITORY / "datasets.yaml")
    sets = {name: entry for name, entry in catalogue.items() if entry.installed}

    for name, entry in sets.items():
        (tmp_path / name).mkdir()
        fetch_dataset(name, entry, tmp_path / name, settings)
        num_files = sum(len(files) for files in (entry.installed or {}).values())
        assert len(contents(tmp_path / name)) == num_files
    assert list(sets) == ["sample_train", "sample_validation", "sample_test"]


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (
            {"nosuchpackage": ("a.png",)},
            "mine: package 'nosuchpackage' is not installed; run `make setup`",
        ),
        (
            {"skimage": ("data/nosuch.png",)},
            "mine: this version of 'skimage' ships no data/nosuch.png",
        ),
        (
            {"skimage": ("data/camera.png", "data/camera.png")},
            "mine: two of its files are named 'camera.png'",
        ),
    ],
)
def test_installed_pictures_that_are_not_there_are_refused(
    installed: dict[str, tuple[str, ...]], message: str, target: Path, settings: Settings
) -> None:
    assert refusal(ParamsError, Dataset(installed=installed), target, settings) == message


def test_installed_pictures_can_be_pinned(target: Path, settings: Settings) -> None:
    import skimage

    camera = Path(skimage.__file__).parent / "data" / "camera.png"
    actual = hashlib.sha256(camera.read_bytes()).hexdigest()
    installed: dict[str, tuple[str, ...]] = {"skimage": ("data/camera.png",)}

    fetch_dataset("mine", Dataset(installed=installed, sha256=actual), target, settings)
    (target / "camera.png").unlink()
    text = refusal(ArchiveError, Dataset(installed=installed, sha256="0" * 64), target, settings)

    assert text.startswith(f"mine: the installed pictures have sha256 {actual}, not {'0' * 64};")


def run_download(workspace: Workspace) -> None:
    download(load_params(), load_catalogue(), Settings())


def test_every_role_gets_its_pictures_as_their_authors_made_them(workspace: Workspace) -> None:
    (stale := workspace.path / "data/hr/train/before").mkdir(parents=True)
    (stale / "old.png").write_bytes(PNG)

    run_download(workspace)

    hr = workspace.path / "data" / "hr"
    copied = {path.relative_to(hr): path.read_bytes() for path in hr.rglob("*") if path.is_file()}
    assert copied == {
        Path(role) / f"tiny_{role}" / name: (workspace.sources / f"tiny_{role}" / name).read_bytes()
        for role, names in {
            "train": ("meadow.png", "pier.png"),
            "validation": ("harbour.png",),
            "test": ("bridge.png", "clock.png"),
        }.items()
        for name in names
    }
    assert not (workspace.path / ".sisr").exists()


def test_an_unknown_data_set_is_answered_with_the_known_ones(workspace: Workspace) -> None:
    params = workspace.write_params(
        data={"train": ["tiny_train"], "validation": ["nosuch"], "test": ["tiny_test"]}
    )

    with pytest.raises(ParamsError) as caught:
        download(params, load_catalogue(), Settings())
    start, _, known = str(caught.value).rpartition(": ")
    assert start == "unknown data set 'nosuch'; datasets.yaml has"
    assert sorted(known.split(", ")) == ["tiny_test", "tiny_train", "tiny_validation"]


@pytest.mark.parametrize(
    ("role", "fits", "too_small"),
    [
        ("train", (48, 48), (47, 90)),  # shards.patch_px
        ("test", (17, 17), (90, 16)),  # SSIM's 11 pixels, the crop of 2·2, and 2 to spare
        ("validation", (17, 17), (16, 90)),
    ],
)
def test_a_picture_that_is_too_small_is_refused(
    role: str, fits: tuple[int, int], too_small: tuple[int, int], workspace: Workspace
) -> None:
    folder = workspace.sources / f"tiny_{role}"
    (folder / "fits.png").write_bytes(png(*fits, grey=1))
    run_download(workspace)

    (folder / "small.png").write_bytes(png(*too_small, grey=2))
    with pytest.raises(ImageError) as caught:
        run_download(workspace)
    height, width = too_small
    assert str(caught.value).startswith(
        f"tiny_{role}: small.png is {width}×{height}, smaller than {fits[0]} pixels;"
    )


@pytest.mark.parametrize("role", ["test", "validation"])
def test_a_picture_of_one_colour_cannot_be_measured(role: str, workspace: Workspace) -> None:
    blank = Image.new("RGB", (64, 64), "white")
    blank.save(workspace.sources / "tiny_train" / "blank.png")
    run_download(workspace)

    blank.convert("L").save(workspace.sources / f"tiny_{role}" / "blank.png")
    with pytest.raises(ImageError, match=rf"tiny_{role}: blank.png has one colour"):
        run_download(workspace)


def test_a_corrupt_picture_is_refused_and_the_old_data_stay(workspace: Workspace) -> None:
    run_download(workspace)
    whole = (workspace.sources / "tiny_test" / "clock.png").read_bytes()
    (workspace.sources / "tiny_test" / "broken.png").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ImageError, match=r"broken\.png is corrupt, truncated or no picture"):
        run_download(workspace)

    names = [path.name for path in (workspace.path / "data/hr/test/tiny_test").iterdir()]
    assert sorted(names) == ["bridge.png", "clock.png"]


@pytest.mark.parametrize("role", ["validation", "test"])
def test_a_training_picture_among_the_tests_is_found_under_any_name(
    role: str, workspace: Workspace
) -> None:
    twin = workspace.sources / "tiny_train" / "pier.png"
    (workspace.sources / f"tiny_{role}" / "other name.png").write_bytes(twin.read_bytes())

    with pytest.raises(ImageError) as caught:
        run_download(workspace)
    assert str(caught.value) == (
        f"data/hr/{role}/tiny_{role}/other name.png is also in training, as"
        " data/hr/train/tiny_train/pier.png; take one of them out"
    )


def test_two_pictures_of_equal_size_are_no_leak(
    workspace: Workspace, make_photograph: Callable[..., np.ndarray]
) -> None:
    for role, seed in (("train", 41), ("test", 42)):
        picture = make_photograph(60, 60, colour=True, seed=seed)
        Image.fromarray(picture).save(workspace.sources / f"tiny_{role}" / "same.png")

    run_download(workspace)

    assert (workspace.path / "data/hr/test/tiny_test/same.png").exists()


def test_the_catalogue_is_read_from_the_workspace(workspace: Workspace, server: Server) -> None:
    entries = {
        "tiny_train": {"url": str(workspace.sources / "tiny_train")},
        "tiny_validation": {"url": str(workspace.sources / "tiny_validation")},
        "tiny_test": {"url": f"{server.url}/a.zip", "sha256": ZIP_SHA256},
    }
    (workspace.path / "datasets.yaml").write_text(json.dumps(entries))

    run_download(workspace)

    assert contents(workspace.path / "data/hr/test/tiny_test") == {"a.png": PNG}
    # The cache lies in the workspace, out of the way of what a run makes.
    assert (workspace.path / ".sisr" / "archives" / f"tiny_test-{ZIP_SHA256}").exists()


def test_a_damaged_archive_in_the_cache_is_fetched_again(tmp_path: Path) -> None:
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.png", b"pixels")
    entry = Dataset(url=str(archive), sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    settings = Settings(archive_cache=tmp_path / "cache")
    (tmp_path / "out").mkdir()
    fetch_dataset("set", entry, tmp_path / "out", settings)
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(b"damaged")

    fetch_dataset("set", entry, tmp_path / "out", settings)

    assert cached.read_bytes() == archive.read_bytes()


def test_an_unpinned_archive_of_this_machine_may_change(tmp_path: Path) -> None:
    archive, settings = tmp_path / "set.zip", Settings(archive_cache=tmp_path / "cache")
    for text in (b"first", b"second"):
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("a.png", text)
        out = tmp_path / text.decode()
        out.mkdir()
        fetch_dataset("set", Dataset(url=str(archive)), out, settings)
        assert (out / "a.png").read_bytes() == text


def test_a_folder_that_changed_after_it_was_copied_is_told(workspace: Workspace) -> None:
    params, catalogue = load_params(), load_catalogue()
    folder = workspace.sources / "tiny_test"
    assert changed_folders(params, catalogue) == {}  # nothing was copied yet
    run_download(workspace)
    assert changed_folders(params, catalogue) == {}

    before = (folder / "clock.png").read_bytes()
    (folder / "clock.png").write_bytes(before)  # newer, and the same
    (folder / "notes.txt").write_text("no picture")
    assert changed_folders(params, catalogue) == {}

    (folder / "clock.png").write_bytes(before[:-1] + b"x")
    os.utime(folder / "clock.png", (0, 0))  # `cp -p` of an old one
    (folder / "bridge.png").unlink()
    (folder / "new.png").write_bytes(PNG)
    (folder / "deep").mkdir()
    (folder / "deep" / "newer.png").write_bytes(PNG)
    expected = {"tiny_test": f"{folder} has changed: 2 new, 1 gone, 1 changed"}
    assert changed_folders(params, catalogue) == expected

    shutil.rmtree(folder)  # not there now: its copy is what there is
    assert changed_folders(params, catalogue) == {}


def test_a_link_that_leads_nowhere_has_changed_and_one_to_a_folder_is_refused(
    workspace: Workspace,
) -> None:
    run_download(workspace)
    folder = workspace.sources / "tiny_test"
    (folder / "clock.png").unlink()
    (folder / "clock.png").symlink_to("nowhere.png")
    expected = {"tiny_test": f"{folder} has changed: 1 changed"}
    assert changed_folders(load_params(), load_catalogue()) == expected

    (folder / "clock.png").unlink()
    (folder / "more").symlink_to(workspace.sources / "tiny_train", target_is_directory=True)
    with pytest.raises(ArchiveError, match="more is a link to a folder, which is not followed"):
        run_download(workspace)
    # ... unless no picture would have been taken from there.
    (folder / "more").unlink()
    (folder / "notes").symlink_to(workspace.path / "models", target_is_directory=True)
    run_download(workspace)


def test_a_name_with_a_dot_is_a_data_set_like_others(workspace: Workspace) -> None:
    entries = {f"v1.{role}": {"url": str(workspace.sources / f"tiny_{role}")} for role in ROLES}
    dump_yaml(entries, workspace.path / "datasets.yaml")
    workspace.write_params(data={role: [f"v1.{role}"] for role in ROLES})

    run_download(workspace)

    assert len(list((workspace.path / "data/hr/test/v1.test").iterdir())) == 2


def test_what_is_no_archive_is_not_kept_for_the_next_time(
    server: Server, target: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/a.zip"] = b"<html>Down for maintenance</html>"
    entry = Dataset(url=f"{server.url}/a.zip")

    text = refusal(ArchiveError, entry, target, settings)
    assert text == (
        f"mine: {server.url}/a.zip is neither a zip nor a tar archive but a web page; open its"
        " address in a browser to see what it says"
    )
    assert capsys.readouterr().err == ""  # nobody is told to pin it

    server.files["/a.zip"] = ZIP
    fetch_dataset("mine", entry, target, settings)
    assert contents(target) == {"a.png": PNG}
