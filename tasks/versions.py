"""Registered versions: made of finished runs, described, and which of them reigns."""

import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.config import Params
from tasks.errors import WeightsError
from tasks.evaluate import evaluate_network
from tasks.mlflow_store import Client, download_network, if_any, log_model, logged_models, retried
from tasks.model_card import model_description, version_description
from tasks.run_records import Row
from tasks.served import ServedNetwork, load

CHAMPION = "champion"


@dataclass(frozen=True)
class Registered:
    """One registered version and whether it reigns."""

    model: str
    version: str
    run_id: str
    psnr_db: float
    is_champion: bool


@dataclass(frozen=True)
class Version:
    """A registered version as the store has it; `source` says whose its weights are."""

    model: str
    version: str
    source: str
    psnr_db: float
    is_champion: bool

    def __str__(self) -> str:
        crown = ", champion" if self.is_champion else ""
        return f"{self.model}/{self.version}: {self.source}, {self.psnr_db:.2f} dB{crown}"


def attach_model(client: Client, experiment: str, run_id: str, row: Row) -> None:
    """Log a row's network to its run, unless a version has the same weights already."""
    if row.weights is not None and _version_of(client, row) is None:
        log_model(client, experiment, run_id, row)


def register(client: Client, experiment: str, run_id: str, row: Row, params: Params) -> Registered:
    """Make a finished run's network a version, unless it is one, and let it challenge."""
    _describe_model(client, row)
    description = version_description(row, params)
    found = _version_of(client, row)
    if found is None:
        version = _new_version(client, experiment, run_id, row, description)
    else:
        version = str(found.version)
        _set_tags(client, found, row.evaluation())
        if found.description != description:
            client.update_model_version(row.model_name, version, description)
    is_champion = _challenge(client, version, row)
    return Registered(row.model_name, version, run_id, row.psnr_db, is_champion)


def versions_of(client: Client, name: str) -> Iterator[Version]:
    """All versions of a registered model."""
    champion = champion_of(client, name)
    for found in client.search_model_versions(f"name = '{name}'"):
        yield Version(
            model=name,
            version=str(found.version),
            source=found.tags.get("source", ""),
            psnr_db=float(found.tags.get("psnr_db", "nan")),
            is_champion=champion is not None and str(champion.version) == str(found.version),
        )


def champion_of(client: Client, name: str) -> Any | None:
    """The version that reigns."""
    return if_any(lambda: client.get_model_version_by_alias(name, CHAMPION))


def load_network(uri: str) -> ServedNetwork | None:
    """A registered network; none if there is no such model, alias or version.

    Raises:
        WeightsError: this code has no such network, or one of other shapes.
    """
    with tempfile.TemporaryDirectory(prefix="sisr-") as folder:
        path = download_network(uri, Path(folder))
        try:
            return None if path is None else load(path)
        except WeightsError as error:
            reference = uri.removeprefix("models:/")
            raise WeightsError(
                f"{reference} is of other code and cannot be loaded by this: {error.__cause__}"
            ) from error


def _describe_model(client: Client, row: Row) -> None:
    description = model_description(row.architecture, row.scale)
    tags = {"architecture": row.architecture, "scale": str(row.scale)}

    def find_or_make() -> Any:
        found = if_any(lambda: client.impatient.get_registered_model(row.model_name))
        return found or client.impatient.create_registered_model(row.model_name, tags, description)

    if retried(find_or_make).description != description:
        client.update_registered_model(row.model_name, description)


def _new_version(client: Client, experiment: str, run_id: str, row: Row, description: str) -> str:
    """One request with all of a version's tags: there is no version without them."""
    ready = [m for m in logged_models(client, experiment, run_id) if str(m.status) == "READY"]
    model_id = ready[0].model_id if ready else log_model(client, experiment, run_id, row)

    def find_or_make() -> str:
        # Asked again after an answer was lost, it must not make a second one.
        made = _version_of(client, row) or client.impatient.create_model_version(
            row.model_name,
            f"models:/{model_id}",
            run_id,
            tags={"weights_sha256": row.weights_sha256(), **row.evaluation()},
            description=description,
            model_id=model_id,
        )
        return str(made.version)

    return str(retried(find_or_make))


def _set_tags(client: Client, version: Any, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        if version.tags.get(key) != value:
            client.set_model_version_tag(version.name, version.version, key, value)


def _version_of(client: Client, row: Row) -> Any | None:
    """The version that has the row's weights."""
    digest = row.weights_sha256()
    for version in client.search_model_versions(f"name = '{row.model_name}'"):
        if version.tags.get("weights_sha256") == digest:
            return version
    return None


def _challenge(client: Client, version: str, row: Row) -> bool:
    """Make a version the champion if it beats the reigning one on the same test data."""
    reigning = champion_of(client, row.model_name)
    if reigning is not None and str(reigning.version) != version:
        bar = float(reigning.tags.get("psnr_db", -math.inf))
        if reigning.tags.get("test_data_sha256") != row.result["test_data_sha256"]:
            bar = _measure_again(client, reigning, row)
        if row.psnr_db <= bar:
            return False
    client.set_registered_model_alias(row.model_name, CHAMPION, version)
    return True


def _measure_again(client: Client, reigning: Any, challenger: Row) -> float:
    """The reigning champion's PSNR on the challenger's test data; less than any if it fails."""
    datasets = [str(name) for name in challenger.means.index]
    try:
        served = load_network(f"models:/{reigning.name}/{reigning.version}")
        assert served is not None
        again = evaluate_network(served.network, challenger.architecture, served.scale, datasets)
    except WeightsError as error:
        told = f"{reigning.name}/{reigning.version} is no champion any more: {error}"
        print(told, file=sys.stderr, flush=True)
        return -math.inf
    row = Row(again, challenger.architecture, str(reigning.tags.get("source", "")), None, None)
    _set_tags(client, reigning, row.evaluation())
    return row.psnr_db
