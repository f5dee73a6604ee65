"""What every schedule must do: decide at its rungs, never pause, and know earlier lives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from gam_ray.config import ScheduleConfig, StudyConfig
from gam_ray.study.schedule import (
    Brackets,
    Deciding,
    EndedTrial,
    InTurn,
    build_scheduler,
    rungs,
)

MakeConfig = Callable[..., StudyConfig]
# Those that stop trials; tests/study/test_generations.py has the other one.
KINDS = sorted({*get_args(ScheduleConfig.model_fields["kind"].annotation)} - {"none", "pbt"})


class Told:
    """A broker that remembers what it is told."""

    def __init__(self) -> None:
        self.decisions: list[tuple[str, int, bool]] = []
        self.decide = self

    def remote(self, key: str, step: int, *, go_on: bool) -> None:
        self.decisions.append((key, step, go_on))

    def stopped(self) -> dict[str, int]:
        """Key → step of the first decision that stopped it."""
        found: dict[str, int] = {}
        for key, step, go_on in self.decisions:
            if not go_on:
                found.setdefault(key, step)
        return found


@dataclass(frozen=True)
class TuneTrial:
    """What schedules look at in a trial of Tune's."""

    trial_id: str
    status: str = "PENDING"
    config: dict[str, Any] = field(default_factory=dict, hash=False)


class Controller:
    """Trials wait in Tune, which makes a schedule that can pause do it."""

    def get_live_trials(self) -> list[TuneTrial]:
        return [TuneTrial("waits")]


def config_of(make: MakeConfig, kind: str) -> StudyConfig:
    trial = {**make().trial.to_mapping(), "steps": 80}
    schedule = {"kind": kind, "min_steps": 10, "reduction_factor": 2}
    return make(trial=trial, schedule=schedule)


def scheduler_of(config: StudyConfig, ended: Sequence[EndedTrial] = ()) -> tuple[Deciding, Told]:
    told = Told()
    scheduler = build_scheduler(config, told, ended)
    scheduler.set_search_properties("score", "max")
    return scheduler, told


def run(scheduler: Any, name: str, score: float, steps: range) -> None:
    """One trial through all its reports; Tune goes on with it whatever is decided."""
    trial = TuneTrial(f"tune-{name}")
    scheduler.on_trial_add(Controller(), trial)
    result: dict[str, Any] = {}
    for step in steps:
        result = {"key": name, "step": step, "score": score}
        decision = scheduler.on_trial_result(Controller(), trial, result)
        assert decision == TrialScheduler.CONTINUE
    scheduler.on_trial_complete(Controller(), trial, {**result, "done": True})


REPORTS = range(10, 90, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_weak_trials_stop_at_rungs_and_the_best_goes_on(make_config: MakeConfig, kind: str) -> None:
    config = config_of(make_config, kind)
    scheduler, told = scheduler_of(config)
    scores = {f"{n:02d}": 1 - n / 40 for n in range(40)}
    for name, score in scores.items():
        run(scheduler, name, score, REPORTS)
    stopped = {name: step for name, step in told.stopped().items() if step < 80}
    assert "00" not in stopped
    assert len(stopped) >= 10
    assert set(stopped.values()) <= set(rungs(config))
    # One answer to every report, and a trial that is to stop stays so.
    assert len(told.decisions) == 40 * len(REPORTS)
    for name, at in stopped.items():
        assert not any(go for key, step, go in told.decisions if key == name and step > at)


@pytest.mark.parametrize("kind", KINDS)
def test_what_earlier_lives_scored_counts(make_config: MakeConfig, kind: str) -> None:
    config = config_of(make_config, kind)
    ended = [EndedTrial(f"earlier-{n}", dict.fromkeys(REPORTS, 0.9)) for n in range(12)]
    ended.append(EndedTrial("without a report", {}))

    def stopped(known: Sequence[EndedTrial]) -> int:
        scheduler, told = scheduler_of(config, known)
        assert told.decisions == []  # nobody waits for decisions on earlier lives
        for number in range(12):
            run(scheduler, f"late-{number}", 0.1 + number / 100, REPORTS)
        return sum(step < 80 for step in told.stopped().values())

    # Each is better than those before it: without the earlier ones, none is to stop.
    assert stopped(()) == 0
    assert stopped(ended) >= 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_that_was_let_on_before_goes_on_from_its_last_report(
    make_config: MakeConfig, kind: str
) -> None:
    config = config_of(make_config, kind)
    better = [EndedTrial(f"earlier-{n}", dict.fromkeys(REPORTS, 0.9)) for n in range(12)]
    keys = [f"begun-{n}" for n in range(12)]
    told = Told()
    scheduler = build_scheduler(config, told, better, dict.fromkeys(keys, 20))
    scheduler.set_search_properties("score", "max")
    for key in keys:
        run(scheduler, key, 0.1, REPORTS)  # first the reports of before, as the broker has them
    stopped = told.stopped()
    assert stopped
    assert min(stopped.values()) == 20
    assert all(go_on for key, step, go_on in told.decisions if step < 20)


def test_what_a_relay_tells_again_is_not_counted_again() -> None:
    """A relay that was killed tells Tune its trial's reports from the first on."""
    heard: list[int] = []

    class Hears(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            heard.append(result["step"])
            return super().on_trial_result(tune_controller, trial, result)

    told = Told()
    scheduler = Deciding(Hears(), told)
    for step in (10, 20, 10, 20, 30):
        result = {"key": "a", "step": step, "score": 1.0}
        scheduler.on_trial_result(Controller(), TuneTrial("tune-a"), result)
    assert heard == [10, 20, 30]
    # But each is answered: the broker may have died as well.
    assert [step for _, step, _ in told.decisions] == [10, 20, 10, 20, 30]


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_that_fails_breaks_nothing(make_config: MakeConfig, kind: str) -> None:
    scheduler, told = scheduler_of(config_of(make_config, kind))
    never, failed = TuneTrial("never ran"), TuneTrial("failed")
    for trial in (never, failed):
        scheduler.on_trial_add(Controller(), trial)
    scheduler.on_trial_remove(Controller(), never)
    scheduler.on_trial_result(Controller(), failed, {"key": "f", "step": 10, "score": 0.5})
    scheduler.on_trial_error(Controller(), failed)
    run(scheduler, "other", 0.7, REPORTS)
    assert len(told.decisions) == 1 + len(REPORTS)
    assert scheduler.debug_string()


def test_the_rungs_of_each_kind(make_config: MakeConfig) -> None:
    found = {kind: rungs(config_of(make_config, kind)) for kind in KINDS}
    assert found == {
        "asha": (10, 20, 40),
        "median": (10, 20, 30, 40, 50, 60, 70),
        "hyperband": (10, 20, 40),
    }


def test_hyperbands_brackets_begin_later_and_later_and_the_last_stops_none(
    make_config: MakeConfig,
) -> None:
    config = config_of(make_config, "hyperband")
    scheduler, told = scheduler_of(config)
    brackets = Brackets([object()] * 3, config)  # for whose bracket it is only
    scores = {f"{n:03d}": 1 - n / 400 for n in range(400)}
    for name, score in scores.items():
        run(scheduler, name, score, REPORTS)
    stopped = {name: step for name, step in told.stopped().items() if step < 80}
    first: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for name in scores:
        number = brackets.bracket(name)
        sizes[number] = sizes.get(number, 0) + 1
        if name in stopped:
            first[number] = min(first.get(number, 80), stopped[name])
    assert first == {0: 10, 1: 20, 2: 40}
    # Shares as 8 : 16/3 : 4 : 4, of 400.
    wanted = {0: 150, 1: 100, 2: 75, 3: 75}
    assert all(abs(sizes[number] - size) < 40 for number, size in wanted.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("min_steps", "rule"), [(15, "multiple"), (80, "less than")])
def test_the_first_rung_must_be_a_report_before_the_end(
    make_config: MakeConfig, kind: str, min_steps: int, rule: str
) -> None:
    trial = {**make_config().trial.to_mapping(), "steps": 80}
    with pytest.raises(ValueError, match=rule):
        make_config(trial=trial, schedule={"kind": kind, "min_steps": min_steps})


@pytest.mark.parametrize("kind", ["none", "pbt", *KINDS])
def test_a_free_relay_takes_a_trial_that_has_none_on_the_way(
    make_config: MakeConfig, kind: str
) -> None:
    @dataclass
    class Waiting:
        trials: list[TuneTrial]

        def get_trials(self) -> list[TuneTrial]:
            return self.trials

    scheduler = build_scheduler(config_of(make_config, kind), Told())
    assert isinstance(scheduler, InTurn)
    runs, starting, new = TuneTrial("a", "RUNNING"), TuneTrial("b"), TuneTrial("c")
    assert scheduler.choose_trial_to_run(Waiting([runs, starting])) is starting
    assert scheduler.choose_trial_to_run(Waiting([runs, starting, new])) is new
    # None is new: whoever waits longest takes what is free.
    assert scheduler.choose_trial_to_run(Waiting([runs, starting, new])) is starting
    assert scheduler.choose_trial_to_run(Waiting([runs])) is None
