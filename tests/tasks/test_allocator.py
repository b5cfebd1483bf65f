import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import allocator
from tests.conftest import REPOSITORY

# Page faults of 50 times 16 and 32 MiB, each freed before the next.
CODE = """
import resource, sys, torch
exec(sys.argv[1])
torch.ones(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(2**22)
    torch.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


KEEP = "from tasks.allocator import keep_freed_memory; assert keep_freed_memory()"
EVALUATE = """
import models
from tasks import evaluate
evaluate.OUTPUT_SIZES_PX = ()
evaluate.evaluate_network(models.create("bicubic", 2), "bicubic", 2, [])
"""
COMMAND = """
from PIL import Image
from flows.cli import app
Image.new("RGB", (24, 24)).save("picture.png")
app({arguments}, standalone_mode=False)
"""
UPSCALE = COMMAND.format(arguments="'upscale picture.png -o x2.png --model bicubic'.split()")
COMPARE = COMMAND.format(arguments="'compare picture.png --model bicubic'.split()")
# 16 and 32 MiB in pages of 4 KiB, fifty times.
EVERY_TIME = 50 * (2**24 + 2**25) / 4096


def num_page_faults(folder: Path, before: str) -> int:
    """Of allocations that come after `before` was run in the same process."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, before],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_memory_is_used_again(tmp_path: Path) -> None:
    assert num_page_faults(tmp_path, "") > 0.5 * EVERY_TIME
    assert num_page_faults(tmp_path, KEEP) < 0.1 * EVERY_TIME


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
@pytest.mark.parametrize(
    "what", [EVALUATE, UPSCALE, COMPARE], ids=["evaluate", "upscale", "compare"]
)
def test_measuring_and_enlarging_keep_it(tmp_path: Path, what: str) -> None:
    assert num_page_faults(tmp_path, what) < 0.1 * EVERY_TIME


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())

    assert not allocator.keep_freed_memory()
