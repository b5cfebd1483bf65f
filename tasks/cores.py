"""How many processor cores this process may use."""

import os


def num_usable_cores() -> int:
    """Those it is bound to (a container or `taskset` may allow few), or all of the machine's."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
