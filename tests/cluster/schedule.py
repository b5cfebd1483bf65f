"""A schedule on the minute: runs are created and finish, and a stop leaves nothing behind.

    python -m tests.cluster.schedule [FOLDER]

`sisr serve` schedules the benchmark in a fresh workspace; three runs are waited
for, the last of which has nothing to do; then SIGTERM ends it.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.cluster.services import HOST, free_port
from tests.cluster.workspaces import environment, make_workspace, python

_NUM_RUNS = 3
_PATIENCE_S = 900.0


def main() -> None:
    """Serve, wait for the runs, stop, and look for what is left."""
    folder = Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp(prefix="sisr-schedule-"))
    workspace = make_workspace(
        folder.absolute() / "workspace",
        trained={"cnn_small": "100 steps"},
        scales=[2],
        validate_every="50 steps",
    )
    port = free_port()
    with (folder / "serve.log").open("ab") as log:
        server = subprocess.Popen(
            [*python("flows.cli"), "serve", "--cron", "* * * * *", "--port", str(port)],
            cwd=workspace,
            env=environment({}),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        runs = _wait_for_runs(f"http://{HOST}:{port}/api", server)
    finally:
        family = psutil.Process(server.pid).children(recursive=True)
        start = time.monotonic()
        server.terminate()
        server.wait(120)
        stopped_s = time.monotonic() - start
    print(f"{'scheduled':<22}{'state':<12}{'took':>8}")
    for run in runs:
        print(f"{run['expected_start_time'][:19]:<22}{run['state_name']:<12}{run['took']:>6.1f} s")
    # What watches over the run's family ends some seconds after it.
    _, left = psutil.wait_procs(family, timeout=30)
    print(f"stopped by SIGTERM in {stopped_s:.1f} s; {len(left)} processes left behind")
    lines = (folder / "serve.log").read_text(errors="replace").splitlines()
    print("\n".join(line for line in lines if "[" in line[:4] or "nothing to do" in line))
    if left or {run["state_name"] for run in runs} != {"Completed"}:
        sys.exit(1)


def _wait_for_runs(api: str, server: "subprocess.Popen[bytes]") -> list[dict[str, Any]]:
    """The first runs, once as many have finished, with how long each took."""
    end_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end_s and server.poll() is None:
        time.sleep(2)
        try:
            answer = httpx.post(f"{api}/flow_runs/filter", json={"sort": "EXPECTED_START_TIME_ASC"})
        except httpx.TransportError:
            continue  # not up yet
        done = [run for run in answer.json() if run["end_time"]]
        if len(done) >= _NUM_RUNS:
            return [run | {"took": run["total_run_time"]} for run in done[:_NUM_RUNS]]
    sys.exit("the runs did not finish; see serve.log")


if __name__ == "__main__":
    main()
