"""The Optuna study of a gam_ray study: kept in a database, and made to agree with the storage.

The study's folder is the truth. Optuna's copy is what samplers learn from and what
optuna-dashboard shows; `reconcile` makes it say what the folder says, whatever a kill left in
either, so that it may also be lost, or moved to another database.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote_plus, unquote_plus

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from pydantic import ValidationError

from gam_ray.config import (
    SearchSpace,
    StudyConfig,
    TrialConfig,
    apply_settings,
    filled_up,
    settings_difference,
)
from gam_ray.config.study import VARIABLE, ObjectiveName
from gam_ray.study.broker import UNTRUSTED_SCORE
from gam_ray.study.choosing import SEARCHED, ended_trials
from gam_ray.study.objectives import Objectives
from gam_ray.study.search import (
    KEY,
    NAME,
    STATES,
    DefineByRun,
    Proposal,
    answers,
    constrain,
    distributions,
    is_finite,
    starting_point,
)
from gam_ray.study.store import StudyStore, TrialFiles
from gam_ray.study.trust import distrust
from gam_ray.tracking.files import replace_json

# User attributes: of the Optuna study, what its values are of and which folder is its own; of both,
# the older study that was learned from.
SETTINGS, OWNER, WARM_START = "gam_ray.settings", "gam_ray.folder", "gam_ray.warm_start"
# With other ones, values would not be of the same function of the same parameters.
_IDENTITY = ("trial", "space", "objective")
# Seconds that SQLite waits for another process, such as optuna-dashboard.
SQLITE_TIMEOUT_S = 100


def storage_url(address: str | None, folder: Path) -> str:
    """The database of a study's Optuna study, with what its address takes from the environment.

    Args:
        address: ``search.storage``.
        folder: The study's own, for the default.

    Returns:
        An address for SQLAlchemy. It may hold a password: it is not to be shown.

    Raises:
        ValueError: If a variable is not set.
    """
    if address is None:
        return f"sqlite:///{folder / 'optuna.db'}"
    missing = [name for name in VARIABLE.findall(address) if name not in os.environ]
    if missing:
        raise ValueError(
            f"search.storage takes {', '.join(missing)} from the environment, where it is not "
            "set; set it for the process that runs the study"
        )
    if whole := VARIABLE.fullmatch(address):
        url = os.environ[whole[1]]
    else:
        url = VARIABLE.sub(lambda match: quote_plus(os.environ[match[1]]), address)
    # The driver of the extra `postgresql`; SQLAlchemy's default is another one since 2.1.
    return re.sub(r"^postgresql://", "postgresql+psycopg2://", url)


def open_study(config: StudyConfig) -> optuna.Study:
    """The Optuna study of this name in its database, made if it is not there.

    Raises:
        ValueError: If the database cannot be opened, or holds a study of this name with other
            settings or other objectives.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config.folder.mkdir(parents=True, exist_ok=True)
    url = storage_url(config.search.storage, config.folder)
    # A server may drop a connection that a study of days leaves idle: it is tried before use.
    engine: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        engine = {"connect_args": {"timeout": SQLITE_TIMEOUT_S}}
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=engine)
        study = optuna.create_study(
            storage=storage,
            study_name=config.name,
            directions=Objectives.of(config).directions,
            load_if_exists=True,
        )
    except Exception as error:  # noqa: BLE001 - of SQLAlchemy, of its driver, or of Optuna
        # Not chained: what the driver says may hold the address, and that a password.
        cause = str(error).partition("\n")[0]
        for secret in _secrets(url):
            cause = cause.replace(secret, "...")
        raise ValueError(
            f"the Optuna study cannot be opened in {config.search.storage or 'optuna.db'}: "
            f"{type(error).__name__}: {cause}; see search.storage, and for PostgreSQL install "
            "gam-ray[postgresql]"
        ) from None
    _check_is_ours(study, config)
    if not _is_of_one_objective(study):
        _name_values(study, config.search.objectives)
    return study


def _is_of_one_objective(study: optuna.Study) -> bool:
    """Whether Optuna takes values by step; of several objectives, its tpe fails where it has."""
    return len(study.directions) == 1


def _name_values(study: optuna.Study, names: Sequence[ObjectiveName]) -> None:
    """For optuna-dashboard, which else numbers them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(names))


def _check_is_ours(study: optuna.Study, config: StudyConfig) -> None:
    """Refuse an Optuna study of another folder, with other settings or other objectives."""
    settings = {name: config.to_mapping()[name] for name in _IDENTITY}
    known, owner, own = study.user_attrs.get(SETTINGS), study.user_attrs.get(OWNER), _own_id(config)
    lines = settings_difference({**settings, **_as_today(known)}, settings) if known else []
    objectives = get_args(ObjectiveName)[: len(study.directions)]
    lines += settings_difference(
        {"search.objectives": objectives}, {"search.objectives": config.search.objectives}
    )
    what = None
    if owner not in (None, own):
        what = "of another folder"
    elif lines:
        what = f"with other settings: {'; '.join(lines)}"
    if what:
        raise ValueError(
            f"{config.search.storage or 'optuna.db'} holds an Optuna study {config.name!r} {what}; "
            "give this study another name, or delete that one with `optuna delete-study "
            f"--study-name {config.name} --storage ADDRESS`"
        )
    if known is None:
        study.set_user_attr(SETTINGS, settings)
    if owner is None:
        study.set_user_attr(OWNER, own)


def _as_today(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an older version wrote, with the defaults of what has come since."""
    filled = filled_up({"name": "any", **settings})
    return {name: filled[name] for name in _IDENTITY}


def _own_id(config: StudyConfig) -> str:
    """What tells this study's folder from another of the same name on the same database."""
    file = config.folder / "optuna.json"
    if not file.exists():
        replace_json(file, {"id": secrets.token_hex(8)})
    found: str = json.loads(file.read_text())["id"]
    return found


def _secrets(url: str) -> list[str]:
    """What of an address no message may show: itself, and its password in both spellings."""
    before_host, at, _ = url.partition("://")[2].rpartition("@")
    password = before_host.partition(":")[2] if at else ""
    return [url, *([password, unquote_plus(password)] if password else [])]


@dataclass(frozen=True)
class KnownTrial:
    """What the storage says of a searched trial.

    Attributes:
        key: The trial's.
        name: As people see it.
        settings: By dotted path.
        state: COMPLETE, PRUNED or FAIL; RUNNING if it has not ended.
        values: Of the search's objectives; None if it is not whole. The score of one that the
            guard distrusts is what stands for "worst", unless the cost is an objective as well.
        by_step: Score by adaptation step, of each report.
        excesses: How far beyond each constraint it is, as Optuna has it, if it ended in order.
    """

    key: str
    name: str
    settings: Mapping[str, Any]
    state: TrialState
    values: Sequence[float] | None
    by_step: Mapping[int, float]
    excesses: Mapping[str, float] = field(default_factory=dict)


def known_trials(store: StudyStore, config: StudyConfig) -> list[KnownTrial]:
    """The searched trials on the storage, by number.

    A whole trial's score is against the crowd as it is now; one that the guard distrusts has what
    the search hears of such ones, see `study.objectives`.
    """
    found = [files for files in store.trials() if files.record().role == "search"]
    if not found:
        return []
    ended = ended_trials(store, config.objective, config.search.constraints, roles=SEARCHED)
    has_cost = Objectives.of(config).has_cost
    scores = {
        each.record.key: UNTRUSTED_SCORE if each.causes and not has_cost else each.score
        for each in ended
    }
    return [_known(files, config, scores.get(files.folder.name)) for files in found]


def _known(files: TrialFiles, config: StudyConfig, score: float | None) -> KnownTrial:
    record, end, told = files.record(), files.end(), Objectives.of(config)
    by_step = {}
    kept: dict[str, float] = {}
    for report in files.reports():
        # What the search hears at a report is the value of the one that is kept.
        kept = report.metrics if report.kept else kept
        suspect = distrust(record, kept, label_shift=config.objective.label_shift)
        heard = kept.get(f"score/{config.objective.metric}")
        value = UNTRUSTED_SCORE if suspect else heard
        if value is not None and is_finite(value):
            by_step[report.step] = value
    state, values = STATES[end.state] if end else TrialState.RUNNING, None
    if end and state == TrialState.COMPLETE:
        values = told.values(score, end.seconds) if is_finite(score) else None
        state = state if values else TrialState.FAIL
    beyond = told.excesses(files, end) if end and state != TrialState.FAIL else {}
    return KnownTrial(record.key, record.name, record.settings, state, values, by_step, beyond)


def reconcile(
    study: optuna.Study, space: SearchSpace, base: TrialConfig, known: Sequence[KnownTrial]
) -> list[Proposal]:
    """Make Optuna's trials say what the storage says, and find those that have to run again.

    Each known trial then has one Optuna trial with its key and its true state. What Optuna asked
    for and the storage has not heard of is run under its own key as well; a proposal that was cut
    off before it had one is closed as FAIL. Trials that Optuna has ended and the storage does not
    know are left as they are, and do not count. Optuna changes no trial that it has ended: where
    one says otherwise than the storage, a newer one says it right.

    It may be cut off anywhere, and is then to be called again.

    Args:
        study: The Optuna study.
        space: What is searched.
        base: The trial that everything not searched comes from.
        known: What the storage says.

    Returns:
        The trials to run again: those on the storage first, each in the order of its kind.
    """
    by_key: dict[str | None, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.WAITING and WARM_START not in trial.user_attrs:
            by_key.setdefault(trial.user_attrs.get(KEY), []).append(trial)
    _close(study, by_key.pop(None, []))
    again = []
    for each in known:
        proposal = _settle(study, space, each, by_key.pop(each.key, []))
        again += [proposal] if proposal else []
    for key, trials in by_key.items():
        assert key is not None
        proposal = _take_up(study, space, base, key, trials)
        again += [proposal] if proposal else []
    return again


def _close(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)


def _settle(
    study: optuna.Study, space: SearchSpace, known: KnownTrial, trials: Sequence[FrozenTrial]
) -> Proposal | None:
    """Have one trial of Optuna say what is known; returns it if it is to be run again."""
    agreeing = [trial for trial in trials if trial.state == known.state]
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    kept = (agreeing or running)[:1]
    _close(study, [trial for trial in running if trial not in kept])
    if not kept:
        _add(study, space, known)
        if known.state != TrialState.RUNNING:
            return None
        kept = [study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))[-1]]
    (trial,) = kept
    if known.state == TrialState.RUNNING:
        return _proposal(known.key, known.settings, trial)
    if trial.state == TrialState.RUNNING:
        _tell(study, known, trial)
    return None


def _tell(study: optuna.Study, known: KnownTrial, trial: FrozenTrial) -> None:
    storage, trial_id = study._storage, trial._trial_id  # noqa: SLF001
    storage.set_trial_user_attr(trial_id, NAME, known.name)
    for step, value in _by_step(study, known).items():
        if step not in trial.intermediate_values:
            storage.set_trial_intermediate_value(trial_id, step, value)
    constrain(study, trial_id, known.excesses)
    study.tell(trial.number, known.values, state=known.state)


def _by_step(study: optuna.Study, known: KnownTrial) -> Mapping[int, float]:
    return known.by_step if _is_of_one_objective(study) else {}


def _add(study: optuna.Study, space: SearchSpace, known: KnownTrial) -> None:
    given, drawn_from = answers(space, known.settings), distributions(space)
    by_step, values = _by_step(study, known), known.values
    if known.state == TrialState.PRUNED and by_step:
        values = [by_step[max(by_step)]]
    study.add_trial(
        optuna.trial.create_trial(
            state=known.state,
            values=values,
            params=given,
            distributions={name: drawn_from[name] for name in given},
            user_attrs={KEY: known.key, NAME: known.name},
            intermediate_values=dict(by_step),
            constraints=dict(known.excesses),
        )
    )


def _take_up(
    study: optuna.Study,
    space: SearchSpace,
    base: TrialConfig,
    key: str,
    trials: Sequence[FrozenTrial],
) -> Proposal | None:
    """A trial that Optuna asked for and the storage has not heard of, if its key is its own."""
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for trial in running:
        settings = _settings(space, base, trial)
        if settings is not None and apply_settings(base, settings).key() == key:
            _close(study, [other for other in running if other is not trial])
            return _proposal(key, settings, trial)
    _close(study, running)
    return None


def _settings(space: SearchSpace, base: TrialConfig, trial: FrozenTrial) -> dict[str, Any] | None:
    try:
        settings: dict[str, Any] = DefineByRun(space, base)(FixedTrial(trial.params))["settings"]
        apply_settings(base, settings)
    except (ValueError, ValidationError):
        return None
    return settings


def _proposal(key: str, settings: Mapping[str, Any], trial: FrozenTrial) -> Proposal:
    reported = set(trial.intermediate_values)
    return Proposal(key, dict(settings), trial.number, trial._trial_id, reported)  # noqa: SLF001


def asked(study: optuna.Study) -> int:
    """Trials that were asked for in this and earlier lives of the study."""
    return sum(
        trial.state != TrialState.WAITING and WARM_START not in trial.user_attrs
        for trial in study.get_trials(deepcopy=False)
    )


def enqueue(
    study: optuna.Study,
    space: SearchSpace,
    base: TrialConfig,
    settings: Sequence[Mapping[str, Any]],
) -> None:
    """Have Optuna propose the trial section's settings and then these, but none a second time.

    Args:
        study: The Optuna study, reconciled.
        space: What is searched.
        base: The trial section.
        settings: Known ones, by dotted path, each of any parameters of the space.
    """
    for point in (starting_point(space, base), *(answers(space, each) for each in settings)):
        trials = study.get_trials(deepcopy=False)
        if not any(_is_tried(point, trial) for trial in trials):
            study.enqueue_trial(point)


def _is_tried(point: Mapping[str, Any], trial: FrozenTrial) -> bool:
    """Whether a trial has the answers of `point`, as far as it was asked for them."""
    if trial.state == TrialState.WAITING:
        return bool(trial.system_attrs.get("fixed_params") == dict(point))
    if KEY not in trial.user_attrs:
        return False
    return all(trial.params.get(name, value) == value for name, value in point.items())
