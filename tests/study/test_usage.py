"""What a worker takes of its machine."""

import resource
import time

import numpy as np
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


def test_memory_is_what_is_held_and_no_more_than_the_most_there_was() -> None:
    usage = Usage(is_on_gpu=False)
    before = usage.metrics()[MEMORY]
    held = np.ones(100 * MEGABYTE, np.uint8)
    with_it = usage.metrics()[MEMORY]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE
    assert 90 < with_it - before < 110
    assert with_it <= most * 1.01
    del held
    assert usage.metrics()[MEMORY] < with_it - 50


def test_without_a_gpu_nothing_is_said_of_its_memory() -> None:
    assert set(Usage(is_on_gpu=False).metrics()) == {CPU, MEMORY}
