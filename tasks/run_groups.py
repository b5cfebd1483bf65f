"""Runs that are logged together finish together, or not at all.

They are found again by the checksum of their contents, so the same results are logged once. What
an interruption leaves is ended by the workspace's next logging.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from tasks.atomic import write_text
from tasks.layout import SCRATCH_FOLDER
from tasks.mlflow_store import MOST_FOUND, Client, fill_run, logged_models
from tasks.run_records import RunRecord

CONTENTS, PARENT = "contents_sha256", "mlflow.parentRunId"
_WORKSPACE = "workspace"


class Begin(Protocol):
    """Begins a run, fills it, and returns its id."""

    def __call__(self, record: RunRecord, tags: Mapping[str, str]) -> str:
        """`tags` are set beside the record's own."""
        ...


@contextmanager
def whole(client: Client, experiment: str) -> Iterator[Begin]:
    """A function that begins runs; they finish together, the first one last, or not at all."""
    _end_unfinished(client, experiment)
    begun: list[str] = []

    def begin(record: RunRecord, tags: Mapping[str, str]) -> str:
        run_tags = {**record.tags, **tags, "mlflow.note.content": record.note}
        run_tags[_WORKSPACE] = _workspace_id()
        run = client.create_run(experiment, run_name=record.name, tags=run_tags)
        begun.append(str(run.info.run_id))
        fill_run(client, begun[-1], record)
        return begun[-1]

    try:
        yield begin
        for run_id in reversed(begun):
            client.set_terminated(run_id)
    except BaseException as error:
        _give_up(client, begun, error)
        raise
    _end_unfinished(client, experiment)


def _give_up(client: Client, begun: list[str], error: BaseException) -> None:
    """Mark runs as failed, without waiting for a store that may be out of reach."""
    try:
        for run_id in begun:
            client.impatient.set_terminated(run_id, "FAILED")
    except Exception as another:  # noqa: BLE001 - told beside the one that matters
        error.add_note(f"its runs are marked by the next logging: {another}")


def _end_unfinished(client: Client, experiment: str) -> None:
    """Mark what an interrupted logging of this workspace left, and drop its networks."""
    mine = f"tags.{_WORKSPACE} = '{_workspace_id()}'"
    left = client.search_runs([experiment], f"attributes.status = 'RUNNING' and {mine}")
    for run in left:
        run_id = run.info.run_id
        children = client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'")
        for each in (run_id, *(child.info.run_id for child in children)):
            for model in logged_models(client, experiment, each):
                client.delete_logged_model(model.model_id)
            client.set_terminated(each, "KILLED")


def _workspace_id() -> str:
    """Whose unfinished runs are ours to end, in a store that others log to as well."""
    file = SCRATCH_FOLDER / "workspace-id"
    if not file.exists():
        write_text(file, uuid.uuid4().hex)
    return file.read_text(encoding="utf-8").strip()


def finished(client: Client, experiment: str, contents: str) -> str | None:
    """The finished run of exactly these contents, if there is one."""
    same = f"attributes.status = 'FINISHED' and tags.{CONTENTS} = '{contents}'"
    found = client.search_runs([experiment], same)
    own = [str(run.info.run_id) for run in found if PARENT not in run.data.tags]
    return own[0] if own else None


def children_of(client: Client, experiment: str, parent: str) -> dict[str, str]:
    """The runs under a run, by name."""
    found = client.search_runs(
        [experiment], f"tags.`{PARENT}` = '{parent}'", max_results=MOST_FOUND
    )
    return {str(run.info.run_name): str(run.info.run_id) for run in found}
