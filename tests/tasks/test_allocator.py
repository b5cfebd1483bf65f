import subprocess
import sys

import pytest

from tasks import allocator
from tests.conftest import REPOSITORY

# Page faults of 50 times 16 and 32 MiB, each freed before the next.
CODE = """
import resource, sys, torch
from tasks.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.ones(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(2**22)
    torch.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def num_page_faults(what: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE, what],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_memory_is_used_again() -> None:
    # 16 and 32 MiB in pages of 4 KiB, fifty times, or as good as once.
    every_time = 50 * (2**24 + 2**25) / 4096

    assert num_page_faults("leave") > 0.5 * every_time
    assert num_page_faults("keep") < 0.1 * every_time


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())

    assert not allocator.keep_freed_memory()
