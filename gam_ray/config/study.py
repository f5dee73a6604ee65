"""The settings of a study: what every trial shares, what is searched, and on what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import parse_qsl

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gam_ray.config.base import ConfigModel
from gam_ray.config.secrets import has_secret
from gam_ray.config.space import SearchSpace, explorable, unknown_name
from gam_ray.config.storages import S3, check_s3, working_folder
from gam_ray.config.trial import Count, DistillationConfig, Positive, TrialConfig

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


SamplerName = Literal["tpe", "gp", "cmaes", "qmc", "random", "nsga2"]
ObjectiveName = Literal["score", "cost"]
DATABASES = ("sqlite", "postgresql")
# ${NAME}: what a storage address takes from the environment, so that no file holds it.
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRETS = ("password", "passwd", "sslpassword")


LabelFreeScore = Literal[
    "ensv",
    "confident_ensv",
    "entropy",
    "information_maximisation",
    "bnm",
    "corr_c",
    "snd",
    "class_ami",
    "v_measure",
    "mixval",
    "source_accuracy",
    "iwcv",
    "dev",
    "transfer_score",
]
ScoreName = Literal[LabelFreeScore, "oracle"]

# Metrics that are not of a network alone: of its study, or of its trial.
_OTHER_METRICS = ("score/mean_rank", "seconds")
_SCORE, _ORACLE = "score/", "oracle/"


class BoundsConfig(ConfigModel):
    """What a metric has to keep to."""

    min: float | None = None
    """It is to be no less."""
    max: float | None = None
    """It is to be no more."""

    @model_validator(mode="after")
    def _some_value_is_within(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a constraint needs min, max or both, but got neither")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min must not exceed max, but got {self.min:g} and {self.max:g}")
        return self


Constraints = Mapping[str, BoundsConfig]


class SearchConfig(ConfigModel):
    """How the next trial is proposed."""

    sampler: SamplerName = "tpe"
    """Optuna's sampler: ``tpe`` (tree-structured Parzen estimator), ``gp`` (Gaussian process),
    ``cmaes`` (covariance matrix adaptation), ``qmc`` (scrambled Sobol sequence), ``random`` or
    ``nsga2`` (genetic). `gam_ray.study.samplers` says what each makes of choices, subsets and
    conditional parameters."""
    objectives: tuple[ObjectiveName, ...] = ("score",)
    """What the sampler looks for: ``[score]``, or ``[score, cost]`` for the Pareto front of trials
    that no other beats in both. The cost is a trial's seconds or, where its lane has GPUs, seconds
    × workers × GPUs of each. The choice is by the score, either way."""
    trials: Count = 40
    """Trials to propose; the two baselines come on top. May grow when a study is resumed."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the proposals and, by derivation, of every trial."""
    enqueue: tuple[dict[str, Any], ...] = ()
    """Known settings that are tried first, each as dotted path → value; what one leaves out is
    drawn. They count among `trials`, after the settings of the file's trial section."""
    warm_start: str | None = None
    """Folder of an older study, or the name of one beside this one, to learn from:
    `gam_ray.study.warm_start` says what is used of it."""
    constraints: dict[str, BoundsConfig] = Field(default_factory=dict)
    """What a trial must keep to: name of a reported metric, such as ``score/source_accuracy``, or
    ``seconds``, which a trial took → ``min``, ``max`` or both. A trial that does not cannot win;
    `gam_ray.study.samplers` says which samplers learn of it."""
    storage: str | None = None
    """Address of the database that holds the Optuna study: ``sqlite:///FILE`` or
    ``postgresql://USER:${PASSWORD}@HOST/NAME``; by default ``optuna.db`` in the study's folder.
    ``${NAME}`` is taken from the environment; a password stands in no file."""

    @field_validator("objectives")
    @classmethod
    def _score_is_the_first_objective(
        cls, value: tuple[ObjectiveName, ...]
    ) -> tuple[ObjectiveName, ...]:
        if value not in (("score",), ("score", "cost")):
            raise ValueError(f"must be [score] or [score, cost], but got [{', '.join(value)}]")
        return value

    @field_validator("storage")
    @classmethod
    def _storage_is_an_address_without_secrets(cls, value: str | None) -> str | None:
        if value is None or VARIABLE.fullmatch(value):
            return value
        # The value itself stays out of the message, since it may hold a password.
        database = value.split("://")[0].split("+")[0]
        if "://" not in value or database not in DATABASES:
            raise ValueError(
                f"must be the address of a database of {' or '.join(DATABASES)}, such as "
                "postgresql://USER:${PASSWORD}@HOST/NAME, or ${NAME} alone"
            )
        if _has_secret(value):
            raise ValueError(
                "a password may not stand in a study file, which is copied to the study's folder "
                "and to MLflow; write ${NAME} in its place and set that environment variable"
            )
        return value

    @field_validator("constraints")
    @classmethod
    def _constrained_are_metrics(cls, value: dict[str, BoundsConfig]) -> dict[str, BoundsConfig]:
        # Other metrics depend on the trial: the study says at its end which were never reported.
        scores = [f"{_SCORE}{name}" for name in get_args(ScoreName)]
        known = [*scores, *_OTHER_METRICS]
        problems = [
            unknown_name("score", metric, known)
            for metric in value
            if metric.startswith(_SCORE) and metric not in known
        ]
        problems += [f"a metric's name has no spaces, but got {m!r}" for m in value if _is_odd(m)]
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @model_validator(mode="after")
    def _enqueued_are_trials(self) -> Self:
        if len(self.enqueue) >= self.trials:
            raise ValueError(
                "enqueue takes fewer settings than trials, the first of which has the settings of "
                f"the trial section, but got {len(self.enqueue)} and trials: {self.trials}"
            )
        return self


def _is_odd(metric: str) -> bool:
    return metric.split() != [metric]


def _has_secret(address: str) -> bool:
    """Whether a password stands in an address in plain text."""
    before_host, at, _ = address.split("://", 1)[1].rpartition("@")
    password = before_host.partition(":")[2] if at else ""
    query = parse_qsl(address.partition("?")[2])
    secrets = [password, *(value for name, value in query if name in _SECRETS)]
    return any(secret and not VARIABLE.fullmatch(secret) for secret in secrets)


class ObjectiveConfig(ConfigModel):
    """What the search maximises and what chooses; none but ``oracle`` sees a target label."""

    score: tuple[ScoreName, ...] = ("confident_ensv", "class_ami", "entropy")
    """One score, or a list of several: then the mean of a trial's ranks by each of them.
    ``ensv``: agreement with the consensus of the study's trials; ``confident_ensv``: with that
    of the six trials that are surest of what they predict. The others are of one model alone;
    `gam_ray.selection.scores` says what each is. All are logged, and higher is better.
    ``oracle`` chooses by the target's test labels, for comparison alone, and every output
    says so."""
    checkpoint_score: tuple[LabelFreeScore, ...] = ("confident_ensv",)
    """By what the best report of a trial is found, whose network counts: one score, or a list, as
    `score`. Networks of one trial are alike, and ranks among the study's trials part them less
    well than agreement does. Where `score` is ``oracle``, this is it, too."""
    label_shift: Annotated[float, Field(ge=0, le=1)] = 0.65
    """How far the predicted classes' shares on the target may be from the labels' on the source:
    half the sum of the absolute differences. A trial further away has collapsed, cannot win and has
    no vote. Half of the classes missing is 0.5, all but one of ten are 0.9."""
    finalists: Count = 3
    """The best trials of the search are run again on fresh seeds before the choice."""
    seeds: Count = 3
    """Runs of each finalist in all, one a seed; 1 for no further ones."""
    patience: Count | None = None
    """A trial ends after so many reports without a better one; by default it does all its
    steps. Its best report's checkpoint is the one that counts, either way."""

    @field_validator("score", "checkpoint_score", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        if isinstance(value, str):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    @field_validator("score", "checkpoint_score")
    @classmethod
    def _scores_go_together(
        cls, value: tuple[ScoreName, ...], info: ValidationInfo
    ) -> tuple[ScoreName, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError(
                f"{info.field_name} takes one or several, all distinct, but got {list(value)}"
            )
        if "oracle" in value and len(value) > 1:
            raise ValueError(
                f"oracle cannot be mixed with label-free scores, but got {', '.join(value)}"
            )
        return value

    @property
    def checkpoint_scores(self) -> tuple[ScoreName, ...]:
        """By what the reports of one trial are compared."""
        return self.score if self.is_oracle else self.checkpoint_score

    @property
    def metric(self) -> str:
        """Name of the objective among a report's scores."""
        return self.score[0] if len(self.score) == 1 else "mean_rank"

    @property
    def name(self) -> str:
        """As people see it: the score's name, or ``mean_rank(ensv, class_ami)``."""
        scores = ", ".join(self.score)
        return scores if len(self.score) == 1 else f"{self.metric}({scores})"

    @property
    def is_oracle(self) -> bool:
        """Whether the study chooses by target labels."""
        return "oracle" in self.score


class ConsensusStudentConfig(DistillationConfig):
    """The last trial of a study: a student of its best ones."""

    teachers: Count = 6
    """So many trials, the best by the final score; the student starts as a copy of the first."""


class ScheduleConfig(ConfigModel):
    """Whether weak trials are stopped early."""

    kind: Literal["none", "asha", "median", "hyperband", "pbt"] = "none"
    """``asha``: asynchronous successive halving, where the best go on at each rung. ``median``: at
    each report, a trial stops whose best score is below the median of the others' running means.
    ``hyperband``: several halvings at once, which differ in how early they begin; the last never
    stops a trial. ``pbt``, population-based training, stops none: the searched trials train on in
    generations, the worst from copies of the best whose numbers are changed."""
    min_steps: Count = 500
    """Steps that every trial gets before it can be stopped; not for ``pbt``."""
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    """The best 1/n of the trials go on at each rung of ``asha`` and ``hyperband``; in ``pbt`` the
    worst 1/n give way to the best 1/n."""
    generations: Annotated[int, Field(ge=2)] = 4
    """Of ``pbt``: how often every network trains `trial.steps` steps, the search included."""


class ResourcesConfig(ConfigModel):
    """What one trial runs on."""

    workers: Count = 1
    """Data-parallel workers of one trial."""
    cpus_per_worker: Positive = 1.0
    """CPU cores of a worker, which are also its threads."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    """GPUs of a worker; a fraction lets trials share one. 0 trains on the CPU."""
    max_lanes: Count | None = None
    """At most this many trials at a time; by default as many as fit."""
    autoscaling_wait_s: Annotated[float, Field(ge=0)] = 0.0
    """For a cluster that grows on demand: it is asked for all lanes (`max_lanes`, or one a trial),
    and the study waits so many seconds for the first; more join it as their nodes come."""
    report_timeout_s: Positive = 1800.0
    """A trial that reports nothing for so long has failed."""

    @model_validator(mode="after")
    def _gpu_is_not_shared_within_a_trial(self) -> Self:
        if self.workers > 1 and 0 < self.gpus_per_worker < 1:
            raise ValueError(
                "the workers of one trial cannot share a GPU (NCCL refuses it), but got "
                f"workers={self.workers} with gpus_per_worker={self.gpus_per_worker:g}; "
                "use workers: 1 with a fraction, or whole GPUs"
            )
        return self


class BudgetConfig(ConfigModel):
    """What a study may spend, besides its trials; it stops in order when one is spent."""

    hours: Positive | None = None
    """Hours in which it runs, over all its lives; none by default."""
    gpu_hours: Positive | None = None
    """Hours of all GPUs that its lanes hold, together; none by default."""


class TrackingConfig(ConfigModel):
    """Where trials are logged."""

    uri: str | None = None
    """MLflow's tracking address; by default a SQLite file in the study's folder."""
    experiment: str | None = None
    """MLflow experiment; by default the study's name."""

    @field_validator("uri")
    @classmethod
    def _uri_holds_no_password(cls, uri: str | None) -> str | None:
        if uri and has_secret(uri):
            raise ValueError(
                "must hold no password, since the study's settings are stored and logged; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (for a database PGUSER and "
                "PGPASSWORD) in the environment"
            )
        return uri


class StudyConfig(ConfigModel):
    """A whole study, as its YAML file has it, with the search space read in."""

    name: str
    """Names the study's folder, its MLflow runs and, on a cluster, its job."""
    trial: TrialConfig
    """Fixed for all trials; what `space` names is replaced in each."""
    space: SearchSpace
    """What is searched."""
    search: SearchConfig = SearchConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    student: ConsensusStudentConfig | None = ConsensusStudentConfig()
    """What the best trials say together, learned by one network; null for none."""
    schedule: ScheduleConfig = ScheduleConfig()
    resources: ResourcesConfig = ResourcesConfig()
    budget: BudgetConfig = BudgetConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage: str = "studies"
    """Folder that holds studies, seen by all nodes, relative to the current folder; or
    ``s3://BUCKET/PREFIX``, of which the machine that runs the study keeps a copy."""

    @property
    def is_on_s3(self) -> bool:
        """Whether the study is kept in a bucket, and its folder is a copy of that."""
        return self.storage.startswith(S3)

    @property
    def folder(self) -> Path:
        """The study's own folder."""
        if self.is_on_s3:
            return working_folder(self.storage) / self.name
        return Path(self.storage).expanduser().absolute() / self.name

    @field_validator("storage")
    @classmethod
    def _storage_is_a_folder_or_a_bucket(cls, storage: str) -> str:
        if "://" in storage:
            check_s3(storage)
        return storage

    @field_validator("name")
    @classmethod
    def _name_is_a_file_name(cls, name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(
                "a name takes letters, digits, '.', '_' and '-', starts with a letter or "
                f"digit and has at most 80, but got {name!r}"
            )
        return name

    @property
    def planned_trials(self) -> int:
        """Trials in all: baselines, search, generations or finalists on fresh seeds, student."""
        if self.schedule.kind == "pbt":
            further = self.search.trials * (self.schedule.generations - 1)
        else:
            further = min(self.objective.finalists, self.search.trials) * (self.objective.seeds - 1)
        return 2 + self.search.trials + further + (self.student is not None)

    @model_validator(mode="after")
    def _student_is_the_studys(self) -> Self:
        if self.trial.student:
            raise ValueError(
                "trial.student is written by the study itself, once it knows the teachers; leave "
                "it out, and say how it is trained in student, beside trial"
            )
        return self

    @model_validator(mode="after")
    def _constraints_see_no_label(self) -> Self:
        seen = [m for m in self.search.constraints if m.startswith(_ORACLE) or m == "score/oracle"]
        if seen and not self.objective.is_oracle:
            raise ValueError(
                f"search.constraints on {', '.join(seen)} would choose by target labels, which "
                "only a study with objective.score: oracle does; constrain what is label-free, "
                "such as score/source_accuracy"
            )
        return self

    @model_validator(mode="after")
    def _gpu_hours_are_of_gpus(self) -> Self:
        if self.budget.gpu_hours and not self.resources.gpus_per_worker:
            raise ValueError(
                f"budget.gpu_hours of {self.budget.gpu_hours:g} would never be spent, since "
                "resources.gpus_per_worker is 0; set that, or budget.hours"
            )
        return self

    @model_validator(mode="after")
    def _generations_can_go_on(self) -> Self:
        if self.schedule.kind != "pbt":
            return self
        problems = []
        if self.trial.adaptation.kind != "general" or self.trial.fine_tuning:
            problems.append("trial.adaptation.kind general and no trial.fine_tuning")
        if "steps" in self.space.root or "adaptation.kind" in self.space.root:
            problems.append("a space without steps and adaptation.kind")
        if not explorable(self.space):
            problems.append("a number of adaptation or optimizer in the space, to change")
        if self.search.trials < self.schedule.reduction_factor:
            problems.append("at least schedule.reduction_factor trials")
        if problems:
            raise ValueError(
                f"schedule.kind pbt takes {', and '.join(problems)}; change that, or take asha"
            )
        return self

    @model_validator(mode="after")
    def _continues_nothing(self) -> Self:
        if self.trial.continues:
            raise ValueError(
                "trial.continues is written by the study itself (schedule.kind pbt), but got "
                f"{self.trial.continues!r}; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _rungs_fit(self) -> Self:
        if self.schedule.kind not in ("none", "pbt"):
            asked, every = self.schedule.min_steps, self.trial.report_every
            if asked >= self.trial.steps:
                raise ValueError(
                    "schedule.min_steps must be less than trial.steps, but got "
                    f"{asked} and {self.trial.steps}"
                )
            if asked % every:
                raise ValueError(
                    "schedule.min_steps must be a multiple of trial.report_every, since "
                    f"trials are compared at reports, but got {asked} and {every}"
                )
        return self
