"""What Optuna is told of a trial that has ended: its objectives' values, and its constraints.

With the score alone, one that the collapse guard distrusts is told as the worst of all. Beside a
cost that would not do: the hypervolume, by which samplers pick among equals of a front, would be
one of cost alone. There a distrusted trial has its true figures, and violates a constraint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

from gam_ray.config import Constraints, ObjectiveConfig, ResourcesConfig, StudyConfig
from gam_ray.config.study import ObjectiveName
from gam_ray.study.constraints import CLEARLY_WITHIN, excesses, figures
from gam_ray.study.store import EndRecord, TrialFiles
from gam_ray.study.trust import distrust

TRUSTED = "trusted"
"""The constraint that a distrusted trial violates, by 1, where the cost is an objective."""

_DIRECTIONS: dict[ObjectiveName, Literal["maximize", "minimize"]] = {
    "score": "maximize",
    "cost": "minimize",
}


def lane_gpus(resources: ResourcesConfig) -> float:
    """GPUs of the lane that a trial runs in; 0 on CPUs."""
    return resources.workers * resources.gpus_per_worker


def trial_cost(seconds: float, resources: ResourcesConfig) -> float:
    """What a trial took: seconds of its lane or, where it has GPUs, seconds × GPUs.

    Args:
        seconds: From its start in a lane to its end.
        resources: The study's.
    """
    return seconds * (lane_gpus(resources) or 1.0)


@dataclass(frozen=True)
class Objectives:
    """The objectives of a study's search, and what its trials must keep to.

    Attributes:
        names: ``score`` alone, or ``score`` and ``cost``.
        objective: What the score is, and whom the guard distrusts.
        constraints: The study's.
        resources: The study's.
    """

    names: tuple[ObjectiveName, ...]
    objective: ObjectiveConfig
    constraints: Constraints
    resources: ResourcesConfig

    @classmethod
    def of(cls, config: StudyConfig) -> Self:
        """Those of a study."""
        search = config.search
        return cls(search.objectives, config.objective, search.constraints, config.resources)

    @property
    def has_cost(self) -> bool:
        """Whether the sampler is to find cheap trials as well as good ones."""
        return "cost" in self.names

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """As Optuna has them, in the order of `values`."""
        return [_DIRECTIONS[name] for name in self.names]

    def score(self, heard: Any, files: TrialFiles) -> Any:
        """The score to tell of a trial, which may be no number.

        Args:
            heard: What the schedule has heard, which stands for "worst" if the trial is distrusted.
            files: The trial's.
        """
        kept = files.kept() if self.has_cost else None
        if kept is None or not self._is_distrusted(files):
            return heard
        return kept.metrics.get(f"score/{self.objective.metric}")

    def values(self, score: float, seconds: float) -> list[float]:
        """The values of a whole trial, in the order of `names`.

        Args:
            score: As `score` gives it.
            seconds: From the trial's start in a lane to its end.
        """
        return [score, trial_cost(seconds, self.resources)] if self.has_cost else [score]

    def excesses(self, files: TrialFiles, end: EndRecord) -> dict[str, float]:
        """How far beyond each constraint a trial is, as `constraints.excesses` has it.

        Where the cost is an objective, `TRUSTED` is among them.

        Args:
            files: The trial's.
            end: How it ended.
        """
        found = excesses(self.constraints, figures(files.kept(), end))
        if self.has_cost:
            found[TRUSTED] = 1.0 if self._is_distrusted(files) else CLEARLY_WITHIN
        return found

    def _is_distrusted(self, files: TrialFiles) -> bool:
        kept, label_shift = files.kept(), self.objective.label_shift
        return bool(kept and distrust(files.record(), kept.metrics, label_shift=label_shift))
