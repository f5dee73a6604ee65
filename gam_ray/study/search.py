"""From a search space to Optuna, and from the ends of trials back to Optuna's states."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeGuard

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from pydantic import ValidationError
from ray.tune.search import Searcher

from gam_ray.config import (
    ChoiceParameter,
    SearchSpace,
    SubsetParameter,
    TrialConfig,
    apply_settings,
    derive_seed,
    value_at,
)
from gam_ray.config.space import Parameter
from gam_ray.study.objectives import Objectives
from gam_ray.study.store import EndState, StudyStore

logger = logging.getLogger(__name__)

# User attributes of Optuna's trials.
KEY, NAME, REFUSED = "gam_ray.key", "gam_ray.name", "gam_ray.refused"

STATES: dict[EndState, TrialState] = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
# In a small space a sampler may propose what was proposed before. So often it is asked again;
# then so many settings are drawn at random; then the space counts as used up.
SAMPLER_ATTEMPTS = 10
RANDOM_ATTEMPTS = 1000


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

    def __call__(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
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
        return value_at(self._base, path)


def starting_point(space: SearchSpace, base: TrialConfig) -> dict[str, Any]:
    """The settings of `base` as answers to Optuna, as far as the space has them.

    What a user wrote down before searching is a candidate like any other, and often a good
    one. A setting that lies outside the space is left out, and drawn.
    """
    settings: dict[str, Any] = {}
    for path, parameter in space.items():
        value = value_at(base.to_mapping(), path)
        if isinstance(parameter, SubsetParameter):
            settings[path] = [name for name in parameter.subset if name in value]
        elif parameter.refusal(value) is None:
            settings[path] = value
    return answers(space, settings)


def answers(space: SearchSpace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted path as answers to Optuna by the names of its parameters.

    Args:
        space: What is searched.
        settings: Of any of its parameters.
    """
    found: dict[str, Any] = {}
    for path, value in settings.items():
        parameter = space.root[path]
        if isinstance(parameter, SubsetParameter):
            found |= {f"{path}/{name}": name in value for name in parameter.subset}
        else:
            found[path] = value
    return found


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """What Optuna draws each of its parameters from, by name."""
    found: dict[str, BaseDistribution] = {}
    for path, parameter in space.items():
        if isinstance(parameter, SubsetParameter):
            yes_or_no = CategoricalDistribution((True, False))
            found |= {f"{path}/{name}": yes_or_no for name in parameter.subset}
        elif isinstance(parameter, ChoiceParameter):
            found[path] = CategoricalDistribution(parameter.choice)
        elif parameter.kind == "int":
            low, high = parameter.bounds
            found[path] = IntDistribution(int(low), int(high))
        else:
            found[path] = FloatDistribution(*parameter.bounds, log=parameter.kind == "log")
    return found


def _suggest(trial: optuna.trial.BaseTrial, path: str, parameter: Parameter) -> Any:
    if isinstance(parameter, ChoiceParameter):
        return trial.suggest_categorical(path, parameter.choice)
    if isinstance(parameter, SubsetParameter):
        return _suggest_subset(trial, path, parameter)
    low, high = parameter.bounds
    if parameter.kind == "int":
        return trial.suggest_int(path, int(low), int(high))
    return trial.suggest_float(path, low, high, log=parameter.kind == "log")


def _suggest_subset(
    trial: optuna.trial.BaseTrial, path: str, parameter: SubsetParameter
) -> list[str]:
    """The names with a yes; where they are fewer than `min`, the last ones with a no as well."""
    said = {
        name: bool(trial.suggest_categorical(f"{path}/{name}", (True, False)))
        for name in parameter.subset
    }
    missing = parameter.min - sum(said.values())
    for name in reversed(parameter.subset):
        if missing > 0 and not said[name]:
            said[name] = True
            missing -= 1
    return [name for name, yes in said.items() if yes]


def constrain(study: optuna.Study, optuna_id: int, values: Mapping[str, float]) -> None:
    """Have Optuna know a trial's constraints, for its samplers and for optuna-dashboard.

    Said again, they are the same. To be done before it is told how the trial ended.

    Args:
        study: The Optuna study.
        optuna_id: Of Optuna's trial, within its storage.
        values: As `excesses` gives them.
    """
    # A trial beside the study says how Optuna keeps them.
    aside = optuna.trial.create_trial(state=TrialState.FAIL, constraints=dict(values))
    for name, value in aside.system_attrs.items():
        study._storage.set_trial_system_attr(optuna_id, name, value)  # noqa: SLF001


@dataclass
class Proposal:
    """A trial between Optuna and a lane.

    Attributes:
        key: The trial's.
        settings: By dotted path.
        number: Of Optuna's trial.
        optuna_id: Of Optuna's trial, within its storage.
        reported: Steps that Optuna has heard of.
    """

    key: str
    settings: dict[str, Any]
    number: int
    optuna_id: int
    reported: set[int] = field(default_factory=set)


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether a value is a number that Optuna takes."""
    return isinstance(value, int | float) and math.isfinite(value)


class StudySearcher(Searcher):
    """Optuna as Ray Tune asks it, on a study that outlives the process.

    Ray's own searcher tells a trial that the schedule stopped as complete, with the value of its
    low budget, and leaves one without a finite value running for ever. Here Optuna hears how a
    trial ended only once its end is on the study's storage, and what that says: COMPLETE,
    PRUNED with its values by step (none where the cost is an objective), or FAIL. A trial whose
    end is not there stays RUNNING, and is taken up again by the study's next life.

    No settings are proposed twice, so that every proposal is a trial of its own.

    Args:
        study: The Optuna study, with its sampler.
        space: What is searched.
        base: The trial that everything not searched comes from.
        store: The study's storage.
        objectives: What Optuna is told of trials that have ended.
        again: Trials that an earlier life has begun; proposed first.
        seed: Of what is drawn where the sampler has nothing new.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        base: TrialConfig,
        store: StudyStore,
        *,
        objectives: Objectives,
        again: Sequence[Proposal] = (),
        seed: int = 0,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self._study = study
        self._space = DefineByRun(space, base)
        self._answers = partial(answers, space)
        self._base = base
        self._store = store
        self._objectives = objectives
        self._again = list(again)
        self._seed = seed
        self._proposals: dict[str, Proposal] = {}
        self._keys = {files.folder.name for files in store.trials()}
        self._keys |= {proposal.key for proposal in again}
        self._is_finished = False
        self.limit: Callable[[], float] = lambda: math.inf
        """How many trials may be under way, asked before each proposal."""

    def finish(self) -> None:
        """Propose nothing more: the study stops."""
        self._is_finished = True

    @property
    def is_finished(self) -> bool:
        """Whether it proposes nothing more: the space is used up, or the study stops."""
        return self._is_finished

    @property
    def optuna_study(self) -> optuna.Study:
        """The Optuna study behind the search."""
        return self._study

    def suggest(self, trial_id: str) -> Any:
        """The next trial as ``{"settings": by dotted path}``.

        None to be asked again later; ``FINISHED`` if none is left, or the study stops.
        """
        if self._is_finished:
            return Searcher.FINISHED
        if len(self._proposals) >= self.limit():
            return None
        proposal = self._again.pop(0) if self._again else self._ask()
        if proposal is None:
            logger.warning("no further settings in the search space; the search ends")
            self._is_finished = True
            return Searcher.FINISHED
        self._proposals[trial_id] = proposal
        return {"settings": proposal.settings}

    def _ask(self) -> Proposal | None:
        """A proposal that was not made before: the sampler's, else a random one, else None."""
        for _ in range(SAMPLER_ATTEMPTS):
            trial = self._study.ask()
            settings = self._space(trial)["settings"]
            key, refusal = self._judge(settings)
            if refusal is None:
                trial.set_user_attr(KEY, key)
                self._keys.add(key)
                return Proposal(key, settings, trial.number, trial._trial_id)  # noqa: SLF001
            trial.set_user_attr(REFUSED, refusal)
            self._study.tell(trial, state=TrialState.FAIL)
        return self._draw()

    def _draw(self) -> Proposal | None:
        """New settings drawn at random, or None if there seem to be none."""
        seed = derive_seed(self._seed, "draw", len(self._keys)) % 2**32
        aside = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        for _ in range(RANDOM_ATTEMPTS):
            settings = self._space(aside.ask())["settings"]
            if self._judge(settings)[1] is None:
                self._study.enqueue_trial(self._answers(settings))
                return self._ask()
        return None

    def _judge(self, settings: Mapping[str, Any]) -> tuple[str, str | None]:
        """The key of the trial with these settings, and why it is not to be run, if so."""
        try:
            key = apply_settings(self._base, settings).key()
        except ValidationError as error:
            return "", "; ".join(item["msg"] for item in error.errors())
        return key, f"the same as trial {key}" if key in self._keys else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Report an intermediate value under its adaptation step."""
        proposal, value = self._proposals[trial_id], result.get(self.metric)
        if not is_finite(value) or result["step"] in proposal.reported:
            return
        if not proposal.reported:
            self._name(proposal)
        proposal.reported.add(result["step"])
        if self._objectives.has_cost:  # what a trial will have cost, its reports do not say
            return
        self._storage.set_trial_intermediate_value(proposal.optuna_id, result["step"], value)

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,
        error: bool = False,
    ) -> None:
        """Tell Optuna how the trial ended, if its end is on the storage."""
        proposal = self._proposals.pop(trial_id, None)
        end = self._store.trial(proposal.key).end() if proposal else None
        if proposal is None or end is None:
            # Without an end a trial ends only where the study does: nothing more is proposed.
            self._is_finished = self._is_finished or (result is not None and not error)
            return
        state = STATES[end.state]
        if state == TrialState.COMPLETE and (error or result is None):
            return  # what it scored was not heard of: the study looks it up when Tune is done
        files, told = self._store.trial(proposal.key), self._objectives
        score = told.score((result or {}).get(self.metric), files)
        if state != TrialState.FAIL and not is_finite(score):
            state = TrialState.FAIL
        self._name(proposal)
        if state != TrialState.FAIL:
            constrain(self._study, proposal.optuna_id, told.excesses(files, end))
        values = told.values(score, end.seconds) if state == TrialState.COMPLETE else None
        self._study.tell(proposal.number, values, state=state)

    def _name(self, proposal: Proposal) -> None:
        record = self._store.trial(proposal.key).record()
        self._storage.set_trial_user_attr(proposal.optuna_id, NAME, record.name)

    @property
    def _storage(self) -> optuna.storages.BaseStorage:
        return self._study._storage  # noqa: SLF001 - Optuna reports through trials of its own only

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles it into a file, where the storage's password would stand."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the Optuna study and the study's storage are all there is to keep."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""
