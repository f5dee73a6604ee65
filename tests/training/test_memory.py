"""A worker that runs trial after trial does not grow."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_task import BASE, Recorder, place, trial

from gam_ray.study.usage import resident_bytes
from gam_ray.training.trial import run_trial

TRIALS, WARM_UP = 50, 15
MEGABYTE = 2**20


def resident() -> int:
    gc.collect()
    return resident_bytes()


@pytest.fixture
def _what_is_there_stays() -> Iterator[None]:
    """Let collections pass over what other tests have imported: it takes them a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("_what_is_there_stays")
def test_memory_returns_to_its_level_after_each_of_fifty_trials(tmp_path: Path) -> None:
    levels = []
    for number in range(TRIALS):
        layers = [["fc3"], ["conv2", "fc4"], ["conv1", "fc3"]][number % 3]
        config = trial(BASE, seed=number, steps=4, adaptation__layers=layers)
        run_trial(config, place(tmp_path, str(number)), Recorder())
        levels.append(resident())
    grown = max(levels[-10:]) - max(levels[WARM_UP - 5 : WARM_UP])
    # What one trial has, networks and optimizers, is some 15 MB.
    assert grown < 40 * MEGABYTE, f"{grown / MEGABYTE:.0f} MB in {TRIALS - WARM_UP} trials"
