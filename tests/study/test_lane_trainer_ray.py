"""A lane's group of workers on a real Ray, let go while it works."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
import ray

from gam_ray.study.study import RAY_ENVIRONMENT

pytestmark = pytest.mark.ray


@dataclass(frozen=True)
class Settings:
    """What the workers are given.

    Attributes:
        begun: Folder that gets a file from each that begins.
    """

    begun: Path


def work(settings: Settings) -> None:
    """Begin, and never end."""
    (settings.begun / str(os.getpid())).touch()
    while True:
        time.sleep(0.1)


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in RAY_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # Workers find `work` here.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def wait(what: str, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.mark.usefixtures("cpu")
def test_a_lane_that_is_let_go_gives_back_its_place_and_starts_no_workers_again(
    tmp_path: Path,
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from gam_ray.study.lane_trainer import LaneTrainer

    begun = tmp_path / "begun"
    begun.mkdir()
    trainer = LaneTrainer(
        work,
        Settings(begun),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            storage_path=str(tmp_path), failure_config=FailureConfig(max_failures=9)
        ),
    )
    thread = Thread(target=trainer.fit, daemon=True)
    thread.start()
    wait("no worker began", lambda: any(begun.iterdir()))
    trainer.let_go()
    wait("its place is not free", lambda: ray.available_resources().get("CPU") == 1)
    wait("fit goes on", lambda: not thread.is_alive())
    assert len(list(begun.iterdir())) == 1
