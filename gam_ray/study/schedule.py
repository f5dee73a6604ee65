"""Which trials are stopped early, and how their lanes hear of it."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from gam_ray.config import StudyConfig


def rungs(config: StudyConfig) -> tuple[int, ...]:
    """Steps at which the schedule decides whether a trial goes on, ascending."""
    if config.schedule.kind == "none":
        return ()
    steps = config.schedule.min_steps
    found = []
    while steps < config.trial.last_step:
        found.append(steps)
        steps *= config.schedule.reduction_factor
    return tuple(found)


def build_scheduler(config: StudyConfig, broker: Any) -> TrialScheduler:
    """Tune's scheduler for this study, which tells `broker` what it decides."""
    if config.schedule.kind == "none":
        return FIFOScheduler()
    asha = AsyncHyperBandScheduler(
        time_attr="step",
        max_t=config.trial.last_step,
        grace_period=config.schedule.min_steps,
        reduction_factor=config.schedule.reduction_factor,
    )
    return Deciding(asha, broker)


class Deciding(FIFOScheduler):
    """A scheduler that also tells the broker each decision, so that a lane can act on it.

    Args:
        inner: Who decides.
        broker: Who is told.
    """

    def __init__(self, inner: TrialScheduler, broker: Any) -> None:
        super().__init__()
        self._inner = inner
        self._broker = broker

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Pass the objective on."""
        return bool(self._inner.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide, and tell the broker."""
        decision: str = self._inner.on_trial_result(tune_controller, trial, result)
        go_on = decision != TrialScheduler.STOP
        self._broker.decide.remote(result["key"], result["step"], go_on=go_on)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Pass on."""
        self._inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Pass on."""
        return self._inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """Pass on."""
        return str(self._inner.debug_string())
