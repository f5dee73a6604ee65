"""The search of a study, put together: what is known, what is left, and who proposes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from gam_ray.config import StudyConfig, search_problems
from gam_ray.study.objectives import Objectives
from gam_ray.study.optuna_study import (
    KnownTrial,
    asked,
    enqueue,
    known_trials,
    open_study,
    reconcile,
)
from gam_ray.study.samplers import CONSTRAINED_SAMPLERS, build_sampler
from gam_ray.study.schedule import EndedTrial
from gam_ray.study.search import StudySearcher
from gam_ray.study.store import StudyStore
from gam_ray.study.warm_start import WarmStart, warm_start

logger = logging.getLogger(__name__)


@dataclass
class Search:
    """The search of a study in this life of it.

    Attributes:
        searcher: Who proposes trials.
        trials: How many are left to run, those that are run again among them.
        ended: The searched trials that earlier lives have ended.
        begun: Key → step of the last report, of those that earlier lives have begun.
        warm_start: What was used of an older study, if one is named.
    """

    searcher: StudySearcher
    trials: int
    ended: list[EndedTrial]
    begun: dict[str, int]
    warm_start: WarmStart | None
    _config: StudyConfig
    _store: StudyStore

    @property
    def study(self) -> optuna.Study:
        """The Optuna study."""
        return self.searcher.optuna_study

    def left(self) -> int:
        """How many of the trials that are asked for have not ended, as the storage says now."""
        return _left(self._config, _ended(known_trials(self._store, self._config)))

    def settle(self) -> None:
        """Tell Optuna of trials whose end Tune has not heard of; call it when all are over."""
        known = known_trials(self._store, self._config)
        for left in reconcile(self.study, self._config.space, self._config.trial, known):
            self.study.tell(left.number, state=TrialState.FAIL)


def start_search(config: StudyConfig, store: StudyStore) -> Search:
    """Take up the search where the study's storage says it is.

    The trials that were begun come first, each under its own key. Then, as long as they were not
    tried: the settings of the trial section, those of ``search.enqueue``, the best ones of
    ``search.warm_start``; then the sampler's. So the study ends with ``search.trials`` searched
    trials, however often it was cut off.

    Raises:
        ValueError: If the search's settings do not go together, or its database or the older
            study cannot be used.
    """
    space, base, search = config.space, config.trial, config.search
    problems = search_problems(space, base, search)
    if problems:
        lines = (f"search.{'.'.join(map(str, place))}: {m}" for place, m in problems.items())
        raise ValueError("\n".join(lines))
    study = open_study(config)
    known = known_trials(store, config)
    again = reconcile(study, space, base, known)
    study.sampler = build_sampler(search, known=asked(study))
    if search.constraints and search.sampler not in CONSTRAINED_SAMPLERS:
        logger.warning(
            "search.sampler %s proposes without regard to search.constraints, which the choice "
            "keeps all the same; %s learn of them",
            search.sampler,
            ", ".join(CONSTRAINED_SAMPLERS),
        )
    learned = warm_start(study, config)
    if learned:
        _say(learned)
    enqueue(study, space, base, [*search.enqueue, *(learned.settings if learned else ())])
    ended = _ended(known)
    return Search(
        searcher=StudySearcher(
            study,
            space,
            base,
            store,
            objectives=Objectives.of(config),
            again=again,
            seed=search.seed,
        ),
        trials=_left(config, ended),
        ended=[EndedTrial(each.key, each.by_step) for each in ended],
        begun={
            each.key: max(each.by_step)
            for each in known
            if each.state == TrialState.RUNNING and each.by_step
        },
        warm_start=learned,
        _config=config,
        _store=store,
    )


def _ended(known: Sequence[KnownTrial]) -> list[KnownTrial]:
    return [each for each in known if each.state != TrialState.RUNNING]


def _left(config: StudyConfig, ended: Sequence[KnownTrial]) -> int:
    return max(0, config.search.trials - len(ended))


def _say(learned: WarmStart) -> None:
    logger.info(
        "warm start from %s: %d trials with their scores, %d settings tried first%s",
        learned.study,
        learned.values,
        len(learned.settings),
        "".join(f"; {line}" for line in learned.left_out),
    )
