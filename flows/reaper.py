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
import uuid
from contextlib import suppress

import psutil

MARK = "SISR_RUN_MARK"
# Ray's and Prefect's own clean-up comes first.
_GRACE_S = 5.0
_LOOK_EVERY_S = 2.0


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
    left = _families(seen | _marked(mark))
    psutil.wait_procs(left, timeout=_GRACE_S)
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = {each for each in _families(left | _marked(mark)) if each.is_running()}
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.send_signal(number)
        psutil.wait_procs(left, timeout=_GRACE_S)


def _marked(mark: str) -> set[psutil.Process]:
    return {each for each in psutil.process_iter() if _has(each, mark)}


def _families(processes: set[psutil.Process]) -> set[psutil.Process]:
    """They and their descendants, but for this process."""
    families = processes.union(*(_descendants(each.pid) for each in processes if each.is_running()))
    return {each for each in families if each.pid != os.getpid()}


def _descendants(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
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
    while not select.select([sys.stdin], [], [], _LOOK_EVERY_S)[0]:
        seen |= _descendants(int(pid))
    end_all(seen, mark)


if __name__ == "__main__":
    main()
