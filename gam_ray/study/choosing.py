"""What a study ends with: final scores, finalists on fresh seeds, teachers of a student, a choice.

No target label is looked at, unless the objective is the oracle, by request.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace

from gam_ray.config import Constraints, ObjectiveConfig, derive_seed
from gam_ray.selection.choice import Candidate, choose, unless_no_better
from gam_ray.selection.consensus import Crowd
from gam_ray.selection.standings import Standings
from gam_ray.study.constraints import figures, violations
from gam_ray.study.store import ROLES, Role, StudyStore, TrialRecord
from gam_ray.study.trust import distrust

SEARCHED: tuple[Role, ...] = ("no adaptation", "gaussian", "search")
"""Roles of a study's first stage; generations, finalists' further runs and the student follow."""


@dataclass(frozen=True)
class Ended:
    """A trial that ended in order, and what is thought of it.

    Attributes:
        record: What it is.
        score: Its final score.
        causes: Why the guard distrusts it; empty if it does not.
        violations: The constraints that it violates, each with what was seen.
        is_whole: Whether it did all its steps.
        agreement: Share of the held-out target where it predicts what the consensus of the
            student's teachers does; None where the study has no student.
        seconds: From its start in a lane to its end.
    """

    record: TrialRecord
    score: float
    causes: tuple[str, ...]
    is_whole: bool
    agreement: float | None = None
    violations: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def left_out(self) -> tuple[str, ...]:
        """Why it cannot win, be a finalist or a teacher; empty if it can."""
        return (*self.causes, *self.violations)

    @property
    def setting(self) -> str:
        """The same for all runs of one setting, whatever their seed."""
        return self.record.config.model_copy(update={"seed": 0}).key()


@dataclass(frozen=True)
class Choice:
    """The trial that a study ends with, and how sure its score is.

    Attributes:
        key: The trial to use: of its setting, the run with the best score.
        score: Of that run.
        runs: Keys of all runs of its setting, one a seed.
        mean: Mean score of these runs.
        std: Their standard deviation; None of a single run.
    """

    key: str
    score: float
    runs: tuple[str, ...]
    mean: float
    std: float | None


def ended_trials(
    store: StudyStore,
    objective: ObjectiveConfig,
    constraints: Constraints,
    *,
    roles: tuple[Role, ...] = ROLES,
    last_step: float = math.inf,
) -> list[Ended]:
    """Every trial of these roles that ended in order, with its final score, by number.

    Those that adapt beyond `last_step` are left aside.

    Of each trial the report that was kept counts. The consensus, and ranks, are taken anew, of
    all these trials; those that the guard distrusts, and students, have no vote.
    """
    found: list[Ended] = []
    standings, crowd = Standings(objective.score), Crowd()
    for files in store.trials():
        end, record = files.end(), files.record()
        if not end or end.state == "failed" or record.role not in roles:
            continue
        if record.config.adaptation_steps > last_step:
            continue
        kept, predictions = files.kept(), files.predictions()
        assert kept is not None
        assert predictions is not None
        ended = Ended(
            record,
            score=math.nan,  # known once all have voted
            causes=distrust(record, kept.metrics, label_shift=objective.label_shift),
            is_whole=end.state == "finished",
            violations=violations(record, constraints, figures(kept, end)),
            seconds=end.seconds,
        )
        has_vote = record.has_vote and not ended.causes
        standings.put(record.key, kept.metrics, predictions, has_vote=has_vote)
        crowd.vote(record.key, predictions)
        found.append(ended)
    scores = standings.values()
    students = [each.record.config.student for each in found]
    followed = {
        each.record.key: crowd.agreement_with(student.teachers, each.record.key)
        for student in students
        if student
        for each in found
    }
    return [
        replace(each, score=scores[each.record.key], agreement=followed.get(each.record.key))
        for each in found
    ]


def finalists(
    store: StudyStore, objective: ObjectiveConfig, constraints: Constraints
) -> list[Ended]:
    """The best trials of the search that may win and did all their steps, best first.

    Found from the first stage alone, so that a study that is taken up again finds the same.
    Not for population-based training: a network of several generations has no settings of its own
    that could run again.
    """
    trials = ended_trials(store, objective, constraints, roles=SEARCHED)
    able = [t for t in trials if t.record.role == "search" and t.is_whole and not t.left_out]
    return sorted(able, key=lambda trial: -trial.score)[: objective.finalists]


def fresh_seeds(finalist: TrialRecord, seeds: int) -> list[int]:
    """Seeds of a finalist's further runs: `seeds` with its own."""
    own = finalist.config.seed
    return [derive_seed(own, "fresh", number) for number in range(1, seeds)]


def teachers(
    store: StudyStore, objective: ObjectiveConfig, constraints: Constraints, count: int
) -> tuple[str, ...]:
    """Keys of the best trials that may win, best first; only one run of each setting.

    The source network may be among them, and is alone where nothing else may win.
    """
    trials = ended_trials(store, objective, constraints, roles=(*SEARCHED, "generation", "again"))
    able = sorted((t for t in trials if not t.left_out), key=lambda trial: -trial.score)
    best: dict[str, str] = {}
    for trial in able:
        best.setdefault(trial.setting, trial.record.key)
    return tuple(best.values())[:count]


def choose_trial(trials: list[Ended], *, by_oracle: bool = False) -> Choice:
    """The setting with the best mean score over its runs, and of them the best; or the student.

    Where finalists were run on fresh seeds, a setting with one run cannot win, except a baseline.
    Where the best mean is not above the source network's by more than the standard deviation
    over seeds, the choice is the source network: do not adapt. Else a student that is not left out
    takes the place of the best run if it predicts what its teachers say together at least as
    often: a consensus is right more often than one voter. Other scores are no measure of it,
    since it was taught to be as unsure as its teachers differ. Target labels are, where a study
    asked for them.

    Args:
        trials: Those that ended in order.
        by_oracle: Whether their scores are what target labels say.

    Raises:
        ValueError: If the guard and the constraints leave out every trial that ended in order.
    """
    _check_some_left(trials)
    students = [trial for trial in trials if trial.record.role == "student"]
    best = _best_setting([trial for trial in trials if trial not in students])
    for student in students:
        better = student.score > best.mean if by_oracle else _replaces(student, best, trials)
        if not student.left_out and better:
            return _summary([student])
    return best


def _replaces(student: Ended, best: Choice, trials: list[Ended]) -> bool:
    """Whether the student is to be chosen in place of the best setting's best run."""
    (run,) = (trial for trial in trials if trial.record.key == best.key)
    if run.record.role == "no adaptation":
        return False
    assert student.agreement is not None
    assert run.agreement is not None
    return student.agreement >= run.agreement


def _best_setting(trials: list[Ended]) -> Choice:
    by_setting: dict[str, list[Ended]] = {}
    for trial in trials:
        if not trial.left_out:
            by_setting.setdefault(trial.setting, []).append(trial)
    choices = {name: _summary(runs) for name, runs in by_setting.items()}
    rerun = any(trial.record.role == "again" for trial in trials)
    able = [
        Candidate(name, choice.mean, choice.std or 0.0)
        for name, choice in choices.items()
        if not rerun or len(choice.runs) > 1 or by_setting[name][0].record.role != "search"
    ]
    unadapted = [c for c in able if by_setting[c.name][0].record.role == "no adaptation"]
    best = choose(able)
    return choices[unless_no_better(best, unadapted[0]).name if unadapted else best.name]


def _check_some_left(trials: list[Ended]) -> None:
    if all(trial.left_out for trial in trials):
        who = "the guard distrusts all"
        if any(trial.violations for trial in trials):
            who = "the guard and search.constraints leave out all"
        first = f"; of {trials[0].record.name}: {'; '.join(trials[0].left_out)}" if trials else ""
        raise ValueError(f"{who} {len(trials)} trials, so there is nothing to choose{first}")


def _summary(runs: list[Ended]) -> Choice:
    best = max(runs, key=lambda run: run.score)
    scores = [run.score for run in runs]
    return Choice(
        key=best.record.key,
        score=best.score,
        runs=tuple(run.record.key for run in runs),
        mean=statistics.fmean(scores),
        std=statistics.stdev(scores) if len(scores) > 1 else None,
    )
