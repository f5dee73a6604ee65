"""A study from start to end: plan, lanes, search, choice."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout

from gam_ray.config import (
    StudyConfig,
    derive_seed,
    filled_up,
    load_study_config,
    refused_changes,
)
from gam_ray.report import draw_overview
from gam_ray.report.plots import plot_folder
from gam_ray.study import choosing, results
from gam_ray.study.errors import (
    ENDED_IS_KEPT,
    STORAGE_FAILED,
    StudyError,
    StudyStoppedError,
    storage_error,
)
from gam_ray.study.mirror import Mirror
from gam_ray.study.plan import Plan, node_resource
from gam_ray.study.store import StudyStore
from gam_ray.study.versions import all_versions, code_commit
from gam_ray.study.watch import Watch
from gam_ray.tracking import (
    ArtifactReady,
    Event,
    MetricsReported,
    MLflowSink,
    RunStatus,
    RunsView,
    StudyEnded,
    StudyStarted,
    TagsSet,
    TrackingQueue,
    without_credentials,
)
from gam_ray.tracking.files import replace_json

if TYPE_CHECKING:
    from gam_ray.study.lanes import Lanes
    from gam_ray.study.pictures import Illustrator
    from gam_ray.study.search import StudySearcher
    from gam_ray.study.searching import Search

logger = logging.getLogger(__name__)

# Waits of the end of a study, in seconds.
LANE_TIMEOUT_S = 20.0
TRACKING_TIMEOUT_S = 60.0
# A study that is asked to stop gives trials so long to pause, and then its lanes and MLflow, each.
PAUSE_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 8.0
BROKER_RESTARTS = 100
AUTOSCALING_POLL_S = 10.0
RELAY_FAILURES = 10
# What tells Tune how many trials may wait for their relays at a time.
RELAYS_AT_ONCE = "TUNE_MAX_PENDING_TRIALS_PG"
# Until then the lanes start, for which a small machine needs all its cores.
TRACKING_DELAY_S = 30.0
# For pictures of the last trials, while the lanes end.
PICTURES_TIMEOUT_S = 10.0
POLL_S = 0.5
START_ATTEMPTS = 3

# Ray and Tune as a study needs them; what the user has set wins.
RAY_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Controllers of lanes are threads of this process, whose logging is not theirs.
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    # What asks a Ray that was shut down shall not start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # At Ray's 15 the training itself, in workers, would yield to whatever else the machine does.
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune would swallow Ctrl+C and end as if all trials were over.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

# What is said where that is too little.
ONE_NODE = (
    "of a study on S3 all trials run on the node of its own process, since they share a folder; a "
    "storage that is a folder seen by all nodes lets them run on all"
)

# A trial's score against the whole crowd, known once all have ended.
FINAL = "final/score"

Listener = Callable[[dict[str, Any]], None]


class Study:
    """A sweep over one task, chosen without target labels.

    Args:
        config: The study.
        data_root: Folder of data sets; by default ``GAM_RAY_DATA`` or ``./data``.
    """

    def __init__(self, config: StudyConfig, *, data_root: Path | None = None) -> None:
        self.config = _seeded(config)
        self.store = StudyStore(config.folder)
        self._mirror: Mirror | None = None
        if config.is_on_s3:
            self.store.address = f"{config.storage.rstrip('/')}/{config.name}"
            self._mirror = Mirror(self.store.address, config.folder)
        self._data_root = data_root.absolute() if data_root else None
        self._broker: Any = None
        self._lanes: Lanes | None = None
        self._searcher: StudySearcher | None = None
        self._is_stopping = False
        self._fingerprints: dict[str, str] = {}

    @classmethod
    def load(cls, file: Path | str, *, data_root: Path | None = None) -> Self:
        """Read a study file.

        Raises:
            ConfigError: Naming all problems of the file.
        """
        return cls(load_study_config(file), data_root=data_root)

    @classmethod
    def from_folder(cls, folder: Path | str, *, data_root: Path | None = None) -> Self:
        """The study that a folder holds, as it was when it ran last.

        Raises:
            ValueError: If there is none.
        """
        folder = Path(folder).absolute()
        known = StudyStore(folder).read("study")
        if known is None:
            raise ValueError(f"no study in {folder}; give the folder that holds its study.json")
        config = StudyConfig.from_mapping(known["config"])
        if not config.is_on_s3:  # of one that is, this is a copy
            config = config.model_copy(update={"storage": str(folder.parent)})
        return cls(config, data_root=data_root)

    def on_storage(self) -> AbstractContextManager[None]:
        """Hold a study that is on S3, with its files on this machine, until the block ends.

        `run` does it by itself; around it, what is written before and after is kept as well.

        Raises:
            ValueError: If another process holds it, or the bucket cannot be read.
            StudyError: If the study's end did not reach the bucket.
        """
        return self._mirror.held() if self._mirror else nullcontext()

    def run(
        self, *, address: str | None = None, listener: Listener | None = None
    ) -> dict[str, Any]:
        """Run the study to its end; one that was interrupted goes on.

        Trials that ended are not run again, and one that was cut off goes on from its
        checkpoint. Blocks until all trials are over.

        Args:
            address: Of a Ray cluster; by default Ray starts on this machine, for this study.
            listener: Told the state of things twice a second.

        Returns:
            What `results.best` gives.

        Raises:
            ValueError: If settings do not go together, data are missing, or the folder holds
                another study or one that runs.
            StudyStoppedError: If it was asked to stop, or its budget is spent; it can be resumed.
            StudyError: If the study could not go on.
        """
        with self.on_storage():
            self._check_folder()
            with _only_one(self.store):
                if self._is_over():
                    self._send_what_waits()
                else:
                    self._start(address, listener)
                return results.best(self.store)

    def _start(self, address: str | None, listener: Listener | None) -> None:
        _set_environment(address)
        # Ray starts while the settings are checked, and what lanes and search need is imported.
        with ThreadPoolExecutor(1) as executor:
            check = executor.submit(self._check_settings)
            imports = executor.submit(_import_all)
            with _ray(address):
                check.result()
                # Modules of Ray's that import each other are found half made by threads that
                # begin at different ends.
                imports.result()
                with _storage_errors_told():
                    self._run(listener)

    def _run(self, listener: Listener | None) -> None:
        plan = self._wait_for_place()
        _tell(listener, {"plan": str(plan)})
        with self._recorded() as watch, self._tracked():
            try:
                self._search(plan, listener, watch)
            except StudyStoppedError:
                if watch.is_budget_spent and choosing.ended_trials(
                    self.store, self.config.objective, self.config.search.constraints
                ):
                    self._choose("stopped")
                raise
            self._choose("finished")

    def _check_folder(self) -> None:
        known = self.store.read("study")
        if not known:
            return
        lines = refused_changes(filled_up(known["config"]), self.config.to_mapping())
        if lines:
            raise ValueError(
                f"{self.store.folder} holds a study with other settings:\n  "
                + "\n  ".join(lines)
                + "\ngive this one another name, move that folder away, or set them back; only "
                "search.trials may grow, and search.storage change"
            )

    def _is_over(self) -> bool:
        """Whether the study is finished, and no further trials are asked for."""
        study, state = self.store.read("study") or {}, self.store.read("state") or {}
        asked_for = self.config.search.trials
        return state.get("state") == "finished" and study["config"]["search"]["trials"] == asked_for

    def _check_settings(self) -> None:
        """Find out what is wrong before a trial is started."""
        from gam_ray.training.data import load_target_labels, load_task
        from gam_ray.training.trial import check_trial

        task = self.config.trial.task
        check_trial(self.config.trial, self.config.resources.workers)
        self._fingerprints = load_task(task, self._data_root).fingerprints()
        if self.config.objective.is_oracle and not load_target_labels(task, self._data_root):
            raise ValueError(
                f"objective.score oracle needs target labels, but {task.target} has none; choose "
                "by label-free scores"
            )

    def _sink(self) -> MLflowSink:
        config = self.config
        return MLflowSink(
            self.store.tracking,
            tracking_uri=tracking_uri(config, self.store.folder),
            experiment=config.tracking.experiment or config.name,
            study=config.name,
            view=runs_view(config),
        )

    def _send_what_waits(self) -> None:
        """Send what MLflow could not take while the study ran."""
        sink = self._sink()
        if sink.status().waiting:
            sink.start()
            sink.close(TRACKING_TIMEOUT_S)

    @contextmanager
    def _recorded(self) -> Iterator[Watch]:
        """Keep ``study.json`` and ``state.json`` true, and watch who asks for a stop."""
        config, before = self.config, self.store.read("state") or {}
        content = {"key": config.key(), "config": config.to_mapping()}
        self._warn_of_other_data()
        environment = {
            "versions": all_versions(),
            "commit": code_commit(),
            "data": self._fingerprints,
        }
        self.store.write(
            "study", {**content, "trials": config.planned_trials, "environment": environment}
        )
        self.store.forget_stop()
        state = {
            "state": "running",
            "started": before.get("started", time.time()),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "spent": before.get("spent", {}),
            "beat": time.time(),
        }
        self.store.write("state", state)
        watch = Watch(self.store, config.budget, state, gpus=self._gpus_held, on_stop=self._stop)

        def ended(**how: Any) -> None:
            self.store.write(
                "state", {**state, **how, "ended": time.time(), "spent": watch.spent()}
            )

        try:
            with watch.watching():
                yield watch
        except BaseException as error:
            with suppress(OSError):  # what cannot be written is told by the error itself
                ended(state=_end_of(error), error=str(error))
            raise
        ended(state="finished")

    def _warn_of_other_data(self) -> None:
        """Say which images are not those that an earlier life of the study had."""
        before = ((self.store.read("study") or {}).get("environment") or {}).get("data", {})
        for part, was in before.items():
            if (now := self._fingerprints.get(part)) != was:
                logger.warning(
                    "%s has other images than when this study ran before (%s, now %s): its trials "
                    "cannot be compared; give a study of these images another name",
                    part,
                    was,
                    now,
                )

    def _gpus_held(self) -> float:
        resources = self.config.resources
        lanes = self._lanes.wanted if self._lanes else 0
        return lanes * resources.workers * resources.gpus_per_worker

    def _stop(self, reason: str) -> None:
        """Let trials pause and nothing new begin; what does not pause in time is let go."""
        import ray

        logger.warning("the study stops: %s", reason)
        self._is_stopping = True
        if self._searcher is not None:
            self._searcher.finish()
        if self._broker is not None:
            ray.get(self._broker.stop.remote())
            deadline = time.monotonic() + PAUSE_TIMEOUT_S
            while time.monotonic() < deadline:
                if ray.get(self._broker.wait_until_idle.remote(1.0)):
                    return
            ray.get(self._broker.stop.remote(at_once=True))

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        """Carry the tracking queue to MLflow as long as the study lives."""
        config = self.config
        self.store.tracking.mkdir(parents=True, exist_ok=True)
        queue = TrackingQueue(self.store.tracking)
        task = config.trial.task
        queue.append(
            StudyStarted(
                config.name,
                params={
                    "source": task.source,
                    "target": task.target,
                    "network": task.network,
                    "sampler": config.search.sampler,
                    "seed": config.search.seed,
                    "objective": config.objective.name,
                    "schedule": config.schedule.kind,
                    "workers": config.resources.workers,
                },
                tags={
                    "gam_ray.role": "study",
                    "gam_ray.task": f"{task.source} → {task.target}",
                    # No parameter: MLflow lets none change, and a study may be given more trials.
                    "gam_ray.trials": str(config.search.trials),
                    "mlflow.source.name": "gam-ray",
                    "mlflow.source.type": "LOCAL",
                    "mlflow.source.git.commit": code_commit() or "",
                    **{
                        f"gam_ray.data.{part.replace(' ', '_')}": told
                        for part, told in self._fingerprints.items()
                    },
                },
                time_ms=_now_ms(),
            )
        )
        sink = self._sink()
        sink.start(after_s=TRACKING_DELAY_S)
        status: RunStatus = "FAILED"
        timeout_s = TRACKING_TIMEOUT_S
        try:
            yield
            status = "FINISHED"
        except (KeyboardInterrupt, StudyStoppedError):
            status, timeout_s = "KILLED", STOP_TIMEOUT_S
            raise
        finally:
            with suppress(OSError):  # of a storage that is full; the study's error says so
                queue.append(StudyEnded(status, _now_ms()))
            end = sink.close(timeout_s)
            if end.waiting:
                logger.warning(
                    "%d records wait for MLflow (%s); run the study again to send them",
                    end.waiting,
                    end.last_error,
                )

    def _release_place(self) -> None:
        """Let an autoscaling cluster take back what it was asked for."""
        from ray.autoscaler.sdk import request_resources

        if self.config.resources.autoscaling_wait_s:
            request_resources(bundles=[])

    def _wait_for_place(self) -> Plan:
        """The plan; an autoscaling cluster is asked for all lanes, and waited for until one fits.

        Raises:
            ValueError: If not even one lane fits in time.
        """
        import ray
        from ray.autoscaler.sdk import request_resources

        resources = self.config.resources
        deadline = time.monotonic() + resources.autoscaling_wait_s
        if resources.autoscaling_wait_s and not self._mirror:
            lanes = min(resources.max_lanes or sys.maxsize, self.config.search.trials)
            need = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
            bundle = {name: amount for name, amount in need.items() if amount}
            request_resources(bundles=[bundle] * (lanes * resources.workers))
        while True:
            try:
                return self._plan()
            except ValueError:
                if time.monotonic() >= deadline:
                    raise
            logger.warning("the cluster has %s so far; waiting for nodes", ray.cluster_resources())
            time.sleep(AUTOSCALING_POLL_S)

    def _plan(self) -> Plan:
        import ray

        from gam_ray.study.plan import plan_lanes

        config = self.config
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        here = self._only_node()
        if here is None:
            return plan_lanes(config.resources, nodes, config.search.trials)
        try:
            own = [node for node in nodes if here in node]
            return plan_lanes(config.resources, own, config.search.trials)
        except ValueError as error:
            raise ValueError(f"{error}; {ONE_NODE}") from error

    def _only_node(self) -> str | None:
        """Ray's resource of this node, where a study on S3 has its files; None for all nodes."""
        return node_resource() if self._mirror else None

    def _search(self, plan: Plan, listener: Listener | None, watch: Watch) -> None:
        """Run all trials: baselines, what the search proposes, finalists or generations, student.

        Raises:
            StudyStoppedError: If the study is to stop before that.
        """
        import ray

        broker = self._broker = self._start_broker()
        lanes = self._lanes = self._start_lanes(broker, plan)
        illustrator = self._start_illustrator(broker)
        try:
            for role in ("no adaptation", "gaussian"):
                ray.get(broker.submit.remote({}, role))
            with _watch(broker, listener, self.config.planned_trials):
                is_pbt = self.config.schedule.kind == "pbt"
                further = self._run_generations if is_pbt else self._run_finalists_again
                for stage in (self._tune, further, self._teach_student):
                    _stop_if_asked(watch)
                    stage(broker)
                    self._wait_until_idle(broker)
                _stop_if_asked(watch)
        finally:
            ray.get(broker.close.remote())
            illustrator.finish(PICTURES_TIMEOUT_S)
            lanes.close(STOP_TIMEOUT_S if watch.reason else LANE_TIMEOUT_S)
            illustrator.join()
            self._release_place()

    def _run_finalists_again(self, broker: Any) -> None:
        """Run the best trials on fresh seeds: what won by luck alone shall not be chosen."""
        import ray

        objective = self.config.objective
        for finalist in choosing.finalists(self.store, objective, self.config.search.constraints):
            record = finalist.record
            for seed in choosing.fresh_seeds(record, objective.seeds):
                ray.get(broker.submit.remote({**record.settings, "seed": seed}, "again"))

    def _run_generations(self, broker: Any) -> None:
        """Train the searched trials' networks on, generation by generation."""
        import ray

        from gam_ray.study.generations import next_generation

        for number in range(2, self.config.schedule.generations + 1):
            if self._is_stopping:
                return
            planned = next_generation(self.config, self.store, number)
            if not planned:
                logger.warning("no trial of generation %d may win, so none goes on", number - 1)
                return
            for settings in planned:
                ray.get(broker.submit.remote(settings, "generation"))
            self._wait_until_idle(broker)

    def _teach_student(self, broker: Any) -> None:
        """Train a student of the best trials, if the study has one."""
        import ray

        student = self.config.student
        if student is None:
            return
        config = self.config
        teachers = choosing.teachers(
            self.store, config.objective, config.search.constraints, student.teachers
        )
        if len(teachers) > 1:
            taught = {**student.to_mapping(), "teachers": list(teachers)}
            ray.get(broker.submit.remote({"student": taught}, "student"))

    def _wait_until_idle(self, broker: Any) -> None:
        """Wait until every trial is over, as long as the lanes get on.

        Raises:
            StudyError: If the broker was closed because of an error.
        """
        import ray

        limit = self.config.resources.report_timeout_s
        before, deadline = None, time.monotonic() + limit
        while not ray.get(broker.wait_until_idle.remote(5.0)):
            now = ray.get(broker.snapshot.remote())
            if now != before:
                before, deadline = now, time.monotonic() + limit
            if time.monotonic() > deadline:
                ray.get(broker.close.remote(f"no trial got on for {limit:g} s"))
        error = ray.get(broker.error.remote())
        if error:
            raise StudyError(f"{error}; {ENDED_IS_KEPT}")

    def _start_broker(self) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from gam_ray.study.broker import Broker
        from gam_ray.study.schedule import rungs

        # On this node: its queue is read by the sink in this process.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(
            num_cpus=0, max_concurrency=1000, max_restarts=BROKER_RESTARTS, max_task_retries=-1
        )(Broker)
        life = secrets.token_hex(8)
        config = self.config
        if self._mirror:  # by its path: the actor's environment may be another one
            config = config.model_copy(update={"storage": str(self.store.folder.parent)})
        return actor.options(scheduling_strategy=here).remote(config, rungs(config), life)

    def _start_illustrator(self, broker: Any) -> Illustrator:
        import ray

        from gam_ray.study.pictures import Illustrator

        def track(events: list[Event]) -> None:
            ray.get(broker.track.remote(events), timeout=PICTURES_TIMEOUT_S)

        task = self.config.trial.task
        illustrator = Illustrator(self.store, task, data_root=self._data_root, track=track)
        illustrator.start()
        return illustrator

    def _start_lanes(self, broker: Any, plan: Plan) -> Lanes:
        from gam_ray.study.lanes import Lane, Lanes, LaneSettings

        sources = self.store.folder.parent / ".sources"
        if self._mirror:  # it takes along what is in the study's own folder
            sources = self.store.folder / "sources"

        def make(name: str) -> Lane:
            settings = LaneSettings(
                name=name,
                broker=broker,
                sources=sources,
                data_root=self._data_root,
                threads=max(1, round(plan.cpus_per_worker)),
                oracle=self.config.objective.is_oracle,
                gpu_share=plan.gpus_per_worker,
            )
            return Lane(settings, self.config, plan, only_node=self._only_node())

        lanes = Lanes(make, broker, self._lanes_now, self.config.resources.report_timeout_s)
        lanes.start()
        return lanes

    def _lanes_now(self) -> int:
        try:
            return self._plan().lanes
        except ValueError:  # the nodes that it began with are gone; others may come
            return 0

    def _tune(self, broker: Any) -> None:
        """Search until as many trials have ended as are asked for, or no others can be found.

        Tune loses a proposal, and counts it, whose relay dies while it is given to it: the search
        then takes it up as the study's next life would.
        """
        search = self._start_search()
        while search.trials and not self._is_stopping:
            self._wait_for_a_lane(broker)
            self._fit(search, broker)
            self._wait_until_idle(broker)
            left = search.left()
            if not left or search.searcher.is_finished:
                break
            if left >= search.trials:
                logger.warning("%d trials of the search did not come to run", left)
                break
            search = self._start_search()
        self._wait_until_idle(broker)
        if not self._is_stopping:  # what is paused stays open
            search.settle()

    def _start_search(self) -> Search:
        """The search as far as the storage knows it."""
        from gam_ray.study.searching import start_search

        lanes = self._lanes
        assert lanes is not None
        search = start_search(self.config, self.store)
        search.searcher.limit = lambda: max(1, lanes.wanted)
        self._searcher = search.searcher
        if self._is_stopping:  # since before there was a searcher to be told
            search.searcher.finish()
        if search.warm_start:
            study = self.store.read("study") or {}
            self.store.write("study", {**study, "warm_start": search.warm_start.to_mapping()})
        return search

    def _fit(self, search: Search, broker: Any) -> None:
        """Propose trials with Optuna through Ray Tune until all have ended."""
        from ray import tune

        from gam_ray.study.relay import Relay
        from gam_ray.study.schedule import build_scheduler

        config = self.config
        tuner = tune.Tuner(
            Relay,
            param_space={"broker": broker, "only_node": self._only_node()},
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                search_alg=search.searcher,
                scheduler=build_scheduler(config, broker, search.ended, search.begun),
                num_samples=search.trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name=f"tune-{int(time.time())}",
                storage_path=str(config.folder / "ray"),
                verbose=0,
                # A relay has nothing to keep; Tune would write it to the storage, full or not.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                # Of the relay: what fails in a lane is a result here.
                failure_config=tune.FailureConfig(max_failures=RELAY_FAILURES),
            ),
        )
        with _relays_side_by_side():
            tuner.fit()

    def _wait_for_a_lane(self, broker: Any) -> None:
        """Let lanes have the cores while they start: relays would take them, and have time.

        The first lanes have the baselines to run, which no relay waits for.
        """
        import ray

        while not self._is_stopping:
            known = ray.get(broker.lanes.remote())
            if known.lanes or known.closed:
                return
            time.sleep(POLL_S)

    def _choose(self, state: str) -> None:
        """Choose by the final scores, and write down the choice and the study's state."""
        try:
            choice = {**results.best(self.store), "state": state}
        except ValueError as error:
            causes = {end.error for _, _, end in results.trial_table(self.store) if end.error}
            raise StudyError(f"{error}: {'; '.join(sorted(causes))}") from error
        for each in choice["constraints"]["without_effect"]:
            logger.warning("%s", each)
        self.store.write("result", choice)
        queue = TrackingQueue(self.store.tracking)
        self._tell_choice(queue, choice)
        picture = self.store.folder / "overview.png"
        draw_overview(results.overview(self.store), picture)
        page = self._write_report(state)
        shown = self.store.tracking / "study.json"  # without the password that an address may hold
        replace_json(shown, without_credentials(self.store.read("study")))
        for file in (picture, shown, self.store.folder / "result.json", page):
            if file:
                queue.append(ArtifactReady(None, str(file)))
        for file in sorted(self.store.plots.glob("*.svg")):
            queue.append(ArtifactReady(None, str(file), plot_folder(file.stem)))

    def _tell_choice(self, queue: TrackingQueue, choice: dict[str, Any]) -> None:
        """Tell MLflow what was chosen, and each trial's final score."""
        queue.append(TagsSet(choice["trial"]["key"], {"gam_ray.chosen": "yes"}))
        tags = {"gam_ray.chosen": choice["trial"]["name"], "mlflow.note.content": _note(choice)}
        queue.append(TagsSet(None, tags))
        # By what has ended: said again by another life of the study, it is the same row.
        ends = {record.key: end for record, _, end in results.trial_table(self.store)}
        newest = int(max(end.time for end in ends.values()) * 1000)
        queue.append(MetricsReported(None, len(ends), _headline(choice), newest))
        config = self.config
        for each in choosing.ended_trials(self.store, config.objective, config.search.constraints):
            key, values = each.record.key, {FINAL: each.score}
            queue.append(MetricsReported(key, ends[key].step, values, newest))

    def _write_report(self, state: str) -> Path | None:
        """Write the study's page; None if that fails, since the study itself has its result."""
        from gam_ray.study.reporting import write_report

        try:
            plots = self.store.plots
            write_report(self.store, data_root=self._data_root, state=state, plots=plots)
        except Exception:  # whatever it is, it shall not end the study
            logger.exception("the report was not written; `gam-ray report` tries it again")
            return None
        return self.store.page


@contextmanager
def _storage_errors_told() -> Iterator[None]:
    """Say of an error of the storage what it is; wherever it was met, it ends the study.

    Raises:
        StudyError: If the storage cannot be written.
    """
    try:
        yield
    except Exception as error:
        if of_storage := storage_error(error):
            told = STORAGE_FAILED.format(error=of_storage)
            raise StudyError(f"{told}; {ENDED_IS_KEPT}") from error
        raise


def _stop_if_asked(watch: Watch) -> None:
    if watch.reason:
        raise StudyStoppedError(watch.reason)


def _end_of(error: BaseException) -> str:
    """The state of a study that ended by this error."""
    if isinstance(error, StudyStoppedError):
        return "stopped"
    return "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"


def _seeded(config: StudyConfig) -> StudyConfig:
    """The study with its trials' seed derived from the study's, unless the file gives one."""
    if "seed" in config.trial.model_fields_set:
        return config
    seed = derive_seed(config.search.seed, "trial")
    return config.model_copy(update={"trial": config.trial.model_copy(update={"seed": seed})})


def runs_view(config: StudyConfig) -> RunsView:
    """The run table's columns that a study's user wants first."""
    metrics = (FINAL, f"score/{config.objective.metric}", "oracle/test", "seconds")
    tags = ("gam_ray.state", "gam_ray.guard", "gam_ray.chosen")
    return RunsView(config.name, metrics, params=tuple(config.space), tags=tags)


def _headline(choice: dict[str, Any]) -> dict[str, float]:
    """The figures of a study's own run: score and oracle, before adaptation and as chosen."""
    before, metric = choice["no_adaptation"], choice["score"]["metric"]
    values = {f"score/{metric}": choice["score"]["value"], "no_adaptation/score": before["score"]}
    for prefix, oracle in (
        ("oracle", choice["oracle"]),
        ("no_adaptation/oracle", before["oracle"]),
    ):
        values |= {f"{prefix}/{split}": value for split, value in (oracle or {}).items()}
    return {key: value for key, value in values.items() if value is not None}


def _note(choice: dict[str, Any]) -> str:
    """The description of a study's own run, which MLflow shows as Markdown."""
    score, before = choice["score"], choice["no_adaptation"]
    kind = "TARGET LABELS" if choice["by_oracle"] else "label-free"
    oracle, unadapted = ((each or {}).get("test") for each in (choice["oracle"], before["oracle"]))
    lines = [
        f"**Chosen: {choice['trial']['name']}**, by {score['name']} ({kind})",
        "",
        f"- score {_shown(score['value'])}; no adaptation {_shown(before['score'])}",
        f"- oracle, test {_shown(oracle)}; no adaptation {_shown(unadapted)}",
        "",
        f'All trials: "{choice["study"]}: trials" in the menu *Views* of the run table.',
    ]
    if not choice["adapt"]:
        lines += ["", f"**{results.DO_NOT_ADAPT}**"]
    return "\n".join(lines)


def _shown(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.3f}"


def tracking_uri(config: StudyConfig, folder: Path) -> str:
    """Where the study in `folder` is tracked: what its file says, else a SQLite file in there."""
    return config.tracking.uri or f"sqlite:///{folder / 'mlflow.db'}"


@contextmanager
def _only_one(store: StudyStore) -> Iterator[None]:
    """Hold the study's folder, so that no second process runs the same study."""
    store.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(store.folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        state = store.read("state") or {}
        raise ValueError(
            f"the study in {store.folder} is running already, on {state.get('host')} as process "
            f"{state.get('pid')}; wait for it, or stop that process"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Ray for a study: the cluster at `address`, or one of this study's own."""
    import ray

    own = {"include_dashboard": False, "object_store_memory": 256 * 2**20}
    _init(
        address=address or "local",
        namespace="gam_ray",
        log_to_driver=False,
        logging_level=logging.ERROR,
        **(own if address is None else {}),
    )
    try:
        yield
    finally:
        ray.shutdown()


def _set_environment(address: str | None) -> None:
    """What Ray reads when it is imported."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None:
        _set_auth_mode()


def _import_all() -> None:
    """Import what is needed once Ray is up: it takes seconds."""
    import ray.tune  # noqa: F401

    import gam_ray.study.lane_trainer  # noqa: F401


def _init(**arguments: Any) -> None:
    """Start or join Ray. A node that a busy machine has not up within Ray's 30 s is tried again.

    Raises:
        StudyError: If it does not come up `START_ATTEMPTS` times.
    """
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            ray.init(**arguments)
        except Exception as error:  # Ray raises nothing more special
            ray.shutdown()
            if "timed out during startup" not in str(error):
                raise
            logger.warning("Ray did not start (%d of %d): %s", attempt, START_ATTEMPTS, error)
        else:
            return
    raise StudyError(
        f"Ray did not start on this machine in {START_ATTEMPTS} attempts of 30 s; it may be too "
        "busy: see `uptime`, and run the study again"
    )


def _set_auth_mode() -> None:
    """Let only who knows a token reach the ports of a Ray of our own, unless the user says else.

    Ray reads the mode once, when it is imported. Where it was imported before, its default
    stands, said explicitly so that the processes it starts do the same.
    """
    if "ray" in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    if os.environ["RAY_AUTH_MODE"] == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextmanager
def _relays_side_by_side() -> Iterator[None]:
    """Let relays start side by side: Tune starts one after another, two seconds for each lane."""
    if RELAYS_AT_ONCE in os.environ:
        yield
        return
    os.environ[RELAYS_AT_ONCE] = str(os.cpu_count() or 1)
    try:
        yield
    finally:
        del os.environ[RELAYS_AT_ONCE]


@contextmanager
def _watch(broker: Any, listener: Listener | None, total: int) -> Iterator[None]:
    """Tell the listener what the broker knows, in a thread, twice a second."""
    import ray

    done = threading.Event()

    def watch() -> None:
        while not done.wait(POLL_S):
            try:
                snapshot = ray.get(broker.snapshot.remote(), timeout=10)
            except Exception:  # the display must not end a study
                logger.debug("no snapshot", exc_info=True)
                continue
            _tell(listener, {**snapshot, "total": total})

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    if listener:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if listener:
            thread.join(POLL_S + 10)


def _tell(listener: Listener | None, news: dict[str, Any]) -> None:
    if listener:
        listener(news)


def _now_ms() -> int:
    return int(time.time() * 1000)
