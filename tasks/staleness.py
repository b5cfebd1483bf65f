"""What has to be made, and why: DVC's word, and the folders that DVC does not watch."""

from tasks import pipeline
from tasks.config import load_catalogue, load_params
from tasks.download import changed_folders, has_local_sources

DOWNLOAD = "download"
# Its real output is in MLflow, and logging the same results twice changes nothing there.
REGISTER = "register"


def stale_stages() -> dict[str, str]:
    """The stages to be run now, in the order of the DAG, each with its reason.

    Raises:
        ParamsError: params.yaml or datasets.yaml is wrong.
        StoreError: no DVC repository, or a dvc.yaml that DVC refuses.
    """
    changed = changed_folders(load_params(), load_catalogue())
    stale = pipeline.stale_stages()
    if changed and DOWNLOAD not in stale:
        reason = "; ".join(f"{name}: {how}" for name, how in changed.items())
        stale = {DOWNLOAD: reason} | stale
    return stale


def is_restorable(stage: str) -> bool:
    """Whether DVC's cache may stand in for a run: not where DVC does not see what changed.

    Pictures of this machine are copied once more: what it has of them now is not in DVC's records.
    """
    if stage == DOWNLOAD:
        return not has_local_sources(load_params(), load_catalogue())
    return stage != REGISTER
