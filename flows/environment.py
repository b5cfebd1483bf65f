"""What the engines must know before their import: no telemetry, this workspace's own Prefect."""

import os
from pathlib import Path

_DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A busy machine needs more than Prefect's 20 s to start its temporary server, or we ours.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # Prefect's page gets the run's log; the terminal gets the run's own lines and its last error.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
}


def be_quiet() -> None:
    """Set what the person has not set; however flows are started, this comes before Prefect."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def prepare() -> None:
    """The same, and this workspace's own Prefect, for our command line."""
    be_quiet()
    # Another version's database in the home folder must neither break a run nor be changed by it.
    os.environ.setdefault("PREFECT_HOME", str(Path(".sisr/prefect").absolute()))


def make_prefect_home() -> None:
    """Make the folder that Prefect wants to find when it is imported."""
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
