"""What a worker takes of its machine."""

import subprocess
import sys
import time

import pytest

from gam_ray.study.usage import MEGABYTE, Usage

CPU, MEMORY = "system/cpu_utilization_percentage", "system/memory_usage_megabytes"


def test_cpu_time_is_that_since_the_last_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"monotonic": 100.0, "process_time": 7.0}
    monkeypatch.setattr(time, "monotonic", lambda: clocks["monotonic"])
    monkeypatch.setattr(time, "process_time", lambda: clocks["process_time"])
    usage = Usage(is_on_gpu=False)
    clocks.update(monotonic=110.0, process_time=12.0)
    assert usage.metrics()[CPU] == pytest.approx(50)
    clocks.update(monotonic=112.0, process_time=16.0)  # two threads on two cores
    assert usage.metrics()[CPU] == pytest.approx(200)


# In a process of its own: another test's memory may come and go in this one.
HOLD = """
import resource
import numpy as np
from gam_ray.study.usage import resident_bytes
before = resident_bytes()
held = np.ones(100_000_000, np.uint8)
with_it = resident_bytes()
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
del held
print(before, with_it, most, resident_bytes())
"""


def test_memory_is_what_is_held_and_no_more_than_the_most_there_was() -> None:
    done = subprocess.run([sys.executable, "-c", HOLD], capture_output=True, text=True, check=True)
    before, with_it, most, after = (int(word) / MEGABYTE for word in done.stdout.split())
    assert 90 < with_it - before < 110
    assert with_it <= most * 1.01
    assert after < with_it - 90
    assert Usage(is_on_gpu=False).metrics()[MEMORY] > 10


def test_without_a_gpu_nothing_is_said_of_its_memory() -> None:
    assert set(Usage(is_on_gpu=False).metrics()) == {CPU, MEMORY}
