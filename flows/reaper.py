"""However a run ends, nothing that it started goes on: no Ray, no Prefect server.

A run that is killed cannot clean up after itself. So a small process of its own
holds the end of a pipe, notices when the run is gone, and ends every process that
was seen among the run's descendants, descends from one that was, or carries its mark in
its environment. (Ray's write their names over their environment, and its raylet starts
workers until its own end.)
"""

import os
import select
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress

import psutil

MARK = "SISR_RUN_MARK"
# Ray's and Prefect's own clean-up comes first.
_GRACE_S = 5.0
_LOOK_EVERY_S = 1.0


def guard() -> None:
    """Let this process's children end with it, even if it is killed; once a process.

    Call it before anything is started.
    """
    if MARK in os.environ:
        return
    os.environ[MARK] = mark = uuid.uuid4().hex
    read_end, write_end = os.pipe()
    # The write end stays open here until this process ends, however it does.
    os.set_inheritable(write_end, False)
    subprocess.Popen(
        [sys.executable, "-m", "flows.reaper", str(os.getpid()), mark],
        stdin=read_end,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name != MARK},
    )
    os.close(read_end)


def end_all(seen: set[psutil.Process], mark: str) -> None:
    """End these processes and every one with that mark; their own clean-up has a moment first."""
    left = _wait(seen, mark)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for each in left:
            with suppress(psutil.Error):
                each.send_signal(number)
        left = _wait(left, mark)


def _wait(processes: set[psutil.Process], mark: str) -> set[psutil.Process]:
    """Give them a moment; what is left of them then, and of what they have started meanwhile."""
    end_s = time.monotonic() + _GRACE_S
    left = processes
    while True:
        left = {each for each in _families(left | _marked(mark)) if each.is_running()}
        if not left or time.monotonic() > end_s:
            return left
        psutil.wait_procs(left, timeout=_LOOK_EVERY_S)


def _marked(mark: str) -> set[psutil.Process]:
    return {each for each in psutil.process_iter() if _has(each, mark)}


def _families(processes: set[psutil.Process]) -> set[psutil.Process]:
    """They and their descendants, but for this process."""
    families = processes.union(*map(_descendants, processes))
    return {each for each in families if each.pid != os.getpid()}


def _descendants(process: psutil.Process) -> set[psutil.Process]:
    try:
        return set(process.children(recursive=True))
    except psutil.Error:
        return set()


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
        return False


def main() -> None:
    """Watch the process at the other end of standard input; clean up after its end."""
    pid, mark = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    seen: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        run = psutil.Process(int(pid))
        while not select.select([sys.stdin], [], [], _LOOK_EVERY_S)[0]:
            seen |= _descendants(run)
    end_all(seen, mark)


if __name__ == "__main__":
    main()
