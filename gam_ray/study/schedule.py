"""Which trials are stopped early, and how their lanes hear of it.

What a schedule decides at a report is told to the broker, whose lane acts on it. Lanes cannot
pause a trial: that would keep its checkpoint and give the lane to another one, and a trial that
nobody takes up again would never end. So of Ray's schedules those are used that only ever go on
or stop. Population-based training needs none: see `gam_ray.study.generations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from gam_ray.config import StudyConfig, derive_seed


@dataclass(frozen=True)
class EndedTrial:
    """A trial that an earlier life of the study has ended, as a schedule sees it.

    Attributes:
        key: The trial's.
        by_step: Score by adaptation step, of each report.
    """

    key: str
    by_step: Mapping[int, float]

    @property
    def trial_id(self) -> str:
        """What Ray's schedules tell trials apart by."""
        return self.key

    def __hash__(self) -> int:
        return hash(self.key)


def rungs(config: StudyConfig) -> tuple[int, ...]:
    """Steps at which the schedule decides whether a trial goes on, ascending.

    ``asha`` and ``hyperband``: `min_steps` and its multiples by powers of `reduction_factor`;
    ``median``: every report from `min_steps` on; ``none`` and ``pbt``: no step.
    """
    schedule, last = config.schedule, config.trial.last_step
    if schedule.kind in ("none", "pbt"):
        return ()
    if schedule.kind == "median":
        every = config.trial.report_every
        return tuple(range(schedule.min_steps, last, every))
    steps, found = schedule.min_steps, []
    while steps < last:
        found.append(steps)
        steps *= schedule.reduction_factor
    return tuple(found)


def build_scheduler(
    config: StudyConfig,
    broker: Any,
    ended: Iterable[EndedTrial] = (),
    begun: Mapping[str, int] | None = None,
) -> TrialScheduler:
    """Tune's scheduler for this study, which tells `broker` what it decides.

    Args:
        config: The study.
        broker: Who is told.
        ended: Trials of an earlier life of the study; what they scored counts in decisions.
        begun: Key → step of the last report, of trials that an earlier life has begun.
    """
    kind, first = config.schedule.kind, config.schedule.min_steps
    if kind in ("none", "pbt"):
        return InTurn()
    if kind == "asha":
        inner: TrialScheduler = _halving(config, first)
    elif kind == "hyperband":
        inner = Brackets([_halving(config, rung) for rung in rungs(config)], config)
    else:
        # With this slice it never pauses a trial for want of others to compare it with.
        inner = MedianStoppingRule("step", grace_period=first, min_time_slice=math.inf)
    return Deciding(inner, broker, ended, begun)


def _halving(config: StudyConfig, first: int) -> TrialScheduler:
    return AsyncHyperBandScheduler(
        time_attr="step",
        max_t=config.trial.last_step,
        grace_period=first,
        reduction_factor=config.schedule.reduction_factor,
    )


class InTurn(FIFOScheduler):
    """Every trial goes on, and gets its relay in the order in which trials are proposed, once.

    A relay that is free then takes a trial that has none on the way. Tune's own order would give it
    to the first trial that waits, and stop the relay that starts for that one: where trials end
    sooner than a relay starts, none but one would ever run.
    """

    def __init__(self) -> None:
        super().__init__()
        self._chosen: set[str] = set()

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The first trial that waits and was not chosen before, else the first that waits."""
        waiting = [each for each in tune_controller.get_trials() if each.status == Trial.PENDING]
        new = (each for each in waiting if each.trial_id not in self._chosen)
        chosen = next(new, waiting[0] if waiting else None)
        if chosen:
            self._chosen.add(chosen.trial_id)
        return chosen


class Brackets(FIFOScheduler):
    """Hyperband: halvings that begin at different rungs, and the last bracket never stops a trial.

    Which bracket a trial is in follows from the study's seed and its key, so that it is the same
    in every life of the study. Of the earliest halving's bracket are most: with S rungs and
    reduction factor n, the shares are as (S+1)/(s+1) n^s, s = S, ..., 0, as Hyperband has it.

    Args:
        halvings: By the rung that they begin at, ascending.
        config: The study.
    """

    def __init__(self, halvings: Sequence[TrialScheduler], config: StudyConfig) -> None:
        super().__init__()
        self._brackets = [*halvings, FIFOScheduler()]
        self._seed = config.search.seed
        factor, rung_count = config.schedule.reduction_factor, len(halvings)
        sizes = [(rung_count + 1) / (left + 1) * factor**left for left in range(rung_count, -1, -1)]
        self._shares = [size / sum(sizes) for size in sizes]
        self._bracket_of: dict[str, TrialScheduler] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Pass the objective on."""
        for bracket in self._brackets:
            bracket.set_search_properties(metric, mode, **spec)
        return True

    def bracket(self, key: str) -> int:
        """The bracket of the trial with this key, counted from the one that begins first."""
        drawn = derive_seed(self._seed, "bracket", key) / 2**63
        for number, share in enumerate(self._shares):
            drawn -= share
            if drawn < 0:
                return number
        return len(self._shares) - 1

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Ask the trial's bracket."""
        if trial.trial_id not in self._bracket_of:
            found = self._brackets[self.bracket(result["key"])]
            found.on_trial_add(tune_controller, trial)
            self._bracket_of[trial.trial_id] = found
        decision: str = self._bracket_of[trial.trial_id].on_trial_result(
            tune_controller, trial, result
        )
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Tell the trial's bracket."""
        if trial.trial_id in self._bracket_of:
            self._bracket_of.pop(trial.trial_id).on_trial_complete(tune_controller, trial, result)

    def debug_string(self) -> str:
        """Of all brackets."""
        return "\n".join(bracket.debug_string() for bracket in self._brackets)


class Deciding(InTurn):
    """A scheduler that tells the broker each decision, so that a lane can act on it.

    To Tune, every trial goes on: one that is to stop ends as the others do, when its lane has
    ended it and its end is on the storage. So nobody hears of an end that may yet be lost.

    Args:
        inner: Who decides.
        broker: Who is told.
        ended: Trials of an earlier life of the study, for the inner one to compare with.
        begun: Key → step of the last report before this life. That the trial went on from the
            reports before it was decided then, and stays so.
    """

    def __init__(
        self,
        inner: TrialScheduler,
        broker: Any,
        ended: Iterable[EndedTrial] = (),
        begun: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self._begun = dict(begun or {})
        self._inner = inner
        self._broker = broker
        self._ended = list(ended)
        self._stopped: set[str] = set()
        self._heard: dict[str, int] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Pass the objective on, and with it what is known."""
        taken = bool(self._inner.set_search_properties(metric, mode, **spec))
        for trial in self._ended:
            self._teach(trial)
        return taken

    def _teach(self, trial: EndedTrial) -> None:
        results = [
            {"key": trial.key, "step": step, "score": score}
            for step, score in sorted(trial.by_step.items())
        ]
        if not results:
            return
        self._inner.on_trial_add(None, trial)
        for result in results[:-1]:
            self._remember(None, trial, result)
        self._inner.on_trial_complete(None, trial, results[-1])

    def _remember(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Have the inner scheduler know a report whose decision was made before."""
        # The median rule takes no further report of a trial that it would stop, but any as the
        # last one.
        if isinstance(self._inner, MedianStoppingRule):
            self._inner.on_trial_complete(tune_controller, trial, result)
        else:
            self._inner.on_trial_result(tune_controller, trial, result)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide, and tell the broker; what is decided stays."""
        key = result["key"]
        if result["step"] < self._begun.get(key, 0):
            self._remember(tune_controller, trial, result)
        elif key not in self._stopped and self._is_new(key, result["step"]):
            decision = self._inner.on_trial_result(tune_controller, trial, result)
            assert decision != TrialScheduler.PAUSE, "lanes cannot pause a trial"
            if decision == TrialScheduler.STOP:
                self._stopped.add(key)
        self._broker.decide.remote(key, result["step"], go_on=key not in self._stopped)
        return TrialScheduler.CONTINUE

    def _is_new(self, key: str, step: int) -> bool:
        """Whether a report was not heard before: a relay that died tells all of them again."""
        is_new = step > self._heard.get(key, -1)
        self._heard[key] = max(step, self._heard.get(key, -1))
        return is_new

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Pass on; a trial that failed or paused has no score that others could be held to."""
        if math.isfinite(result["score"]):
            self._inner.on_trial_complete(tune_controller, trial, result)
        else:
            self._inner.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Pass on."""
        self._inner.on_trial_remove(tune_controller, trial)

    def debug_string(self) -> str:
        """Pass on."""
        return str(self._inner.debug_string())
