"""Ray's TorchTrainer as a lane needs it: no process but its workers'.

Ray runs the controller of a worker group as an actor, which imports torch and Ray Train before any
worker may start, has a second one count what Ray data sets want of an autoscaler, and waits for
it. A lane's controller is a thread of the study's process, which has imported all that; what the
cluster shall have room for, the study asks for itself (`Study`), and lanes read no Ray data sets.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.controller.state import AbortedState
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.util.placement_group import PlacementGroup, remove_placement_group

# Callbacks with an actor each: they look after Ray data sets, and give back what a controller had
# reserved that was killed as an actor.
_LEFT_OUT = {"DatasetsCallback", "PlacementGroupCleanerCallback"}


class _OfThisSize(FixedScalingPolicy):
    """A fixed number of workers, of which no coordinator of an autoscaler is told."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Nothing: a placement group that waits is a demand by itself."""

    def _cancel_resource_request(self) -> None:
        """Nothing."""


class _Workers(WorkerGroup):
    """Workers whose controller is no actor."""

    on_reserved: Callable[[PlacementGroup], None]

    def _create_placement_group(self, *given: Any, **named: Any) -> Any:
        handle = super()._create_placement_group(*given, **named)
        self.on_reserved(handle.placement_group)
        return handle

    def _init_train_context_on_workers(
        self, workers: list[Any], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        # Ray's own asks for the actor that it runs in. Workers would ask a controller for
        # checkpoints that were reported to it, and lanes report none.
        ray.get(
            [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=sync_actor,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[rank] for name, values in train_context_args.items()},
                )
                for rank, worker in enumerate(workers)
            ]
        )
        self._decorate_worker_log_file_paths(workers)


class _Controller(TrainController):
    """A controller that can be let go while it waits for whatever."""

    def __init__(self, let_go: threading.Event, **arguments: Any) -> None:
        on_reserved = staticmethod(self._keep)
        self.worker_group_cls = type("LaneWorkers", (_Workers,), {"on_reserved": on_reserved})
        self._reserved: list[PlacementGroup] = []
        self._let_go = let_go
        super().__init__(**arguments)

    def free(self) -> None:
        """Give back what is reserved; workers that are there end with it."""
        for group in list(self._reserved):
            remove_placement_group(group)

    def _keep(self, group: PlacementGroup) -> None:
        self._reserved.append(group)
        if self._let_go.is_set():  # while it was made
            self.free()

    async def _run_control_loop_iteration(self) -> None:
        if self._let_go.is_set():
            self._state = AbortedState()
        else:
            await super()._run_control_loop_iteration()


class LaneTrainer(TorchTrainer):
    """A worker group whose controller runs where `fit` was called.

    Args:
        work: What every worker runs.
        settings: What `work` is given.
        arguments: As of Ray's TorchTrainer.
    """

    def __init__(self, work: Callable[[Any], None], settings: Any, **arguments: Any) -> None:
        # A data class is no mapping, but Ray only hands it on.
        super().__init__(work, train_loop_config=settings, **arguments)
        self._let_go = threading.Event()
        self._controller: _Controller | None = None

    def let_go(self) -> None:
        """End the group now, whatever it does; `fit` returns or raises some time later."""
        self._let_go.set()
        if self._controller is not None:
            self._controller.free()

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if type(each).__name__ not in _LEFT_OUT]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        policy = _OfThisSize(self.scaling_config)
        self._controller = _Controller(self._let_go, **{**arguments, "scaling_policy": policy})
        asyncio.run(self._controller.run())
        return self._controller.get_result()
