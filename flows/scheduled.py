"""`sisr serve`: the benchmark on a schedule, with everything it starts ended when it ends.

Prefect's runner is a process of its own, so that a stop is ours to carry out: the
runs are asked to stop and given time to, then whatever is left of them is killed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from flows.prefect_server import scheduling_server
from flows.reaper import MARK, guard
from tasks.errors import StoreError

NAME = "scheduled"
# A run that is told to stop ends its Ray; that takes seconds.
_GRACE_S = 30.0
_POLL_S = 0.5


def serve_on_schedule(cron: str, port: int) -> None:
    """Run the benchmark whenever the cron line says, until Ctrl-C or SIGTERM.

    Raises:
        StoreError: the port is taken, or a server or the runner ended by itself.
    """
    guard()  # server and runner end with us, even if we are killed
    with _stop_signals(), scheduling_server(port):
        runner = subprocess.Popen(
            [sys.executable, "-m", "flows.scheduled", cron],
            start_new_session=True,
            # Each run guards itself.
            env={name: value for name, value in os.environ.items() if name != MARK},
        )
        try:
            while runner.poll() is None:
                time.sleep(_POLL_S)
            raise StoreError("Prefect's runner ended by itself; its message is above")
        except KeyboardInterrupt:
            pass
        finally:
            end_family(runner.pid)
            runner.wait()


def end_family(pid: int, *, grace_s: float = _GRACE_S) -> None:
    """Ask a process and all that it started to end, the leaves first; kill what does not."""
    try:
        parent = psutil.Process(pid)
        family = [*reversed(parent.children(recursive=True)), parent]
    except psutil.NoSuchProcess:
        return
    # Flow runs clean up after themselves; Ray's own processes end when they do.
    asked = [each for each in family if "ray" not in _name(each)]
    for each in asked:
        _signal(each, signal.SIGTERM)
    psutil.wait_procs(asked, timeout=grace_s)
    for each in family:
        _signal(each, signal.SIGKILL)
    psutil.wait_procs(family, timeout=grace_s)


@contextmanager
def _stop_signals() -> Iterator[None]:
    """SIGTERM is as good as Ctrl-C for the time of the block."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _signal(process: psutil.Process, number: int) -> None:
    # It may have ended meanwhile, which is what we want.
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def main() -> None:
    """The runner's own process: one run at a time, the next one waits for it."""
    from flows.benchmark import benchmark

    (cron,) = sys.argv[1:]
    benchmark.serve(name=NAME, cron=cron, limit=1, pause_on_shutdown=False)


if __name__ == "__main__":
    assert "PREFECT_API_URL" in os.environ, "sisr serve starts this"
    main()
