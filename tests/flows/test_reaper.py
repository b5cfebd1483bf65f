"""Whatever ends a run, its children end too."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from flows.reaper import MARK
from flows.scheduled import end_family
from tests.conftest import REPOSITORY

# A guarded run that starts a child in a session of its own, as servers do, and waits.
_RUN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
from flows.reaper import guard
guard()
command = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(command, start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def _is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def _wait_until_gone(pid: int) -> bool:
    end_s = time.monotonic() + 30
    while not _is_gone(pid) and time.monotonic() < end_s:
        time.sleep(0.2)
    return _is_gone(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_child_ends_with_its_run_however_that_ends(number: signal.Signals) -> None:
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    with subprocess.Popen(
        [sys.executable, "-c", _RUN],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        assert not _is_gone(child)

        run.send_signal(number)

        run.wait(30)
    assert _wait_until_gone(child)


# A server that starts another process once its run is gone, which bears no mark.
_LATE = """
import os, subprocess, sys, time
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    time.sleep(0.05)
time.sleep(1)
command = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(command, env={}, start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_what_a_server_starts_after_the_end_of_its_run_ends_too() -> None:
    run_code = _RUN.replace("print(child.pid, flush=True)", "")
    run_code = run_code.replace("start_new_session=True", "start_new_session=True, env={}")
    run_code = run_code.replace('"import time; time.sleep(600)"', repr(_LATE))
    environment = {name: value for name, value in os.environ.items() if name != MARK}
    with subprocess.Popen(
        [sys.executable, "-c", run_code],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        run.stdout.readline()  # the server is there, without the run's mark …
        time.sleep(6)  # … and has been seen

        run.kill()

        child = int(run.stdout.readline())
    assert _wait_until_gone(child)


def test_a_family_is_ended_to_the_last_child() -> None:
    # The grandchild ignores being asked.
    grandchild = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); "
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {grandchild + 'time.sleep(600)'!r}],"
        " stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())

        end_family(run.pid, grace_s=1)

        run.wait(10)
    assert _wait_until_gone(pid)


def test_a_family_that_is_gone_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as run:
        run.wait()
    end_family(run.pid)
