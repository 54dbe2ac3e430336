"""Tensors of a step take no new pages once a step like it was computed."""

import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from unshard.engine.kept_memory import keep_freed_memory

def step():
    tensors = [torch.empty(8 << 20, dtype=torch.uint8).fill_(1) for _ in range(4)]

if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(how):
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_a_step_frees_is_kept_for_the_next():
    of_one_step = 4 * (8 << 20) // resource.getpagesize()
    assert new_pages("kept") < of_one_step  # of ten, nearly all of whose pages glibc gives back
