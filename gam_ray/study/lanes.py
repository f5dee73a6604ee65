"""Lanes: Ray Train worker groups that are set up once and take trial after trial."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gam_ray.config import StudyConfig
from gam_ray.study.plan import Plan
from gam_ray.training.reports import DivergedError, Report, Verdict

logger = logging.getLogger(__name__)

# Seconds that an idle lane waits for a trial before it asks again; far below the time-out of
# the collectives in which its other workers wait.
IDLE_WAIT_S = 5.0
# Seconds between two signs of life of a busy lane.
PROGRESS_INTERVAL_S = 1.0
# Starting a group imports torch in every worker at once; Ray's 60 s are short for a busy disk.
START_TIMEOUT_S = 300.0
COLLECTIVE_TIMEOUT_S = 3600


@dataclass(frozen=True)
class LaneSettings:
    """What a lane's workers need to know.

    Attributes:
        name: The lane's.
        broker: Handle of the broker actor.
        sources: Folder of source networks.
        data_root: Folder of data sets, None for the default.
        threads: Of each worker.
        oracle: Whether the study chooses by target labels, because its file asks for it.
    """

    name: str
    broker: Any
    sources: Path
    data_root: Path | None
    threads: int
    oracle: bool


class _BrokerReporter:
    """Sends a trial's reports to the broker."""

    def __init__(self, settings: LaneSettings, key: str) -> None:
        self._lane = settings.name
        self._broker = settings.broker
        self._key = key
        self._last_progress = 0.0

    def report(self, report: Report) -> Verdict:
        """Wait until the report is on storage, and for the answer."""
        import ray

        metrics = report.metrics
        if report.oracle:
            metrics = {**metrics, "score/oracle": report.oracle.as_requested_score()}
        verdict: Verdict = ray.get(
            self._broker.report.remote(
                self._lane, self._key, report.step, metrics, report.predictions
            )
        )
        return verdict

    def progress(self, stage: str, done: int, total: int) -> None:
        """Send a sign of life, once in a while, without waiting."""
        import time

        now = time.monotonic()
        if now - self._last_progress > PROGRESS_INTERVAL_S:
            self._last_progress = now
            self._broker.progress.remote(self._lane, stage, done, total)


def work(settings: LaneSettings) -> None:
    """What every worker of a lane runs: trial after trial, until the broker closes."""
    import ray
    import torch
    from ray.train.torch import get_device

    from gam_ray.adaptation import broadcast_object, rank, world_size

    torch.set_num_threads(settings.threads)
    device = get_device()
    # Asked now: once a worker died, the process group of the others may be gone.
    alone = world_size() == 1
    while True:
        assignment = None
        if rank() == 0:
            assignment = ray.get(settings.broker.next_trial.remote(settings.name, IDLE_WAIT_S))
        assignment = broadcast_object(assignment)
        if assignment == "close":
            return
        if assignment is not None:
            _run_assignment(settings, assignment, device, alone=alone)


def _run_assignment(settings: LaneSettings, assignment: Any, device: Any, *, alone: bool) -> None:
    """Run one trial; errors that all workers raise alike end the trial and not the lane."""
    import ray

    from gam_ray.adaptation import rank
    from gam_ray.domains import DataMissingError
    from gam_ray.training.trial import Place, run_trial

    broker, lane, key = settings.broker, settings.name, assignment.key
    place = Place(assignment.folder, settings.sources, settings.data_root, device)
    try:
        outcome = run_trial(
            assignment.config,
            place,
            _BrokerReporter(settings, key),
            oracle_at_reports=settings.oracle,
        )
    except (ValueError, DataMissingError, DivergedError) as error:
        if rank() == 0:
            ray.get(broker.fail.remote(lane, key, _cause(error), final=True))
    except Exception as error:
        # Perhaps this worker's alone, with the others waiting for it in a collective: let the
        # group end and start anew.
        ray.get(broker.fail.remote(lane, key, _cause(error), final=alone))
        raise
    else:
        oracle = outcome.oracle.to_mapping() if outcome.oracle else None
        if rank() == 0:
            ray.get(broker.finish.remote(lane, key, step=outcome.step, oracle=oracle))


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class Lane:
    """A Ray Train worker group in a thread of the study's process.

    Args:
        settings: The lane's.
        config: The study.
        plan: Resources of a worker.
        on_death: Called with the error if the group ends before it was closed.
    """

    def __init__(
        self,
        settings: LaneSettings,
        config: StudyConfig,
        plan: Plan,
        on_death: Callable[[str, BaseException], None],
    ) -> None:
        self._settings = settings
        self._config = config
        self._plan = plan
        self._on_death = on_death
        self._thread = threading.Thread(target=self._fit, name=settings.name, daemon=True)

    def start(self) -> None:
        """Start the group; returns at once."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Whether the group has ended, waiting up to `timeout_s` seconds for it."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _fit(self) -> None:
        try:
            self._trainer().fit()
        except Exception as error:
            logger.exception("lane %s ended", self._settings.name)
            self._on_death(self._settings.name, error)

    def _trainer(self) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        plan, folder = self._plan, self._config.folder
        resources = {"CPU": plan.cpus_per_worker}
        if plan.gpus_per_worker:
            resources["GPU"] = plan.gpus_per_worker
        backend = "cpu:gloo,cuda:nccl" if plan.gpus_per_worker else "gloo"
        return _trainer_class()(
            work,
            train_loop_config=self._settings,
            torch_config=TorchConfig(backend=backend, timeout_s=COLLECTIVE_TIMEOUT_S),
            scaling_config=ScalingConfig(
                num_workers=plan.workers,
                use_gpu=plan.gpus_per_worker > 0,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=self._settings.name,
                storage_path=str(folder / "ray"),
                failure_config=FailureConfig(
                    # Every trial may end its group a few times before the broker gives it up.
                    max_failures=3 * (self._config.search.trials + 2),
                    controller_failure_limit=3,
                ),
            ),
        )


# Callbacks of Ray's trainer with an actor each, which costs every lane 200 MB and, while all
# start, six seconds of a core. Lanes have no Ray data sets; and a lane whose controller was killed
# is not started again: what it reserved is given back when the study ends.
_LEFT_OUT = {"DatasetsCallback", "PlacementGroupCleanerCallback"}


def _trainer_class() -> Any:
    """Ray's TorchTrainer without what lanes have no use for.

    Where Ray names its parts otherwise, the trainer is as Ray has it.
    """
    from ray.train.torch import TorchTrainer

    class LaneTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            return [each for each in callbacks if type(each).__name__ not in _LEFT_OUT]

    return LaneTrainer
