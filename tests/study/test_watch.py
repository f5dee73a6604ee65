"""Who asks a running study to stop, and what it has spent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gam_ray.config import BudgetConfig, StudyConfig
from gam_ray.study import results
from gam_ray.study.store import StudyStore
from gam_ray.study.watch import BEAT_TIMEOUT_S, Watch

RUNNING = {"state": "running", "host": "elsewhere", "pid": 1, "started": 0.0}


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gam_ray.study.watch.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("gam_ray.study.watch.BEAT_EVERY_S", 0.01)


class Stopped:
    """Keeps the reason, and tells that there is one."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._told = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self._told.set()

    def wait(self) -> str:
        assert self._told.wait(10)
        time.sleep(0.1)  # a second reason would be told now
        (reason,) = self.reasons
        return reason


def watch(store: StudyStore, stopped: Stopped, gpus: float = 0.0, **budget: float) -> Watch:
    state = {**RUNNING, **(store.read("state") or {})}
    return Watch(store, BudgetConfig(**budget), state, gpus=lambda: gpus, on_stop=stopped)


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return StudyStore(tmp_path / "study")


def test_a_request_in_the_folder_stops_it_once_and_says_who_asks(store: StudyStore) -> None:
    stopped = Stopped()
    with watch(store, stopped).watching():
        store.request_stop()
        assert stopped.wait() == f"asked by process {os.getpid()} on {os.uname().nodename}"
    store.forget_stop()
    assert not store.stop_requested()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_insists(
    store: StudyStore, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    stopped = Stopped()
    with watch(store, stopped).watching():
        os.kill(os.getpid(), number)
        assert stopped.wait() == f"{number.name} was received"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("budget", "gpus", "name"),
    [({"hours": 1e-5}, 0.0, "hours"), ({"gpu_hours": 1e-4}, 8.0, "gpu_hours")],
)
def test_a_spent_budget_stops_it_and_is_named(
    store: StudyStore, budget: dict[str, float], gpus: float, name: str
) -> None:
    stopped = Stopped()
    each = watch(store, stopped, gpus, **budget)
    with each.watching():
        assert stopped.wait() == f"budget.{name} of {budget[name]:g} is spent"
    assert each.is_budget_spent
    assert each.spent()[name] >= budget[name]


def test_what_earlier_lives_spent_counts(store: StudyStore) -> None:
    store.write("state", {**RUNNING, "spent": {"hours": 2.0, "gpu_hours": 0.0}})
    stopped = Stopped()
    with watch(store, stopped, hours=2.0).watching():
        assert stopped.wait() == "budget.hours of 2 is spent"


def test_the_beat_is_written_as_long_as_it_runs(store: StudyStore) -> None:
    with watch(store, Stopped()).watching():
        beats = set()
        deadline = time.monotonic() + 10
        while len(beats) < 3 and time.monotonic() < deadline:
            beats.add((store.read("state") or {}).get("beat"))
    assert len(beats - {None}) >= 2


@pytest.mark.parametrize(
    ("silent_s", "state"), [(BEAT_TIMEOUT_S - 30, "running"), (BEAT_TIMEOUT_S + 1, "interrupted")]
)
def test_from_another_machine_a_silent_study_is_an_interrupted_one(
    make_config: Callable[..., StudyConfig], silent_s: float, state: str
) -> None:
    config = make_config()
    store = StudyStore(config.folder)
    content: dict[str, Any] = {"key": config.key(), "config": config.to_mapping(), "trials": 4}
    store.write("study", content)
    store.write("state", {**RUNNING, "beat": time.time() - silent_s})
    assert results.status(store)["state"] == state
