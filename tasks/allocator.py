"""Keep the memory that a network's layers free: the next step or picture asks for it again.

glibc hands large pieces back to the system at once, and each step then pays for thousands of page
faults: a fifth of SRCNN's time on a CPU, and half of it for a large picture. Other C libraries are
left as they are.
"""

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let this process reuse freed pieces of up to 1 GiB; whether the C library could be told."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(option, _KEPT_BYTES) for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD)])
