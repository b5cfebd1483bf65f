import json
import os
import subprocess
import sys

from tests.conftest import REPOSITORY

# As the engines' documentations have it.
OFF = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def test_no_engine_reports_to_anyone_however_flows_are_started() -> None:
    bare = {name: value for name, value in os.environ.items() if name not in OFF}
    code = "import flows, json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=bare,
        capture_output=True,
        text=True,
        check=True,
    )
    assert OFF.items() <= json.loads(done.stdout).items()
