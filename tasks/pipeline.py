"""The DAG of dvc.yaml: what is stale, what is done; the only file that knows DVC.

The flow runs a stage's function itself and then lets DVC record its inputs and
outputs, so no stage pays DVC's start-up. While a run goes on, the workspace is
locked and its params.yaml must stay as it was.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tasks.checksums import file_sha256
from tasks.config import Settings
from tasks.errors import ParamsError, StoreError
from tasks.layout import SCRATCH_FOLDER

LOCK_FILE = SCRATCH_FOLDER / "run.lock"
# Is there while something was recorded that no push has taken to the remote.
_UNPUSHED_FILE = SCRATCH_FOLDER / "unpushed"


def stale_stages() -> dict[str, str]:
    """The stages that DVC would run now, in the order of the DAG, each with its reason.

    A stage whose inputs will only change once an earlier stage has run is not
    among them yet.

    Raises:
        StoreError: no DVC repository, or a dvc.yaml that DVC refuses.
    """
    with _repo() as repo:
        status = repo.status()
        order = _in_order(repo) if status else ()  # ordering makes DVC read everything again
        return {name: _reason(status[name]) for name in order if name in status}


def stage_names() -> list[str]:
    """Every stage of the DAG, in its order.

    Raises:
        StoreError: no DVC repository, or a dvc.yaml that DVC refuses.
    """
    with _repo() as repo:
        return _in_order(repo)


def fetch_records() -> None:
    """Learn from DVC's default remote what ran elsewhere with which inputs and outputs.

    Raises:
        StoreError: the remote cannot be reached.
    """
    with _repo() as repo:
        try:
            remote = repo.cloud.get_remote_odb(None, "fetch --run-cache", hash_name="md5-dos2unix")
            # Not what is here already: one record of the same inputs is enough.
            repo.stage_cache.transfer(remote, repo.cache.legacy, force=False)
        except Exception as error:  # each kind of storage has its own
            raise StoreError(f"DVC's remote does not answer: {error}") from error


def restore(stage: str) -> bool:
    """Bring a stage's outputs back from DVC's cache, if it ran with these inputs before.

    Where there is a remote, from there too; `fetch_records` says what ran elsewhere.

    Raises:
        StoreError: DVC cannot read its cache.
    """
    from dvc.exceptions import ConfirmRemoveError
    from dvc.stage.cache import RunCacheNotFoundError

    with _repo() as repo:
        (found,) = repo.stage.collect(stage)
        if not all(dependency.exists for dependency in found.deps):
            return False
        try:
            with repo.lock:
                repo.stage_cache.restore(found, pull=_remote_name(repo) is not None)
        except (RunCacheNotFoundError, ConfirmRemoveError):
            # Never run like this, or a failed run left an output that DVC does not know: make it.
            return False
        repo.commit(stage, force=True)
        return True


def code_sums() -> dict[str, str]:
    """The checksums of the code that stages name as dependencies, by path."""
    files = (path for package in ("models", "tasks") for path in sorted(Path(package).glob("*.py")))
    return {path.as_posix(): file_sha256(path) for path in files}


def record(stage: str, code: Mapping[str, str]) -> None:
    """Let DVC take a stage that has just run into its cache and its lock file.

    `code` is what `code_sums` said when the code that ran was loaded.

    Raises:
        ParamsError: code that the stage depends on has changed since.
        StoreError: an output is missing, or DVC cannot write its cache.
    """
    _UNPUSHED_FILE.parent.mkdir(exist_ok=True)
    _UNPUSHED_FILE.touch()
    with _repo() as repo:
        (found,) = repo.stage.collect(stage)
        now, deps = code_sums(), {Path(str(dep)) for dep in found.deps}
        changed = [
            name
            for name in sorted(code)
            if now.get(name) != code[name] and deps & {Path(name), *Path(name).parents}
        ]
        if changed:
            raise ParamsError(
                f"{changed[0]} changed during the run; {stage} is not recorded: run again to make"
                " it with the code that is there now"
            )
        repo.commit(stage, force=True)
        (found,) = repo.stage.collect(stage)
        if not found.outs_cached():  # DVC only logs that its disk is full
            raise StoreError(
                f"{stage}: its outputs are not all in DVC's cache; make room there and run again"
            )


def push() -> None:
    """Copy everything that the lock file names to DVC's default remote.

    Raises:
        StoreError: the remote cannot be reached.
    """
    from dvc.exceptions import DvcException

    with _repo() as repo:
        try:
            repo.push(run_cache=True)
        except DvcException:
            raise
        except Exception as error:  # each kind of storage has its own
            raise StoreError(f"DVC's remote does not answer: {error}; run again to push") from error
    _UNPUSHED_FILE.unlink(missing_ok=True)


def has_unpushed() -> bool:
    """Whether there is a remote that lacks what a run has recorded here."""
    return _UNPUSHED_FILE.exists() and has_remote()


def has_remote() -> bool:
    """Whether there is a DVC remote: the storage, or the workspace's own default."""
    with _repo() as repo:
        return _remote_name(repo) is not None


@contextmanager
def workspace_lock() -> Iterator[None]:
    """Keep every other run out of this workspace.

    Raises:
        StoreError: another run is going on.
    """
    LOCK_FILE.parent.mkdir(exist_ok=True)
    lock = FileLock(LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(
            f"another run is going on in {Path.cwd()} ({LOCK_FILE} is held); wait for it to end"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Raise if a file changes while the block runs: what it made would be recorded as another's.

    Raises:
        ParamsError: it changed.
    """
    before = path.read_bytes()
    yield
    if path.read_bytes() != before:
        raise ParamsError(f"{path} changed during the run; run again to make what it asks for now")


@contextmanager
def _repo() -> Iterator[Any]:
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc import prompt
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.ERROR)
    # Nobody is asked in the middle of a run; what DVC may not replace is made anew.
    prompt.confirm = lambda statement: False
    try:
        # Another DVC command holds its lock for a moment, and loses it when it dies.
        with Repo(config=_config(Settings()), _wait_for_lock=True) as repo:
            yield repo
    except DvcException as error:
        raise StoreError(f"DVC: {error}") from error


def _config(settings: Settings) -> dict[str, Any]:
    """What this machine's settings and folders say, over DVC's own files."""
    core: dict[str, Any] = {}
    # A downloaded archive, an image, a Ray job: git is not needed to run.
    if not any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
        core["no_scm"] = True
    if settings.storage is None:
        return {"core": core}
    remote = {"url": f"{settings.storage.rstrip('/')}/dvc"}
    if settings.s3_endpoint_url and settings.storage.startswith("s3://"):
        remote["endpointurl"] = settings.s3_endpoint_url
    return {"core": core | {"remote": "storage"}, "remote": {"storage": remote}}


def _remote_name(repo: Any) -> str | None:
    name: str | None = repo.config["core"].get("remote")
    return name


def _in_order(repo: Any) -> list[str]:
    import networkx  # type: ignore[import-untyped]

    # Edges point from a stage to what it needs.
    order = networkx.dfs_postorder_nodes(repo.index.graph)
    return [stage.addressing for stage in order]


def _reason(entries: list[Any]) -> str:
    """DVC's own words, in one line: `changed deps: params.yaml trained.srcnn`."""
    reasons = []
    for entry in entries:
        if isinstance(entry, str):
            reasons.append(entry)
            continue
        for kind, paths in entry.items():
            names = (
                f"{path} ({', '.join(what)})" if isinstance(what, dict) else f"{path} ({what})"
                for path, what in paths.items()
            )
            reasons.append(f"{kind}: {', '.join(names)}")
    return "; ".join(reasons)
