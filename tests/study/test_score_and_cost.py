"""A search for score and cost: what Optuna is told, and what its samplers make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from study_records import METRICS, votes

from gam_ray.config import (
    ObjectiveConfig,
    ResourcesConfig,
    StudyConfig,
    apply_settings,
    filled_up,
    refused_changes,
)
from gam_ray.config.study import SamplerName
from gam_ray.study.broker import UNTRUSTED_SCORE
from gam_ray.study.objectives import TRUSTED, Objectives, trial_cost
from gam_ray.study.optuna_study import known_trials, open_study
from gam_ray.study.samplers import STARTUP_TRIALS
from gam_ray.study.search import KEY, REFUSED
from gam_ray.study.searching import Search, start_search
from gam_ray.study.store import EndRecord, EndState, ReportRecord, StudyStore, TrialRecord

MakeConfig = Callable[..., StudyConfig]
BOTH = ["score", "cost"]
SAMPLERS = [name for name in get_args(SamplerName) if name != "cmaes"]
SPACE = {
    "adaptation.weight": {"float": [0.0, 10.0]},
    "adaptation.drift": {"float": [0.0, 2.0]},
}
ENDS: tuple[EndState | None, ...] = ("finished", "pruned", "failed", "finished", None)
"""How trials end, in turn: the fourth is distrusted, the fifth is cut off."""
DISTRUSTED, CUT_OFF = 3, 4


class Trials:
    """A study without Ray, whose trials are run by hand."""

    def __init__(self, config: StudyConfig) -> None:
        self.config, self.store = config, StudyStore(config.folder)
        self.search = self.begin()

    def begin(self) -> Search:
        """Another life of the study."""
        self.search = start_search(self.config, self.store)
        return self.search

    def propose(self, name: str) -> TrialRecord:
        """Ask for a trial, and put it on the storage."""
        settings = self.search.searcher.suggest(name)["settings"]
        trial = apply_settings(self.config.trial, settings)
        record = TrialRecord(trial.key(), len(self.store.trials()), "search", settings, trial)
        if not (self.store.trial(trial.key()).folder / "trial.json").exists():
            self.store.trial(trial.key()).create(record)
        return record

    def report(self, name: str, key: str, score: float, *, shift: float = 0.0) -> None:
        """A report, as the broker stores it and tells Tune of it."""
        metrics = {**METRICS, "score/class_ami": score, "guard/class_shift": shift}
        self.store.trial(key).append_report(ReportRecord(10, metrics, 1.0), votes(0, 1, 2))
        heard = UNTRUSTED_SCORE if shift else score
        self.search.searcher.on_trial_result(name, {"score": heard, "step": 10})

    def end(self, name: str, key: str, state: EndState, score: float, seconds: float) -> None:
        """Its end, on the storage first."""
        self.store.trial(key).write_end(EndRecord(state, 10, seconds))
        failed = state == "failed"
        result = None if failed else {"score": score, "step": 10}
        self.search.searcher.on_trial_complete(name, result, error=failed)

    @property
    def optunas(self) -> list[FrozenTrial]:
        """What Optuna has of trials that were run or are."""
        trials = self.search.study.get_trials(deepcopy=False)
        return [trial for trial in trials if KEY in trial.user_attrs]


def config_of(make: MakeConfig, **search: Any) -> StudyConfig:
    given = {"objectives": BOTH, **search}
    return make(space=SPACE, search=given, objective={"score": "class_ami"})


def run_all_ways(study: Trials, trials: int) -> None:
    """Trials that end in all ways, with a score of ``weight / 10`` in ``10 + weight`` seconds."""
    for number in range(trials):
        name, end = str(number), ENDS[number % len(ENDS)]
        record = study.propose(name)
        weight = record.config.adaptation.weight
        is_distrusted = number % len(ENDS) == DISTRUSTED
        study.report(name, record.key, weight / 10, shift=0.9 if is_distrusted else 0.0)
        if end:
            heard = UNTRUSTED_SCORE if is_distrusted else weight / 10
            study.end(name, record.key, end, heard, 10 + weight)


def told(trial: FrozenTrial) -> tuple[Any, ...]:
    return trial.state, trial.values, trial.intermediate_values, trial.constraints


def truth(study: Trials, number: int) -> tuple[Any, ...]:
    """What Optuna is to say of the trial of this number in its first life."""
    weight = study.store.trials()[number].record().config.adaptation.weight
    values, place = pytest.approx([weight / 10, 10 + weight]), number % len(ENDS)
    return (
        (TrialState.COMPLETE, values, {}, {TRUSTED: -1}),
        (TrialState.PRUNED, None, {}, {TRUSTED: -1}),
        (TrialState.FAIL, None, {}, {}),
        (TrialState.COMPLETE, values, {}, {TRUSTED: 1}),
        (TrialState.RUNNING, None, {}, {}),
    )[place]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_of_score_and_cost_is_asked_told_cut_off_and_reconciled(
    make_config: MakeConfig, sampler: str
) -> None:
    # Of five trials two are whole and one stopped: enough for tpe, gp and nsga2 to learn of.
    trials = 27
    study = Trials(config_of(make_config, sampler=sampler, trials=trials))
    assert study.search.study.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert study.search.study.metric_names == BOTH
    run_all_ways(study, trials - 1)
    assert [told(trial) for trial in study.optunas] == [truth(study, n) for n in range(trials - 1)]
    cut_off = [n for n in range(trials - 1) if n % len(ENDS) == CUT_OFF]
    # The database is lost: what the storage says stands in a new one, and the begun go on.
    (study.config.folder / "optuna.db").unlink()
    search = study.begin()
    assert [told(trial) for trial in study.optunas] == [truth(study, n) for n in range(trials - 1)]
    assert search.trials == len(cut_off) + 1
    assert len(search.begun) == len(cut_off)
    records = study.store.trials()
    for number in cut_off:
        assert study.propose(f"again {number}").key == records[number].record().key
        study.end(f"again {number}", records[number].record().key, "finished", 0.5, 3.0)
    # Its end is on the storage, but Tune has not heard of it.
    record = study.propose("last")
    study.store.trial(record.key).append_report(
        ReportRecord(10, {**METRICS, "score/class_ami": 0.25}, 1.0), votes(0, 1, 2)
    )
    study.store.trial(record.key).write_end(EndRecord("finished", 10, 7.0))
    search.settle()
    by_key = {trial.user_attrs[KEY]: trial for trial in study.optunas}
    assert by_key[record.key].values == [0.25, 7.0]
    ends = [by_key[records[number].record().key] for number in cut_off]
    assert [(each.state, each.values) for each in ends] == [
        (TrialState.COMPLETE, [0.5, 3.0])
    ] * len(cut_off)
    assert search.left() == 0


def test_what_ended_unheard_of_is_told_in_the_same_database(make_config: MakeConfig) -> None:
    study = Trials(config_of(make_config, trials=9))
    ends: dict[str, EndState] = {"whole": "finished", "stopped": "pruned", "collapsed": "finished"}
    for name, state in ends.items():
        key = study.propose(name).key
        study.report(name, key, 0.5, shift=0.9 * (name == "collapsed"))
        study.store.trial(key).write_end(EndRecord(state, 10, 4.0))
    study.begin()
    assert [told(trial) for trial in study.optunas] == [
        (TrialState.COMPLETE, [0.5, 4.0], {}, {TRUSTED: -1}),
        (TrialState.PRUNED, None, {}, {TRUSTED: -1}),
        (TrialState.COMPLETE, [0.5, 4.0], {}, {TRUSTED: 1}),
    ]
    # The schedule hears of them as ever: of the distrusted one, that it is the worst.
    by_step = [each.by_step for each in study.search.ended]
    assert by_step == [{10: 0.5}, {10: 0.5}, {10: UNTRUSTED_SCORE}]


def test_trusted_is_beside_the_constraints_of_the_study(make_config: MakeConfig) -> None:
    config = config_of(make_config, trials=9, constraints={"seconds": {"max": 8}})
    study = Trials(config)
    key = study.propose("a").key
    study.report("a", key, 0.5)
    study.end("a", key, "finished", 0.5, 4.0)
    assert study.optunas[0].constraints == {"seconds <= 8": -0.5, TRUSTED: -1}


def test_one_objective_is_told_as_ever(make_config: MakeConfig) -> None:
    study = Trials(config_of(make_config, trials=9, objectives=["score"]))
    run_all_ways(study, 5)
    weights = [files.record().config.adaptation.weight for files in study.store.trials()]
    scores = [weight / 10 for weight in weights]
    assert [told(trial) for trial in study.optunas] == [
        (TrialState.COMPLETE, [scores[0]], {10: scores[0]}, {}),
        (TrialState.PRUNED, [scores[1]], {10: scores[1]}, {}),
        (TrialState.FAIL, None, {10: scores[2]}, {}),
        (TrialState.COMPLETE, [UNTRUSTED_SCORE], {10: UNTRUSTED_SCORE}, {}),
        (TrialState.RUNNING, None, {10: scores[4]}, {}),
    ]
    assert study.search.study.directions == [StudyDirection.MAXIMIZE]
    assert study.search.study.metric_names is None
    assert not any(known.excesses for known in known_trials(study.store, study.config))


def proposed(config: StudyConfig, *, distrusted_above: float = np.inf) -> list[tuple[float, float]]:
    """(score, cost) of a whole study: the score is by the drift, and the cost by the weight."""
    study, found = Trials(config), []
    for number in range(study.search.trials):
        record = study.propose(str(number))
        adaptation = record.config.adaptation
        score, seconds = -((adaptation.drift - 1.5) ** 2), 1 + adaptation.weight
        is_distrusted = adaptation.drift > distrusted_above
        study.report(str(number), record.key, score, shift=0.9 if is_distrusted else 0.0)
        heard = UNTRUSTED_SCORE if is_distrusted else score
        study.end(str(number), record.key, "finished", heard, seconds)
        found.append((score, seconds))
    assert all(REFUSED not in trial.user_attrs for trial in study.optunas)
    return found


def test_tpe_finds_cheaper_trials_of_no_less_score_where_cost_is_an_objective(
    make_config: MakeConfig,
) -> None:
    alone, both = (
        np.array(
            [
                proposed(
                    config_of(make_config, trials=40, objectives=names, seed=seed).model_copy(
                        update={"name": f"{len(names)}-{seed}"}
                    )
                )
                for seed in range(2)
            ]
        )
        for names in (["score"], BOTH)
    )
    assert (alone[:, :STARTUP_TRIALS] == both[:, :STARTUP_TRIALS]).all()
    learned = [each[:, STARTUP_TRIALS:] for each in (alone, both)]
    costs = [each[..., 1].mean() for each in learned]
    assert costs[1] < 0.75 * costs[0], costs
    assert both[..., 0].max(axis=1) == pytest.approx(alone[..., 0].max(axis=1), abs=0.05)


def test_a_distrusted_trial_leaves_the_front_to_the_others(make_config: MakeConfig) -> None:
    """What scores best is distrusted: tpe turns away from it, though its figures are the true."""
    found = proposed(config_of(make_config, trials=40), distrusted_above=1.0)
    free = proposed(
        config_of(make_config, trials=40).model_copy(update={"name": "free"}),
    )
    best = [sum(score > -0.2 for score, _ in each[STARTUP_TRIALS:]) for each in (found, free)]
    assert best[0] < best[1] / 2, best


def test_the_objectives_of_a_study_do_not_change(make_config: MakeConfig, tmp_path: Any) -> None:
    database = f"sqlite:///{tmp_path}/shared.db"
    alone = config_of(make_config, storage=database, objectives=["score"])
    both = config_of(make_config, storage=database)
    assert refused_changes(alone.to_mapping(), both.to_mapping()) == [
        'search.objectives: ["score"] → ["score", "cost"]'
    ]
    open_study(alone)
    with pytest.raises(ValueError, match=r'search.objectives: \["score"\] → \["score", "cost"\]'):
        open_study(both)
    open_study(both.model_copy(update={"name": "another"}))
    with pytest.raises(ValueError, match=r'search.objectives: \["score", "cost"\] → \["score"\]'):
        open_study(alone.model_copy(update={"name": "another"}))


def test_a_study_of_before_there_were_objectives_goes_on(make_config: MakeConfig) -> None:
    config = config_of(make_config, objectives=["score"])
    old = config.to_mapping()
    del old["search"]["objectives"]
    assert refused_changes(filled_up(old), config.to_mapping()) == []
    assert StudyConfig.from_mapping(old) == config


@pytest.mark.parametrize(
    ("resources", "cost"),
    [
        ({"workers": 4}, 10),
        ({"gpus_per_worker": 0.5}, 5),
        ({"workers": 2, "gpus_per_worker": 1.0}, 20),
    ],
)
def test_the_cost_is_seconds_or_those_of_gpus(resources: dict[str, Any], cost: float) -> None:
    given = ResourcesConfig.from_mapping(resources)
    assert trial_cost(10.0, given) == cost
    objectives = Objectives(("score", "cost"), ObjectiveConfig(), {}, given)
    assert objectives.values(0.5, 10.0) == [0.5, cost]
