"""What the page of a study tells, as plain data: the page draws it, and `--json` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Roles of trials whose settings were searched; the same as in `study.store`.
WITH_SETTINGS = ("search", "generation", "again")

Verdict = Literal["good", "caution", "note"]
"""Whether a remark speaks for the choice, against it, or neither."""


@dataclass(frozen=True)
class Question:
    """What was asked.

    Attributes:
        source: Name of the labelled domain.
        target: Name of the unlabelled one.
        network: Name of the architecture.
        searched: Setting by dotted path → how it was searched, in words.
        logarithmic: Those of them that were searched on a logarithmic scale.
        objective: Name of the score that chooses.
        by_oracle: Whether it looks at target labels.
        trials: State → number of trials in it.
        planned: Trials in all, as the study file asks for.
        sampler: What proposed the settings.
        objectives: What it looked for: ``score``, or ``score`` and ``cost``.
        schedule: What stopped weak trials early, or ``none``; ``pbt`` trained them on instead.
    """

    source: str
    target: str
    network: str
    searched: Mapping[str, str]
    logarithmic: tuple[str, ...]
    objective: str
    by_oracle: bool
    trials: Mapping[str, int]
    planned: int
    sampler: str
    objectives: tuple[str, ...]
    schedule: str


@dataclass(frozen=True)
class TrialFacts:
    """One trial.

    Attributes:
        key: The trial's.
        number: 0, 1, … in the order of submission.
        name: As people see it.
        role: ``search``, ``again``, ``student`` or which baseline.
        state: ``finished``, ``pruned`` or ``failed``.
        score: The final one, against the whole crowd; None of a trial that failed.
        oracle: The main figure in [0, 1] on the target's test split, or None.
        seconds: From its start in a lane to its end.
        layers: Names of the matched layers, joined by ``+``; empty where none is.
        adversary: ``gan``, ``inverted`` or ``lsgan``; empty where there is none.
        weight: λ.
        settings: What was searched, by dotted path; names joined by ``+``; empty for others.
        left_out: Why the guard or a constraint leaves it out; empty if neither does.
        error: Why it failed, or None.
        chosen: Whether it is the choice.
    """

    key: str
    number: int
    name: str
    role: str
    state: str
    score: float | None
    oracle: float | None
    seconds: float
    layers: str
    adversary: str
    weight: float
    settings: Mapping[str, str | float | bool]
    left_out: tuple[str, ...]
    error: str | None
    chosen: bool

    @property
    def is_searched(self) -> bool:
        """Whether its settings were searched, and are not a baseline's or a student's."""
        return self.role in WITH_SETTINGS


@dataclass(frozen=True)
class Remark:
    """Something to know before trusting the choice.

    Attributes:
        verdict: What it says of the choice.
        about: What it looks at, in a word or two.
        text: One sentence.
    """

    verdict: Verdict
    about: str
    text: str


@dataclass(frozen=True)
class ClassShare:
    """How much of the held-out target is predicted to be of one class; shares in [0, 1]."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Flow:
    """How many predictions went from one class to another."""

    before: str
    after: str
    count: int


@dataclass(frozen=True)
class Changes:
    """What adaptation changed: the choice's predictions beside the source network's.

    Attributes:
        unit: ``images``, or ``sampled pixels`` of a segmentation.
        count: Predictions on the held-out target.
        changed: How many of them changed their class.
        classes: Shares by class, in the classes' order.
        flows: From class to class, the largest first.
        consensus: Share in [0, 1] of the choice's predictions that the consensus of all trusted
            trials agrees with.
    """

    unit: str
    count: int
    changed: int
    classes: tuple[ClassShare, ...]
    flows: tuple[Flow, ...]
    consensus: float


@dataclass(frozen=True)
class ClassQuality:
    """How right the predictions of one class are, before and after, in [0, 1]; None: unknown."""

    name: str
    before: float | None
    after: float | None


@dataclass(frozen=True)
class OracleFacts:
    """What target labels say afterwards; shown apart, and nothing looks at it to choose.

    Attributes:
        figure: ``accuracy`` or ``mean IoU``.
        per_class_figure: What `classes` holds, and of which split.
        before: Target split → figure in [0, 1] of the source network.
        after: The same of the choice.
        regret: Target split → how much better the study's best trial is.
        classes: By class; empty where the labels are not at hand.
    """

    figure: str
    per_class_figure: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    regret: Mapping[str, float]
    classes: tuple[ClassQuality, ...]


@dataclass(frozen=True)
class Importance:
    """How much each parameter sets the best trials apart.

    Attributes:
        shares: Parameter → share in [0, 1], the largest first; they sum to 1. Empty if unknown.
        trials: How many trials it was taken from.
        missing: Why there is none, or None.
    """

    shares: Mapping[str, float]
    trials: int
    missing: str | None


@dataclass(frozen=True)
class Cost:
    """What the study took.

    Attributes:
        elapsed_s: From its start to its end, or to now.
        trial_s: Seconds of all trials that ended, together.
        median_trial_s: Of one trial; None before the first ended.
        gpu_s: Seconds × GPUs of all trials that ended; 0 without GPUs.
        at_a_time: Trials that ran at a time, on average: `trial_s` by `elapsed_s`.
        workers: Data-parallel workers of one trial.
        cpus_per_worker: Their CPU cores.
        gpus_per_worker: Their GPUs.
        pareto: As `results.best` has it.
    """

    elapsed_s: float
    trial_s: float
    median_trial_s: float | None
    gpu_s: float
    at_a_time: float
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    pareto: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Reproduction:
    """How to do it again.

    Attributes:
        command: The one command.
        file: Name of the study file that it takes.
        text: That file, without passwords.
        versions: Package → version.
        commit: Of gam_ray's repository, or None.
        of_the_run: Whether versions and commit are those that the study ran with; else they are of
            the process that drew the page.
        data: Part of a domain → how many images it had, and their fingerprint; none of an older
            study.
    """

    command: str
    file: str
    text: str
    versions: Mapping[str, str]
    commit: str | None
    of_the_run: bool
    data: Mapping[str, str]


@dataclass(frozen=True)
class StudyFacts:
    """All that the page tells.

    Attributes:
        study: The study's name.
        state: ``running``, ``finished``, ``failed``, ``stopped`` or ``interrupted``.
        error: Why it failed or stopped, or None.
        drawn: When, in seconds since the epoch.
        question: What was asked.
        answer: As `results.best` has it, without the oracle's readings; None while there is none.
        no_answer: Why there is no answer, or None.
        remarks: How far to trust the answer.
        changes: What adaptation changed; None while that is unknown.
        no_changes: Why it is unknown, or None.
        importance: What mattered.
        trials: All that ended, by number.
        cost: What it took.
        reproduction: How to do it again.
        oracle: What target labels say; None where there are none.
    """

    study: str
    state: str
    error: str | None
    drawn: float
    question: Question
    answer: Mapping[str, Any] | None
    no_answer: str | None
    remarks: tuple[Remark, ...]
    changes: Changes | None
    no_changes: str | None
    importance: Importance
    trials: tuple[TrialFacts, ...]
    cost: Cost
    reproduction: Reproduction
    oracle: OracleFacts | None


@dataclass(frozen=True)
class Picture:
    """A small image with what was said of it.

    Attributes:
        uri: The image itself, as a ``data:`` address.
        caption: A few words.
    """

    uri: str
    caption: str


@dataclass(frozen=True)
class ClassColour:
    """The colour of a class in masks, such as ``#ff8800``."""

    name: str
    colour: str


@dataclass(frozen=True)
class Pictures:
    """Images of the held-out target; empty where they are not at hand.

    Attributes:
        flipped: Whose class adaptation changed, the surest first. Of a segmentation, frames with
            the masks before and after beside them, those that changed most first.
        disputed: Where the choice is sure and the consensus says otherwise, the surest first.
        colours: Of the classes in masks.
    """

    flipped: tuple[Picture, ...] = ()
    disputed: tuple[Picture, ...] = ()
    colours: tuple[ClassColour, ...] = ()
