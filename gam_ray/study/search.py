"""From a search space to Optuna, and from Tune's results back to Optuna's trial states."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from gam_ray.config import (
    ChoiceParameter,
    SearchConfig,
    SearchSpace,
    SubsetParameter,
    TrialConfig,
    derive_seed,
)
from gam_ray.config.space import Parameter

# Trials drawn at random before TPE builds its model. Fewer would fill the crowd of a small study
# with variations of its first trials, which then agree with each other, right or wrong.
STARTUP_TRIALS = 10


class DefineByRun:
    """A search space as the function that Optuna calls with each new trial.

    A subset is asked as one yes/no a name (``adaptation.layers/fc3``), so that the sampler and
    importance plots see the names. What `proposal_settings` makes of the answers is a trial.

    Args:
        space: What is searched.
        base: Values of settings that are not searched, for conditions on them.
    """

    def __init__(self, space: SearchSpace, base: TrialConfig) -> None:
        self._space = space
        self._base = base.to_mapping()

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        """Ask for every parameter whose condition holds; returns settings by dotted path."""
        settings: dict[str, Any] = {}
        for path, parameter in self._in_order():
            if all(self._value(settings, p) == v for p, v in parameter.when.items()):
                settings[path] = _suggest(trial, path, parameter)
        return {"settings": settings}

    def _in_order(self) -> list[tuple[str, Parameter]]:
        """Unconditional parameters first, so that conditions find their values."""
        return sorted(self._space.items(), key=lambda item: bool(item[1].when))

    def _value(self, settings: Mapping[str, Any], path: str) -> Any:
        if path in settings:
            return settings[path]
        if path in self._space.root:  # searched, but its own condition does not hold
            return None
        return _at(self._base, path)


def _at(mapping: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    node: Any = mapping
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def starting_point(space: SearchSpace, base: TrialConfig) -> dict[str, Any]:
    """The settings of `base` as answers to Optuna, as far as the space has them.

    What a user wrote down before searching is a candidate like any other, and often a good
    one. A setting that lies outside the space is left out, and drawn.
    """
    answers: dict[str, Any] = {}
    for path, parameter in space.items():
        value = _at(base.to_mapping(), path)
        if isinstance(parameter, SubsetParameter):
            answers |= {f"{path}/{name}": name in value for name in parameter.subset}
        elif isinstance(parameter, ChoiceParameter):
            answers |= {path: value} if value in parameter.choice else {}
        elif value is not None and parameter.bounds[0] <= value <= parameter.bounds[1]:
            answers[path] = value
    return answers


def _suggest(trial: optuna.Trial, path: str, parameter: Parameter) -> Any:
    if isinstance(parameter, ChoiceParameter):
        return trial.suggest_categorical(path, parameter.choice)
    if isinstance(parameter, SubsetParameter):
        return _suggest_subset(trial, path, parameter)
    low, high = parameter.bounds
    if parameter.kind == "int":
        return trial.suggest_int(path, int(low), int(high))
    return trial.suggest_float(path, low, high, log=parameter.kind == "log")


def _suggest_subset(trial: optuna.Trial, path: str, parameter: SubsetParameter) -> list[str]:
    """The names with a yes; where they are fewer than `min`, the last ones with a no as well."""
    answers = {
        name: bool(trial.suggest_categorical(f"{path}/{name}", (True, False)))
        for name in parameter.subset
    }
    missing = parameter.min - sum(answers.values())
    for name in reversed(parameter.subset):
        if missing > 0 and not answers[name]:
            answers[name] = True
            missing -= 1
    return [name for name, answer in answers.items() if answer]


def build_sampler(config: SearchConfig) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of this name, seeded from the study's seed."""
    seed = derive_seed(config.seed, "sampler") % 2**32
    if config.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=STARTUP_TRIALS, multivariate=True
        )


class HonestOptunaSearch(OptunaSearch):
    """Ray's OptunaSearch that tells Optuna how a trial really ended.

    Ray's own tells a trial that the schedule stopped as complete, with the value of its low
    budget, and leaves one without a finite value running for ever. Here such trials are
    PRUNED, with their values by step, and FAILED.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reported: set[tuple[str, int]] = set()
        self._is_finished = False
        self.limit: Callable[[], float] = lambda: math.inf
        """How many trials may be under way, asked before each proposal."""

    def __getstate__(self) -> dict[str, Any]:
        """Without `limit`, which belongs to this process: Tune keeps a copy that nobody reads."""
        return {name: value for name, value in self.__dict__.items() if name != "limit"}

    def finish(self) -> None:
        """Propose nothing more: the study stops."""
        self._is_finished = True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next proposal; None to be asked again later, FINISHED for no more."""
        if self._is_finished:
            return str(Searcher.FINISHED)
        if len(self._ot_trials.keys() - self._completed_trials) >= self.limit():
            return None
        settings: dict[str, Any] | None = super().suggest(trial_id)
        return settings

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an intermediate value under its adaptation step."""
        value = result.get(self.metric)
        if trial_id in self._completed_trials or not _is_finite(value):
            return
        # Optuna refuses a step twice, and to ask it for its trials copies all of them.
        place = trial_id, result["step"]
        if place not in self._reported:
            self._reported.add(place)
            self._ot_trials[trial_id].report(value, result["step"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Close the trial: COMPLETE after all its steps, else PRUNED, or FAIL without a value.

        One that is paused stays open: it goes on in another life of the study.
        """
        if trial_id in self._completed_trials or trial_id not in self._ot_trials:
            return
        self._completed_trials.add(trial_id)
        if result and result.get("paused"):
            return
        trial = self._ot_trials[trial_id]
        value = (result or {}).get(self.metric)
        if error or not _is_finite(value):
            self._ot_study.tell(trial, state=TrialState.FAIL)
        elif result and result.get("last"):
            self._ot_study.tell(trial, value)
        else:
            self._ot_study.tell(trial, state=TrialState.PRUNED)

    @property
    def optuna_study(self) -> optuna.Study:
        """The Optuna study behind the search."""
        return self._ot_study


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def build_search(space: SearchSpace, base: TrialConfig, config: SearchConfig) -> HonestOptunaSearch:
    """The searcher that proposes `config.trials` trials, maximising ``score``.

    The first is `starting_point`, the others are the sampler's.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return HonestOptunaSearch(
        space=DefineByRun(space, base),
        metric="score",
        mode="max",
        sampler=build_sampler(config),
        points_to_evaluate=[starting_point(space, base)],
    )
