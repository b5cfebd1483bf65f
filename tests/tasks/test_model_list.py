import pytest

import models
from tasks.model_list import PUBLISHED_COUNTS, PublishedCount, list_models
from tasks.published_tables import published_table
from tasks.tracking import Version


def value(printed: str) -> float:
    """665K, 1.37M or 8,032 as a number."""
    units = {"K": 1e3, "M": 1e6}
    number = float(printed.rstrip("KM").replace(",", ""))
    return number * units.get(printed[-1], 1.0)


def last_digit(printed: str) -> float:
    """What one more in the last printed digit is worth: 10,000 for 1.37M, 0.5 for exact ones."""
    if printed[-1] not in "KM":
        return 0.5
    return value(f"1{printed[-1]}") / 10 ** len(printed[:-1].partition(".")[2])


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
def test_ours_are_the_published_counts(count: PublishedCount) -> None:
    """To the printed digits, counted the source's way where that is not ours."""
    listed = {each.name: each for each in list_models([])}[count.architecture]
    scales = models.SCALES if count.scale is None else (count.scale,)
    ours = [listed.num_parameters[scale] for scale in scales]
    if count.source == "Dong et al. 2016, without biases":
        ours = [each - (64 + 32 + 1) for each in ours]
    if count.scale is None and listed.paper_num_parameters is not None:
        ours = [listed.paper_num_parameters]

    assert any(abs(each - value(count.printed)) <= last_digit(count.printed) for each in ours)


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
