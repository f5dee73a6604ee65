"""Lanes: Ray Train worker groups that are set up once and take trial after trial.

They come and go with the cluster: a lane for every place that its nodes have, none on a node that
is gone, and another one for each that died.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gam_ray.config import StudyConfig
from gam_ray.study.broker import LanesState
from gam_ray.study.errors import storage_error
from gam_ray.study.plan import NODE_SHARE, Plan
from gam_ray.study.usage import Usage
from gam_ray.training.reports import DivergedError, Report, TrialPausedError, Verdict

if TYPE_CHECKING:
    from gam_ray.study.lane_trainer import LaneTrainer

logger = logging.getLogger(__name__)

# Seconds that an idle lane waits for a trial before it asks again; far below the time-out of
# the collectives in which its other workers wait.
IDLE_WAIT_S = 5.0
# Seconds between two signs of life of a busy lane.
PROGRESS_INTERVAL_S = 1.0
# Starting a group imports torch in every worker at once; Ray's 60 s are short for a busy disk.
START_TIMEOUT_S = 300.0
COLLECTIVE_TIMEOUT_S = 3600
# Between two looks at nodes and lanes.
LOOK_EVERY_S = 2.0
BROKER_TIMEOUT_S = 60.0
# So many lanes may die one after another without a report in between.
MAX_DEATHS = 5
# Lanes that were let go have so many seconds to notice.
ABORT_TIMEOUT_S = 5.0


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
        gpu_share: GPUs of each worker; below 1 that share of the memory of one.
    """

    name: str
    broker: Any
    sources: Path
    data_root: Path | None
    threads: int
    oracle: bool
    gpu_share: float = 0.0


class _BrokerReporter:
    """Sends a trial's reports to the broker."""

    def __init__(self, settings: LaneSettings, key: str, usage: Usage) -> None:
        self._lane = settings.name
        self._broker = settings.broker
        self._key = key
        self._usage = usage
        self._last_progress = self._last_question = 0.0
        self._answer: Any = None
        self._is_to_pause = False

    def report(self, report: Report) -> Verdict:
        """Wait until the report is on storage, and for the answer."""
        import ray

        metrics = {**report.metrics, **self._usage.metrics()}
        if report.oracle:
            metrics["score/oracle"] = report.oracle.as_requested_score()
        verdict: Verdict = ray.get(
            self._broker.report.remote(
                self._lane, self._key, report.step, metrics, report.predictions
            )
        )
        return verdict

    def progress(self, stage: str, done: int, total: int) -> None:
        """Send a sign of life, once in a while, without waiting."""
        now = time.monotonic()
        if now - self._last_progress > PROGRESS_INTERVAL_S:
            self._last_progress = now
            self._broker.progress.remote(self._lane, stage, done, total)

    def is_to_pause(self) -> bool:
        """What the broker said last; asked again once in a while, without waiting."""
        import ray

        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._is_to_pause, self._answer = ray.get(self._answer), None
        now = time.monotonic()
        if self._answer is None and now - self._last_question > PROGRESS_INTERVAL_S:
            self._last_question = now
            self._answer = self._broker.is_to_pause.remote(self._lane, self._key)
        return self._is_to_pause


def work(settings: LaneSettings) -> None:
    """What every worker of a lane runs: trial after trial, until the broker closes."""
    import ray
    import torch
    from ray.train.torch import get_device

    from gam_ray.adaptation import broadcast_object, rank, world_size

    torch.set_num_threads(settings.threads)
    device = get_device()
    _bound_memory(settings.gpu_share, device)
    _say_where(settings)
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


def _bound_memory(share: float, device: Any) -> None:
    """Let this process have its share of a GPU's memory and no more, so that none starves another.

    What CUDA itself takes, some hundred megabytes a process, is not counted.
    """
    import torch

    if 0 < share < 1 and device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(share, device)


def _say_where(settings: LaneSettings) -> None:
    """Tell the broker on which nodes the lane is; all workers call it together."""
    import ray
    import torch.distributed as dist

    from gam_ray.adaptation import rank, world_size

    nodes: list[Any] = [ray.get_runtime_context().get_node_id()]
    if world_size() > 1:
        own, nodes = nodes[0], [None] * world_size()
        dist.all_gather_object(nodes, own)
    if rank() == 0:
        ray.get(settings.broker.lane_started.remote(settings.name, tuple(nodes)))


def _run_assignment(settings: LaneSettings, assignment: Any, device: Any, *, alone: bool) -> None:
    """Run one trial; errors that all workers raise alike end the trial and not the lane."""
    import ray

    from gam_ray.adaptation import rank
    from gam_ray.training.trial import Place, run_trial

    broker, lane, key = settings.broker, settings.name, assignment.key
    place = Place(assignment.folder, settings.sources, settings.data_root, device)
    try:
        outcome = run_trial(
            assignment.config,
            place,
            _BrokerReporter(settings, key, Usage(is_on_gpu=device.type == "cuda")),
            oracle_at_reports=settings.oracle,
        )
    except TrialPausedError:
        if rank() == 0:
            ray.get(broker.paused.remote(lane, key))
    except Exception as error:  # noqa: BLE001 - told, and raised again
        _tell_error(settings, key, error, alone=alone)
    else:
        oracle = outcome.oracle.to_mapping() if outcome.oracle else None
        if rank() == 0:
            ray.get(broker.finish.remote(lane, key, step=outcome.step, oracle=oracle))


def _tell_error(settings: LaneSettings, key: str, error: Exception, *, alone: bool) -> None:
    """Tell the broker why a trial ended; raise the error unless all workers raise it alike."""
    import ray

    from gam_ray.adaptation import rank
    from gam_ray.domains import DataMissingError

    broker, lane = settings.broker, settings.name
    if isinstance(error, ValueError | DataMissingError | DivergedError):
        if rank() == 0:
            ray.get(broker.fail.remote(lane, key, _cause(error), final=True))
        return
    if of_storage := storage_error(error):
        ray.get(broker.storage_failed.remote(str(of_storage)))
    else:
        # Perhaps this worker's alone, with the others waiting for it in a collective: let the
        # group end and start anew.
        ray.get(broker.fail.remote(lane, key, _cause(error), final=alone))
    raise error


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class Lane:
    """A Ray Train worker group in a thread of the study's process.

    Args:
        settings: The lane's.
        config: The study.
        plan: Resources of a worker.
        only_node: Ray's resource of the only node that may have it; None for any.
    """

    def __init__(
        self,
        settings: LaneSettings,
        config: StudyConfig,
        plan: Plan,
        *,
        only_node: str | None = None,
    ) -> None:
        self.name = settings.name
        self.error: BaseException | None = None
        self._settings = settings
        self._config = config
        self._plan = plan
        self._only_node = only_node
        self._trainer: LaneTrainer | None = None
        self._is_let_go = False
        self._thread = threading.Thread(target=self._fit, name=settings.name, daemon=True)

    def start(self) -> None:
        """Start the group; returns at once."""
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Whether the group has ended, waiting up to `timeout_s` seconds for it."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def is_alive(self) -> bool:
        """Whether the group has not ended."""
        return self._thread.is_alive()

    def abort(self) -> None:
        """End the group now, whatever it does."""
        self._is_let_go = True
        if self._trainer is not None:
            self._trainer.let_go()

    def _fit(self) -> None:
        try:
            self._trainer = self._build()
            if not self._is_let_go:  # while it was built
                self._trainer.fit()
        except Exception as error:
            logger.debug("lane %s ended", self.name, exc_info=True)
            self.error = error

    def _build(self) -> LaneTrainer:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig

        from gam_ray.study.lane_trainer import LaneTrainer

        plan, folder = self._plan, self._config.folder
        resources = {"CPU": plan.cpus_per_worker}
        if plan.gpus_per_worker:
            resources["GPU"] = plan.gpus_per_worker
        if self._only_node:
            resources[self._only_node] = NODE_SHARE
        backend = "cpu:gloo,cuda:nccl" if plan.gpus_per_worker else "gloo"
        return LaneTrainer(
            work,
            self._settings,
            torch_config=TorchConfig(backend=backend, timeout_s=COLLECTIVE_TIMEOUT_S),
            scaling_config=ScalingConfig(
                num_workers=plan.workers,
                use_gpu=plan.gpus_per_worker > 0,
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=self.name,
                storage_path=str(folder / "ray"),
                failure_config=FailureConfig(
                    # Every trial may end its group a few times before the broker gives it up.
                    max_failures=3 * (self._config.search.trials + 2),
                    controller_failure_limit=3,
                ),
            ),
        )


class Lanes:
    """The lanes of a study, kept at what the cluster holds.

    Args:
        make: Makes the lane of a name.
        broker: Handle of the broker actor.
        plan: How many lanes the cluster holds now; 0 where none fits.
        silence_s: A lane that gives no sign of life for so long is lost.
    """

    def __init__(
        self,
        make: Callable[[str], Lane],
        broker: Any,
        plan: Callable[[], int],
        silence_s: float,
    ) -> None:
        self._make = make
        self._broker = broker
        self._plan = plan
        self._silence_s = silence_s
        self._lanes: dict[str, Lane] = {}
        self._made = self._deaths = self._reports = 0
        self._error: BaseException | None = None
        self.wanted = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._look, name="lanes", daemon=True)

    def start(self) -> None:
        """Start as many as fit, and look after them from now on; returns at once."""
        self._fit_cluster(LanesState({}, 0, closed=False))
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Wait up to so many seconds for lanes that the broker let go, then end the others."""
        self._closing.set()
        deadline = time.monotonic() + timeout_s
        self._thread.join(timeout_s)
        lanes = list(self._lanes.values())
        late = [lane for lane in lanes if not lane.join(max(0.0, deadline - time.monotonic()))]
        for lane in late:
            lane.abort()
        # Ray is shut down next, and crashes where a thread still talks to it.
        deadline = time.monotonic() + ABORT_TIMEOUT_S
        for lane in late:
            lane.join(max(0.0, deadline - time.monotonic()))

    def _look(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S):
            try:
                self._look_after()
            except Exception:  # what dies while it is asked is seen at the next look
                logger.debug("lanes were not looked after", exc_info=True)

    def _look_after(self) -> None:
        """Take away what is lost, and start what the cluster has room for."""
        import ray

        known = ray.get(self._broker.lanes.remote(), timeout=BROKER_TIMEOUT_S)
        if known.closed:
            return
        nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        deaths = 0
        for lane in list(self._lanes.values()):
            state = known.lanes.get(lane.name)
            gone = state is not None and not nodes.issuperset(state.nodes)
            silent = state is not None and state.silent_s > self._silence_s
            if gone or silent or not lane.is_alive:
                self._take_away(lane, blame=not gone)
                deaths += not gone
        self._deaths += min(1, deaths)  # several at once may have one cause
        if known.reports > self._reports:
            self._reports, self._deaths = known.reports, 0
        if self._deaths > MAX_DEATHS:
            error = f"{self._deaths} lanes ended without a report; the last one: {self._error}"
            ray.get(self._broker.close.remote(error), timeout=BROKER_TIMEOUT_S)
            return
        self._fit_cluster(known)

    def _take_away(self, lane: Lane, *, blame: bool) -> None:
        """End what is left of a lane; the next one that is free goes on with its trial."""
        import ray

        lane.abort()
        del self._lanes[lane.name]
        self._error = lane.error
        logger.warning("%s is gone; its trial goes on in another lane", lane.name)
        lost = self._broker.lane_lost.remote(lane.name, blame=blame)
        ray.get(lost, timeout=BROKER_TIMEOUT_S)

    def _fit_cluster(self, known: LanesState) -> None:
        """Start the lanes that lack; end the newest that have no place and have not begun."""
        self.wanted = self._plan()
        while len(self._lanes) < self.wanted:
            lane = self._make(f"lane-{self._made}")
            self._made += 1
            self._lanes[lane.name] = lane
            lane.start()
        waiting = [lane for name, lane in self._lanes.items() if name not in known.lanes]
        for lane in waiting[len(waiting) - max(0, len(self._lanes) - self.wanted) :]:
            self._take_away(lane, blame=False)
