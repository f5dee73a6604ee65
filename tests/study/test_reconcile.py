"""Whatever a kill leaves in Optuna's database and on the storage, nothing is lost or doubled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from postgresql_server import postgresql_server

from gam_ray.config import SearchSpace, StudyConfig, TrialConfig, apply_settings
from gam_ray.study.optuna_study import KnownTrial, asked, enqueue, open_study, reconcile
from gam_ray.study.search import KEY, REFUSED, StudySearcher, answers, distributions
from gam_ray.study.searching import start_search
from gam_ray.study.store import EndRecord, StudyStore, TrialRecord

MakeConfig = Callable[..., StudyConfig]
R, C, P, F = TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL

SPACE = SearchSpace.model_validate(
    {
        "adaptation.weight": {"log": (0.1, 1000.0)},
        "adaptation.layers": {"subset": ("fc3", "fc4"), "min": 1},
    }
)
BASE = TrialConfig.from_mapping({"task": {"source": "a", "target": "b"}, "steps": 40})
SPACE_AS_WRITTEN = SPACE.model_dump(mode="json", by_alias=True, exclude_none=True)
DRAWN_FROM = distributions(SPACE)
optuna.logging.set_verbosity(optuna.logging.WARNING)


def setting(number: int) -> dict[str, Any]:
    return {"adaptation.weight": 0.1 + number, "adaptation.layers": ["fc3"]}


def key_of(number: int) -> str:
    return apply_settings(BASE, setting(number)).key()


def known(number: int, state: TrialState, objectives: int = 1) -> KnownTrial:
    values = [0.5 + number, 7.0][:objectives] if state == C else None
    by_step = {} if number % 3 == 0 else {10: 0.25, 20: float(number)}
    name = f"{number:02d} gan"
    beyond = beyond_of(number, state)
    return KnownTrial(key_of(number), name, setting(number), state, values, by_step, beyond)


def beyond_of(number: int, state: TrialState) -> dict[str, float]:
    return {"seconds <= 9": number - 2.5} if state in (C, P) else {}


def put(study: optuna.Study, number: int, state: TrialState, *, keyed: bool = True) -> None:
    given_answers = answers(SPACE, setting(number))
    if not keyed:  # cut off between asking and naming, with part of the answers
        given_answers = {"adaptation.weight": given_answers["adaptation.weight"]}
    is_reported = number % 2 and state != F and len(study.directions) == 1
    study.add_trial(
        create_trial(
            state=state,
            values=[-7.0] * len(study.directions) if state == C else None,
            params=given_answers,
            distributions={name: DRAWN_FROM[name] for name in given_answers},
            user_attrs={KEY: key_of(number)} if keyed else {},
            intermediate_values={10: 0.25} if is_reported else {},
            constraints=beyond_of(number, state),
        )
    )


# Of one trial: what the storage says, if anything, and its trials in Optuna in their order.
one_trial = st.tuples(
    st.sampled_from([None, R, C, P, F]),
    st.lists(st.sampled_from([R, C, P, F]), max_size=3),
)
any_state = st.tuples(
    st.lists(one_trial, max_size=6),
    st.lists(st.sampled_from([R, C, P, F]), max_size=2),  # in Optuna, without a key
    st.randoms(use_true_random=False),
    st.sampled_from([["maximize"], ["maximize", "minimize"]]),
)


def by_key(study: optuna.Study) -> dict[str, list[optuna.trial.FrozenTrial]]:
    found: dict[str, list[optuna.trial.FrozenTrial]] = {}
    for trial in study.trials:
        if KEY in trial.user_attrs:
            found.setdefault(trial.user_attrs[KEY], []).append(trial)
    return found


def set_up(
    trials: Any, keyless: Any, random: Any, directions: Any
) -> tuple[optuna.Study, list[KnownTrial]]:
    """An Optuna study in such a state, and what the storage says."""
    study = optuna.create_study(directions=directions)
    puts = [(number, each, True) for number, (_, states) in enumerate(trials) for each in states]
    puts += [(100 + number, each, False) for number, each in enumerate(keyless)]
    random.shuffle(puts)
    for number, each, keyed in puts:
        put(study, number, each, keyed=keyed)
    saying = [(number, said) for number, (said, _) in enumerate(trials) if said is not None]
    return study, [known(number, said, len(directions)) for number, said in saying]


@settings(deadline=None, max_examples=200)
@given(any_state)
def test_any_two_states_are_made_one(state: Any) -> None:
    study, stored = set_up(*state)
    trials = state[0]

    again = reconcile(study, SPACE, BASE, stored)

    optunas = by_key(study)
    for each in stored:
        true = [trial for trial in optunas[each.key] if trial.state == each.state]
        assert true, "no trial in Optuna has the state that the storage has"
        assert true[0].constraints == each.excesses
        assert len(study.directions) == 1 or not true[0].intermediate_values
        # Among those that were wrong before, none is left open.
        assert len([t for t in optunas[each.key] if t.state == R]) == (each.state == R)
        assert {name: true[0].params[name] for name in DRAWN_FROM} == answers(SPACE, each.settings)
    wanted = {each.key for each in stored if each.state == R}
    wanted |= {
        key_of(number)
        for number, (said, states) in enumerate(trials)
        if said is None and R in states
    }
    # Each in flight runs again, once, with its own settings, as the one open trial in Optuna.
    assert sorted(proposal.key for proposal in again) == sorted(wanted)
    open_trials = {trial.number: trial for trial in study.trials if trial.state == R}
    assert sorted(open_trials) == sorted(proposal.number for proposal in again)
    for proposal in again:
        assert apply_settings(BASE, proposal.settings).key() == proposal.key
        assert open_trials[proposal.number].user_attrs[KEY] == proposal.key
    # Called again, as after a kill in between, it finds all well.
    before = study.trials
    assert reconcile(study, SPACE, BASE, stored) == again
    assert study.trials == before


class KilledError(Exception):
    """Stands for a kill."""


class Fuse:
    """Counts down to a kill, at each of its steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KilledError


@contextlib.contextmanager
def killed_by(fuse: Fuse, storage: Any) -> Iterator[None]:
    """Every write to Optuna's storage is a step of the fuse, before it is done."""
    names = [name for name in dir(storage) if name.startswith(("create_", "set_"))]
    real = {name: getattr(storage, name) for name in names}
    for name in names:

        def write(*args: Any, _name: str = name, **kwargs: Any) -> Any:
            fuse.step()
            return real[_name](*args, **kwargs)

        setattr(storage, name, write)
    try:
        yield
    finally:
        for name in names:
            setattr(storage, name, real[name])


@settings(deadline=None, max_examples=60)
@given(any_state, st.integers(0, 12))
def test_a_kill_while_it_reconciles_is_made_good(state: Any, writes: int) -> None:
    study, stored = set_up(*state)
    with contextlib.suppress(KilledError), killed_by(Fuse(writes), study._storage):
        reconcile(study, SPACE, BASE, stored)
    again = reconcile(study, SPACE, BASE, stored)
    optunas = by_key(study)
    for each in stored:
        assert any(
            (trial.state, trial.constraints) == (each.state, each.excesses)
            for trial in optunas[each.key]
        )
    assert len({proposal.key for proposal in again}) == len(again)
    assert {p.number for p in again} == {t.number for t in study.trials if t.state == R}


def test_what_ended_unheard_of_has_its_true_values() -> None:
    study = optuna.create_study(direction="maximize")
    put(study, 1, R)
    put(study, 2, R)
    assert reconcile(study, SPACE, BASE, [known(1, C), known(2, P), known(4, P), known(5, F)]) == []
    whole, stopped, lost, failed = study.trials
    assert (whole.state, whole.value, whole.user_attrs["gam_ray.name"]) == (C, 1.5, "01 gan")
    assert whole.intermediate_values == {10: 0.25, 20: 1.0}
    assert (stopped.state, stopped.value) == (P, 2.0)
    assert (lost.state, lost.value, lost.intermediate_values) == (P, 4.0, {10: 0.25, 20: 4.0})
    assert (failed.state, failed.value) == (F, None)


def test_another_trials_key_is_not_run() -> None:
    study = optuna.create_study(direction="maximize")
    put(study, 1, R)
    study._storage.set_trial_user_attr(study.trials[0]._trial_id, KEY, "0123456789abcdef")
    assert reconcile(study, SPACE, BASE, []) == []
    assert study.trials[0].state == F


def test_what_was_enqueued_is_enqueued_once() -> None:
    points = [setting(3), {"adaptation.weight": 0.5}, setting(3)]
    study = optuna.create_study(direction="maximize")
    for _ in range(2):
        enqueue(study, SPACE, BASE, points)
        assert len([t for t in study.trials if t.state == TrialState.WAITING]) == 3
    study.ask()  # the trial section's, cut off before it was named
    reconcile(study, SPACE, BASE, [])
    enqueue(study, SPACE, BASE, points)
    assert len([t for t in study.trials if t.state == TrialState.WAITING]) == 3
    put(study, 3, C)  # one that was tried, in a database that was lost
    again = optuna.create_study(direction="maximize")
    reconcile(again, SPACE, BASE, [known(3, C)])
    enqueue(again, SPACE, BASE, points)
    fixed = [t.system_attrs["fixed_params"] for t in again.trials if t.state == TrialState.WAITING]
    assert {"adaptation.weight": 0.5} in fixed
    assert answers(SPACE, setting(3)) not in fixed


class LivesOfAStudy:
    """A study without Ray, of trials that end at once, killed after any number of writes."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.store = StudyStore(config.folder)
        self.proposed: list[str] = []

    def live(self, writes: int = 10**6) -> bool:
        """One life, of so many writes; whether it came to its end."""
        fuse = Fuse(writes)
        try:
            search = start_search(self.config, self.store)
            with killed_by(fuse, search.study._storage):
                for number in range(search.trials):
                    self._trial(search.searcher, f"{number}", fuse)
                search.settle()
        except KilledError:
            return False
        return True

    def _trial(self, searcher: StudySearcher, name: str, fuse: Fuse) -> None:
        asked_for = searcher.suggest(name)["settings"]
        fuse.step()
        trial = apply_settings(self.config.trial, asked_for)
        files = self.store.trial(trial.key())
        number = len(self.store.trials())
        if not (files.folder / "trial.json").exists():
            self.proposed.append(trial.key())
            files.create(TrialRecord(trial.key(), number, "search", asked_for, trial))
        searcher.on_trial_result(name, {"score": 0.5, "step": 10})
        fuse.step()
        files.write_end(EndRecord("failed", 10, 1.0))
        searcher.on_trial_complete(name, None, error=True)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The address of a PostgreSQL server of this test's own."""
    with postgresql_server() as address:
        yield address


# Kills after 0, 1, 2, ... writes of a life fall between any two writes of a trial.
KILLS = (*range(24), 10**6)


@pytest.mark.parametrize("sampler", ["tpe", "qmc", "nsga2"])
def test_kills_between_any_two_writes_lose_and_double_nothing(
    make_config: MakeConfig, sampler: str
) -> None:
    search = {"trials": 12, "sampler": sampler, "enqueue": [{"adaptation.weight": 0.5}]}
    lose_and_double_nothing(make_config(search=search, space=SPACE_AS_WRITTEN), KILLS)


def test_nor_do_they_on_postgresql(make_config: MakeConfig, postgresql: str) -> None:
    search = {"trials": 12, "storage": postgresql, "enqueue": [{"adaptation.weight": 0.5}]}
    config = make_config(search=search, space=SPACE_AS_WRITTEN)
    lose_and_double_nothing(config, (2, 5, 7, 9, 11, 10**6))
    assert not (config.folder / "optuna.db").exists()


def lose_and_double_nothing(config: StudyConfig, kills: Iterable[int]) -> None:
    lives = LivesOfAStudy(config)
    for writes in kills:
        if lives.live(writes):
            break
    records = [files.record() for files in lives.store.trials()]
    assert len(records) == len(set(lives.proposed)) == len(lives.proposed) == 12
    assert all(files.end() for files in lives.store.trials())
    weights = [record.settings["adaptation.weight"] for record in records]
    assert set(weights[:2]) == {config.trial.adaptation.weight, 0.5}
    assert len(set(weights)) == 12
    optunas = open_study(config).trials
    named = [t for t in optunas if KEY in t.user_attrs]
    assert sorted(t.user_attrs[KEY] for t in named) == sorted(record.key for record in records)
    assert all(t.state == F for t in named)
    # What a kill cut off before it was named is closed, and there is nothing else.
    assert all(t.state == F for t in optunas if REFUSED not in t.user_attrs)


def test_more_trials_are_only_the_further_ones(make_config: MakeConfig) -> None:
    config = make_config(search={"trials": 3})
    lives = LivesOfAStudy(config)
    assert lives.live()
    lives.config = make_config(search={"trials": 5})
    assert lives.live()
    assert len(lives.proposed) == 5
    assert asked(open_study(config)) == 5


def test_a_database_of_another_folder_or_other_settings_is_refused(
    make_config: MakeConfig, tmp_path: Any
) -> None:
    search = {"trials": 4, "storage": f"sqlite:///{tmp_path}/shared.db"}
    open_study(make_config(search=search))
    open_study(make_config(search={**search, "trials": 9}))
    with pytest.raises(ValueError, match="of another folder"):
        open_study(make_config(search=search, storage=str(tmp_path / "elsewhere")))
    with pytest.raises(ValueError, match=r"objective.score: .*ensv.* → .*entropy"):
        open_study(make_config(search=search, objective={"score": "entropy"}))


def test_a_password_comes_from_the_environment_and_is_never_shown(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "postgresql://someone:${GAM_RAY_TEST_PASSWORD}@127.0.0.1:1/studies"
    config = make_config(search={"trials": 4, "storage": address})
    with pytest.raises(ValueError, match="GAM_RAY_TEST_PASSWORD from the environment"):
        open_study(config)
    monkeypatch.setenv("GAM_RAY_TEST_PASSWORD", "hush/@hush")
    with pytest.raises(ValueError, match="cannot be opened") as caught:
        open_study(config)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "hush" not in config.canonical()


def test_no_message_shows_a_password_that_a_driver_tells(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, **_: Any) -> None:
        raise RuntimeError(f"no such host: {url} (password hush/@hush)\nand more of hush")

    monkeypatch.setenv("GAM_RAY_TEST_PASSWORD", "hush/@hush")
    monkeypatch.setattr(optuna.storages, "RDBStorage", refuse)
    address = "postgresql://someone:${GAM_RAY_TEST_PASSWORD}@host/studies"
    with pytest.raises(ValueError, match="no such host") as caught:
        open_study(make_config(search={"trials": 4, "storage": address}))
    assert "hush" not in str(caught.value)
