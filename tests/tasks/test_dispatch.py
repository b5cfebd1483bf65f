"""A Ray that cannot be joined is told at once, and with the way out."""

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tasks.config import Params, Settings
from tasks.dispatch import cluster
from tasks.errors import StoreError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:ray")


def join(params: Params, address: str) -> None:
    with cluster(params, Settings(ray_address=address), [], print):
        raise AssertionError("nothing is there to be joined")


def test_an_address_where_nobody_listens_is_told_within_seconds(
    make_params: Callable[..., Params],
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"  # bound, but nobody listens

        start_s = time.monotonic()
        with pytest.raises(StoreError, match=f"Ray at {address} cannot be used: .*refused"):
            join(make_params(), address)

    assert time.monotonic() - start_s < 15


@pytest.mark.parametrize(("mode", "is_told"), [(None, True), ("token", False)])
def test_a_ray_that_refuses_us_is_told_with_the_token_it_may_want(
    make_params: Callable[..., Params],
    monkeypatch: pytest.MonkeyPatch,
    mode: str | None,
    is_told: bool,
) -> None:
    def refuse(**_: Any) -> None:
        # What `ray.init` raises where the head wants a token and gets none.
        raise ConnectionError("Failed to connect to Ray cluster at first:6379")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)

    with pytest.raises(StoreError, match="Failed to connect") as caught:
        join(make_params(), "ray://first:10001")

    assert ("set RAY_AUTH_MODE=token" in str(caught.value)) == is_told
