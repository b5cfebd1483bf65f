import dataclasses
import json

import pytest

from tasks.config import Settings, load_catalogue, load_params
from tasks.data_list import list_datasets
from tasks.download import download
from tasks.errors import ParamsError
from tests.conftest import Workspace, dump_yaml


def test_before_the_download_only_the_catalogue_speaks(workspace: Workspace) -> None:
    entries = {
        "tiny_train": {"url": str(workspace.sources / "tiny_train")},
        "tiny_validation": {"url": str(workspace.sources / "tiny_validation")},
        "tiny_test": {"url": str(workspace.sources / "tiny_test")},
        "shipped": {"installed": {"skimage": ["data/a.png", "data/b.png"]}, "sha256": "0" * 64},
        "mirrored": {"archive": "Mirrored.zip", "note": "ask us"},
    }
    dump_yaml(entries, workspace.path / "datasets.yaml")

    listed = {
        each.name: each for each in list_datasets(load_params(), load_catalogue(), Settings())
    }

    assert list(listed) == list(load_catalogue())
    assert listed.keys() == entries.keys()
    assert not any(each.is_on_disk for each in listed.values())
    assert (listed["shipped"].num_images, listed["shipped"].is_pinned) == (2, True)
    assert listed["shipped"].source == "installed with skimage"
    assert (listed["mirrored"].source, listed["mirrored"].note) == ("", "ask us")
    assert listed["tiny_test"].roles == ("test",)
    assert listed["tiny_test"].num_images is None
    mirror = Settings(mirror="https://me:secret@example.org/sets")
    again = {each.name: each for each in list_datasets(load_params(), load_catalogue(), mirror)}
    assert again["mirrored"].source == "https://example.org/sets/Mirrored.zip"


def test_after_the_download_pictures_are_counted(workspace: Workspace) -> None:
    download(load_params(), load_catalogue(), Settings())

    listed = list_datasets(load_params(), load_catalogue(), Settings())
    train = next(each for each in listed if each.name == "tiny_train")

    assert all(each.is_on_disk for each in listed)
    assert (train.roles, train.fetched_roles, train.num_images) == (("train",), ("train",), 2)
    # meadow.png is 150×121, pier.png 131×118
    assert (train.smallest_px, train.largest_px) == ((131, 118), (150, 121))
    total = sum(file.stat().st_size for file in (workspace.sources / "tiny_train").iterdir())
    assert train.size_mib == pytest.approx(total / 2**20, abs=0.005)
    assert json.loads(json.dumps(dataclasses.asdict(train)))["largest_px"] == [150, 121]


def test_another_role_needs_another_download(workspace: Workspace) -> None:
    download(load_params(), load_catalogue(), Settings())
    params = workspace.write_params(
        data={"train": ["tiny_train"], "validation": ["tiny_test"], "test": ["tiny_test"]}
    )

    listed = {each.name: each for each in list_datasets(params, load_catalogue(), Settings())}

    assert listed["tiny_test"].roles == ("validation", "test")
    assert listed["tiny_test"].fetched_roles == ("test",)
    assert not listed["tiny_test"].is_on_disk


def test_a_data_set_without_an_entry_is_an_error(workspace: Workspace) -> None:
    catalogue = load_catalogue()
    del catalogue["tiny_test"]

    with pytest.raises(ParamsError, match=r"unknown data set 'tiny_test'; known: tiny_t"):
        list_datasets(load_params(), catalogue, Settings())
