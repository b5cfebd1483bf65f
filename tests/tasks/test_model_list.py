import pytest

import models
from tasks.model_list import PUBLISHED_COUNTS, list_models
from tasks.published_tables import published_table
from tasks.tracking import Version


def value(printed: str) -> float:
    """665K, 1.37M or 8,032 as a number."""
    units = {"K": 1e3, "M": 1e6}
    number = float(printed.rstrip("KM").replace(",", ""))
    return number * units.get(printed[-1], 1.0)


def test_every_architecture_is_listed_with_what_it_takes() -> None:
    listed = {each.name: each for each in list_models([])}

    assert list(listed) == models.names()
    assert listed["vdsr"].takes == "luminance, enlarged"
    assert listed["lesrcnn"].takes == "RGB, LR"
    assert listed["lesrcnn"].num_parameters == {2: 626_328, 3: 810_968, 4: 774_040}
    assert listed["lesrcnn"].paper_num_parameters == 515_456
    assert listed["vdsr"].paper_num_parameters is None
    assert listed["bicubic"].num_parameters == {2: 0, 3: 0, 4: 0}


@pytest.mark.parametrize("count", PUBLISHED_COUNTS, ids=str)
def test_ours_are_the_published_counts(count: object) -> None:
    """To the printed digits, counted the source's way where that is not ours."""
    assert count in PUBLISHED_COUNTS
    (published,) = [each for each in PUBLISHED_COUNTS if each is count]
    listed = {each.name: each for each in list_models([])}[published.architecture]
    ways = set(listed.num_parameters.values())
    if published.scale is not None:
        ways = {listed.num_parameters[published.scale]}
    ways |= {listed.paper_num_parameters or 0}
    # Dong et al. leave the 64 + 32 + 1 biases out.
    if published.architecture.startswith("srcnn"):
        ways = {listed.num_parameters[2] - 97}
    digits = len(published.printed.rstrip("KM").partition(".")[2])
    step = {"K": 1e3, "M": 1e6}.get(published.printed[-1], 1.0) / 10**digits
    assert any(abs(way - value(published.printed)) <= step for way in ways)


def test_counts_of_the_lesrcnn_paper_are_those_of_its_table() -> None:
    table = published_table("lesrcnn_complexity").set_index("architecture")["num_parameters"]
    ours = [each for each in PUBLISHED_COUNTS if each.source == "Tian et al. 2020, complexity"]

    assert {each.architecture for each in ours} == {"vdsr", "lesrcnn", "lesrcnn_hn", "lesrcnn_sn"}
    for each in ours:
        assert value(each.printed) == table[each.architecture]


def test_versions_stand_with_their_architecture() -> None:
    versions = [
        Version("vdsr-x2", "1", "published", 37.589, is_champion=True),
        Version("vdsr_5-x2", "1", "trained", 36.5, is_champion=True),
    ]

    listed = {each.name: each for each in list_models(versions)}

    assert listed["vdsr"].registered == (versions[0],)
    assert listed["vdsr_5"].registered == (versions[1],)
    assert str(versions[0]) == "vdsr-x2/1: published, 37.59 dB, champion"
